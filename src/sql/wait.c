/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Waiting until tasks have ended: anyvod_wait() and anyvod_wait_all().
 *
 * A tracked task is polled by the worker, so a session that waits for one
 * sends nothing: it sleeps on its database's condition variable (launcher.c)
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
#include "compat.h"
#include "launcher.h"
#include "response/to_datum.h"
#include "schedule.h"
#include "sql/request.h"
#include "tracker.h"

PG_FUNCTION_INFO_V1(anyvod_wait);
PG_FUNCTION_INFO_V1(anyvod_wait_all);

#define SECOND INT64CONST(1000000)

/*
 * A row is read again after so long (in microseconds) although nobody was
 * woken: it may have been deleted, which wakes nobody.
 */
#define WAIT_READ_EVERY (10 * SECOND)

/* Rows that anyvod_wait_all() reads in one query. */
#define WAIT_READ_ROWS 1000

/* From one poll of a running task to the next: the first interval, the last. */
#define WAIT_FIRST_INTERVAL (SECOND / 2)
#define WAIT_LAST_INTERVAL (5 * SECOND)

/* A tracked row. */
typedef struct WaitRow
{
	char	   *state;			/* a label of anyvod_state */
	char	   *error_code;
	char	   *error_message;
	char	   *last;			/* what is known of it, as a sentence */
	bool		own;			/* written or locked by this transaction */
	Datum		result;			/* an anyvod_result */
} WaitRow;

/* The polling of a task that is not tracked. */
typedef struct Polling
{
	MemoryContext context;		/* of what is kept from poll to poll */
	char	   *last;			/* what is known of it, NULL: nothing yet */
	int64		interval;		/* to the next poll of a running task */
	int64		wait;			/* from the end of this poll to the next */
	bool		throttled;		/* the gateway said how long that is */
	ScheduleRetry failure;		/* kind of the last failures */
	int			failures;		/* of that kind in a row */
	int64		failing_since;	/* the first of them; monotonic_us() */
} Polling;

/* What a poll has come to. */
typedef enum PollResult
{
	POLL_SUCCEEDED,				/* the task has, and has been read */
	POLL_AGAIN,					/* after "wait" */
	POLL_CUT_OFF,				/* no response before its deadline */
} PollResult;

/*
 * The end of a timeout from now on, as a time of monotonic_us().  Raises 22023
 * if it is negative.
 */
static int64
wait_until(Interval *timeout)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz end;
	int64		span;

	end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												  TimestampTzGetDatum(now),
												  IntervalPGetDatum(timeout)));
	if (end < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	span = TIMESTAMP_NOT_FINITE(end) ? PG_INT64_MAX : end - now;
	return span < REQUEST_NO_DEADLINE - monotonic_us() ?
		monotonic_us() + span :
		REQUEST_NO_DEADLINE;
}

/*
 * What is known of a pending task, for the error that says that it has not
 * ended: a sentence, NULL if nothing is.
 */
static char *
wait_describe(const char *status, int progress, const char *error)
{
	if (error != NULL)
		return psprintf("The last request failed: %s.", error);
	if (status == NULL)
		return NULL;
	return progress >= 0 ?
		psprintf("Its last status is \"%s\", progress %d %%.", status, progress) :
		psprintf("Its last status is \"%s\".", status);
}

/* The task has not ended in time. */
static void
wait_raise_timeout(const char *task_id, const char *last)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("task \"%s\" has not ended in time", task_id),
			 errdetail_internal("%s", last ? last : "There has been no response about it.")));
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

/* Was this written or locked by a transaction that goes on here? */
static bool
wait_is_current(int column)
{
	bool		isnull;
	Datum		xid = SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, column, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xid));
}

/* Copy the row that SPI holds. */
static void
wait_copy_row(WaitRow *row)
{
	char	   *progress = wait_column(4);
	bool		isnull;

	row->state = wait_column(2);
	row->error_code = wait_column(5);
	row->error_message = wait_column(6);
	row->last = wait_describe(wait_column(3),
							  progress ? atoi(progress) : -1, row->error_code);
	row->own = wait_is_current(7) || wait_is_current(8);
	row->result = SPI_datumTransfer(SPI_getbinval(SPI_tuptable->vals[0],
												  SPI_tuptable->tupdesc, 1,
												  &isnull),
									false, -1);
}

/*
 * Read a task's row with a new snapshot; false if the caller sees none.  What
 * it returns is made in the current memory context.
 *
 * xmax is that of a lock, too.  (One that leaves the worker free, FOR KEY
 * SHARE, cannot be told from it here; then both poll.)
 */
