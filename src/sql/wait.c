/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Waiting until tasks have ended: anyvod_wait() and anyvod_wait_all().
 *
 * A tracked task is polled by the worker, so a session that waits for one
 * sends nothing: it sleeps on its database's condition variable (slot.c)
 * and reads the row again, with a new snapshot, when a worker has settled
 * rows.  A row that is settled needs neither server nor worker.
 *
 * A task that is not tracked is polled here, at intervals that grow from 0.5
 * to 5 s, and once more when the time is up.  So is one whose row no worker
 * can fill in: this transaction has written or locked it, or there is none.
 *
 * anyvod_wait() is a function, so the snapshot of the statement that calls it
 * stays held.  anyvod_wait_all() is a procedure that ends its transaction
 * after each read, and holds nothing while it sleeps.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "control/slot.h"
#include "response/to_datum.h"
#include "schedule/retry.h"
#include "sql/request.h"
#include "table/access.h"

PG_FUNCTION_INFO_V1(anyvod_wait);
PG_FUNCTION_INFO_V1(anyvod_wait_all);

#define SECOND INT64CONST(1000000)

/*
 * A row is read again after so long (in microseconds) although nobody was
 * woken: it may have been deleted, which wakes nobody.
 */
#define WAIT_READ_EVERY (10 * SECOND)

/* Ids whose rows anyvod_wait_all() reads in one query. */
#define WAIT_READ_ROWS 1000

/* From one poll of a running task to the next: the first interval, the last. */
#define WAIT_FIRST_INTERVAL (SECOND / 2)
#define WAIT_LAST_INTERVAL (5 * SECOND)

/* What was read of the rows of some tasks. */
typedef struct WaitRow
{
	MemoryContext context;		/* of everything here */
	int			rows;			/* that the caller sees */
	bool		pending;		/* is any? */

	/* One of them, a pending one if there is any; good if there are rows. */
	char	   *task_id;
	char	   *state;			/* a label of anyvod_state */
	char	   *error_code;
	char	   *error_message;
	StringInfoData known;		/* see wait_describe() */
	bool		own;			/* written or locked by this transaction */
	Datum		result;			/* an anyvod_result */
} WaitRow;

/* The polling of a task that is not tracked. */
typedef struct Polling
{
	StringInfoData known;		/* see wait_describe() */
	int64		interval;		/* to the next poll of a running task */
	RetryKind	failure;		/* kind of the last failures */
	int			failures;		/* of that kind in a row */
	int64		failing_since;	/* the first of them; monotonic_us() */
} Polling;

/* The kind of failure that a response is, where waiting may help. */
static const RetryKind poll_failures[ANSWER_VERDICTS] = {
	[ANSWER_NO_OUTPUT] = RETRY_NO_OUTPUT,
	[ANSWER_RATE_LIMITED] = RETRY_RATE_LIMITED,
	[ANSWER_UNKNOWN_TASK] = RETRY_UNKNOWN_TASK,
	[ANSWER_TRANSIENT] = RETRY_TRANSIENT,
	[ANSWER_UNREADABLE] = RETRY_UNREADABLE,
};

/*
 * The end of a timeout from now on, as a time of monotonic_us().  Raises 22023
 * if it is negative.
 */
static int64
wait_until(Interval *timeout)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz end;

	end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												  TimestampTzGetDatum(now),
												  IntervalPGetDatum(timeout)));
	if (end < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	/* half of the largest, for infinity: the sum does not overflow */
	return monotonic_us() + (Min(end, PG_INT64_MAX / 2) - now);
}

/*
 * Keep what is known of a pending task, as a sentence for the error that says
 * that it has not ended.
 */
static void
wait_describe(StringInfo known, const char *status, int progress,
			  const char *error)
{
	if (status == NULL && error == NULL)
		return;
	resetStringInfo(known);
	if (error != NULL)
		appendStringInfo(known, "The last request failed: %s.", error);
	else if (progress < 0)
		appendStringInfo(known, "Its last status is \"%s\".", status);
	else
		appendStringInfo(known,
						 "Its last status is \"%s\", progress %d %%.",
						 status, progress);
}

