/*-------------------------------------------------------------------------
 *
 * poller.c
 *		The system's event queue: epoll, or kqueue where there is no epoll.
 *
 * Its descriptor can be waited for like any other, which is how it comes to
 * stand in a WaitEventSet.  Nothing here throws or waits.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>
#ifdef HAVE_SYS_EPOLL_H
#include <sys/epoll.h>
#elif defined(HAVE_SYS_EVENT_H)
#include <sys/event.h>
#else
#error "anyvod needs epoll or kqueue"
#endif

#include "http/poller.h"

#ifdef HAVE_SYS_EPOLL_H

/* Make an event queue, which exec closes; -1 and errno if that fails. */
int
poller_create(void)
{
	return epoll_create1(EPOLL_CLOEXEC);
}

/*
 * Change what is waited for at a descriptor; false and errno if that fails.
 * It is no failure that a descriptor closed meanwhile is not there any more.
 */
bool
poller_set(int poller, int fd, int from, int to)
{
	struct epoll_event event = {0};
	int			operation;

	event.data.fd = fd;
	if (to & POLLER_IN)
		event.events |= EPOLLIN;
	if (to & POLLER_OUT)
		event.events |= EPOLLOUT;

	if (to == 0)
		operation = EPOLL_CTL_DEL;
	else if (from == 0)
		operation = EPOLL_CTL_ADD;
	else
		operation = EPOLL_CTL_MOD;

	if (epoll_ctl(poller, operation, fd, &event) == 0)
		return true;
	if (operation == EPOLL_CTL_DEL)
		return errno == ENOENT || errno == EBADF;
	if (operation == EPOLL_CTL_MOD && errno == ENOENT)
		return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0;
	if (operation == EPOLL_CTL_ADD && errno == EEXIST)
		return epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event) == 0;
	return false;
}

/* Take up to POLLER_EVENTS events that are there; returns how many. */
int
poller_take(int poller, PollerEvent *events)
{
	struct epoll_event found[POLLER_EVENTS];
	int			n = epoll_wait(poller, found, POLLER_EVENTS, 0);

	for (int i = 0; i < n; i++)
	{
		events[i].fd = found[i].data.fd;
		events[i].in = (found[i].events & EPOLLIN) != 0;
		events[i].out = (found[i].events & EPOLLOUT) != 0;
		events[i].broken = (found[i].events & (EPOLLERR | EPOLLHUP)) != 0;
	}
	return Max(n, 0);
}

#else							/* kqueue */

int
poller_create(void)
{
	int			poller = kqueue();

	if (poller >= 0)
		(void) fcntl(poller, F_SETFD, FD_CLOEXEC);
	return poller;
}

/* Add or delete one filter. */
static bool
poller_set_filter(int poller, int fd, int filter, bool add)
{
	struct kevent change;

	EV_SET(&change, fd, filter, add ? EV_ADD : EV_DELETE, 0, 0, NULL);
	if (kevent(poller, &change, 1, NULL, 0, NULL) >= 0)
		return true;
	return !add && (errno == ENOENT || errno == EBADF);
}

bool
poller_set(int poller, int fd, int from, int to)
{
	int			changed = from ^ to;

	if ((changed & POLLER_IN) &&
		!poller_set_filter(poller, fd, EVFILT_READ, to & POLLER_IN))
		return false;
	if ((changed & POLLER_OUT) &&
		!poller_set_filter(poller, fd, EVFILT_WRITE, to & POLLER_OUT))
		return false;
	return true;
}

int
poller_take(int poller, PollerEvent *events)
{
	struct kevent found[POLLER_EVENTS];
	struct timespec no_wait = {0, 0};
	int			n;

	n = kevent(poller, NULL, 0, found, POLLER_EVENTS, &no_wait);
	for (int i = 0; i < n; i++)
	{
		events[i].fd = (int) found[i].ident;
		events[i].in = found[i].filter == EVFILT_READ;
		events[i].out = found[i].filter == EVFILT_WRITE;
		events[i].broken = (found[i].flags & EV_ERROR) != 0;
	}
	return Max(n, 0);
}

#endif
