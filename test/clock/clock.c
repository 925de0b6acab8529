/*-------------------------------------------------------------------------
 *
 * clock.c
 *		Time that goes faster.
 *
 * Preloaded (LD_PRELOAD), it makes the clocks of a program go CLOCK_SPEED
 * times as fast, and lets each wait take so much less.  The time of day goes
 * its own way from CLOCK_SINCE on, in microseconds of the Unix epoch, so that
 * all programs with the same two variables agree about both clocks.
 *
 * What a program does takes as long as ever, and thus seems to take longer by
 * that factor.  Waits until a time of day (pthread_cond_timedwait) and timers
 * as descriptors are left alone; nothing that is tested with this uses them.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BILLION INT64_C(1000000000)

static int64_t speed;
static int64_t since;			/* ns */

static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_epoll_wait)(int, struct epoll_event *, int, int);
static int (*real_nanosleep)(const struct timespec *, struct timespec *);
static int (*real_setitimer)(int, const struct itimerval *,
							 struct itimerval *);

/* What a variable says; a run with another clock than wanted would mislead. */
static int64_t
clock_variable(const char *name)
{
	const char *value = getenv(name);

	if (value == NULL || atoll(value) <= 0)
		abort();
	return atoll(value);
}

/* The function that we stand before. */
static void *
clock_next(const char *function)
{
	void	   *next = dlsym(RTLD_NEXT, function);

	if (next == NULL)
		abort();
	return next;
}

__attribute__((constructor)) static void
clock_loaded(void)
{
	if (speed != 0)
		return;
	*(void **) &real_gettime = clock_next("clock_gettime");
	*(void **) &real_epoll_wait = clock_next("epoll_wait");
	*(void **) &real_nanosleep = clock_next("nanosleep");
	*(void **) &real_setitimer = clock_next("setitimer");
	since = clock_variable("CLOCK_SINCE") * 1000;
	speed = clock_variable("CLOCK_SPEED");
}

static struct timespec
clock_from_ns(int64_t ns)
{
	struct timespec time = {ns / BILLION, ns % BILLION};

	return time;
}

/* How long a wait really takes; none becomes no wait at all. */
static struct timespec
clock_wait(int64_t seconds, int64_t ns)
{
	return clock_from_ns((seconds * BILLION + ns + speed - 1) / speed);
}


/*
 * Clocks
 */

int
clock_gettime(clockid_t id, struct timespec *time)
{
	int			result;
	int64_t		ns;

	clock_loaded();				/* others' constructors may come first */
	result = real_gettime(id, time);
	if (result != 0)
		return result;
	ns = time->tv_sec * BILLION + time->tv_nsec;
	switch (id)
	{
		case CLOCK_REALTIME:
		case CLOCK_REALTIME_COARSE:
			*time = clock_from_ns(since + (ns - since) * speed);
			break;
		case CLOCK_MONOTONIC:
		case CLOCK_MONOTONIC_COARSE:
		case CLOCK_MONOTONIC_RAW:
		case CLOCK_BOOTTIME:
			*time = clock_from_ns(ns * speed);
			break;
		default:				/* the time that a processor was used */
			break;
	}
	return 0;
}

int
gettimeofday(struct timeval *restrict time, void *restrict zone)
{
	struct timespec now;

	(void) zone;
	clock_gettime(CLOCK_REALTIME, &now);
	time->tv_sec = now.tv_sec;
	time->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *where)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (where != NULL)
		*where = now.tv_sec;
	return now.tv_sec;
}


/*
 * Waits
 */

int
poll(struct pollfd *fds, nfds_t n, int timeout)
{
	struct timespec wait;

	clock_loaded();
	if (timeout < 0)
		return ppoll(fds, n, NULL, NULL);
	wait = clock_wait(0, timeout * INT64_C(1000000));
	return ppoll(fds, n, &wait, NULL);
}

/* Its own timeout has too few digits, so the queue is waited for before. */
int
epoll_wait(int epoll, struct epoll_event *events, int n, int timeout)
{
	struct pollfd queue = {.fd = epoll, .events = POLLIN};

	clock_loaded();
	if (timeout > 0 && poll(&queue, 1, timeout) < 0)
		return -1;
	return real_epoll_wait(epoll, events, n, timeout > 0 ? 0 : timeout);
}

int
select(int n, fd_set *restrict in, fd_set *restrict out,
	   fd_set *restrict other, struct timeval *restrict timeout)
{
	struct timespec wait;

	clock_loaded();
	if (timeout == NULL)
		return pselect(n, in, out, other, NULL, NULL);
	wait = clock_wait(timeout->tv_sec, timeout->tv_usec * INT64_C(1000));
	return pselect(n, in, out, other, &wait, NULL);
}

/* What is left of an interrupted sleep is told by the clock that we make. */
int
nanosleep(const struct timespec *wanted, struct timespec *left)
{
	struct timespec wait;
	struct timespec rest;
	int			result;

	clock_loaded();
	wait = clock_wait(wanted->tv_sec, wanted->tv_nsec);
	result = real_nanosleep(&wait, &rest);
	if (result != 0 && errno == EINTR && left != NULL)
		*left = clock_from_ns((rest.tv_sec * BILLION + rest.tv_nsec) * speed);
	return result;
}

int
usleep(useconds_t us)
{
	struct timespec wait = clock_from_ns(us * INT64_C(1000));

	return nanosleep(&wait, NULL);
}

static struct timeval
clock_timer(struct timeval time)
{
	struct timespec wait = clock_wait(time.tv_sec,
									  time.tv_usec * INT64_C(1000));
	struct timeval result = {wait.tv_sec, (wait.tv_nsec + 999) / 1000};

	if (result.tv_usec == 1000000)
	{
		result.tv_sec++;
		result.tv_usec = 0;
	}
	return result;
}

/* What is left of the old timer nobody asks for. */
int
setitimer(__itimer_which_t which, const struct itimerval *new,
		  struct itimerval *old)
{
	struct itimerval timer;

	clock_loaded();
	timer.it_interval = clock_timer(new->it_interval);
	timer.it_value = clock_timer(new->it_value);
	return real_setitimer(which, &timer, old);
}
