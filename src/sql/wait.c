/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Waiting until tasks have ended: anyvod_wait() and anyvod_wait_all().
 *
 * A tracked task is asked for by the worker, so a session that waits for one
 * asks nothing: it sleeps on its database's condition variable (launcher.c)
 * and reads the row again, with a new snapshot, when a worker has settled
 * rows.  A task that is not tracked is asked for here, on the same schedule
 * as the worker's.
 *
 * anyvod_wait() is a function, so the snapshot of the statement that calls it
 * stays held.  anyvod_wait_all() is a procedure that ends its transaction
 * after each look, and holds nothing while it sleeps.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

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
#include "anyvod.h"
#include "sql/request.h"
#include "launcher.h"
#include "response/to_datum.h"
#include "schedule.h"
#include "signature.h"
#include "tracker.h"

PG_FUNCTION_INFO_V1(anyvod_wait);
PG_FUNCTION_INFO_V1(anyvod_wait_all);

#define SECOND INT64CONST(1000000)

/*
 * A row is looked at again after so long (in microseconds) although nothing
 * was announced: it may have been deleted, which nobody announces.
 */
#define WAIT_LOOK_EVERY (10 * SECOND)

/* Rows that anyvod_wait_all() looks at in one query. */
#define WAIT_LOOK_ROWS 1000

/* What is known of a task, for the error that says how it ended. */
typedef struct WaitNews
{
	char	   *status;			/* the upstream's word; NULL: none yet */
	int			progress;		/* -1: not known */
	char	   *trouble;		/* what the last question met, NULL: nothing */
} WaitNews;

/* A tracked row. */
typedef struct WaitRow
{
	char	   *state;			/* a label of anyvod_state */
	char	   *error_code;
	char	   *error_message;
	WaitNews	news;
	bool		own;			/* written by this transaction */
	Datum		result;			/* an anyvod_result */
} WaitRow;

/* Questions about a task that is not tracked. */
typedef struct WaitAsking
{
	WaitNews	news;
	TimestampTz begin;
	ScheduleRetry trouble;		/* what the last answers met, if "troubles" */
	int			troubles;		/* in a row, of that kind; 0: none */
	int64		trouble_since;	/* the first of them; monotonic_us() */
} WaitAsking;


/*
 * Time
 */

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

/* Milliseconds from now to a time of monotonic_us(), rounded up. */
static long
wait_milliseconds(int64 until)
{
	int64		left = until - monotonic_us();

	if (left <= 0)
		return 0;
	return (long) Min(left / 1000 + 1, INT_MAX);
}


/*
 * Errors
 */

/* The task has not ended in time. */
static void
wait_raise_timeout(const char *task_id, const WaitNews *news)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("task \"%s\" has not ended in time", task_id),
			 news->trouble ?
				 errdetail("The last question met: %s.", news->trouble) :
				 news->status == NULL ?
				 errdetail("There has been no answer about it.") :
				 news->progress >= 0 ?
				 errdetail("Its last status is \"%s\", progress %d %%.",
						   news->status, news->progress) :
				 errdetail("Its last status is \"%s\".", news->status)));
}

/* The task has failed; strings are the database's, or NULL. */
static void
wait_raise_failure(const char *task_id, const char *code, const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("task \"%s\" has failed", task_id),
			 message != NULL && message[0] != '\0' ?
				 errdetail("The upstream's code is \"%s\", its message \"%s\".",
						   code ? code : "", message) :
				 errdetail("The upstream's code is \"%s\".",
						   code ? code : "")));
}


/*
 * Tracked rows
 */

/* Why it must be READ COMMITTED. */
static void
wait_check_isolation(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for a tracked task in a transaction of this isolation level"),
				 errdetail("The transaction's snapshot would never show the row's change."),
				 errhint("Use READ COMMITTED.")));
}

