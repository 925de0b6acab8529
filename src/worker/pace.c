/*-------------------------------------------------------------------------
 *
 * pace.c
 *		What a worker tells its schedule, and asks it.
 *
 * schedule.c knows durations only.  Here they are made of what answers say,
 * by the upstream's clock, and of when they came, by ours; and what was
 * learned before this process was started is read from the settled rows, a
 * page a turn, once the first questions are on their way.  So nothing is kept
 * but those rows.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "anyvod.h"
#include "worker/pace.h"
#include "table/settled.h"
#include "control/stat_schedule.h"
#include "table/tracker.h"

#define SECOND INT64CONST(1000000)

/* Keys that are kept, 11 kB each; the least recently used one goes. */
#define PACE_KEYS 128

/* Times that are farther from now than this are no times of a task. */
#define PACE_FARTHEST (366 * INT64CONST(86400) * SECOND)

/* A question that is this late, at least, is late because of the limits. */
#define PACE_LATE (1 * SECOND)

/* So many of the latest settled rows are learned from, this many a turn. */
#define PACE_LESSONS 20000
#define PACE_PAGE 1000

/* Look again at a locked table after this. */
#define PACE_BUSY_WAIT (SECOND / 4)

/* What was learned is shown no oftener than this. */
#define PACE_SHOW_EVERY (1 * SECOND)

/* How far learning from settled rows has come. */
typedef enum PaceStage
{
	PACE_LOOKING_BACK,			/* for the oldest of them */
	PACE_LEARNING,
	PACE_LEARNED,
} PaceStage;

static struct
{
	Schedule   *schedule;
	PaceStage	stage;
	int64		next_at;		/* then nothing before this */
	TimestampTz at;				/* the stage has come this far */
	TimestampTz until;			/* rows settled later were seen by others */
	int			rows;			/* that were looked back over */
	bool		changed;		/* since it was shown */
	int64		show_at;		/* not before this while busy */
} pace;


void
pace_init(void)
{
	void	   *memory = MemoryContextAllocHuge(TopMemoryContext,
												schedule_size(PACE_KEYS));

	memset(&pace, 0, sizeof(pace));
	pace.schedule = schedule_init(memory, PACE_KEYS);
	pace.at = pace.until = GetCurrentTimestamp();
}

static double
pace_random(void)
{
	return pg_prng_double(&pg_global_prng_state);
}

static ScheduleSettings
pace_settings(void)
{
	ScheduleSettings settings = {
		.detection_delay = anyvod_detection_delay * INT64CONST(1000),
		.poll_floor = anyvod_poll_floor * INT64CONST(1000),
		.poll_cap = anyvod_poll_cap * INT64CONST(1000),
	};

	return settings;
}

/* May this be the time of a task that is asked about now? */
static bool
pace_is_near(TimestampTz time, TimestampTz now)
{
	return time >= now - PACE_FARTHEST && time <= now + PACE_FARTHEST;
}

/* The key that an answer's task belongs to. */
static ScheduleKey
pace_key(const QueueTask *task, const Answer *answer)
{
	return schedule_key(pace.schedule, NameStr(task->account->server_name),
						answer->task_type, answer->model);
}


/*
 * Questions and answers
 */

/*
 * A question is on its way.  One that is late, about a task that is known to
 * run, says that there are more of them than the limits let through.
 */
void
pace_note_start(const QueueTask *task, int64 now)
{
	int64		late = Max(PACE_LATE, pace_settings().detection_delay);

	if (task->running.key != SCHEDULE_NO_KEY && !task->held &&
		now - task->due > late)
		pace_push_back(task, now);
}

/* The task runs on.  Returns when to ask again. */
int64
pace_note_running(QueueTask *task, const Answer *answer, int64 asked,
				  int64 now)
{
	ScheduleSettings settings = pace_settings();
	TimestampTz received = GetCurrentTimestamp();
	ScheduleKey key;
	int64		elapsed;
	int64		wait;

	if (!answer->has_started_at || !pace_is_near(answer->started_at, received))
		return now + schedule_fixed(&settings, pace_random());
	key = pace_key(task, answer);
	schedule_note_past(pace.schedule, key, received, answer->started_at);
	/* the time is cut to a second, half of which is gone on average */
	elapsed = received - schedule_skew(pace.schedule, key) -
		answer->started_at - SECOND / 2;
	schedule_note_running(pace.schedule, &task->running, key, elapsed);
	task->seen = (uint32) (asked / 1000);
	pace.changed = true;
	wait = schedule_next(pace.schedule, &settings, key, elapsed, now,
						 pace_random());
	return now + wait;
}

