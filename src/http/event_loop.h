/*-------------------------------------------------------------------------
 *
 * http/event_loop.h
 *		Waiting for sockets, the latch and the postmaster's end at once.
 *
 * What is waited for at a socket is a mask of epoll's (EPOLLIN, ...).
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_EVENT_LOOP_H
#define ANYVOD_HTTP_EVENT_LOOP_H

#include <sys/epoll.h>

extern void event_loop_create(void);
extern bool event_loop_set(int fd, uint32 from, uint32 to);
extern uint32 event_loop_wait(long timeout_ms);
extern int	event_loop_take(struct epoll_event *events, int max);

#endif							/* ANYVOD_HTTP_EVENT_LOOP_H */