/* A column of the row that SPI holds, as a string of the current context. */
static char *
wait_column(int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0],
									 SPI_tuptable->tupdesc, column);

	return value != NULL ? MemoryContextStrdup(context, value) : NULL;
}

/* Take over the row that wait_look() has read. */
static void
wait_take_row(WaitRow *row, MemoryContext context)
{
	HeapTuple	tuple = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	char	   *progress;
	Datum		xmin;
	bool		isnull;

	row->state = wait_column(2, context);
	row->news.status = wait_column(3, context);
	progress = wait_column(4, context);
	row->news.progress = progress ? atoi(progress) : -1;
	row->error_code = wait_column(5, context);
	row->error_message = wait_column(6, context);
	xmin = SPI_getbinval(tuple, desc, 7, &isnull);
	row->own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	row->result = SPI_datumTransfer(SPI_getbinval(tuple, desc, 1, &isnull),
									false, -1);
}

/*
 * Read a task's row with a new snapshot; false if the caller sees none.  What
 * it returns is made in the current memory context.
 */
static bool
wait_look(WaitRow *row, const char *task_id, Name server)
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
				   " state, status, progress, error_code, error_message, xmin"
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
		wait_take_row(row, context);
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
					 errdetail("The last trouble was \"%s\".",
							   row->error_code) :
					 0));
	return row->result;
}

/*
 * Wait for a tracked task; false if its row is not one to wait for: there is
 * none, it was deleted, or it is this transaction's own, which the worker
 * cannot see.
 */
static bool
wait_tracked(const char *task_id, Name server, int64 until, Datum *result)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "anyvod row",
												  ALLOCSET_SMALL_SIZES);
	bool		found;

	for (;;)
	{
		int64		look_at = monotonic_us() + WAIT_LOOK_EVERY;
		WaitRow		row;
		bool		settled;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		found = wait_look(&row, task_id, server);
		MemoryContextSwitchTo(caller);
		if (found)
			wait_check_isolation();
		settled = found && strcmp(row.state, "pending") != 0;
		if (found && row.own && !settled)
			found = false;
		if (!found)
			break;
		if (settled)
		{
			*result = datumCopy(wait_settled(task_id, &row), false, -1);
			break;
		}
		if (monotonic_us() >= until)
		{
			row.news.trouble = row.error_code;
			wait_raise_timeout(task_id, &row.news);
		}
		launcher_sleep(wait_milliseconds(Min(look_at, until)));
	}
	launcher_end_sleep();
	MemoryContextDelete(context);
	return found;
}


/*
 * Tasks that are not tracked
 */

/* Keep a string that may be NULL in place of another. */
static void
wait_keep(char **kept, const char *string, MemoryContext keep)
{
	if (*kept != NULL)
		pfree(*kept);
	*kept = string != NULL ? MemoryContextStrdup(keep, string) : NULL;
}

/* Keep what an answer says of a running task. */
static void
wait_note_answer(WaitAsking *asking, const Answer *answer, MemoryContext keep)
{
	asking->troubles = 0;
	wait_keep(&asking->news.trouble, NULL, keep);
	if (answer->status == NULL)
		return;
	wait_keep(&asking->news.status,
			  result_cstring(answer->status, strlen(answer->status)), keep);
	asking->news.progress = answer->progress;
}

/* When to ask again for a task that is running: how long from now. */
static int64
wait_schedule(const WaitAsking *asking, const Answer *answer, Name server)
{
	ScheduleSettings settings = {
		.detection_delay = anyvod_detection_delay * INT64CONST(1000),
		.poll_floor = anyvod_poll_floor * INT64CONST(1000),
		.poll_cap = anyvod_poll_cap * INT64CONST(1000),
	};

	return schedule_fixed(&settings,
						  pg_prng_double(&pg_global_prng_state));
}

/*
 * What kind of trouble has a question met?  False if it is one that waiting
 * does not mend: a refused key, a wrong base URL, a limit of ours.
 */
