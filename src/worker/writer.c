/*-------------------------------------------------------------------------
 *
 * writer.c
 *		Writing what a worker has learned, whatever single rows make of it.
 *
 * Changes are written in batches.  What users have added to the table can
 * make one row refuse, wait or take for ever, and with it the batch.  The
 * changes of a batch that fails are suspects, and are tried one by one, each
 * for a moment only, while new ones go before them.  One that needs longer
 * is slow: it is given all the time that a batch has, but only once such
 * rows have left the others several times as much.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/elog.h"
#include "utils/memutils.h"

#include "clock.h"
#include "schedule/retry.h"
#include "control/counters.h"
#include "worker/writer.h"

#define SECOND INT64CONST(1000000)

/* Changes that one batch has at most. */
#define WRITER_BATCH 1000

/*
 * Longest that writing a batch may take, in milliseconds; one of few changes
 * has so much and so much more for each.  While batches take all their time
 * and fail, the next are given less, but not less than the last.
 */
#define WRITER_LIMIT 5000
#define WRITER_BASE_LIMIT 1000
#define WRITER_CHANGE_LIMIT 20
#define WRITER_LEAST_LIMIT 500

/* What a suspect is given, and what they are given in a turn, likewise. */
#define WRITER_SUSPECT_LIMIT 200
#define WRITER_SUSPECT_TURN 50

/* More suspects than this are not kept but asked for again. */
#define WRITER_SUSPECTS 2000

/*
 * Slow changes that are kept.  After one that took some time, and failed or
 * not, none is tried for so many times as long; but shorter pauses than this
 * are made together.
 */
#define WRITER_SLOW 16
#define WRITER_SLOW_SHARE 1
#define WRITER_FAILED_SHARE 9
#define WRITER_SLOW_PAUSE (SECOND / 20)

/*
 * A row that somebody holds, or whose update is suppressed, is asked for
 * again after this, and twice as long each time; the log has it after so
 * many.
 */
#define WRITER_SKIP_WAIT (1 * SECOND)
#define WRITER_LONGEST_SKIP_WAIT (60 * SECOND)
#define WRITER_SKIPS 8

/*
 * Tasks whose rows could not be written are due at multiples of this, so that
 * many of them wake the worker up no oftener than one does.
 */
#define WRITER_GRAIN (SECOND / 4)

/*
 * What is the system's trouble, not a row's, is written to the log so seldom,
 * and after so many failures rows wait no longer for it to pass.
 */
#define WRITER_SYSTEM_SILENCE (60 * SECOND)
#define WRITER_SYSTEM_FAILURES 6

typedef struct WriterList
{
	dlist_head	items;
	int			n;
} WriterList;

static struct
{
	WriterDone	done;
	WriterList	fresh;			/* to be written in batches */
	WriterList	suspects;		/* one of them made a batch fail */
	WriterList	slow;			/* need time, or have failed before */
	int			limit;			/* milliseconds that a batch may take */
	int64		hold_until;		/* the table is locked, most likely */
	int64		slow_at;		/* no slow one before this */
} writer;


static void
writer_put(WriterList *list, WriterItem *item)
{
	dlist_push_tail(&list->items, &item->node);
	list->n++;
}

static WriterItem *
writer_take(WriterList *list)
{
	WriterItem *item = dlist_head_element(WriterItem, node, &list->items);

	dlist_delete(&item->node);
	list->n--;
	return item;
}

/* When to ask again after this time, if not a moment later. */
static int64
writer_due_after(int64 wait)
{
	int64		due = monotonic_us() + wait;

	return due + WRITER_GRAIN - due % WRITER_GRAIN;
}

/* When to ask again for a row that could not be written so often. */
static int64
writer_retry(int failures)
{
	double		random = pg_prng_double(&pg_global_prng_state);

	return writer_due_after(retry_delay(RETRY_ROW, failures, random));
}

void
writer_init(WriterDone done)
{
	writer.done = done;
	dlist_init(&writer.fresh.items);
	dlist_init(&writer.suspects.items);
	dlist_init(&writer.slow.items);
	writer.limit = WRITER_LIMIT;
}

/* How many changes wait that have not been tried yet. */
int
writer_backlog(void)
{
	return writer.fresh.n;
}

/* Write nothing before then. */
void
writer_hold(int64 until)
{
	writer.hold_until = until;
}

/* When there will be something to do, QUEUE_NEVER if nothing waits. */
int64
writer_next(void)
{
	if (writer.fresh.n > 0 || writer.suspects.n > 0)
		return writer.hold_until;
	if (writer.slow.n > 0)
		return Max(writer.hold_until, writer.slow_at);
	return QUEUE_NEVER;
}


/*
 * What has become of a change
 */

/* It will not be written for now: ask for its task again later. */
static void
writer_give_up(WriterItem *item)
{
	item->due = writer_retry(Max(item->task->row_failures, 1));
	writer.done(item, false);
}

