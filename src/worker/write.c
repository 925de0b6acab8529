/*-------------------------------------------------------------------------
 *
 * write.c
 *		Writing what a worker has learned, whatever single rows make of it.
 *
 * Updates are written in batches.  When a batch fails, because of a trigger or
 * constraint that a user has added, each of its updates is written in a
 * subtransaction of its own.  One that fails there, or whose row somebody holds
 * locked, is kept and tried again with backoff: only the write, not the poll.
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
#include "control/counters.h"
#include "control/slot.h"
#include "schedule/retry.h"
#include "table/select.h"
#include "worker/queue.h"
#include "worker/write.h"

#define SECOND INT64CONST(1000000)

/* While so many updates wait that were not tried, no task is polled. */
#define WRITE_BACKLOG 1000

/*
 * Updates of a batch at most, and its longest time in milliseconds: one of few
 * updates has so much and so much more for each.
 */
#define WRITE_BATCH 1000
#define WRITE_LIMIT 5000
#define WRITE_BASE_LIMIT 1000
#define WRITE_UPDATE_LIMIT 20

/*
 * What a row is given when updates are written one by one, in milliseconds, so
 * that a slow trigger does not use the time of all.  One that needs more is
 * written alone.
 */
#define WRITE_ROW_LIMIT 200

/*
 * Rows that are tried again together.  The pause that follows is so many times
 * as long as it took, with success or without.
 */
#define WRITE_RETRIES 100
#define WRITE_DONE_SHARE 1
#define WRITE_FAILED_SHARE 9

/* They are tried at multiples of this, so that many wake us no oftener. */
#define WRITE_RETRY_GRAIN (SECOND / 4)

/* Updates that are kept; the tasks of others are polled again. */
#define WRITE_MAX_KEPT 8192

/* A row that somebody holds, or whose update is suppressed, is logged then. */
#define WRITE_LOG_ATTEMPTS 8

/* Time in transactions shorter than this blocks nobody. */
#define WRITE_UNNOTICED (SECOND / 20)

static struct
{
	WriteDone	done;
	WriteKeep	keep;
	dlist_head	new;			/* not tried yet, oldest first */
	int			nnew;
	int			singly;			/* so many of those, one by one */
	pairingheap *retries;
	int			nretries;
	int64		hold_until;		/* the table is locked, most likely */
	int64		retry_at;		/* no retries before this */
	int64		blocked;		/* time in long transactions so far */
} writes;


/* The earlier is the greater, as the heap gives the greatest first. */
static int
write_compare(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		at_a = pairingheap_const_container(WriteItem, retry_node,
												   a)
						   ->retry_at;
	int64		at_b = pairingheap_const_container(WriteItem, retry_node,
												   b)
						   ->retry_at;

	return (at_a < at_b) - (at_a > at_b);
}

void
write_init(WriteDone done, WriteKeep keep)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	writes.done = done;
	writes.keep = keep;
	dlist_init(&writes.new);
	writes.retries = pairingheap_allocate(write_compare, NULL);
	MemoryContextSwitchTo(old);
}

/* An update to be written. */
void
write_add(WriteItem *item)
{
	dlist_push_tail(&writes.new, &item->node);
	writes.nnew++;
}

/* May more updates come? */
bool
write_has_room(void)
{
	return writes.nnew < WRITE_BACKLOG;
}

/* How many updates wait that have not been tried. */
int
write_backlog(void)
{
	return writes.nnew;
}

/* Write nothing before then. */
void
write_hold(int64 until)
{
	writes.hold_until = until;
}

/* The first of those that are tried again; NULL if there is none. */
static WriteItem *
write_first_retry(void)
{
	if (pairingheap_is_empty(writes.retries))
		return NULL;
	return pairingheap_container(WriteItem, retry_node,
								 pairingheap_first(writes.retries));
}

