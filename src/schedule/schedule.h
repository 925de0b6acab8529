/*-------------------------------------------------------------------------
 *
 * schedule.h
 *		When to poll a running task again.
 *
 * A Schedule learns how long tasks take, apart for each key (server, task
 * type, model with its version), and says when to poll a running task so that
 * its end is seen within the delay that the DBA aims at, by the fewest polls.
 * Its use, for each response:
 *
 *		key = schedule_key(schedule, server, task_type, model);
 *		skew = schedule_skew(schedule, key);
 *		task runs:	elapsed = received - skew - CreateTime - half a second;
 *					schedule_record_running(schedule, &task->running, key,
 *											elapsed);
 *					due = now + schedule_next(schedule, &settings, key,
 *											  elapsed, now, random);
 *		ended:		if it was seen running,
 *						schedule_record_finish(schedule, key, received,
 *											   FinishTime);
 *					schedule_record_gone(schedule, &task->running);
 *					schedule_record_end(schedule, key,
 *										FinishTime - CreateTime, one second);
 *		given up:	schedule_record_lost(schedule, &task->running);
 *
 * and schedule_throttle when a server refuses because it gets too many
 * requests or its rate limit makes polls late.  After a start,
 * schedule_record_past for the latest settled rows, latest first, stands for
 * what was learned before.
 *
 * Pure: no SPI, no libcurl, no clock and no random numbers of its own; it
 * compiles in a backend and, with FRONTEND defined, in the unit tests.  Times
 * are in microseconds; "now" is of any clock that never goes back.
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
	int64		poll_floor;		/* least time between two polls */
	int64		poll_cap;		/* most time between two polls */
	bool		unguarded;		/* without the gap cap, to measure it */
} ScheduleSettings;

typedef struct Schedule Schedule;

/*
 * Names a key.  When there are too many, the one that was not used for the
 * longest time is forgotten, and what is recorded for it does nothing; its
 * number is not used again before four million others were.
 */
typedef uint32 ScheduleKey;

#define SCHEDULE_NO_KEY 0

/* Most keys that a Schedule can have. */
#define SCHEDULE_MOST_KEYS 1024

/* Where a running task is counted; all zeroes: nowhere. */
typedef struct ScheduleRunning
{
	ScheduleKey key;
	uint8		bucket;
} ScheduleRunning;

/* How much longer a task will run. */
typedef struct ScheduleForecast
{
	int64		median;
	int64		p90;
	double		learned;		/* from so many tasks, the latest count most */
} ScheduleForecast;

/* Room for a name in a summary; longer ones are cut. */
#define SCHEDULE_NAME 128

/* Shares of tasks that run for longer than each of so many times. */
#define SCHEDULE_SHARES 121

/* One key, for a view. */
typedef struct ScheduleSummary
{
	char		server[SCHEDULE_NAME];
	char		task_type[SCHEDULE_NAME];
	char		model[SCHEDULE_NAME];
	int64		ended;			/* tasks learned from */
	int64		running;
	int64		median;			/* duration */
	int64		p95;
	int64		skew;			/* see schedule_skew */
	double		learned;		/* see ScheduleForecast */
	float		shares[SCHEDULE_SHARES];	/* what forecasts are made from */
} ScheduleSummary;

extern Size schedule_size(int max_keys);
extern Schedule *schedule_init(void *memory, int max_keys);
extern ScheduleKey schedule_key(Schedule *schedule, const char *server,
								const char *task_type, const char *model);

extern void schedule_record_end(Schedule *schedule, ScheduleKey key,
								int64		duration, int64 precision);
extern void schedule_record_past(Schedule *schedule, const char *server,
								 const char *task_type, const char *model,
								 int64 duration, int64 precision);
extern void schedule_record_running(Schedule *schedule,
									ScheduleRunning *running, ScheduleKey key,
									int64 elapsed);
extern void schedule_record_gone(Schedule *schedule, ScheduleRunning *running);
extern void schedule_record_lost(Schedule *schedule, ScheduleRunning *running);
extern void schedule_record_finish(Schedule *schedule, ScheduleKey key,
								   int64 received, int64 finished);
extern void schedule_throttle(Schedule *schedule, const char *server,
							  int64 now);

extern int64 schedule_next(Schedule *schedule,
						   const ScheduleSettings *settings, ScheduleKey key,
						   int64 elapsed, int64 now, double random);
extern int64 schedule_fixed(const ScheduleSettings *settings, double random);
extern int64 schedule_skew(const Schedule *schedule, ScheduleKey key);

extern bool schedule_summarize(Schedule *schedule, int n,
							   ScheduleSummary *summary);
extern void schedule_forecast(const ScheduleSummary *summary, int64 elapsed,
							  ScheduleForecast *forecast);
extern bool schedule_is_name(const char *kept, const char *name);

#endif							/* ANYVOD_SCHEDULE_H */