/*
 * A change to be written, when its turn comes.  One whose row has failed
 * before is written on its own.
 */
void
writer_add(WriterItem *item)
{
	writer_put(item->task->row_failures > 0 ? &writer.slow : &writer.fresh,
			   item);
}

/*
 * A row cannot be written, like others, most likely: the log has one for all,
 * and there is no point in noting it in the row.
 */
static void
writer_on_system_failure(WriterItem *item)
{
	static int64 silent_until = 0;
	const TrackerChange *change = &item->change;
	int			failures = queue_count(&item->task->row_failures);

	counters_error(unpack_sql_state(change->failure_code));
	item->due = writer_retry(Min(failures, WRITER_SYSTEM_FAILURES));
	if (monotonic_us() < silent_until)
		return;
	silent_until = monotonic_us() + WRITER_SYSTEM_SILENCE;
	ereport(LOG,
			(errcode(change->failure_code),
			 errmsg("anyvod could not write tasks: %s", change->failure),
			 errdetail("They are tried again, and so is the task \"%s\".",
					   item->task->task_id)));
}

/*
 * A row cannot be written.  It says so itself, if that can be written, and
 * the log does, once.
 */
static void
writer_on_failure(WriterItem *item)
{
	const TrackerChange *change = &item->change;
	QueueTask  *task = item->task;
	const char *code = unpack_sql_state(change->failure_code);
	TrackerChange note = {
		.task_id = change->task_id,
		.server = change->server,
		.owner = change->owner,
		.state = "pending",
		.error_code = code,
		.error_message = change->failure,
		.native = true,
	};
	TrackerChange *notes[1] = {&note};

	counters_error(code);
	item->due = writer_retry(queue_count(&task->row_failures));
	if (task->logged)
		return;
	task->logged = true;
	ereport(LOG,
			(errcode(change->failure_code),
			 errmsg("anyvod could not write task \"%s\": %s",
					task->task_id, change->failure)));
	if (item->row_code == NULL || strcmp(item->row_code, code) != 0)
		(void) tracker_write(notes, 1, WRITER_SUSPECT_LIMIT);
}

/*
 * Nothing was in the way, but the row is as it was: it is gone or changed,
 * which shows when it is asked for again; somebody holds it; or a trigger or
 * rule of a user's does not let it be settled.
 */
static void
writer_on_skipped(WriterItem *item)
{
	QueueTask  *task = item->task;
	int64		wait = WRITER_SKIP_WAIT;
	int			skips = queue_count(&task->skips);

	for (int i = 1; i < skips && wait < WRITER_LONGEST_SKIP_WAIT; i++)
		wait *= 2;
	item->due = Max(item->due,
					writer_due_after(Min(wait, WRITER_LONGEST_SKIP_WAIT)));
	if (skips < WRITER_SKIPS || task->logged)
		return;
	task->logged = true;
	ereport(LOG,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("anyvod could not write task \"%s\" in %d attempts",
					task->task_id, skips),
			 errdetail("A session holds its row locked, or a trigger or rule keeps the row from being updated.")));
}

/* Did a change that was tried alone, with so much time, need more? */
static bool
writer_needs_time(const WriterItem *item, int limit)
{
	return item->change.failure != NULL &&
		item->change.failure_code == ERRCODE_QUERY_CANCELED &&
		limit < WRITER_LIMIT;
}

/*
 * A change has been tried, with so much time, alone or in a batch that did
 * not fail.
 */
static void
writer_settle(WriterItem *item, int limit)
{
	const TrackerChange *change = &item->change;
	QueueTask  *task = item->task;

	if (writer_needs_time(item, limit))
	{
		writer_put(&writer.slow, item);
		return;
	}
	if (change->written)
	{
		counters_written(change->answer, item->answered);
		task->polls -= change->polls;
		task->row_failures = 0;
	}
	if (change->failure != NULL && tracker_is_systems(change->failure_code))
		writer_on_system_failure(item);
	else if (change->failure != NULL)
		writer_on_failure(item);
	else if (!change->written ||
			 (change->pending && tracker_settles(change)))
		writer_on_skipped(item);
	else
	{
		task->skips = 0;
		task->logged = false;
	}
	writer.done(item, change->written && !change->pending);
}


/*
 * Writing
 */

/* Batches have time again, or have less since one took all of its own. */
static void
writer_adjust_limit(bool timed_out)
{
	if (timed_out)
		writer.limit = Max(writer.limit / 2, WRITER_LEAST_LIMIT);
	else
		writer.limit = Min(writer.limit * 2, WRITER_LIMIT);
}

/* A batch has failed: each of its changes is a suspect now. */
static void
writer_suspect(WriterItem **items, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (writer.suspects.n < WRITER_SUSPECTS)
			writer_put(&writer.suspects, items[i]);
		else
			writer_give_up(items[i]);
	}
}

