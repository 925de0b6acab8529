/*-------------------------------------------------------------------------
 *
 * http/event_loop.c
 *		Waiting for sockets, the latch and the postmaster's end at once.
 *
 * The only place where a process waits is a WaitEventSet that holds its latch,
 * the postmaster's death and an epoll descriptor.  Sockets come and go, which
 * a WaitEventSet does not let them, so they are in the epoll set.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "compat.h"
#include "http/internal.h"

static WaitEventSet *set = NULL;
static bool set_complete = false;
static int	epoll_fd = -1;
static uint32 wait_event = 0;

/*
 * Make what this process waits on, unless it has been made.  Raises 53000 if
 * no descriptor is left.
 */
void
event_loop_create(void)
{
	if (set_complete)
		return;
	if (epoll_fd < 0 && AcquireExternalFD() &&
		(epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		ReleaseExternalFD();
	if (epoll_fd < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create an epoll descriptor: %m"),
				 errhint("Consider raising \"max_files_per_process\".")));
	wait_event = compat_wait_event("AnyvodResponse");

	/* An error may have left a part of it. */
	if (set != NULL)
		FreeWaitEventSet(set);
	set = NULL;
	set = compat_create_wait_event_set(3);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	if (IsUnderPostmaster)
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
						  NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, epoll_fd, NULL, NULL);
	set_complete = true;
}

/*
 * Change what is waited for at a descriptor; 0 is nothing.  Returns false and
 * sets errno if that fails; that a closed descriptor is not there any more is
 * no failure.  Never throws.
 */
bool
event_loop_set(int fd, uint32 from, uint32 to)
{
	struct epoll_event event = {.events = to, .data.fd = fd};

	if (to == 0)
		return epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &event) == 0 ||
			errno == ENOENT || errno == EBADF;
	if (epoll_ctl(epoll_fd, from == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd,
				  &event) == 0)
		return true;

	/* It may have been closed, and opened as something else. */
	if (errno == ENOENT)
		return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
	return errno == EEXIST &&
		epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0;
}

/*
 * Wait until something happens, at most "timeout_ms" milliseconds (-1: without
 * limit).  Returns what did: WL_LATCH_SET, WL_SOCKET_READABLE for any socket,
 * both or 0.  The latch is reset.
 */
uint32
event_loop_wait(long timeout_ms)
{
	WaitEvent	events[3];
	uint32		happened = 0;
	int			n;

	n = WaitEventSetWait(set, timeout_ms, events, lengthof(events),
						 wait_event);
	for (int i = 0; i < n; i++)
		happened |= events[i].events;
	if (happened & WL_LATCH_SET)
		ResetLatch(MyLatch);
	return happened;
}

/*
 * Take the events that are there, "max" at most, without waiting.  Returns how
 * many; those that are not acted on come again.  Never throws.
 */
int
event_loop_take(struct epoll_event *events, int max)
{
	return Max(epoll_wait(epoll_fd, events, max, 0), 0);
}