static bool
wait_read_row(WaitRow *row, const char *task_id, Name server)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID, NAMEOID};
	Datum		values[] = {CStringGetTextDatum(task_id), NameGetDatum(server)};
	Oid			table;
	const char *schema;
	char	   *sql;
	bool		found;

	memset(row, 0, sizeof(WaitRow));
	if (!tracker_find_table(&table, &schema) ||
		pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		return false;
	sql = psprintf("SELECT ROW(status, progress, file_url, expire_time,"
				   " state, error_code, error_message)::%1$s.anyvod_result,"
				   " state, status, progress, error_code, error_message,"
				   " xmin, xmax"
				   " FROM %1$s.anyvod_tasks"
				   " WHERE task_id OPERATOR(pg_catalog.=) $1"
				   " AND server OPERATOR(pg_catalog.=) $2",
				   schema);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute_with_args(sql, 2, types, values, NULL, true, 1) !=
		SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read the tracked task")));
	found = SPI_processed > 0;
	if (found)
	{
		MemoryContextSwitchTo(context);
		wait_copy_row(row);
	}
	SPI_finish();
	PopActiveSnapshot();
	return found;
}

/* The row has left pending: its result, or the error that it amounts to. */
static Datum
wait_settled(const char *task_id, const WaitRow *row)
{
	if (strcmp(row->state, "failed") == 0)
		wait_raise_failure(task_id, row->error_code, row->error_message);
	if (strcmp(row->state, "abandoned") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task \"%s\" was abandoned before it had ended",
						task_id),
				 row->error_code ?
					 errdetail("The last error was \"%s\".",
							   row->error_code) :
					 0));
	return row->result;
}

/*
 * Wait for a tracked task.  Returns false if no worker is going to fill in its
 * row: there is none, it was deleted, this transaction has written or locked
 * it, or nothing is preloaded.
 */
static bool
wait_tracked(const char *task_id, Name server, int64 until, Datum *result)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "anyvod row",
												  ALLOCSET_SMALL_SIZES);
	WaitRow		row;
	bool		settled = false;

	for (;;)
	{
		int64		read_at = monotonic_us() + WAIT_READ_EVERY;
		bool		found;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		found = wait_read_row(&row, task_id, server);
		MemoryContextSwitchTo(caller);
		settled = found && strcmp(row.state, "pending") != 0;
		if (!found || settled || row.own || !launcher_present())
			break;
		if (IsolationUsesXactSnapshot())
			ereport(ERROR,
					(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					 errmsg("cannot wait for a tracked task in a transaction of this isolation level"),
					 errdetail("The transaction's snapshot would never show the row's change."),
					 errhint("Use READ COMMITTED.")));
		if (monotonic_us() >= until)
			wait_raise_timeout(task_id, row.last);
		launcher_sleep(request_milliseconds(Min(read_at, until)));
	}
	launcher_end_sleep();
	if (settled)
		*result = datumCopy(wait_settled(task_id, &row), false, -1);
	MemoryContextDelete(context);
	return settled;
}


/*
 * Tasks that are not tracked
 */

/* Keep what is known of a task, made in the context of one poll. */
static void
poll_keep(Polling *polling, const char *last)
{
	if (last == NULL)
		return;
	if (polling->last != NULL)
		pfree(polling->last);
	polling->last = MemoryContextStrdup(polling->context, last);
}

/* A string of a response, which may be NULL, in the database's encoding. */
static char *
poll_string(const char *utf8)
{
	return utf8 != NULL ? result_cstring(utf8, strlen(utf8)) : NULL;
}

/*
 * What kind of failure is it?  False if waiting does not help: a refused key,
 * a wrong base URL, a limit of ours.
 */
static bool
poll_is_transient(const TaskRequest *task, ScheduleRetry *why)
{
	switch (task->request->result)
	{
		case HTTP_COMPLETE:
			break;
		case HTTP_UNREACHABLE:
		case HTTP_BROKEN:
		case HTTP_TIMED_OUT:
			*why = SCHEDULE_TRANSIENT;
			return true;
		default:
			return false;
	}
	switch (task->answer.verdict)
	{
		case ANSWER_NO_OUTPUT:
			*why = SCHEDULE_NO_OUTPUT;
			break;
		case ANSWER_UNKNOWN_TASK:
			*why = SCHEDULE_UNKNOWN_TASK;
			break;
		case ANSWER_RATE_LIMITED:
			*why = SCHEDULE_RATE_LIMITED;
			break;
		case ANSWER_TRANSIENT:
			*why = SCHEDULE_TRANSIENT;
			break;
		case ANSWER_UNREADABLE:
			*why = SCHEDULE_UNREADABLE;
			break;
		default:
			return false;
	}
	return true;
}