/* An answer says that its task has ended: that tells of the clocks. */
void
pace_note_ended(const QueueTask *task, const Answer *answer, int64 now)
{
	TimestampTz received = GetCurrentTimestamp();
	uint32		since = (uint32) (now / 1000) - task->seen;
	ScheduleKey key;

	if (!answer->has_ended_at || !pace_is_near(answer->ended_at, received))
		return;
	key = pace_key(task, answer);
	if (task->running.key == key)
		schedule_note_finish(pace.schedule, key,
							 received - since * INT64CONST(1000), received,
							 answer->ended_at);
	else
		schedule_note_past(pace.schedule, key, received, answer->ended_at);
}

/*
 * A task will not be asked about again: it has ended, as this answer says, or
 * (NULL) its row is gone.
 */
void
pace_note_over(QueueTask *task, const Answer *answer)
{
	pace.changed = true;
	if (answer != NULL && answer->has_started_at && answer->has_ended_at &&
		answer->started_at <= answer->ended_at &&
		pace_is_near(answer->started_at, answer->ended_at))
	{
		schedule_note_gone(pace.schedule, &task->running);
		schedule_note_end(pace.schedule, pace_key(task, answer),
						  answer->ended_at - answer->started_at, SECOND);
	}
	else
		schedule_note_lost(pace.schedule, &task->running);
}

/* Less should be asked of a task's server. */
void
pace_push_back(const QueueTask *task, int64 now)
{
	schedule_push_back(pace.schedule, NameStr(task->account->server_name),
					   now);
}


/*
 * Settled rows
 */

/* When there is something to learn, QUEUE_NEVER if there is nothing more. */
int64
pace_next_lesson(void)
{
	return pace.stage == PACE_LEARNED ? QUEUE_NEVER : pace.next_at;
}

static void
pace_on_settled(const SettledRow *row, void *arg)
{
	ScheduleKey key;

	if (row->ended_at < row->started_at ||
		!pace_is_near(row->started_at, row->ended_at))
		return;
	key = schedule_key(pace.schedule, row->server, row->task_type, row->model);
	schedule_note_end(pace.schedule, key, row->ended_at - row->started_at,
					  SECOND);
}

/*
 * Learn from one page of settled rows.  They are to be told oldest first, so
 * their oldest is looked for before; that reads the index alone, mostly.
 */
void
pace_learn(void)
{
	int64		now = monotonic_us();
	TrackerOutcome outcome;
	int			n;

	if (now < pace_next_lesson())
		return;
	if (pace.stage == PACE_LOOKING_BACK)
		outcome = settled_look_back(PACE_PAGE, &pace.at, &n);
	else
		outcome = settled_read(PACE_PAGE, &pace.at, pace.until,
							   pace_on_settled, NULL, &n);
	if (outcome == TRACKER_BUSY)
	{
		pace.next_at = now + PACE_BUSY_WAIT;
		return;
	}
	if (outcome != TRACKER_DONE)
		pace.stage = PACE_LEARNED;	/* without, then: the log has why */
	else if (pace.stage == PACE_LEARNING && n < PACE_PAGE)
		pace.stage = PACE_LEARNED;
	else if (pace.stage == PACE_LOOKING_BACK)
	{
		pace.rows += n;
		if (n < PACE_PAGE || pace.rows >= PACE_LESSONS)
			pace.stage = PACE_LEARNING;
	}
	if (pace.stage == PACE_LEARNED)
	{
		ScheduleSettings settings = pace_settings();

		schedule_replan(pace.schedule, &settings, now);
		pace.changed = true;
	}
}


/*
 * What is shown
 */

/* Before a wait of so many milliseconds (-1: for ever), show what is new. */
void
pace_publish(long timeout)
{
	int64		now = monotonic_us();
	ScheduleSummary summary;

	if (!pace.changed ||
		(now < pace.show_at && timeout >= 0 &&
		 timeout < PACE_SHOW_EVERY / 1000))
		return;
	pace.changed = false;
	pace.show_at = now + PACE_SHOW_EVERY;
	for (int i = 0; i < PACE_KEYS; i++)
	{
		if (schedule_summarize(pace.schedule, i, &summary))
			stat_schedule_publish(&summary);
	}
}
