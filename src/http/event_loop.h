/*-------------------------------------------------------------------------
 *
 * waiter.h
 *		Waiting for sockets, the latch and the postmaster's end at once.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_WAITER_H
#define ANYVOD_WAITER_H

#include "http/poller.h"

extern void waiter_create(void);
extern bool waiter_watch(int fd, int from, int to);
extern void waiter_forget(int fd);
extern int	waiter_only(void);
extern void waiter_hold(int fd);
extern uint32 waiter_wait(long timeout_ms);
extern int	waiter_take(PollerEvent *events, bool ready);

#endif							/* ANYVOD_WAITER_H */
