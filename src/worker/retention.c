/*-------------------------------------------------------------------------
 *
 * retention.c
 *		Removing rows that were settled long ago.
 *
 * They are removed in slices, each a short transaction, in the order of their
 * settling.  What users have added to the table, a foreign key or a trigger,
 * can keep one row, and with it its slice.  So a slice that fails is tried
 * again with half as many rows; a row that fails on its own is passed over, and
 * tried again when another pass begins.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "anyvod.h"
#include "clock.h"
#include "control/counters.h"
#include "table/access.h"
#include "worker/queue.h"
#include "worker/retention.h"

#define SECOND INT64CONST(1000000)

/* Rows of a slice. */
#define RETENTION_SLICE 1000

/*
 * Longest time of a slice, and of a small one, whose rows may each be looked
 * for in another large table; in milliseconds.
 */
#define RETENTION_LIMIT 1000
#define RETENTION_SMALL 10
#define RETENTION_SMALL_LIMIT 5000

/*
 * The pause after a slice is at least so long, and so many times as long as one
 * took that failed, as nothing else is done meanwhile.
 */
#define RETENTION_PAUSE (SECOND / 10)
#define RETENTION_FAILED_SHARE 9

/* So often it is looked for rows that have come to be past their time. */
#define RETENTION_WAIT (60 * SECOND)

/* Rows that were passed over are tried again after this. */
#define RETENTION_PASS (3600 * SECOND)

static struct
{
	int			setting;		/* anyvod.retention, as of the last slice */
	int64		next;			/* no slice before this */
	int			size;			/* rows of the next one */
	int64		begun;			/* when this pass over the rows began */
	bool		at_end;			/* and has come to the last */
	TimestampTz passed_at;		/* rows up to this one are done with */
	char		passed_id[257];
} retention;

typedef struct RetentionSlice
{
	int			found;			/* rows that nobody held */
	int			removed;
	TimestampTz last_at;		/* the last of those found */
	char		last_id[257];
} RetentionSlice;


/* Lock the rows that come next; returns their ids as an array. */
static Datum
retention_find(RetentionSlice *slice)
{
	static TablePlan plan = {
		.sql = "SELECT task_id::pg_catalog.text,"
			   " settled_at::pg_catalog.timestamptz FROM %1$s.anyvod_tasks"
			   " WHERE state <> 'pending'"
			   " AND (settled_at, task_id::pg_catalog.text)"
			   " OPERATOR(pg_catalog.>) ($1, $2)"
			   " AND settled_at <"
			   " pg_catalog.now() - pg_catalog.make_interval(secs => $3)"
			   " ORDER BY settled_at, task_id::pg_catalog.text LIMIT $4"
			   " FOR UPDATE SKIP LOCKED",
		.nargs = 4,
		.types = {TIMESTAMPTZOID, TEXTOID, FLOAT8OID, INT4OID},
	};
	Datum		values[4];
	Datum	   *ids;
	bool		isnull;

	values[0] = TimestampTzGetDatum(retention.passed_at);
	values[1] = CStringGetTextDatum(retention.passed_id);
	values[2] = Float8GetDatum(anyvod_retention);
	values[3] = Int32GetDatum(retention.size);
	if (SPI_execute_plan(table_plan(&plan), values, NULL, false, 0) !=
		SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not find settled tasks")));
	slice->found = (int) SPI_processed;
	ids = palloc(Max(slice->found, 1) * sizeof(Datum));
	for (int i = 0; i < slice->found; i++)
		ids[i] = table_value(SPI_tuptable, i, 1, &isnull);
	if (slice->found > 0)
	{
		strlcpy(slice->last_id,
				table_string(SPI_tuptable, slice->found - 1, 1),
				sizeof(slice->last_id));
		slice->last_at =
			DatumGetTimestampTz(table_value(SPI_tuptable, slice->found - 1, 2,
											&isnull));
	}
	return PointerGetDatum(construct_array(ids, slice->found, TEXTOID, -1,
										   false, TYPALIGN_INT));
}

static void
retention_body(void *arg)
{
	static TablePlan plan = {
		.sql = "DELETE FROM %1$s.anyvod_tasks WHERE task_id = ANY ($1)",
		.nargs = 1,
		.types = {TEXTARRAYOID},
	};
	RetentionSlice *slice = arg;
	Datum		ids = retention_find(slice);

	if (slice->found == 0)
		return;
	/* a rule of a user's may have made something else of it */
	if (SPI_execute_plan(table_plan(&plan), &ids, NULL, false, 0) ==
		SPI_OK_DELETE)
		slice->removed = (int) SPI_processed;
}

/* Begin with the first row. */
static void
retention_begin(int64 now)
{
	retention.begun = now;
	retention.at_end = false;
	retention.size = RETENTION_SLICE;
	retention.passed_at = DT_NOBEGIN;
	retention.passed_id[0] = '\0';
}

/* The rows of a slice are done with. */
static void
retention_pass(const RetentionSlice *slice)
{
	if (slice->found == 0)
		return;
	retention.passed_at = slice->last_at;
	strlcpy(retention.passed_id, slice->last_id, sizeof(retention.passed_id));
}

/* A slice was removed, except for rows that a trigger or rule keeps. */
static void
retention_on_removed(const RetentionSlice *slice, int64 begin, int64 now)
{
	int			kept = slice->found - slice->removed;

	if (kept > 0 && table_may_log())
		ereport(LOG,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("anyvod could not remove %d settled tasks", kept),
				 errdetail("A trigger or rule keeps their rows; the last of the slice is task \"%s\".",
						   slice->last_id)));
	retention_pass(slice);
	retention.next = now + Max(RETENTION_PAUSE, now - begin);
	retention.at_end = slice->found < retention.size;
	if (retention.at_end)
		retention.next = now + RETENTION_WAIT;
	if (now - begin < RETENTION_LIMIT / 2 * INT64CONST(1000))
		retention.size = Min(retention.size * 2, RETENTION_SLICE);
}

