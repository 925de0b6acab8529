/*-------------------------------------------------------------------------
 *
 * update.c
 *		Writing what was learned of tasks into anyvod_tasks.
 *
 * A row is written only if it is still pending with the server and owner that
 * it was polled for; one that somebody has locked is left alone.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "anyvod.h"
#include "clock.h"
#include "response/to_datum.h"
#include "table/row_image.h"
#include "table/update.h"

#define SECOND INT64CONST(1000000)

/* The channel on which settled rows are announced. */
#define UPDATE_CHANNEL "anyvod_tasks"

/* Above this fill of the NOTIFY queue rows are not announced. */
#define UPDATE_FULL_QUEUE 0.9

/*
 * NOTIFY takes a lock that another session may hold for as long as it waits
 * for a synchronous standby.  It is waited for as lock_timeout says, and then
 * not again for this long.
 */
#define UPDATE_NOTIFY_PAUSE (10 * SECOND)

/* Does an update settle its row? */
bool
table_update_settles(const TableUpdate *update)
{
	return strcmp(update->state, "pending") != 0;
}


/*
 * The statements
 *
 * The subquery takes a row if it is still as it was polled, without waiting for
 * one that somebody holds.  Standing in the condition, it is looked up once for
 * an update and needs no join.  (LIMIT is for a table whose owner has dropped
 * its key.)  Both look-ups must go through the primary key, whatever the
 * planner believes of the table's size; the state is compared as text so that
 * the index of pending rows, which statistics may call empty, is no way.
 */
#define UPDATE_SQL(images) \
	"UPDATE %1$s.anyvod_tasks AS t SET" \
	" state = a.state::%1$s.anyvod_state," \
	" status = COALESCE(a.status, t.status)," \
	" progress = COALESCE(a.progress, t.progress)," \
	" file_url = a.file_url," \
	" expire_time = a.expire_time," \
	" task_type = COALESCE(a.task_type, t.task_type)," \
	" model = COALESCE(a.model, t.model)," \
	" error_code = a.error_code," \
	" error_message = a.error_message," \
	" response = a.response," \
	" polls = t.polls + a.polls," \
	" started_at = COALESCE(a.started_at, t.started_at)," \
	" ended_at = a.ended_at," \
	" updated_at = pg_catalog.now()," \
	" settled_at = CASE WHEN a.state <> 'pending' THEN pg_catalog.now() END" \
	" FROM " images " AS a" \
	" WHERE t.task_id =" \
	" (SELECT r.task_id FROM %1$s.anyvod_tasks AS r" \
	" WHERE r.task_id = a.task_id" \
	" AND r.server = a.server AND r.owner = a.owner" \
	" AND r.state::pg_catalog.text = 'pending'" \
	" LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)" \
	" RETURNING a.n, t.state::pg_catalog.text"

/* Run the statement that writes many updates. */
static int
update_many(TableUpdate **updates, int n)
{
	static TablePlan plan = {
		.sql = UPDATE_SQL(IMAGE_TABLE),
		.generic = true,
	};
	Tuplestorestate *store = image_register(updates, n);
	int			result = SPI_execute_plan(table_plan(&plan), NULL, NULL, false,
										  0);

	tuplestore_end(store);
	return result;
}

/* The same for one, which is quicker without a table. */
static int
update_one(const TableUpdate *update)
{
	static TablePlan plan = {
		.sql = UPDATE_SQL("(SELECT $1 AS n, $2 AS task_id, $3 AS server,"
						  " $4 AS owner, $5 AS state, $6 AS status,"
						  " $7 AS progress, $8 AS file_url, $9 AS expire_time,"
						  " $10 AS task_type, $11 AS model, $12 AS error_code,"
						  " $13 AS error_message, $14 AS response, $15 AS polls,"
						  " $16 AS started_at, $17 AS ended_at)"),
		.nargs = IMAGE_COLUMNS,
		.generic = true,
	};
	RowImage	image;
	char		nulls[IMAGE_COLUMNS];

	image_fill(&image, update, 0);
	for (int i = 0; i < IMAGE_COLUMNS; i++)
	{
		plan.types[i] = image_columns[i].type;
		nulls[i] = image.nulls[i] ? 'n' : ' ';
	}
	return SPI_execute_plan(table_plan(&plan), image.values, nulls, false, 0);
}

/* Write updates, and record in each what has become of it. */
static void
update_rows(TableUpdate **updates, int n)
{
	int			result = n == 1 ? update_one(updates[0]) :
								  update_many(updates, n);

	if (result != SPI_OK_UPDATE_RETURNING)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not write tasks")));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		TableUpdate *update =
			updates[DatumGetInt32(table_value(SPI_tuptable, i, 1, &isnull))];

		/* what a user's trigger has made of it */
		update->written = true;
		strlcpy(update->state_now, table_string(SPI_tuptable, i, 2),
				sizeof(update->state_now));
		update->pending = strcmp(update->state_now, "pending") == 0;
	}
}

typedef struct UpdateBatch
{
	TableUpdate **updates;
	int			n;
	int			row_limit;		/* milliseconds for each, if one by one */
	int64		end;			/* monotonic_us(), likewise */
	MemoryContext context;		/* the caller's */
} UpdateBatch;

