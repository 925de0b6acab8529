/*-------------------------------------------------------------------------
 *
 * retry.h
 *		How long to wait after a failure, and when it is final.
 *
 * Pure: no clock and no random numbers of its own.  Times are in microseconds.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_RETRY_H
#define ANYVOD_RETRY_H

/* Why a task is polled again although the response said nothing of it. */
typedef enum RetryKind
{
	RETRY_TRANSIENT,			/* a failure of the server that may pass */
	RETRY_RATE_LIMITED,			/* the server wants fewer requests */
	RETRY_UNREADABLE,			/* a response that holds no task */
	RETRY_REJECTED,				/* most likely a wrong base URL */
	RETRY_AUTH,					/* a key that the server refuses */
	RETRY_UNKNOWN_TASK,			/* the task may be too new */
	RETRY_LOST_TASK,			/* unknown now, but it was seen running */
	RETRY_NO_OUTPUT,			/* the file may not be there yet */
	RETRY_ROW,					/* the row could not be read or written */
} RetryKind;

extern RetryKind retry_unknown_task(bool seen_running);
extern int64 retry_delay(RetryKind kind, int failures, double random);
extern bool retry_is_final(RetryKind kind, int failures, int64 since);

#endif							/* ANYVOD_RETRY_H */
