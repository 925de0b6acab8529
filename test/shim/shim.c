/*-------------------------------------------------------------------------
 *
 * shim.c
 *		Which process starts libcurl, and what if a name is not resolved?
 *
 * Preloaded (LD_PRELOAD), it appends a line "FUNCTION PID" to the file that
 * SHIM_LOG names: "loaded" when a program starts with it, and a line for each
 * call of curl_global_init, curl_multi_init and curl_easy_init, which then go
 * on as usual.  A fork without exec says nothing of its own.  Nothing is judged
 * here.
 *
 * The name hang.invalid is not resolved as long as the file is there that
 * SHIM_HANG names.  The file that SHIM_NAMES names has lines "NAME ADDRESS...":
 * these names have these addresses, in that order.
 *
 * With SHIM_NO_HTTP2 set, libcurl is one that was built without HTTP/2: it
 * does not say that it has it, offers HTTP/1.1 only and refuses to be asked for
 * more.
 *
 * No descriptor can be added to an event queue as long as the file is there
 * that SHIM_NO_WATCH names, as when there is no more room for such (man epoll,
 * max_user_watches).
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* As in curl.h, which is not needed for the rest. */
extern int	curl_global_init(long flags);
extern void *curl_multi_init(void);
extern void *curl_easy_init(void);
extern void curl_easy_reset(void *easy);
extern int	curl_easy_setopt(void *easy, int option, ...);

/* As in curl.h: the beginning of curl_version_info_data, and some numbers. */
typedef struct ShimVersion
{
	int			age;
	const char *version;
	unsigned	number;
	const char *host;
	int			features;
} ShimVersion;

extern ShimVersion *curl_version_info(int age);

#define SHIM_HAS_HTTP2 (1 << 16)		/* CURL_VERSION_HTTP2 */
#define SHIM_OPTION_HTTP_VERSION 84 	/* CURLOPT_HTTP_VERSION */
#define SHIM_HTTP_ANY 0 				/* CURL_HTTP_VERSION_NONE */
#define SHIM_HTTP_1_1 2 				/* CURL_HTTP_VERSION_1_1 */
#define SHIM_UNSUPPORTED_PROTOCOL 1 	/* CURLE_UNSUPPORTED_PROTOCOL */

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

/* A function of libcurl's that makes a handle. */
static void *
shim_make(const char *function)
{
	void *(*next)(void);

	shim_record(function);
	*(void **) &next = shim_next(function);
	return next();
}

void *
curl_multi_init(void)
{
	return shim_make("curl_multi_init");
}

/* A handle as new: without HTTP/2, the version that it offers is another. */
static void
shim_set_version(void *easy)
{
	if (getenv("SHIM_NO_HTTP2") != NULL)
		(void) curl_easy_setopt(easy, SHIM_OPTION_HTTP_VERSION,
								(long) SHIM_HTTP_1_1);
}

void *
curl_easy_init(void)
{
	void	   *easy = shim_make("curl_easy_init");

	if (easy != NULL)
		shim_set_version(easy);
	return easy;
}

void
curl_easy_reset(void *easy)
{
	void (*next)(void *);

	*(void **) &next = shim_next("curl_easy_reset");
	next(easy);
	shim_set_version(easy);
}

/*
 * The third argument is a long, a pointer or a curl_off_t: eight bytes where
 * this is tested.
 */
int
curl_easy_setopt(void *easy, int option, ...)
{
	int (*next)(void *, int, ...);
	va_list		list;
	long		value;

	va_start(list, option);
	value = va_arg(list, long);
	va_end(list);
	if (option == SHIM_OPTION_HTTP_VERSION && getenv("SHIM_NO_HTTP2") != NULL)
	{
		if (value > SHIM_HTTP_1_1)
			return SHIM_UNSUPPORTED_PROTOCOL;
		if (value == SHIM_HTTP_ANY)
			value = SHIM_HTTP_1_1;
	}
	*(void **) &next = shim_next("curl_easy_setopt");
	return next(easy, option, value);
}

ShimVersion *
curl_version_info(int age)
{
	ShimVersion *(*next)(int);
	ShimVersion *version;

	*(void **) &next = shim_next("curl_version_info");
	version = next(age);
	if (getenv("SHIM_NO_HTTP2") != NULL)
		version->features &= ~SHIM_HAS_HTTP2;
	return version;
}

typedef int (*ShimResolver)(const char *, const char *,
							const struct addrinfo *, struct addrinfo **);

/* The line of a name, "" if it has none. */
static void
shim_find_name(const char *name, char *line, int size)
{
	const char *path = getenv("SHIM_NAMES");
	FILE	   *names = path != NULL ? fopen(path, "re") : NULL;
	size_t		len = strlen(name);

	while (names != NULL && fgets(line, size, names) != NULL)
	{
		if (strncmp(line, name, len) == 0 && line[len] == ' ')
		{
			fclose(names);
			return;
		}
	}
	if (names != NULL)
		fclose(names);
	line[0] = '\0';
}

/* The addresses of a line, one list after the other. */
static int
shim_resolve(ShimResolver next, char *line, const char *service,
			 const struct addrinfo *hints, struct addrinfo **found)
{
	struct addrinfo **end = found;
	int			result = EAI_NONAME;
	char	   *rest;

	(void) strtok_r(line, " \n", &rest);
	for (char *address = strtok_r(NULL, " \n", &rest); address != NULL;
		 address = strtok_r(NULL, " \n", &rest))
	{
		if (next(address, service, hints, end) != 0)
			continue;
		result = 0;
		while (*end != NULL)
			end = &(*end)->ai_next;
	}
	return result;
}

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **found)
{
	ShimResolver next;
	const char *hang = getenv("SHIM_HANG");
	char		line[256] = "";

	if (hang != NULL && name != NULL && strcmp(name, "hang.invalid") == 0)
	{
		while (access(hang, F_OK) == 0)
			usleep(10000);
	}
	*(void **) &next = shim_next("getaddrinfo");
	if (name != NULL)
		shim_find_name(name, line, sizeof(line));
	if (line[0] != '\0')
		return shim_resolve(next, line, service, hints, found);
	return next(name, service, hints, found);
}

int
epoll_ctl(int queue, int operation, int fd, struct epoll_event *event)
{
	int (*next)(int, int, int, struct epoll_event *);
	const char *no_watch = getenv("SHIM_NO_WATCH");

	if (no_watch != NULL && operation == EPOLL_CTL_ADD &&
		access(no_watch, F_OK) == 0)
	{
		errno = ENOSPC;
		return -1;
	}
	*(void **) &next = shim_next("epoll_ctl");
	return next(queue, operation, fd, event);
}
