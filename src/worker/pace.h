/*-------------------------------------------------------------------------
 *
 * pace.h
 *		What a worker tells its schedule, and asks it.
 *
 * Times are of monotonic_us().
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_PACE_H
#define ANYVOD_PACE_H

#include "response/answer.h"
#include "worker/queue.h"

extern void pace_init(void);

extern void pace_note_start(const QueueTask *task, int64 now);
extern int64 pace_note_running(QueueTask *task, const Answer *answer,
							   int64 asked, int64 now);
extern void pace_note_ended(const QueueTask *task, const Answer *answer,
							int64 now);
extern void pace_note_over(QueueTask *task, const Answer *answer);
extern void pace_push_back(const QueueTask *task, int64 now);

extern int64 pace_next_lesson(void);
extern void pace_learn(void);
extern void pace_publish(long timeout);

#endif							/* ANYVOD_PACE_H */
