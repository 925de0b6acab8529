/*-------------------------------------------------------------------------
 *
 * stat_schedule.h
 *		What workers have learned of durations, for all to see.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_STAT_SCHEDULE_H
#define ANYVOD_STAT_SCHEDULE_H

#include "datatype/timestamp.h"
#include "schedule/schedule.h"

/* Keys of all databases that are kept; the one published first goes. */
#define STAT_SCHEDULES 256

/* A key of a database. */
typedef struct StatSchedule
{
	Oid			database;		/* InvalidOid: free */
	TimestampTz published_at;
	ScheduleSummary summary;
} StatSchedule;

/* What is in shared memory, all zeroes at first.  See shmem.h. */
typedef struct StatSchedules
{
	StatSchedule keys[STAT_SCHEDULES];
} StatSchedules;

/* For the worker. */
extern void stat_schedule_publish(const ScheduleSummary *summary);

#endif							/* ANYVOD_STAT_SCHEDULE_H */
