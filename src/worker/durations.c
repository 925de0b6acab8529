/*-------------------------------------------------------------------------
 *
 * durations.c
 *		What a worker records of how long tasks take, and when it polls them
 *		again.
 *
 * schedule.c knows durations only.  Here they are made of what responses say,
 * by the upstream's clock, and of when they came, by ours.  What was learned
 * before this process was started is read from the settled rows, latest first,
 * a page an iteration, once the first requests are on their way.  So nothing
 * is kept but those rows.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "anyvod.h"
#include "clock.h"
#include "control/counters.h"
#include "table/settled.h"
#include "worker/durations.h"

#define SECOND INT64CONST(1000000)

/* Keys that are kept, 10 kB each; the least recently used one goes. */
#define DURATIONS_KEYS 128

/* Times that are farther apart than this are no times of a task. */
#define DURATIONS_FARTHEST (366 * INT64CONST(86400) * SECOND)

/* A poll that is this late, at least, is late because of the limits. */
#define DURATIONS_LATE (1 * SECOND)

/* So many of the latest settled rows are read, this many an iteration. */
#define DURATIONS_ROWS 20000
#define DURATIONS_PAGE 1000

/* Read a locked table again after this. */
#define DURATIONS_BUSY_WAIT (SECOND / 4)

/* What was learned is published no oftener than this. */
#define DURATIONS_PUBLISH_EVERY (1 * SECOND)

static struct
{
	Schedule   *schedule;
	int64		read_at;		/* when to read settled rows */
	TimestampTz before;			/* those that were settled before this */
	int			rows;			/* that were read */
	bool		changed;		/* since it was published */
	int64		publish_at;		/* not before this while busy */
} durations;


/* Called once, at the start of the worker. */
void
durations_init(void)
{
	void	   *memory = MemoryContextAllocHuge(TopMemoryContext,
												schedule_size(DURATIONS_KEYS));

	memset(&durations, 0, sizeof(durations));
	durations.schedule = schedule_init(memory, DURATIONS_KEYS);
	durations.before = GetCurrentTimestamp();
}

static ScheduleSettings
durations_settings(void)
{
	ScheduleSettings settings = {
		.detection_delay = anyvod_detection_delay * INT64CONST(1000),
		.poll_floor = anyvod_poll_floor * INT64CONST(1000),
		.poll_cap = anyvod_poll_cap * INT64CONST(1000),
	};

	return settings;
}

/* May these be two times of a task? */
static bool
durations_are_near(TimestampTz a, TimestampTz b)
{
	return a >= b - DURATIONS_FARTHEST && a <= b + DURATIONS_FARTHEST;
}

/* The key that a response's task belongs to. */
static ScheduleKey
durations_key(const QueueTask *task, const Answer *answer)
{
	return schedule_key(durations.schedule,
						NameStr(task->role->server_name),
						answer->task_type, answer->model);
}


/*
 * Requests and responses
 */

/*
 * A request is sent.  One that is late, for a task that is known to run, says
 * that there are more of them than the limits let through.
 */
void
durations_record_start(const QueueTask *task, int64 now)
{
	int64		late = Max(DURATIONS_LATE,
						   durations_settings().detection_delay);

	if (task->running.key != SCHEDULE_NO_KEY && !task->blocked &&
		now - task->due > late)
		durations_throttle(task, now);
}

/* The task runs on, as a response says.  Returns when to poll again. */
int64
durations_record_running(QueueTask *task, const Answer *answer, int64 now)
{
	ScheduleSettings settings = durations_settings();
	TimestampTz received = GetCurrentTimestamp();
	double		random = pg_prng_double(&pg_global_prng_state);
	ScheduleKey key;
	int64		elapsed;
	int64		wait;

	if (!answer->has_started_at ||
		!durations_are_near(answer->started_at, received))
		return now + schedule_fixed(&settings, random);
	key = durations_key(task, answer);
	/* the time is cut to a second, half of which is gone on average */
	elapsed = received - schedule_skew(durations.schedule, key) -
		answer->started_at - SECOND / 2;
	schedule_record_running(durations.schedule, &task->running, key, elapsed);
	durations.changed = true;
	wait = schedule_next(durations.schedule, &settings, key, elapsed, now,
						 random);
	return now + wait;
}

/*
 * A task will not be polled again: it has ended, as this response says, or
 * (NULL) its row is gone.
 */
void
durations_record_over(QueueTask *task, const Answer *answer)
{
	TimestampTz now = GetCurrentTimestamp();
	ScheduleKey key;

	durations.changed = true;
	if (answer == NULL || !answer->has_started_at || !answer->has_ended_at ||
		answer->started_at > answer->ended_at ||
		!durations_are_near(answer->started_at, answer->ended_at) ||
		!durations_are_near(answer->ended_at, now))
	{
		schedule_record_lost(durations.schedule, &task->running);
		return;
	}
	key = durations_key(task, answer);
	if (task->running.key == key)
		schedule_record_finish(durations.schedule, key, now, answer->ended_at);
	schedule_record_gone(durations.schedule, &task->running);
	schedule_record_end(durations.schedule, key,
						answer->ended_at - answer->started_at, SECOND);
}

/* A task's server should get fewer requests. */
void
durations_throttle(const QueueTask *task, int64 now)
{
	schedule_throttle(durations.schedule, NameStr(task->role->server_name),
					  now);
}


/*
 * Settled rows
 */

/* When to call durations_read(), QUEUE_NEVER if all is read. */
int64
durations_next_read(void)
{
	return durations.read_at;
}

static void
durations_on_row(const SettledRow *row, void *arg)
{
	if (row->ended_at >= row->started_at &&
		durations_are_near(row->started_at, row->ended_at))
		schedule_record_past(durations.schedule, row->server, row->task_type,
							 row->model, row->ended_at - row->started_at,
							 SECOND);
}

/* Learn from one page of settled rows. */
void
durations_read(void)
{
	int64		now = monotonic_us();
	TableResult result;
	int			n;

	if (now < durations.read_at)
		return;
	result = settled_read(DURATIONS_PAGE, &durations.before,
						  durations_on_row, NULL, &n);
	if (result == TABLE_LOCKED)
	{
		durations.read_at = now + DURATIONS_BUSY_WAIT;
		return;
	}
	durations.changed = true;
	durations.rows += n;
	/* if it failed, without them: the log has why */
	if (result != TABLE_DONE || n < DURATIONS_PAGE ||
		durations.rows >= DURATIONS_ROWS)
		durations.read_at = QUEUE_NEVER;
}


/*
 * Publishing
 */

/* Before a wait of so many milliseconds (-1: for ever), show what is new. */
void
durations_publish(long timeout)
{
	int64		now = monotonic_us();
	ScheduleSummary summary;

	if (!durations.changed ||
		(now < durations.publish_at && timeout >= 0 &&
		 timeout < DURATIONS_PUBLISH_EVERY / 1000))
		return;
	durations.changed = false;
	durations.publish_at = now + DURATIONS_PUBLISH_EVERY;
	for (int i = 0; i < DURATIONS_KEYS; i++)
	{
		if (schedule_summarize(durations.schedule, i, &summary))
			counters_learned(&summary);
	}
}
