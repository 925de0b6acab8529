/*-------------------------------------------------------------------------
 *
 * schedule.c
 *		When to ask again.
 *
 * For a running task: so that its end is seen, on average, within the delay
 * that the DBA asks for.  After trouble: by the kind of trouble, later each
 * time, and never at the same moment for all.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "schedule.h"

#define SECOND INT64CONST(1000000)

/* Questions about running tasks are spread by this much to both sides. */
#define SCHEDULE_JITTER 0.05

/* Those after trouble by this much, so that a herd comes apart. */
#define SCHEDULE_RETRY_JITTER 0.25

/*
 * First and longest wait by kind of trouble, and for how long and how many
 * questions it is borne before it is final (0: for ever).  Three more
 * questions about an unknown task take at least 60 s, about one without
 * output at least 30 s, with the jitter against us.
 */
static const struct
{
	int64		first;
	int64		longest;
	int64		borne;
	int			questions;
} schedule_retries[] = {
	[SCHEDULE_TRANSIENT] = {1 * SECOND, 60 * SECOND, 0, 0},
	[SCHEDULE_RATE_LIMITED] = {1 * SECOND, 60 * SECOND, 0, 0},
	[SCHEDULE_UNREADABLE] = {5 * SECOND, 300 * SECOND, 0, 0},
	[SCHEDULE_REJECTED] = {10 * SECOND, 300 * SECOND, 0, 0},
	[SCHEDULE_AUTH] = {60 * SECOND, 60 * SECOND, 0, 0},
	[SCHEDULE_UNKNOWN_TASK] = {20 * SECOND, 20 * SECOND, 60 * SECOND, 4},
	[SCHEDULE_NO_OUTPUT] = {10 * SECOND, 10 * SECOND, 30 * SECOND, 4},
	[SCHEDULE_ROW] = {1 * SECOND, 600 * SECOND, 0, 0},
};

/* "wait" made longer or shorter by up to "share"; "random" is in [0, 1). */
static int64
schedule_jitter(int64 wait, double share, double random)
{
	return (int64) (wait * (1.0 + share * (2.0 * random - 1.0)));
}

/*
 * How long to wait before a running task is asked about again.
 *
 * At a fixed interval a task's end is seen half an interval late on average.
 */
int64
schedule_next(const ScheduleSettings *settings, const ScheduleTask *task,
			  double random)
{
	int64		interval = 2 * settings->detection_delay;

	(void) task;
	interval = schedule_jitter(interval, SCHEDULE_JITTER, random);
	return Max(Min(interval, settings->poll_cap), settings->poll_floor);
}

/*
 * How long to wait after the "failures"-th failure in a row (from 1) of this
 * kind.  Kinds that may become final are never asked about too early.
 */
int64
schedule_retry(ScheduleRetry why, int failures, double random)
{
	int64		wait = schedule_retries[why].first;

	for (int i = 1; i < failures && wait < schedule_retries[why].longest; i++)
		wait *= 2;
	wait = Min(wait, schedule_retries[why].longest);
	if (schedule_retries[why].borne > 0)
		return wait + (int64) (wait * SCHEDULE_JITTER * random);
	return schedule_jitter(wait, SCHEDULE_RETRY_JITTER, random);
}

/*
 * Has this trouble been borne long enough?  It was met in "failures" answers,
 * the first of them "since" microseconds ago.
 */
bool
schedule_is_final(ScheduleRetry why, int failures, int64 since)
{
	return schedule_retries[why].borne > 0 &&
		failures >= schedule_retries[why].questions &&
		since >= schedule_retries[why].borne;
}
