/*-------------------------------------------------------------------------
 *
 * shim.c
 *		Which process starts libcurl, and what if a name is not resolved?
 *
 * Preloaded (LD_PRELOAD), it appends a line "FUNCTION PID" to the file that
 * SHIM_LOG names: "loaded" when a program starts with it, and a line for each
 * call of curl_global_init and curl_multi_init, which then go on as usual.  A
 * fork without exec says nothing of its own.  Nothing is judged here.
 *
 * The name hang.invalid is not resolved as long as the file is there that
 * SHIM_HANG names.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As in curl.h, which is not needed for the rest. */
extern int	curl_global_init(long flags);
extern void *curl_multi_init(void);

/* One write to a file opened for appending: lines of two never mix. */
static void
shim_record(const char *function)
{
	const char *path = getenv("SHIM_LOG");
	char		line[64];
	int			len;
	int			fd;

	if (path == NULL)
		return;
	len = snprintf(line, sizeof(line), "%s %d\n", function, (int) getpid());
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, line, (size_t) len) != len)
		abort();				/* a record that is missing would mislead */
	close(fd);
}

/* The function that we stand before. */
static void *
shim_next(const char *function)
{
	void	   *next = dlsym(RTLD_NEXT, function);

	if (next == NULL)
		abort();
	return next;
}

__attribute__((constructor)) static void
shim_loaded(void)
{
	shim_record("loaded");
}

int
curl_global_init(long flags)
{
	int (*next)(long);

	shim_record("curl_global_init");
	*(void **) &next = shim_next("curl_global_init");
	return next(flags);
}

void *
curl_multi_init(void)
{
	void *(*next)(void);

	shim_record("curl_multi_init");
	*(void **) &next = shim_next("curl_multi_init");
	return next();
}

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **found)
{
	int (*next)(const char *, const char *, const struct addrinfo *,
				struct addrinfo **);
	const char *hang = getenv("SHIM_HANG");

	if (hang != NULL && name != NULL && strcmp(name, "hang.invalid") == 0)
	{
		while (access(hang, F_OK) == 0)
			usleep(10000);
	}
	*(void **) &next = shim_next("getaddrinfo");
	return next(name, service, hints, found);
}