/* The task has not ended in time. */
static void
wait_raise_timeout(const char *task_id, const StringInfoData *known)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("task \"%s\" has not ended in time", task_id),
			 errdetail_internal("%s", known->len > 0 ? known->data : "There has been no response about it.")));
}

/* The task has failed; strings are the database's, or NULL. */
static void
wait_raise_failure(const char *task_id, const char *code, const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("task \"%s\" has failed", task_id),
			 code == NULL ? 0 :
				 message != NULL && message[0] != '\0' ?
							errdetail("The upstream's code is \"%s\", its message \"%s\".",
									  code, message) :
							errdetail("The upstream's code is \"%s\".", code)));
}


/*
 * Tracked rows
 */

/* A column of the row that SPI holds, in the current context. */
static char *
wait_column(int column)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

/* Is this the id of a transaction that goes on here? */
static bool
wait_is_current(const char *xid)
{
	return TransactionIdIsCurrentTransactionId(strtoul(xid, NULL, 10));
}

/*
 * Read the rows of "n" ids with a new snapshot: those on one server, or on any
 * if that is NULL.  Who may not read the table has no rows on a server.
 *
 * xmax is that of a lock, too.  (One that leaves the worker free, FOR KEY
 * SHARE, cannot be told from it here; then both poll.)
 */
static void
wait_read(WaitRow *row, char **ids, int n, const char *server)
{
	Oid			types[] = {TEXTARRAYOID, TEXTOID};
	Datum		values[2] = {0};
	const char	nulls[] = {' ', server != NULL ? ' ' : 'n'};
	Datum	   *elements;
	Datum		result;
	bool		isnull;
	Oid			table;
	const char *schema;
	char	   *sql;

	MemoryContextReset(row->context);
	row->rows = 0;
	row->pending = false;
	if (!table_find(&table, &schema) ||
		(server != NULL &&
		 pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK))
		return;

	SPI_connect();
	elements = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
		elements[i] = CStringGetTextDatum(ids[i]);
	values[0] = PointerGetDatum(construct_array(elements, n, TEXTOID, -1,
												false, TYPALIGN_INT));
	if (server != NULL)
		values[1] = CStringGetTextDatum(server);
	sql = psprintf("SELECT ROW(status, progress, file_url, expire_time,"
				   " state, error_code, error_message)::%1$s.anyvod_result,"
				   " pg_catalog.count(*) OVER (), xmin, xmax, task_id,"
				   " COALESCE(state::pg_catalog.text, ''), status,"
				   " COALESCE(progress, -1), error_code, error_message"
				   " FROM %1$s.anyvod_tasks"
				   " WHERE task_id OPERATOR(pg_catalog.=) ANY ($1)"
				   " AND ($2 IS NULL OR server OPERATOR(pg_catalog.=) $2)"
				   " ORDER BY state OPERATOR(pg_catalog.=) 'pending' DESC"
				   " LIMIT 1",
				   schema);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_execute_with_args(sql, 2, types, values, nulls, true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read the tracked tasks");
	if (SPI_processed > 0)
	{
		MemoryContextSwitchTo(row->context);
		result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
							   1, &isnull);
		row->result = datumCopy(result, false, -1);
		row->rows = atoi(wait_column(2));
		row->own = wait_is_current(wait_column(3)) ||
			wait_is_current(wait_column(4));
		row->task_id = wait_column(5);
		row->state = wait_column(6);
		row->pending = strcmp(row->state, "pending") == 0;
		row->error_code = wait_column(9);
		row->error_message = wait_column(10);
		initStringInfo(&row->known);
		wait_describe(&row->known, wait_column(7), atoi(wait_column(8)),
					  row->error_code);
	}
	PopActiveSnapshot();
	SPI_finish();
}

