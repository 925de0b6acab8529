/*-------------------------------------------------------------------------
 *
 * retry.c
 *		How long to wait after a failure, and when it is final.
 *
 * The wait depends on the kind of the failure and doubles with each further
 * one.  Waits are spread by chance, so that tasks that failed together are not
 * polled together again.
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

#include "schedule/retry.h"

#define SECOND INT64CONST(1000000)
#define HOUR (3600 * SECOND)

/* Waits are spread by this part of them to both sides, ... */
#define RETRY_JITTER 0.25

/* ... those before a final failure only upwards, by this part. */
#define RETRY_FINAL_JITTER 0.05

/*
 * First and longest wait of each kind, and for how long and for how many polls
 * a failure is borne before it is final (0: for ever).  Three more polls of an
 * unknown task take at least 60 s, of one without output at least 30 s.  A task
 * that was seen running exists: a gateway that does not know it has most likely
 * lost its database for a while, or is another one.
 */
static const struct
{
	int64		first;
	int64		longest;
	int64		borne;
	int			polls;
} retry_rules[] = {
	[RETRY_TRANSIENT] = {1 * SECOND, 60 * SECOND, 0, 0},
	[RETRY_RATE_LIMITED] = {1 * SECOND, 60 * SECOND, 0, 0},
	[RETRY_UNREADABLE] = {5 * SECOND, 300 * SECOND, 0, 0},
	[RETRY_REJECTED] = {10 * SECOND, 300 * SECOND, 0, 0},
	[RETRY_AUTH] = {60 * SECOND, 60 * SECOND, 0, 0},
	[RETRY_UNKNOWN_TASK] = {20 * SECOND, 20 * SECOND, 60 * SECOND, 4},
	[RETRY_LOST_TASK] = {20 * SECOND, 600 * SECOND, 6 * HOUR, 4},
	[RETRY_NO_OUTPUT] = {10 * SECOND, 10 * SECOND, 30 * SECOND, 4},
	[RETRY_ROW] = {1 * SECOND, 600 * SECOND, 0, 0},
};

/* What it is that a gateway says it does not know a task. */
RetryKind
retry_unknown_task(bool seen_running)
{
	return seen_running ? RETRY_LOST_TASK : RETRY_UNKNOWN_TASK;
}

/*
 * How long to wait, in microseconds, after the "failures"-th failure in a row
 * (from 1) of this kind.  "random" is in [0, 1).
 */
int64
retry_delay(RetryKind kind, int failures, double random)
{
	int64		delay = retry_rules[kind].first;

	for (int i = 1; i < failures && delay < retry_rules[kind].longest; i++)
		delay *= 2;
	delay = Min(delay, retry_rules[kind].longest);
	if (retry_rules[kind].borne > 0)
		return delay + (int64) (delay * RETRY_FINAL_JITTER * random);
	return (int64) (delay * (1.0 + RETRY_JITTER * (2.0 * random - 1.0)));
}

/*
 * Is this failure final?  "failures" responses in a row have reported it, the
 * first of them "since" microseconds ago.
 */
bool
retry_is_final(RetryKind kind, int failures, int64 since)
{
	return retry_rules[kind].borne > 0 &&
		failures >= retry_rules[kind].polls &&
		since >= retry_rules[kind].borne;
}