static bool
wait_is_passing(const TaskRequest *ask, ScheduleRetry *why)
{
	switch (ask->request->result)
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
	switch (ask->answer.verdict)
	{
		case ANSWER_NO_OUTPUT:
			*why = SCHEDULE_NO_OUTPUT;
			return true;
		case ANSWER_UNKNOWN_TASK:
			*why = SCHEDULE_UNKNOWN_TASK;
			return true;
		case ANSWER_RATE_LIMITED:
			*why = SCHEDULE_RATE_LIMITED;
			return true;
		case ANSWER_TRANSIENT:
			*why = SCHEDULE_TRANSIENT;
			return true;
		case ANSWER_UNREADABLE:
			*why = SCHEDULE_UNREADABLE;
			return true;
		default:
			return false;
	}
}

/* The task has failed, as an answer says. */
static void
wait_raise_answer(const char *task_id, const Answer *answer)
{
	char	   *code = answer->error_code;
	char	   *message = answer->error_message;

	wait_raise_failure(task_id,
					   code ? result_cstring(code, strlen(code)) : NULL,
					   message ?
						   result_cstring(message, strlen(message)) :
						   NULL);
}

/*
 * A question met trouble: raise it if waiting does not mend it or it was borne
 * long enough; else keep it and return how long from now to ask again.
 */
static int64
wait_bear(WaitAsking *asking, const TaskRequest *ask, const char *task_id,
		  MemoryContext keep)
{
	RequestError trouble;
	bool		troubled = request_describe_error(ask, &trouble);
	ScheduleRetry why = SCHEDULE_TRANSIENT;
	int64		wait;

	if (!wait_is_passing(ask, &why))
		request_raise(&trouble);
	if (asking->troubles == 0 || asking->trouble != why)
	{
		asking->trouble = why;
		asking->troubles = 0;
		asking->trouble_since = monotonic_us();
	}
	asking->troubles++;
	if (schedule_is_final(why, asking->troubles,
						  monotonic_us() - asking->trouble_since))
	{
		if (troubled)
			request_raise(&trouble);
		wait_raise_answer(task_id, &ask->answer);
	}
	if (troubled)
		wait_keep(&asking->news.trouble, trouble.message, keep);
	wait = schedule_retry(why, asking->troubles,
						  pg_prng_double(&pg_global_prng_state));
	if (ask->request->retry_after >= 0)
		wait = Max(why == SCHEDULE_RATE_LIMITED ? 0 : wait,
				   ask->request->retry_after * SECOND);
	return wait;
}

/*
 * TaskRequest once.  Returns -1 when the task has ended well, else how long from now
 * to ask again.  The current memory context is a scratch.
 */
static int64
wait_ask(WaitAsking *asking, TaskRequest *ask, const char *task_id, Name server,
		 int64 until, MemoryContext keep)
{
	if (!request_run(ask, http_batch_create(CurrentMemoryContext), task_id, until))
		return 0;
	if (ask->request->result == HTTP_COMPLETE)
	{
		switch (ask->answer.verdict)
		{
			case ANSWER_SUCCEEDED:
				return -1;
			case ANSWER_FAILED:
				wait_raise_answer(task_id, &ask->answer);
				break;
			case ANSWER_RUNNING:
				wait_note_answer(asking, &ask->answer, keep);
				return wait_schedule(asking, &ask->answer, server);
			default:
				break;
		}
	}
	return wait_bear(asking, ask, task_id, keep);
}

/* Let time pass. */
static void
wait_pass(int64 until)
{
	while (monotonic_us() < until)
		(void) http_run_once(wait_milliseconds(until));
}