/* When there will be something to write, QUEUE_NEVER if nothing waits. */
int64
write_next(void)
{
	const WriteItem *retry = write_first_retry();

	if (writes.nnew > 0)
		return writes.hold_until;
	if (retry != NULL)
		return Max(Max(retry->retry_at, writes.retry_at), writes.hold_until);
	return QUEUE_NEVER;
}

/* What stood in the way of rows may be gone: try them all. */
void
write_retry_all(int64 now)
{
	pairingheap *all = writes.retries;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	writes.retries = pairingheap_allocate(write_compare, NULL);
	MemoryContextSwitchTo(old);
	while (!pairingheap_is_empty(all))
	{
		WriteItem  *item =
			pairingheap_container(WriteItem, retry_node,
								   pairingheap_remove_first(all));

		item->retry_at = Min(item->retry_at, now);
		pairingheap_add(writes.retries, &item->retry_node);
	}
	pairingheap_free(all);
	writes.hold_until = 0;
}

/* How long this process was in transactions so far: it read no sockets then. */
int64
write_blocked(void)
{
	return writes.blocked;
}

/* A transaction began then. */
static void
write_count_blocked(int64 begin)
{
	int64		took = monotonic_us() - begin;

	if (took >= WRITE_UNNOTICED)
		writes.blocked += took;
}


/*
 * What has become of an update
 */

/* Log an update that could not be written, once, and if the log has room. */
static void
write_log(WriteItem *item)
{
	const TableUpdate *update = &item->update;
	const char *failure = update->failure;

	if (item->logged ||
		(failure == NULL && item->attempts < WRITE_LOG_ATTEMPTS))
		return;
	item->logged = true;
	if (!table_may_log())
		return;
	if (failure != NULL)
		ereport(LOG,
				(errcode(update->failure_code),
				 errmsg("anyvod could not write task \"%s\": %s",
						update->task_id, failure)));
	else
		ereport(LOG,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("anyvod could not write task \"%s\" in %d attempts",
						update->task_id, item->attempts),
				 errdetail("A session holds its row locked, or a trigger or rule keeps the row from being updated.")));
}

/* Did an update that was given so many milliseconds need more? */
static bool
write_needs_time(const WriteItem *item, int limit)
{
	return limit < WRITE_LIMIT && item->update.failure != NULL &&
		item->update.failure_code == ERRCODE_QUERY_CANCELED;
}

/* When to try again what has not been written. */
static int64
write_retry_at(const WriteItem *item)
{
	int64		at = monotonic_us() +
		retry_delay(RETRY_ROW, item->attempts,
						  pg_prng_double(&pg_global_prng_state));

	return at + WRITE_RETRY_GRAIN - at % WRITE_RETRY_GRAIN;
}

/* An update was tried for so long and has not been written: try again later. */
static void
write_keep(WriteItem *item, int limit)
{
	const TableUpdate *update = &item->update;

	item->timed_out = update->failure != NULL &&
		update->failure_code == ERRCODE_QUERY_CANCELED;
	item->retry_at = 0;
	if (!write_needs_time(item, limit))
	{
		(void) queue_count(&item->attempts);
		if (update->failure != NULL)
			counters_error(unpack_sql_state(update->failure_code));
		write_log(item);
		item->retry_at = write_retry_at(item);
	}
	/* what a running task's next response says is as good */
	if (!table_update_settles(update) || writes.nretries >= WRITE_MAX_KEPT)
	{
		writes.done(item, false);
		return;
	}
	writes.keep(item);
	pairingheap_add(writes.retries, &item->retry_node);
	writes.nretries++;
}

/*
 * An update was tried for so many milliseconds.  It is written again if a
 * user's trigger has not let it settle its row.
 */
static void
write_conclude(WriteItem *item, int limit)
{
	const TableUpdate *update = &item->update;

	if (update->written &&
		!(update->pending && table_update_settles(update)))
		writes.done(item, !update->pending);
	else
		write_keep(item, limit);
}