/* The task has failed, as a response says. */
static void
poll_raise_failure(const char *task_id, const Answer *answer)
{
	wait_raise_failure(task_id, poll_string(answer->error_code),
					   poll_string(answer->error_message));
}

/*
 * A poll has failed: raise the error if waiting does not help or has helped
 * long enough, else keep it and say when to poll again.
 */
static PollResult
poll_failed(Polling *polling, const TaskRequest *task)
{
	RequestError error;
	bool		described = errors_describe(task, &error);
	ScheduleRetry why = SCHEDULE_TRANSIENT;
	int			retry_after = task->request->retry_after;

	if (!poll_is_transient(task, &why))
		errors_raise(&error);
	if (polling->failures == 0 || polling->failure != why)
	{
		polling->failure = why;
		polling->failures = 0;
		polling->failing_since = monotonic_us();
	}
	polling->failures++;
	if (schedule_is_final(why, polling->failures,
						  monotonic_us() - polling->failing_since))
	{
		if (described)
			errors_raise(&error);
		poll_raise_failure(task->task_id, &task->answer);
	}
	if (described)
		poll_keep(polling, wait_describe(NULL, -1, error.message));
	polling->wait = schedule_retry(why, polling->failures,
								   pg_prng_double(&pg_global_prng_state));
	if (retry_after >= 0)
	{
		polling->throttled = true;
		polling->wait = Max(why == SCHEDULE_RATE_LIMITED ? 0 : polling->wait,
							retry_after * SECOND);
	}
	return POLL_AGAIN;
}

/*
 * Poll once, up to a time of monotonic_us().  Raises an error if the task has
 * failed.  The current memory context is reset before the next poll.
 */
static PollResult
poll_once(Polling *polling, TaskRequest *task, int64 until)
{
	polling->throttled = false;
	if (!request_run(task, http_batch_create(CurrentMemoryContext), until))
		return POLL_CUT_OFF;
	if (task->request->result != HTTP_COMPLETE)
		return poll_failed(polling, task);
	switch (task->answer.verdict)
	{
		case ANSWER_SUCCEEDED:
			return POLL_SUCCEEDED;
		case ANSWER_RUNNING:
			polling->failures = 0;
			poll_keep(polling,
					  wait_describe(poll_string(task->answer.status),
									task->answer.progress, NULL));
			polling->wait = polling->interval;
			polling->interval = Min(polling->interval * 3 / 2,
									WAIT_LAST_INTERVAL);
			return POLL_AGAIN;
		case ANSWER_FAILED:
			poll_raise_failure(task->task_id, &task->answer);
			pg_unreachable();
		default:
			return poll_failed(polling, task);
	}
}

/*
 * Poll a task until it has ended.  The last poll begins when the time is up,
 * unless the gateway wants none then, and may take as long as a request may;
 * one that is in flight when the time is up is cut off.
 */
static Datum
wait_untracked(FunctionCallInfo fcinfo, const char *task_id, Name server,
			   int64 until)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "anyvod poll",
												  ALLOCSET_DEFAULT_SIZES);
	Polling		polling = {.context = caller, .interval = WAIT_FIRST_INTERVAL};
	TaskRequest task = {.server = NameStr(*server),
						.userid = GetUserId(),
						.task_id = task_id};
	Datum		result;

	for (;;)
	{
		bool		last = monotonic_us() >= until;
		PollResult	polled;
		int64		next;

		MemoryContextSwitchTo(context);
		polled = poll_once(&polling, &task,
						   last ? REQUEST_NO_DEADLINE : until);
		MemoryContextSwitchTo(caller);
		if (polled == POLL_SUCCEEDED)
			break;
		if (last || polled == POLL_CUT_OFF)
			wait_raise_timeout(task_id, polling.last);
		MemoryContextReset(context);
		next = monotonic_us() + polling.wait;
		while (monotonic_us() < Min(next, until))
			(void) http_run_once(request_milliseconds(Min(next, until)));
		if (next > until && polling.throttled)
			wait_raise_timeout(task_id, polling.last);
	}
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
	char	   *task_id;
	int64		until;
	Name		server;
	Datum		result;

	result_check_row(fcinfo);
	task_id = request_task_id(PG_GETARG_TEXT_PP(0));
	until = wait_until(PG_GETARG_INTERVAL_P(1));
	server = PG_GETARG_NAME(2);
	if (!wait_tracked(task_id, server, until, &result))
		result = wait_untracked(fcinfo, task_id, server, until);
	PG_RETURN_DATUM(result);
}