/* Sleep until the pending row may have changed; an error if time is up. */
static void
wait_sleep(const WaitRow *row, int64 until)
{
	int64		now = monotonic_us();

	if (now >= until)
		wait_raise_timeout(row->task_id, &row->known);
	slot_sleep(request_milliseconds(Min(now + WAIT_READ_EVERY, until)));
}

/*
 * Wait for a tracked task.  Returns false if no worker is going to fill in its
 * row: there is none, it was deleted, this transaction has written or locked
 * it, or no worker can be started.  Raises the error that the end amounts to.
 */
static bool
wait_tracked(char *task_id, const char *server, int64 until, Datum *result)
{
	const char *hint;
	WaitRow		row = {.context = AllocSetContextCreate(CurrentMemoryContext,
														"anyvod row",
														ALLOCSET_SMALL_SIZES)};

	for (;;)
	{
		wait_read(&row, &task_id, 1, server);
		if (!row.pending || row.own || slot_missing(&hint) != NULL)
			break;
		if (IsolationUsesXactSnapshot())
			ereport(ERROR,
					(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					 errmsg("cannot wait for a tracked task in a transaction of this isolation level"),
					 errdetail("The transaction's snapshot would never show the row's change."),
					 errhint("Use READ COMMITTED.")));
		wait_sleep(&row, until);
	}
	slot_end_sleep();
	if (row.rows == 0 || row.pending)
		return false;
	if (strcmp(row.state, "failed") == 0)
		wait_raise_failure(task_id, row.error_code, row.error_message);
	if (strcmp(row.state, "abandoned") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task \"%s\" was abandoned before it had ended",
						task_id),
				 row.error_code ?
					 errdetail("The last error was \"%s\".",
							   row.error_code) :
					 0));
	*result = row.result;
	return true;
}


/*
 * Tasks that are not tracked
 */

/* A string of a response, which may be NULL, in the database's encoding. */
static char *
poll_string(const char *utf8)
{
	return utf8 != NULL ? result_cstring(utf8, strlen(utf8)) : NULL;
}

/*
 * After a poll: how long to wait until the next, in microseconds.  Raises an
 * error if the task has failed, if waiting does not help (a refused key, a
 * wrong base URL, a limit of ours), or if the same failure has lasted.
 */
static int64
poll_delay(Polling *polling, const TaskRequest *task)
{
	const HttpRequest *request = task->request;
	const Answer *answer = &task->answer;
	RetryKind	failure = RETRY_TRANSIENT;
	ErrorData  *error = errors_describe(task);
	bool		final = request->result != HTTP_UNREACHABLE &&
		request->result != HTTP_BROKEN && request->result != HTTP_TIMED_OUT;
	int64		now = monotonic_us();
	int64		delay = polling->interval;

	if (error == NULL && answer->verdict == ANSWER_RUNNING)
	{
		polling->failures = 0;
		polling->interval = Min(delay * 3 / 2, WAIT_LAST_INTERVAL);
		wait_describe(&polling->known, poll_string(answer->status),
					  answer->progress, NULL);
		return delay;
	}

	if (request->result == HTTP_COMPLETE)
	{
		failure = poll_failures[answer->verdict];
		final = answer->verdict == ANSWER_FAILED ||
			answer->verdict == ANSWER_AUTH ||
			answer->verdict == ANSWER_REJECTED;
	}
	if (polling->failures == 0 || polling->failure != failure)
	{
		polling->failure = failure;
		polling->failures = 0;
		polling->failing_since = now;
	}
	polling->failures++;
	final |= retry_is_final(failure, polling->failures,
							now - polling->failing_since);
	if (final && error == NULL)
		wait_raise_failure(task->task_id, poll_string(answer->error_code),
						   poll_string(answer->error_message));
	if (final)
		ThrowErrorData(error);
	wait_describe(&polling->known, NULL, -1, error ? error->message : NULL);
	delay = retry_delay(failure, polling->failures,
						pg_prng_double(&pg_global_prng_state));
	if (request->retry_after >= 0)
		delay = Max(failure == RETRY_RATE_LIMITED ? 0 : delay,
					request->retry_after * SECOND);
	return delay;
}

