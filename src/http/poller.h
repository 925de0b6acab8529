/*-------------------------------------------------------------------------
 *
 * poller.h
 *		The system's event queue: epoll, or kqueue where there is no epoll.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_POLLER_H
#define ANYVOD_POLLER_H

/* What may be waited for at a descriptor. */
#define POLLER_IN 1
#define POLLER_OUT 2

/* Events that are taken at once. */
#define POLLER_EVENTS 128

typedef struct PollerEvent
{
	int			fd;
	bool		in;				/* it can be read */
	bool		out;			/* it can be written */
	bool		broken;			/* it is in error, or was hung up */
} PollerEvent;

extern int	poller_create(void);
extern bool poller_set(int poller, int fd, int from, int to);
extern int	poller_take(int poller, PollerEvent *events);

#endif							/* ANYVOD_POLLER_H */
