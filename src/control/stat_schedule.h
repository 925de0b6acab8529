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

#include "schedule/schedule.h"

/* For the library's load, in the postmaster. */
extern void stat_schedule_init(void);

/* For the worker. */
extern void stat_schedule_publish(const ScheduleSummary *summary);

#endif							/* ANYVOD_STAT_SCHEDULE_H */