/*
 * Poll a task until it has ended.  The last poll begins when the time is up,
 * unless the gateway wants none then, and may take as long as a request may;
 * one that is in flight when the time is up is cut off.
 */
static Datum
wait_untracked(FunctionCallInfo fcinfo, const char *task_id,
			   const char *server, int64 until)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "anyvod poll",
												  ALLOCSET_DEFAULT_SIZES);
	Polling		polling = {.interval = WAIT_FIRST_INTERVAL};
	TaskRequest task = {.server = server,
						.userid = GetUserId(),
						.task_id = task_id};
	Datum		result;

	initStringInfo(&polling.known);
	for (;;)
	{
		bool		last = monotonic_us() >= until;
		bool		throttled;
		int64		next;

		MemoryContextSwitchTo(context);
		if (!request_run(&task, http_batch_create(context),
						 last ? REQUEST_NO_DEADLINE : until))
			wait_raise_timeout(task_id, &polling.known);
		if (task.request->result == HTTP_COMPLETE &&
			task.answer.verdict == ANSWER_SUCCEEDED)
			break;
		next = poll_delay(&polling, &task) + monotonic_us();
		throttled = polling.failures > 0 && task.request->retry_after >= 0;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);

		while (monotonic_us() < Min(next, until))
			(void) http_run_once(request_milliseconds(Min(next, until)));
		if (last || (throttled && next > until))
			wait_raise_timeout(task_id, &polling.known);
	}
	MemoryContextSwitchTo(caller);
	result = result_row(fcinfo, &task.answer);
	MemoryContextDelete(context);
	return result;
}

/*
 * anyvod_wait(task_id text, timeout interval, server name) returns
 * anyvod_result
 */
Datum
anyvod_wait(PG_FUNCTION_ARGS)
{
	const char *server = NameStr(*PG_GETARG_NAME(2));
	char	   *task_id;
	int64		until;
	Datum		result;

	(void) result_row_type(fcinfo);
	task_id = request_task_id(PG_GETARG_TEXT_PP(0));
	until = wait_until(PG_GETARG_INTERVAL_P(1));
	if (!wait_tracked(task_id, server, until, &result))
		result = wait_untracked(fcinfo, task_id, server, until);
	PG_RETURN_DATUM(result);
}

/*
 * anyvod_wait_all(task_ids text[], timeout interval): a procedure
 */
Datum
anyvod_wait_all(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	char	  **ids;
	int			nids;
	int64		until;
	WaitRow		row;
	int			tracked = 0;
	int			done = 0;		/* so many in front have left pending */
	const char *missing;
	const char *hint;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("anyvod_wait_all cannot be called in a transaction block or a function"),
				 errdetail("It ends its transaction after each read, to hold nothing while it waits.")));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("task ids and timeout must not be null")));
	nids = request_task_ids(PG_GETARG_ARRAYTYPE_P_COPY(0), &ids);
	until = wait_until(PG_GETARG_INTERVAL_P(1));

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	row.context = AllocSetContextCreate(CurrentMemoryContext, "anyvod rows",
										ALLOCSET_SMALL_SIZES);
	while (done < nids)
	{
		int			n = Min(nids - done, WAIT_READ_ROWS);

		wait_read(&row, ids + done, n, NULL);
		SPI_commit();
		if (!row.pending)
		{
			done += n;
			tracked += row.rows;
			continue;
		}
		missing = slot_missing(&hint);
		if (missing != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("tracked tasks are not polled"),
					 errdetail_internal("%s", missing),
					 errhint("%s", hint)));
		wait_sleep(&row, until);
	}
	slot_end_sleep();
	SPI_finish();
	if (tracked < nids)
		ereport(NOTICE,
				(errmsg("%d of %d tasks are not tracked", nids - tracked, nids)));
	PG_RETURN_VOID();
}