/* TaskRequest for a task that is not tracked until it has ended. */
static Datum
wait_untracked(FunctionCallInfo fcinfo, const char *task_id, Name server,
			   int64 until)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "anyvod question",
												  ALLOCSET_DEFAULT_SIZES);
	WaitAsking	asking = {.begin = GetCurrentTimestamp()};
	TaskRequest ask = {.server = NameStr(*server), .userid = GetUserId()};
	Datum		result;

	for (;;)
	{
		int64		wait;

		MemoryContextSwitchTo(context);
		wait = wait_ask(&asking, &ask, task_id, server, until, caller);
		MemoryContextSwitchTo(caller);
		if (wait < 0)
			break;
		MemoryContextReset(context);
		wait_pass(Min(monotonic_us() + wait, until));
		if (monotonic_us() >= until)
			wait_raise_timeout(task_id, &asking.news);
	}
	result = result_row(fcinfo, &ask.answer);
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
	static const Oid arguments[] = {TEXTOID, INTERVALOID, NAMEOID};
	char	   *task_id;
	int64		until;
	Name		server;
	Datum		result;

	signature_check(fcinfo, InvalidOid, arguments, lengthof(arguments));
	result_check_row(fcinfo);
	task_id = request_task_id(PG_GETARG_TEXT_PP(0));
	until = wait_until(PG_GETARG_INTERVAL_P(1));
	server = PG_GETARG_NAME(2);
	if (launcher_present() &&
		wait_tracked(task_id, server, until, &result))
		PG_RETURN_DATUM(result);
	PG_RETURN_DATUM(wait_untracked(fcinfo, task_id, server, until));
}


/*
 * anyvod_wait_all
 */

/* What a look at some rows has found. */
typedef struct WaitLook
{
	int			rows;			/* that the caller sees */
	char	   *pending;		/* the id of one that is pending, or NULL */
	WaitNews	news;			/* about it */
} WaitLook;

/*
 * Look at the rows of "n" ids, in a transaction that is over on return.  What
 * is found belongs to SPI, up to the next look.
 */
static void
wait_look_at(WaitLook *look, char **ids, int n)
{
	Oid			types[] = {TEXTARRAYOID};
	Datum	   *elements = palloc(n * sizeof(Datum));
	MemoryContext context = CurrentMemoryContext;
	Datum		values[1];
	Oid			table;
	const char *schema;
	char	   *progress;

	memset(look, 0, sizeof(WaitLook));
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
		if (SPI_processed > 0)
		{
			look->rows = atoi(wait_column(1, context));
			if (strcmp(wait_column(5, context), "t") == 0)
			{
				look->pending = wait_column(2, context);
				look->news.status = wait_column(3, context);
				progress = wait_column(4, context);
				look->news.progress = progress ? atoi(progress) : -1;
			}
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_commit();
}

/*
 * Wait until no row of these ids is pending.  Those in front have left
 * pending once and are not looked at again.  Returns how many had a row.
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
		int			n = Min(ids->n - done, WAIT_LOOK_ROWS);
		int64		look_at = monotonic_us() + WAIT_LOOK_EVERY;
		WaitLook	look;

		MemoryContextReset(context);
		wait_look_at(&look, ids->ids + done, n);
		MemoryContextSwitchTo(context);
		if (look.pending == NULL)
		{
			done += n;
			tracked += look.rows;
			continue;
		}
		if (monotonic_us() >= until)
			wait_raise_timeout(look.pending, &look.news);
		launcher_sleep(wait_milliseconds(Min(look_at, until)));
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
	static const Oid arguments[] = {TEXTARRAYOID, INTERVALOID};
	CallContext *call = (CallContext *) fcinfo->context;
	TaskIds		ids;
	int64		until;
	int			tracked;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("anyvod_wait_all cannot be called in a transaction block or a function"),
				 errdetail("It ends its transaction after each look, to hold nothing while it waits.")));
	signature_check(fcinfo, VOIDOID, arguments, lengthof(arguments));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("task ids and timeout must not be null")));
	if (!launcher_present())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tracked tasks are not asked for"),
				 errhint("Add \"anyvod\" to \"shared_preload_libraries\".")));
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
