/*-------------------------------------------------------------------------
 *
 * http/event_loop.h
 *		Waiting for sockets, the latch and the postmaster's end at once.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_EVENT_LOOP_H
#define ANYVOD_HTTP_EVENT_LOOP_H

/* What may be waited for at a descriptor. */
#define EVENT_IN 1
#define EVENT_OUT 2
#define EVENT_CLOSED 4			/* its peer has closed the connection */

/* Events that are taken at once. */
#define EVENT_LOOP_BATCH 128

typedef struct Event
{
	int			fd;
	bool		in;				/* it can be read */
	bool		out;			/* it can be written */
	bool		closed;			/* its peer has closed it, or it failed */
	bool		failed;
} Event;

extern void event_loop_create(void);
extern bool event_loop_set(int fd, int from, int to);
extern uint32 event_loop_wait(long timeout_ms);
extern int	event_loop_take(Event *events);

#endif							/* ANYVOD_HTTP_EVENT_LOOP_H */
