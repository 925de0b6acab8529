/*-------------------------------------------------------------------------
 *
 * schedule.h
 *		When to ask again.
 *
 * Pure: no SPI, no libcurl, no clock and no random numbers of its own; it
 * compiles in a backend and, with FRONTEND defined, in the unit tests.  Times
 * are in microseconds.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SCHEDULE_H
#define ANYVOD_SCHEDULE_H

/* What the DBA wants. */
typedef struct ScheduleSettings
{
	int64		detection_delay;	/* mean delay aimed at */
	int64		poll_floor;		/* least time between two questions */
	int64		poll_cap;		/* most time between two questions */
} ScheduleSettings;

/* A running task: its key, and how long it has been running. */
typedef struct ScheduleTask
{
	const char *server;
	const char *task_type;		/* NULL: not known yet */
	const char *model;			/* NULL: not known yet */
	int64		elapsed;		/* since the upstream started it */
} ScheduleTask;

/* Why a task is asked about again although the answer said nothing of it. */
typedef enum ScheduleRetry
{
	SCHEDULE_TRANSIENT,			/* trouble of the server that may pass */
	SCHEDULE_RATE_LIMITED,		/* the server wants fewer questions */
	SCHEDULE_UNREADABLE,		/* an answer that holds no task */
	SCHEDULE_REJECTED,			/* most likely a wrong base URL */
	SCHEDULE_AUTH,				/* a key that the server refuses */
	SCHEDULE_UNKNOWN_TASK,		/* the task may be too new */
	SCHEDULE_NO_OUTPUT,			/* the file may not be there yet */
	SCHEDULE_ROW,				/* trouble of the row itself */
} ScheduleRetry;

extern int64 schedule_next(const ScheduleSettings *settings,
						   const ScheduleTask *task, double random);
extern int64 schedule_retry(ScheduleRetry why, int failures, double random);
extern bool schedule_is_final(ScheduleRetry why, int failures, int64 since);

#endif							/* ANYVOD_SCHEDULE_H */