/* Write a batch of new changes. */
static TrackerOutcome
writer_write_batch(void)
{
	WriterItem *items[WRITER_BATCH];
	TrackerChange *changes[WRITER_BATCH];
	int64		begin = monotonic_us();
	int			n = Min(writer.fresh.n, WRITER_BATCH);
	int			limit = Min(writer.limit,
							WRITER_BASE_LIMIT + n * WRITER_CHANGE_LIMIT);
	int64		end;
	TrackerOutcome outcome;

	for (int i = 0; i < n; i++)
	{
		items[i] = writer_take(&writer.fresh);
		changes[i] = &items[i]->change;
	}
	outcome = tracker_write(changes, n, limit);
	end = monotonic_us();
	if (outcome == TRACKER_DONE || outcome == TRACKER_FAILED)
		writer_adjust_limit(end - begin >= limit * INT64CONST(1000));
	if (outcome == TRACKER_DONE)
	{
		for (int i = 0; i < n; i++)
			writer_settle(items[i], limit);
		return TRACKER_DONE;
	}
	if (outcome == TRACKER_FAILED)
	{
		/* The innocent have waited for long enough. */
		writer.slow_at = Max(writer.slow_at, end + (end - begin));
		writer_suspect(items, n);
		return TRACKER_DONE;
	}
	for (int i = n; i-- > 0;)
	{
		dlist_push_head(&writer.fresh.items, &items[i]->node);
		writer.fresh.n++;
	}
	return outcome;
}

/* Write the first change of a list on its own, in so many milliseconds. */
static TrackerOutcome
writer_write_single(WriterList *list, int limit, bool *failed)
{
	WriterItem *item = dlist_head_element(WriterItem, node, &list->items);
	TrackerChange *changes[1] = {&item->change};
	TrackerOutcome outcome = tracker_write(changes, 1, limit);

	if (outcome != TRACKER_DONE)
		return outcome;
	*failed = item->change.failure != NULL;
	(void) writer_take(list);
	writer_settle(item, limit);
	return TRACKER_DONE;
}

/* Write suspects for a little while. */
static TrackerOutcome
writer_write_suspects(void)
{
	int64		end = monotonic_us() + WRITER_SUSPECT_TURN * INT64CONST(1000);
	TrackerOutcome outcome = TRACKER_DONE;
	bool		failed;

	while (writer.suspects.n > 0 && outcome == TRACKER_DONE &&
		   monotonic_us() < end)
		outcome = writer_write_single(&writer.suspects, WRITER_SUSPECT_LIMIT,
									  &failed);
	return outcome;
}

/* Keep no more slow changes than there is room for. */
static void
writer_trim_slow(void)
{
	while (writer.slow.n > WRITER_SLOW)
	{
		WriterItem *item = dlist_tail_element(WriterItem, node,
											  &writer.slow.items);

		dlist_delete(&item->node);
		writer.slow.n--;
		item->task->row_failures = Max(item->task->row_failures, 1);
		writer_give_up(item);
	}
}

/* The slow change that has failed least; there is one. */
static WriterItem *
writer_first_slow(void)
{
	WriterItem *first = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &writer.slow.items)
	{
		WriterItem *item = dlist_container(WriterItem, node, iter.cur);

		if (first == NULL ||
			item->task->row_failures < first->task->row_failures)
			first = item;
	}
	return first;
}

/* Write the slow change whose turn it is; "pause" has to follow, too. */
static TrackerOutcome
writer_write_one_slow(int64 *pause)
{
	int64		begin = monotonic_us();
	bool		failed = false;
	TrackerOutcome outcome;

	dlist_move_head(&writer.slow.items, &writer_first_slow()->node);
	outcome = writer_write_single(&writer.slow, WRITER_LIMIT, &failed);
	*pause += (monotonic_us() - begin) *
		(failed ? WRITER_FAILED_SHARE : WRITER_SLOW_SHARE);
	return outcome;
}

/* Write slow changes, if it is time for them. */
static TrackerOutcome
writer_write_slow(void)
{
	int64		pause = 0;
	TrackerOutcome outcome = TRACKER_DONE;

	if (monotonic_us() < writer.slow_at)
		return TRACKER_DONE;
	while (writer.slow.n > 0 && outcome == TRACKER_DONE &&
		   pause < WRITER_SLOW_PAUSE)
		outcome = writer_write_one_slow(&pause);
	writer.slow_at = monotonic_us() + pause;
	return outcome;
}

/*
 * Write some of what waits: one batch of what is new, and some of the others,
 * so that a turn is never long.  Suspects, most of which are innocent, go
 * before the slow.
 */
TrackerOutcome
writer_write(void)
{
	TrackerOutcome outcome = TRACKER_DONE;

	if (writer.fresh.n > 0)
		outcome = writer_write_batch();
	if (writer.suspects.n > 0 && outcome == TRACKER_DONE)
		outcome = writer_write_suspects();
	writer_trim_slow();
	if (writer.slow.n > 0 && writer.suspects.n == 0 &&
		outcome == TRACKER_DONE)
		outcome = writer_write_slow();
	return outcome;
}
