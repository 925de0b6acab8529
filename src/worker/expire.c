/*-------------------------------------------------------------------------
 *
 * expire.c
 *		Retention: removing rows that were settled long ago.
 *
 * They are removed in slices, each a short transaction, in the order of their
 * settling.  What users have added to the table can stand in the way of one
 * row, and with it of its slice: a foreign key that refers to it, a trigger.
 * A slice that fails is tried again as its first half and so on, until a row
 * fails on its own.  That one is kept: the log says so, and the next slice
 * begins after it.
 *
 * What is remembered of kept rows is how far the slices have come, so there
 * may be any number of them.  Slices go on from there when more rows have come
 * to be past their time, and from the beginning only now and then.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "anyvod.h"
#include "worker/expire.h"
#include "worker/queue.h"
#include "control/counters.h"
#include "table/tracker.h"

#define SECOND INT64CONST(1000000)

/*
 * Rows that a slice has at most; longest that it may take, in milliseconds;
 * and a single row, whose removal may look through another large table.
 */
#define EXPIRE_SLICE 1000
#define EXPIRE_LIMIT 1000
#define EXPIRE_ROW_LIMIT 5000

/*
 * The pause between slices: at least so long, and so many times as long as a
 * slice took that failed, as nothing else is done meanwhile.
 */
#define EXPIRE_PAUSE (SECOND / 10)
#define EXPIRE_FAILED_SHARE 9

/* So often it is looked for rows that have come to be past their time. */
#define EXPIRE_WAIT (60 * SECOND)

/*
 * Kept rows are tried again after this; or after so many times as long as
 * that took, if there are very many.
 */
#define EXPIRE_AGAIN (3600 * SECOND)
#define EXPIRE_AGAIN_SHARE 9

/* Kept rows that the log names. */
#define EXPIRE_NAMED 100

static struct
{
	int64		next;			/* no slice before this */
	int			retention;		/* the setting, as of the last slice */
	int			size;			/* rows in the next slice */
	int			suspects;		/* one of so many rows that come next fails */
	TimestampTz passed_at;		/* rows up to this one have been tried */
	char	   *passed_id;		/* NULL: none has */
	bool		at_end;			/* and there were no more */
	bool		kept;			/* some of them are still there */
	int64		begun;			/* when the first was tried */
	int64		again_at;		/* if "kept" and "at_end": when they may be */
	int			named;			/* kept rows that the log has named ... */
	uint64		names[EXPIRE_NAMED];	/* ... by their hashes */
} expire;

/* A slice.  Its strings are kept in "context". */
typedef struct ExpireSlice
{
	MemoryContext context;
	int			max;
	int			found;			/* rows that nobody held */
	char	   *last_id;		/* of those */
	TimestampTz last_at;
	char	  **kept;			/* those that were not removed */
	int			nkept;
} ExpireSlice;


/*
 * The log
 */

/* Should the log name a kept row?  Not again, and not too many. */
static bool
expire_may_name(const char *task_id)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) task_id,
										   (int) strlen(task_id), 0);

	for (int i = 0; i < Min(expire.named, EXPIRE_NAMED); i++)
	{
		if (expire.names[i] == hash)
			return false;
	}
	if (expire.named > EXPIRE_NAMED)
		return false;
	if (expire.named++ == EXPIRE_NAMED)
	{
		ereport(LOG,
				(errmsg("anyvod names no more tasks that it could not remove")));
		return false;
	}
	expire.names[expire.named - 1] = hash;
	return true;
}

/* A row is kept because of an error, or of none that was raised: NULL. */
static void
expire_keep(const char *task_id, const ErrorData *error)
{
	expire.kept = true;
	if (error != NULL)
		counters_error(unpack_sql_state(error->sqlerrcode));
	if (!expire_may_name(task_id))
		return;
	if (error == NULL)
		ereport(LOG,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("anyvod could not remove task \"%s\"", task_id),
				 errdetail("A trigger or rule keeps its row.")));
	else
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("anyvod could not remove task \"%s\": %s", task_id,
						error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
}


