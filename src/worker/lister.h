/*-------------------------------------------------------------------------
 *
 * lister.h
 *		Finding pending rows that a worker does not know yet.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_LISTER_H
#define ANYVOD_LISTER_H

#include "worker/queue.h"
#include "table/tracker.h"

/* A task that is due, and of which its row says no more than the task. */
typedef void (*ListerVisit)(const QueueTask *task);

extern void lister_restart(void);
extern void lister_note_news(void);
extern void lister_hold(int64 until);
extern bool lister_is_done(void);
extern bool lister_is_listing(void);
extern int64 lister_next(void);
extern TrackerOutcome lister_list(ListerVisit visit);

#endif							/* ANYVOD_LISTER_H */