/*
 * A row that could not be written says why, unless it does already: a write of
 * its own, which may fail likewise.
 */
static void
write_failures(WriteItem **items, int n, int limit)
{
	TableUpdate *notes = palloc0(n * sizeof(TableUpdate));
	TableUpdate **updates = palloc(n * sizeof(TableUpdate *));
	int			nnotes = 0;

	for (int i = 0; i < n; i++)
	{
		const TableUpdate *update = &items[i]->update;
		TableUpdate *note = &notes[nnotes];

		if (update->failure == NULL || items[i]->attempts > 0 ||
			write_needs_time(items[i], limit) ||
			table_is_system_error(update->failure_code))
			continue;
		note->task_id = update->task_id;
		note->server = update->server;
		note->owner = update->owner;
		note->state = "pending";
		note->error_code = pstrdup(unpack_sql_state(update->failure_code));
		note->error_message = update->failure;
		note->native = true;
		if (items[i]->row_code == NULL ||
			strcmp(items[i]->row_code, note->error_code) != 0)
			updates[nnotes++] = note;
	}
	if (nnotes > 0)
		(void) table_update_singly(updates, nnotes, WRITE_ROW_LIMIT,
								   WRITE_LIMIT);
}


/*
 * Writing
 */

/* Take the first "n" new updates that are to be written together. */
static int
write_take(WriteItem **items, TableUpdate **updates, int n)
{
	for (int i = 0; i < n; i++)
	{
		items[i] = dlist_head_element(WriteItem, node, &writes.new);
		dlist_delete(&items[i]->node);
		updates[i] = &items[i]->update;
	}
	writes.nnew -= n;
	return n;
}

/* They have not been tried: put them back, before the others. */
static void
write_put_back(WriteItem **items, int n)
{
	while (n-- > 0)
	{
		dlist_push_head(&writes.new, &items[n]->node);
		writes.nnew++;
	}
}

/* Write updates one by one, as many as there is time for. */
static TableResult
write_singly(WriteItem **items, TableUpdate **updates, int n, int row_limit)
{
	TableResult result = table_update_singly(updates, n, row_limit,
											 WRITE_LIMIT);
	int			tried = 0;

	while (tried < n && updates[tried]->tried)
		tried++;
	table_notify(updates, tried);
	write_failures(items, tried, row_limit);
	for (int i = 0; i < tried; i++)
		write_conclude(items[i], row_limit);
	write_put_back(items + tried, n - tried);
	writes.singly = n - tried;
	return result;
}

/*
 * write_updates
 *		Write a batch of new updates.
 *
 * If the table is locked they wait.
 */
TableResult
write_updates(void)
{
	WriteItem  *items[WRITE_BATCH];
	TableUpdate *updates[WRITE_BATCH];
	int64		begin = monotonic_us();
	int			n = Min(writes.nnew, WRITE_BATCH);
	TableResult result = TABLE_FAILED;
	ErrorData  *error;
	int			limit;

	if (writes.singly > 0)
		n = Min(n, writes.singly);
	n = write_take(items, updates, n);
	limit = Min(WRITE_LIMIT, WRITE_BASE_LIMIT + n * WRITE_UPDATE_LIMIT);
	if (writes.singly == 0)
		result = table_update(updates, n, limit, &error);
	if (result == TABLE_FAILED)
		result = write_singly(items, updates, n, WRITE_ROW_LIMIT);
	else if (result == TABLE_DONE)
	{
		table_notify(updates, n);
		for (int i = 0; i < n; i++)
			write_conclude(items[i], WRITE_LIMIT);
	}
	else
		write_put_back(items, n);
	/* those that cannot be written come after what is new */
	writes.retry_at = Max(writes.retry_at,
						  2 * monotonic_us() - begin);
	write_count_blocked(begin);
	return result;
}