/*
 * One slice
 */

/* Take the rows that come next; those that somebody holds are passed over. */
static void
expire_find(ExpireSlice *slice)
{
	static TrackerPlan find;
	Oid			types[4] = {TIMESTAMPTZOID, TEXTOID, INT4OID, INT4OID};
	Datum		values[4];
	SPIPlanPtr	plan;
	bool		isnull;

	plan = tracker_plan(&find,
						psprintf("SELECT task_id::pg_catalog.text,"
								 " settled_at::pg_catalog.timestamptz"
								 " FROM %s.anyvod_tasks"
								 " WHERE state <> 'pending'"
								 " AND (settled_at, task_id::pg_catalog.text)"
								 " OPERATOR(pg_catalog.>) ($1, $2)"
								 " AND settled_at < pg_catalog.now() -"
								 " pg_catalog.make_interval(secs => $3)"
								 " ORDER BY settled_at,"
								 " task_id::pg_catalog.text LIMIT $4"
								 " FOR UPDATE SKIP LOCKED",
								 tracker_get_schema()),
						4, types);
	values[0] = TimestampTzGetDatum(expire.passed_at);
	values[1] = CStringGetTextDatum(expire.passed_id ? expire.passed_id : "");
	values[2] = Int32GetDatum(anyvod_retention);
	values[3] = Int32GetDatum(slice->max);
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not find settled tasks")));
	if (SPI_processed == 0)
		return;
	slice->found = (int) SPI_processed;
	slice->last_id =
		MemoryContextStrdup(slice->context,
							tracker_string(SPI_tuptable, slice->found - 1, 1));
	slice->last_at =
		DatumGetTimestampTz(tracker_value(SPI_tuptable, slice->found - 1, 2,
										  &isnull));
}

