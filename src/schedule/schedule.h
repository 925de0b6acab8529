/*-------------------------------------------------------------------------
 *
 * schedule.h
 *		When to ask again.
 *
 * A Schedule learns how long tasks take, apart for each key (server, task
 * type, model with its version), and says when to ask about a running task
 * so that its end is seen within the delay that the DBA aims at, by the
 * fewest questions.  Its use, for each answer:
 *
 *		key = schedule_key(schedule, server, task_type, model);
 *		skew = schedule_skew(schedule, key);
 *		task runs:	elapsed = received - skew - CreateTime - half a second;
 *					schedule_note_running(schedule, &task->running, key,
 *										  elapsed);
 *					due = now + schedule_next(schedule, &settings, key,
 *											  elapsed, now, random);
 *		ended:		schedule_note_gone(schedule, &task->running);
 *					schedule_note_end(schedule, key,
 *									  FinishTime - CreateTime, one second);
 *		given up:	schedule_note_lost(schedule, &task->running);
 *
 * and schedule_push_back when a server refuses for being asked too much or
 * its rate limit makes questions late.  After a start, schedule_note_end for
 * the latest settled rows, oldest first, stands for what was learned before.
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
	int64		poll_floor;		/* least time between two questions */
	int64		poll_cap;		/* most time between two questions */
	bool		unguarded;		/* without the gap cap, to measure it */
} ScheduleSettings;

typedef struct Schedule Schedule;

/*
 * Names a key.  When there are too many, the one that was not used for the
 * longest time is forgotten, and what is noted for it does nothing; its number
 * is not used again before four million others were.
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
	int64		censored;		/* given up while they ran */
	int64		running;
	int64		median;			/* duration */
	int64		p95;
	bool		built;			/* a plan was needed yet; then these: */
	int64		built_at;		/* when it was made */
	double		requests;		/* a task, as expected */
	int64		mean_delay;		/* likewise */
	int64		p95_delay;
	int			next_build;		/* after so many more tasks */
	double		c;				/* what a question is worth, in s of delay */
	double		pressure;		/* c is raised by this: see push_back */
	int64		skew;			/* see schedule_skew */
	double		learned;		/* see ScheduleForecast */
	float		shares[SCHEDULE_SHARES];	/* what forecasts are made from */
} ScheduleSummary;

extern Size schedule_size(int max_keys);
extern Schedule *schedule_init(void *memory, int max_keys);
extern ScheduleKey schedule_key(Schedule *schedule, const char *server,
								const char *task_type, const char *model);

extern void schedule_note_end(Schedule *schedule, ScheduleKey key,
							  int64 duration, int64 precision);
extern void schedule_note_censored(Schedule *schedule, ScheduleKey key,
								   int64 elapsed);
extern void schedule_note_running(Schedule *schedule,
								  ScheduleRunning *running, ScheduleKey key,
								  int64 elapsed);
extern void schedule_note_gone(Schedule *schedule, ScheduleRunning *running);
extern void schedule_note_lost(Schedule *schedule, ScheduleRunning *running);
extern void schedule_push_back(Schedule *schedule, const char *server,
							   int64 now);
extern void schedule_note_past(Schedule *schedule, ScheduleKey key,
							   int64 received, int64 time);
extern void schedule_note_finish(Schedule *schedule, ScheduleKey key,
								 int64 asked, int64 received, int64 time);

extern void schedule_replan(Schedule *schedule,
							const ScheduleSettings *settings, int64 now);

extern int64 schedule_next(Schedule *schedule,
						   const ScheduleSettings *settings, ScheduleKey key,
						   int64 elapsed, int64 now, double random);
extern int64 schedule_fixed(const ScheduleSettings *settings, double random);
extern int64 schedule_skew(const Schedule *schedule, ScheduleKey key);
extern bool schedule_forecast(Schedule *schedule, ScheduleKey key,
							  int64 elapsed, ScheduleForecast *forecast);
extern void schedule_forecast_from(const ScheduleSummary *summary,
								   int64 elapsed, ScheduleForecast *forecast);
extern bool schedule_is_name(const char *kept, const char *name);
extern bool schedule_summarize(Schedule *schedule, int n,
							   ScheduleSummary *summary);

#endif							/* ANYVOD_SCHEDULE_H */
