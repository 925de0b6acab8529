/*-------------------------------------------------------------------------
 *
 * wall.c
 *		A wall clock that can be set.
 *
 * Preloaded (LD_PRELOAD), it adds the seconds that stand in the file
 * $WALL_CLOCK_FILE, 0 if there is none, to the time of day.  Other clocks are
 * left alone.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The seconds to add. */
static long
wall_offset(void)
{
	const char *path = getenv("WALL_CLOCK_FILE");
	char		text[32];
	ssize_t		len;
	int			fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return 0;
	text[len] = '\0';
	return strtol(text, NULL, 10);
}

int
clock_gettime(clockid_t id, struct timespec *time)
{
	static int (*real)(clockid_t, struct timespec *);
	int			result;

	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT,
															 "clock_gettime");
	result = real(id, time);
	if (result == 0 && id == CLOCK_REALTIME)
		time->tv_sec += wall_offset();
	return result;
}

int
gettimeofday(struct timeval *restrict time, void *restrict zone)
{
	struct timespec now;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	time->tv_sec = now.tv_sec;
	time->tv_usec = now.tv_nsec / 1000;
	return 0;
}