/*
 * A slice failed, or took too long, be it to find its rows: try fewer.  A row
 * that fails on its own is passed over.
 */
static void
retention_on_failed(const RetentionSlice *slice, const ErrorData *error,
					int64		begin, int64 now)
{
	counters_error(unpack_sql_state(error->sqlerrcode));
	retention.next = now +
		Max(RETENTION_PAUSE, RETENTION_FAILED_SHARE * (now - begin));
	if (retention.size > 1)
	{
		retention.size = slice->found > 1 ? slice->found / 2 :
											retention.size / 2;
		return;
	}
	if (slice->found == 0)
	{
		table_log("find settled tasks", error);
		retention.next = now + RETENTION_WAIT;
		return;
	}
	if (table_may_log())
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("anyvod could not remove task \"%s\": %s",
						slice->last_id, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
	retention_pass(slice);
}

/* When to call retention_remove(), QUEUE_NEVER if settled rows are to stay. */
int64
retention_next(void)
{
	if (anyvod_retention == 0)
		return QUEUE_NEVER;
	return anyvod_retention == retention.setting ? retention.next : 0;
}

/* Remove some rows that were settled longer ago than anyvod.retention. */
void
retention_remove(void)
{
	int64		begin = monotonic_us();
	RetentionSlice slice = {0};
	TableResult result;
	ErrorData  *error;

	if (anyvod_retention != retention.setting ||
		(retention.at_end && begin - retention.begun >= RETENTION_PASS))
		retention_begin(begin);
	retention.setting = anyvod_retention;
	result = table_run(RowExclusiveLock,
					   retention.size > RETENTION_SMALL ?
						   RETENTION_LIMIT :
						   RETENTION_SMALL_LIMIT,
					   retention_body, &slice, &error);
	if (result == TABLE_DONE)
		retention_on_removed(&slice, begin, monotonic_us());
	else if (error != NULL && !table_is_system_error(error->sqlerrcode))
		retention_on_failed(&slice, error, begin, monotonic_us());
	else
	{
		if (error != NULL)
			table_log("remove settled tasks", error);
		retention.next = monotonic_us() + RETENTION_WAIT;
	}
}