/* The ids of fetched rows, as an array. */
static Datum
expire_id_array(SPITupleTable *rows, int n)
{
	Datum	   *ids = palloc(n * sizeof(Datum));
	bool		isnull;

	for (int i = 0; i < n; i++)
		ids[i] = tracker_value(rows, i, 1, &isnull);
	return PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* Remove rows by their ids; returns how many are gone. */
static int
expire_remove(Datum ids)
{
	static TrackerPlan remove;
	Oid			types[1] = {TEXTARRAYOID};
	SPIPlanPtr	plan;
	int			result;

	plan = tracker_plan(&remove,
						psprintf("DELETE FROM %s.anyvod_tasks"
								 " WHERE task_id = ANY ($1)",
								 tracker_get_schema()),
						1, types);
	result = SPI_execute_plan(plan, &ids, NULL, false, 0);
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not remove settled tasks")));
	return result == SPI_OK_DELETE ? (int) SPI_processed : 0;
}

/* Which of those ids are still there? */
static void
expire_find_kept(ExpireSlice *slice, Datum ids)
{
	static TrackerPlan find_kept;
	Oid			types[1] = {TEXTARRAYOID};
	SPIPlanPtr	plan;

	plan = tracker_plan(&find_kept,
						psprintf("SELECT task_id::pg_catalog.text"
								 " FROM %s.anyvod_tasks"
								 " WHERE task_id = ANY ($1)",
								 tracker_get_schema()),
						1, types);
	if (SPI_execute_plan(plan, &ids, NULL, false, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not find settled tasks")));
	slice->kept = MemoryContextAlloc(slice->context,
									 SPI_processed * sizeof(char *));
	for (uint64 i = 0; i < SPI_processed; i++)
		slice->kept[slice->nkept++] =
			MemoryContextStrdup(slice->context,
								tracker_string(SPI_tuptable, i, 1));
}

static void
expire_body(void *arg)
{
	ExpireSlice *slice = arg;
	Datum		ids;

	expire_find(slice);
	if (slice->found == 0)
		return;
	ids = expire_id_array(SPI_tuptable, slice->found);
	if (expire_remove(ids) < slice->found)
		expire_find_kept(slice, ids);
}


/*
 * From slice to slice
 */

/* The next slice begins after this row; before all if there is none: NULL. */
static void
expire_pass(TimestampTz at, const char *task_id)
{
	if (expire.passed_id != NULL)
		pfree(expire.passed_id);
	expire.passed_id = NULL;
	expire.passed_at = at;
	if (task_id != NULL)
		expire.passed_id = MemoryContextStrdup(TopMemoryContext, task_id);
}

/* Begin with the first row. */
static void
expire_begin(int64 now)
{
	expire_pass(DT_NOBEGIN, NULL);
	expire.at_end = expire.kept = false;
	expire.begun = now;
	expire.suspects = 0;
	expire.size = EXPIRE_SLICE;
}

/* There are no more rows for now.  If any are kept, they have a rest. */
static void
expire_end(int64 now)
{
	int64		took = now - expire.begun;

	if (!expire.at_end)
		expire.again_at = now + Max(EXPIRE_AGAIN, EXPIRE_AGAIN_SHARE * took);
	expire.at_end = true;
	expire.suspects = 0;
	expire.next = now + EXPIRE_WAIT;
}

/* A slice has been removed, except for those of its rows that are kept. */
static void
expire_on_removed(const ExpireSlice *slice, int64 begin, int64 end)
{
	for (int i = 0; i < slice->nkept; i++)
		expire_keep(slice->kept[i], NULL);
	if (slice->found > 0)
		expire_pass(slice->last_at, slice->last_id);

	expire.suspects = Max(expire.suspects - slice->found, 0);
	if (slice->found < slice->max)
		expire_end(end);
	else
		expire.next = end + Max(EXPIRE_PAUSE, end - begin);
	if (expire.suspects > 0)
		expire.size = (expire.suspects + 1) / 2;
	else if (end - begin < EXPIRE_LIMIT / 2 * INT64CONST(1000))
		expire.size = Min(expire.size * 2, EXPIRE_SLICE);
}

/* A slice has failed on account of one of its rows. */
static void
expire_on_failed(const ExpireSlice *slice, const ErrorData *error,
				 int64 begin, int64 end)
{
	expire.next = end + Max(EXPIRE_PAUSE, EXPIRE_FAILED_SHARE * (end - begin));
	if (slice->found > 1)
	{
		expire.suspects = slice->found;
		expire.size = slice->found / 2;
		return;
	}
	expire_keep(slice->last_id, error);
	expire_pass(slice->last_at, slice->last_id);
	expire.suspects = 0;
	expire.size = 1;			/* the next ones may be like this one */
}

/* When to call expire_slice(), QUEUE_NEVER if settled rows are to stay. */
int64
expire_next(void)
{
	if (anyvod_retention == 0)
		return QUEUE_NEVER;
	return anyvod_retention == expire.retention ? expire.next : 0;
}

/* Remove some rows that were settled longer ago than anyvod.retention. */
void
expire_slice(void)
{
	int64		begin = monotonic_us();
	ExpireSlice slice = {.context = CurrentMemoryContext};
	TrackerOutcome outcome;
	ErrorData  *error;
	int64		end;

	if (anyvod_retention != expire.retention ||
		(expire.at_end && (!expire.kept || begin >= expire.again_at)))
		expire_begin(begin);
	expire.retention = anyvod_retention;
	slice.max = expire.size;
	outcome = tracker_run(RowExclusiveLock,
						  slice.max > 1 ? EXPIRE_LIMIT : EXPIRE_ROW_LIMIT,
						  expire_body, &slice, &error);
	end = monotonic_us();
	if (outcome == TRACKER_DONE)
		expire_on_removed(&slice, begin, end);
	else if (error != NULL && slice.found > 0 &&
			 !tracker_is_systems(error->sqlerrcode))
		expire_on_failed(&slice, error, begin, end);
	else
	{
		if (outcome == TRACKER_FAILED)
			tracker_log("remove settled tasks", error);
		expire.next = end + EXPIRE_WAIT;
	}
}