/* Take those that are to be tried again now; one alone if it needs time. */
static int
write_take_retries(WriteItem **items, int64 now)
{
	int			n = 0;
	WriteItem  *item;

	while (n < WRITE_RETRIES && (item = write_first_retry()) != NULL &&
		   item->retry_at <= now && (n == 0 || !item->timed_out))
	{
		(void) pairingheap_remove_first(writes.retries);
		writes.nretries--;
		items[n++] = item;
		if (item->timed_out)
			break;
	}
	return n;
}

/* Put those back that were not tried, to be tried at "retry_at". */
static void
write_put_retries_back(WriteItem **items, int n, int64 retry_at)
{
	for (int i = 0; i < n; i++)
	{
		items[i]->retry_at = Max(items[i]->retry_at, retry_at);
		pairingheap_add(writes.retries, &items[i]->retry_node);
		writes.nretries++;
	}
}

/*
 * Keep of these those whose rows are as they were polled.  A row that is gone
 * or was settled is done with, one that names another server or role is polled.
 */
static int
write_confirm(WriteItem **items, int n, const TableRows *rows)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		const TableUpdate *update = &items[i]->update;
		const TableRow *row = NULL;

		for (int j = 0; j < rows->n && row == NULL; j++)
		{
			if (strcmp(rows->rows[j].task_id, update->task_id) == 0)
				row = &rows->rows[j];
		}
		if (row != NULL && strcmp(row->server, update->server) == 0 &&
			strcmp(row->owner, update->owner) == 0)
		{
			items[kept++] = items[i];
			continue;
		}
		items[i]->update.written = false;
		writes.done(items[i], row == NULL);
	}
	return kept;
}

/*
 * write_retries
 *		Try to write some of the updates again that could not be written.
 */
TableResult
write_retries(void)
{
	WriteItem  *items[WRITE_RETRIES];
	TableUpdate *updates[WRITE_RETRIES];
	const char *task_ids[WRITE_RETRIES];
	int64		begin = monotonic_us();
	int			n = 0;
	int			share = WRITE_DONE_SHARE;
	int			limit;
	TableRows	rows;
	TableResult result;

	if (begin >= writes.retry_at)
		n = write_take_retries(items, begin);
	if (n == 0)
		return TABLE_DONE;
	limit = items[0]->timed_out ? WRITE_LIMIT : WRITE_ROW_LIMIT;
	for (int i = 0; i < n; i++)
		task_ids[i] = items[i]->update.task_id;
	result = table_select_pending(task_ids, n, &rows);
	if (result == TABLE_DONE)
		n = write_confirm(items, n, &rows);
	if (result == TABLE_DONE && n > 0)
	{
		for (int i = 0; i < n; i++)
			updates[i] = &items[i]->update;
		result = table_update_singly(updates, n, limit, WRITE_LIMIT);
		table_notify(updates, n);
		write_failures(items, n, limit);
		for (int i = 0; i < n; i++)
		{
			if (!updates[i]->written)
				share = WRITE_FAILED_SHARE;
			if (updates[i]->tried)
				write_conclude(items[i], limit);
			else
				write_put_retries_back(&items[i], 1, begin);
		}
	}
	else
		write_put_retries_back(items, n, begin);
	writes.retry_at = monotonic_us() + (monotonic_us() - begin) * share;
	write_count_blocked(begin);
	return result;
}

/*
 * write_at_once
 *		Write updates that nobody keeps: those that fail are left alone.
 */
TableResult
write_at_once(TableUpdate **updates, int n)
{
	int64		begin = monotonic_us();
	ErrorData  *error;
	TableResult result = table_update(updates, n, WRITE_LIMIT, &error);

	if (result == TABLE_FAILED)
		result = table_update_singly(updates, n, WRITE_ROW_LIMIT, WRITE_LIMIT);
	table_notify(updates, n);
	write_count_blocked(begin);
	return result;
}