/* Nothing is known of the updates of a batch. */
static void
update_reset(UpdateBatch *batch)
{
	for (int i = 0; i < batch->n; i++)
	{
		TableUpdate *update = batch->updates[i];

		update->tried = update->written = update->pending = false;
		update->failure = NULL;
	}
}

static void
update_body(void *arg)
{
	UpdateBatch *batch = arg;

	update_rows(batch->updates, batch->n);
	for (int i = 0; i < batch->n; i++)
		batch->updates[i]->tried = true;
}

/*
 * table_update
 *		Write updates in one transaction of at most "time_limit" milliseconds.
 *
 * If that fails nothing is written, and "error" says why; it is NULL if the
 * table was locked.  At most one update may concern a row.
 */
TableResult
table_update(TableUpdate **updates, int n, int time_limit, ErrorData **error)
{
	UpdateBatch batch = {.updates = updates, .n = n};
	TableResult result;

	update_reset(&batch);
	result = table_run(RowExclusiveLock, time_limit, update_body, &batch,
					   error);
	if (result != TABLE_DONE)
		update_reset(&batch);
	/* the table's lock was there: a trigger waits for another */
	if (result == TABLE_LOCKED && *error != NULL)
		result = TABLE_FAILED;
	return result;
}


/*
 * One by one
 */

/* Write an update in a subtransaction; an error is its failure. */
static void
update_in_subtransaction(UpdateBatch *batch, TableUpdate *update)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int64		begin = monotonic_us();

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		table_arm_limit(batch->row_limit);
		update_rows(&update, 1);
		table_disarm_limit();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		table_disarm_limit();
		MemoryContextSwitchTo(batch->context);
		error = CopyErrorData();
		FlushErrorState();
		update->written = false;
		update->failure_code = error->sqlerrcode;
		update->failure = error->message;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			monotonic_us() - begin >= batch->row_limit * INT64CONST(1000))
			update->failure = psprintf("it took longer than %d ms",
									   batch->row_limit);
		RollbackAndReleaseCurrentSubTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	update->tried = true;
}

static void
update_singly_body(void *arg)
{
	UpdateBatch *batch = arg;

	for (int i = 0; i < batch->n && monotonic_us() < batch->end; i++)
	{
		CHECK_FOR_INTERRUPTS();
		update_in_subtransaction(batch, batch->updates[i]);
	}
}

/*
 * table_update_singly
 *		Write updates one after the other, each in a subtransaction of at most
 *		"row_limit" milliseconds, until "time_limit" is over.
 *
 * One that fails has its "failure", in the caller's memory context.  Those that
 * were not reached are not "tried".
 */
TableResult
table_update_singly(TableUpdate **updates, int n, int row_limit,
					int time_limit)
{
	UpdateBatch batch = {
		.updates = updates,
		.n = n,
		.row_limit = row_limit,
		.end = monotonic_us() + time_limit * INT64CONST(1000),
		.context = CurrentMemoryContext,
	};
	ErrorData  *error;
	TableResult result;

	update_reset(&batch);
	result = table_run(RowExclusiveLock, time_limit + row_limit,
					   update_singly_body, &batch, &error);
	if (result != TABLE_DONE)
		update_reset(&batch);
	if (error != NULL)
		table_log("write tasks", error);
	return result;
}


/*
 * NOTIFY
 */

/* May rows be announced now?  Nothing about NOTIFY stops the writing. */
static bool
update_may_notify(int64 now, int64 paused_until)
{
	static bool full = false;
	double		usage;

	if (!anyvod_notify || now < paused_until)
		return false;
	usage = DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage,
											   (Datum) 0));
	if (usage >= UPDATE_FULL_QUEUE && !full && table_may_log())
		ereport(LOG,
				(errmsg("anyvod settles tasks without NOTIFY, whose queue is %d%% full",
						(int) (usage * 100)),
				 errhint("A session that listens has had a transaction open for long.")));
	full = usage >= UPDATE_FULL_QUEUE;
	return !full;
}

static void
update_notify_body(void *arg)
{
	UpdateBatch *batch = arg;

	for (int i = 0; i < batch->n; i++)
	{
		const TableUpdate *update = batch->updates[i];

		/* neither an id nor a state has a character that JSON would escape */
		if (update->written && !update->pending)
			Async_Notify(UPDATE_CHANNEL,
						 psprintf("{\"task_id\": \"%s\", \"state\": \"%s\"}",
								  update->task_id, update->state_now));
	}
}

/*
 * table_notify
 *		Announce those of these updates that have settled their rows, in a
 *		transaction of its own: a hint that may be lost.
 */
void
table_notify(TableUpdate **updates, int n)
{
	static int64 paused_until = 0;
	UpdateBatch batch = {.updates = updates, .n = n};
	int64		now = monotonic_us();
	ErrorData  *error;

	if (!update_may_notify(now, paused_until))
		return;
	(void) table_run(AccessShareLock, TABLE_TIME_LIMIT, update_notify_body,
					 &batch, &error);
	table_log("notify of settled tasks", error);
	if (error != NULL)
		paused_until = monotonic_us() + UPDATE_NOTIFY_PAUSE;
}
