/*-------------------------------------------------------------------------
 *
 * durations.h
 *		What a worker records of how long tasks take, and when it polls them
 *		again.
 *
 * Times are of monotonic_us().
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_DURATIONS_H
#define ANYVOD_DURATIONS_H

#include "response/answer.h"
#include "worker/queue.h"

extern void durations_init(void);

extern void durations_record_start(const QueueTask *task, int64 now);
extern int64 durations_record_running(QueueTask *task, const Answer *answer,
									  int64 now);
extern void durations_record_over(QueueTask *task, const Answer *answer);
extern void durations_throttle(const QueueTask *task, int64 now);

extern int64 durations_next_read(void);
extern void durations_read(void);
extern void durations_publish(long timeout);

#endif							/* ANYVOD_DURATIONS_H */