/*
 * anyvod_wait_all
 */

/* What some rows are like. */
typedef struct WaitRows
{
	int			rows;			/* that the caller sees */
	char	   *pending;		/* the id of one that is pending, or NULL */
	char	   *last;			/* what is known of that one */
} WaitRows;

/*
 * Read the rows of "n" ids, in a transaction that is over on return.  What is
 * found is made in the current memory context.
 */
static void
wait_read_rows(WaitRows *rows, char **ids, int n)
{
	Oid			types[] = {TEXTARRAYOID};
	Datum	   *elements = palloc(n * sizeof(Datum));
	MemoryContext context = CurrentMemoryContext;
	Datum		values[1];
	Oid			table;
	const char *schema;
	char	   *progress;

	memset(rows, 0, sizeof(WaitRows));
	for (int i = 0; i < n; i++)
		elements[i] = CStringGetTextDatum(ids[i]);
	values[0] = PointerGetDatum(construct_array(elements, n, TEXTOID, -1,
												false, TYPALIGN_INT));
	if (tracker_find_table(&table, &schema))
	{
		char	   *sql =
			psprintf("SELECT pg_catalog.count(*) OVER (), task_id, status,"
						   " progress, state OPERATOR(pg_catalog.=) 'pending'"
						   " FROM %s.anyvod_tasks"
						   " WHERE task_id OPERATOR(pg_catalog.=) ANY ($1)"
						   " ORDER BY 5 DESC LIMIT 1",
						   schema);

		if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 1) !=
			SPI_OK_SELECT)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not read the tracked tasks")));
		MemoryContextSwitchTo(context);
		if (SPI_processed > 0)
		{
			rows->rows = atoi(wait_column(1));
			if (strcmp(wait_column(5), "t") == 0)
			{
				progress = wait_column(4);
				rows->pending = wait_column(2);
				rows->last = wait_describe(wait_column(3),
										   progress ? atoi(progress) : -1,
										   NULL);
			}
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_commit();
}

/*
 * Wait until no row of these ids is pending.  Those in front have left
 * pending once and are not read again.  Returns how many had a row.
 */
static int
wait_for_rows(const TaskIds *ids, int64 until)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "anyvod rows",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			tracked = 0;
	int			done = 0;

	while (done < ids->n)
	{
		int			n = Min(ids->n - done, WAIT_READ_ROWS);
		int64		read_at = monotonic_us() + WAIT_READ_EVERY;
		WaitRows	rows;

		MemoryContextReset(context);
		wait_read_rows(&rows, ids->ids + done, n);
		MemoryContextSwitchTo(context);
		if (rows.pending == NULL)
		{
			done += n;
			tracked += rows.rows;
			continue;
		}
		if (!launcher_present())
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("tracked tasks are not polled"),
					 errdetail("Task \"%s\" is pending.", rows.pending),
					 errhint("Add \"anyvod\" to \"shared_preload_libraries\".")));
		if (monotonic_us() >= until)
			wait_raise_timeout(rows.pending, rows.last);
		launcher_sleep(request_milliseconds(Min(read_at, until)));
	}
	launcher_end_sleep();
	MemoryContextSwitchTo(old);
	return tracked;
}

/*
 * anyvod_wait_all(task_ids text[], timeout interval): a procedure
 */
Datum
anyvod_wait_all(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	TaskIds		ids;
	int64		until;
	int			tracked;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("anyvod_wait_all cannot be called in a transaction block or a function"),
				 errdetail("It ends its transaction after each read, to hold nothing while it waits.")));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("task ids and timeout must not be null")));
	request_task_ids(&ids, PG_GETARG_ARRAYTYPE_P_COPY(0));
	until = wait_until(PG_GETARG_INTERVAL_P(1));

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	tracked = wait_for_rows(&ids, until);
	SPI_finish();
	if (tracked < ids.n)
		ereport(NOTICE,
				(errmsg("%d of %d tasks are not tracked", ids.n - tracked,
						ids.n)));
	PG_RETURN_VOID();
}
