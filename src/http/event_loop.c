/*-------------------------------------------------------------------------
 *
 * waiter.c
 *		Waiting for sockets, the latch and the postmaster's end at once.
 *
 * The only place where a process ever waits is a WaitEventSet that holds its
 * latch, the postmaster's death and an event queue's descriptor (poller.c).
 * Sockets come and go, which a WaitEventSet does not let them, so they stand
 * in that queue.
 *
 * A session, though, most often has one connection and asks on it again and
 * again, and what passes through a queue within a queue costs both processes
 * half a microsecond each time.  So a connection that is the only one may be
 * held: it stands in the WaitEventSet itself, beside the others.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "compat.h"
#include "http/event_loop.h"

static struct
{
	WaitEventSet *set;			/* NULL: to be built */
	bool		stale;			/* what is held has changed since */
	uint32		wait_event;		/* for pg_stat_activity */
	int			poller;			/* epoll or kqueue descriptor, -1: none yet */
	int			nwatched;		/* descriptors that are waited for */
	int			last;			/* the one that was watched last */
	int			last_events;	/* what for, 0: not any more */
	int			held;			/* not in the queue, but in the set; -1: none */
} waiter = {.poller = -1, .held = -1};


/*
 * The set
 */

/*
 * Build the set, anew if what is held has changed: a WaitEventSet lets nothing
 * go.  Should this raise an error, what there is of it is stale.
 */
static void
waiter_build(void)
{
	if (waiter.set != NULL)
		FreeWaitEventSet(waiter.set);
	waiter.set = NULL;
	waiter.stale = true;
	waiter.set = compat_create_wait_event_set(4);
	AddWaitEventToSet(waiter.set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch,
					  NULL);
	if (IsUnderPostmaster)
		AddWaitEventToSet(waiter.set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
						  NULL, NULL);
	AddWaitEventToSet(waiter.set, WL_SOCKET_READABLE, waiter.poller,
					  NULL, NULL);
	if (waiter.held >= 0)
		AddWaitEventToSet(waiter.set, WL_SOCKET_READABLE, waiter.held,
						  NULL, NULL);
	waiter.stale = false;
	waiter.wait_event = compat_wait_event("AnyvodAnswer");
}

/*
 * Make what this process waits on, if it has none.  Raises 53000 if it gets
 * no descriptor.
 */
void
waiter_create(void)
{
	if (waiter.poller < 0 && AcquireExternalFD() &&
		(waiter.poller = poller_create()) < 0)
		ReleaseExternalFD();
	if (waiter.poller < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create an event queue: %m"),
				 errhint("Consider raising \"max_files_per_process\".")));
	if (waiter.set == NULL || waiter.stale)
		waiter_build();
}


/*
 * What is waited for.  Nothing here throws.
 */

/* Hold a socket (-1: none). */
static void
waiter_set_held(int fd)
{
	waiter.stale |= fd != waiter.held;
	waiter.held = fd;
}

/* Hold a socket that is the only one: it is not in the queue any more. */
void
waiter_hold(int fd)
{
	Assert(fd == waiter_only());
	if (fd != waiter.held && poller_set(waiter.poller, fd, POLLER_IN, 0))
		waiter_set_held(fd);
}

/* What is held goes back to the queue; false if that fails. */
static bool
waiter_let_go(void)
{
	if (waiter.held >= 0 &&
		!poller_set(waiter.poller, waiter.held, 0, POLLER_IN))
		return false;
	waiter_set_held(-1);
	return true;
}

/*
 * Change what is waited for at a descriptor, after which nothing is held;
 * false if that fails.
 */
bool
waiter_watch(int fd, int from, int to)
{
	if (!waiter_let_go() || !poller_set(waiter.poller, fd, from, to))
		return false;

	if (from == 0)
	{
		waiter.nwatched++;
		waiter.last = fd;
	}
	if (to == 0)
		waiter.nwatched--;
	if (fd == waiter.last)
		waiter.last_events = to;
	return true;
}

/* A descriptor that was waited for has been closed, and so is gone already. */
void
waiter_forget(int fd)
{
	waiter.nwatched--;
	if (fd == waiter.held)
		waiter_set_held(-1);
	if (fd == waiter.last)
		waiter.last_events = 0;
}

/* The only socket that is waited for, if it is for what comes in; else -1. */
int
waiter_only(void)
{
	return waiter.nwatched == 1 && waiter.last_events == POLLER_IN ?
		waiter.last :
		-1;
}


/*
 * Waiting
 */

/*
 * Wait until something happens, at most "timeout_ms" milliseconds (-1:
 * without an end).  Returns what did: WL_LATCH_SET, WL_SOCKET_READABLE of any
 * socket, both or 0.
 */
uint32
waiter_wait(long timeout_ms)
{
	WaitEvent	events[4];
	uint32		happened = 0;
	int			n;

	if (waiter.set == NULL || waiter.stale)
		waiter_build();
	n = WaitEventSetWait(waiter.set, timeout_ms, events, lengthof(events),
						 waiter.wait_event);
	for (int i = 0; i < n; i++)
		happened |= events[i].events;
	if (happened & WL_LATCH_SET)
		ResetLatch(MyLatch);
	return happened;
}

/*
 * Take the events that are there, POLLER_EVENTS at most.  If it is known that
 * there are some ("ready"), and a single socket that they can be of, nobody
 * need be asked which.
 */
int
waiter_take(PollerEvent *events, bool ready)
{
	int			only = waiter_only();

	if (only >= 0 && !ready && only == waiter.held)
	{
		struct pollfd one = {.fd = only, .events = POLLIN};

		ready = poll(&one, 1, 0) > 0;
		if (!ready)
			return 0;
	}
	if (only >= 0 && ready)
	{
		events[0] = (PollerEvent){.fd = only, .in = true};
		return 1;
	}
	return poller_take(waiter.poller, events);
}
