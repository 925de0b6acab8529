/*-------------------------------------------------------------------------
 *
 * query_many.c
 *		anyvod_query_many(): requests about many tasks at once.
 *
 * The rows come one a call, in the order in which the responses arrive.  At
 * any time at most max_concurrency requests are outstanding: sent, or about
 * to be, and their rows not returned.  So no more bodies than that are in
 * memory, and a consumer that stops early has caused few requests in vain.
 *
 * Bodies share a budget of the process.  A request whose body found no room
 * in it is sent again once another's has been released, and from then on that
 * many fewer are outstanding: each such failure takes one off, so there are
 * at most max_concurrency of them.  Only a body that finds no room although it
 * was the batch's only one from the start is an error, of its row.
 *
 * Everything lives in the memory context of the multi-call protocol.  At an
 * early end, a LIMIT or a closed cursor, that is deleted by the callback that
 * SRF_FIRSTCALL_INIT() registers with the ExprContext; after an error it goes
 * with its parents.  Either way the batch's own callback ends what is in
 * flight.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "clock.h"
#include "compat.h"
#include "response/to_datum.h"
#include "server/settings.h"
#include "sql/request.h"

PG_FUNCTION_INFO_V1(anyvod_query_many);

/* Columns of a row, as the SQL script has them. */
#define MANY_COLUMNS 4

/*
 * When the next row is fetched so long (in microseconds) after the last, a
 * request in flight may have failed because nobody served its socket: by its
 * own timeout, or by the gateway's.
 */
#define MANY_PAUSE INT64CONST(1000000)

/* A call of the function, from its first row to its last. */
typedef struct Many
{
	MemoryContext context;		/* of the whole call */
	HttpBatch  *batch;
	const char *server;
	Oid			userid;			/* who began it; a cursor may have moved on */
	char	  **ids;
	int			nids;
	int			next;			/* the first id that had no request yet */
	int			limit;			/* outstanding requests; 1 or more */
	int			outstanding;	/* requests in the batch */
	int64		limited_at;		/* when the limit was last lowered */
	slist_head	put_back;		/* to be sent again when there is room */
	int64		left_at;		/* when the last row was returned */
	int64		resumed_at;		/* end of the last pause of the consumer */
} Many;

/* A request of those that are still to be started, NULL if there is none. */
static TaskRequest *
many_pop(Many *many)
{
	TaskRequest *task;

	if (!slist_is_empty(&many->put_back))
		return slist_container(TaskRequest, node,
							   slist_pop_head_node(&many->put_back));
	if (many->next >= many->nids)
		return NULL;
	task = MemoryContextAllocZero(many->context, sizeof(TaskRequest));
	task->server = many->server;
	task->userid = many->userid;
	task->task_id = many->ids[many->next++];
	return task;
}

/*
 * Start as many requests as may be outstanding.  Returns one that cannot be
 * started, which is its row, else NULL.
 */
static TaskRequest *
many_fill(Many *many)
{
	TaskRequest *task;

	/* The first is started in any case, so that there is an end to wait for. */
	while (many->outstanding < many->limit &&
		   (many->outstanding == 0 || http_room(many->batch) > 0) &&
		   (task = many_pop(many)) != NULL)
	{
		CHECK_FOR_INTERRUPTS(); /* each may read a file of authorities */
		if (!request_start(task, many->batch, task, true))
			return task;
		many->outstanding++;
	}
	return NULL;
}

/* Take a request out of the batch. */
static void
many_release(Many *many, TaskRequest *task)
{
	http_release(task->request);
	many->outstanding--;
}

/*
 * A request has finished: is it worth while to send it again?  Then it is put
 * back.
 */
static bool
many_put_back(Many *many, TaskRequest *task)
{
	const HttpRequest *request = task->request;
	HttpResult	result = request->result;
	bool		no_room = result == HTTP_NO_ROOM &&
		(many->outstanding > 1 || request->started < many->limited_at);
	bool		unserved = request->started < many->resumed_at &&
		(result == HTTP_UNREACHABLE || result == HTTP_BROKEN ||
				result == HTTP_TIMED_OUT);

	if (!no_room && !unserved)
		return false;
	if (no_room)
	{
		many->limit = Max(many->outstanding - 1, 1);
		many->limited_at = monotonic_us();
	}
	many_release(many, task);
	slist_push_head(&many->put_back, &task->node);
	return true;
}

/*
 * Wait for the next request that finishes, and read its response; NULL if all
 * rows have been returned.
 */
static TaskRequest *
many_next(Many *many)
{
	for (;;)
	{
		TaskRequest *task = many_fill(many);
		HttpRequest *finished;

		if (task != NULL || many->outstanding == 0)
			return task;

		/* What was started is sent before anything that takes time. */
		(void) http_run_once(0);
		while ((finished = http_take_finished(many->batch)) == NULL)
			(void) http_run_once(-1);
		task = finished->tag;
		if (request_read(task) && !many_put_back(many, task))
			return task;
	}
}

/* A request and its response, or what is wrong with it, as a row. */
static Datum
many_row(TupleDesc desc, const TaskRequest *task)
{
	Datum		values[MANY_COLUMNS] = {0};
	bool		nulls[MANY_COLUMNS] = {0};
	ErrorData  *error = errors_describe(task);
	int			sqlstate = error != NULL ? error->sqlerrcode : 0;
	const char *message = error != NULL ? error->message : NULL;
	char	   *why;

	values[0] = CStringGetTextDatum(task->task_id);
	if (error == NULL && !result_try_jsonb(&task->answer, &values[1], &why))
	{
		sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		message = RESULT_NOT_JSONB;
	}
	nulls[1] = message != NULL;
	nulls[2] = nulls[3] = message == NULL;
	if (message != NULL)
	{
		values[2] = CStringGetTextDatum(unpack_sql_state(sqlstate));
		values[3] = CStringGetTextDatum(message);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * The first call: what makes the statement fail does so here.  Nothing is sent
 * yet.
 */
static void
many_begin(FuncCallContext *call, FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
	Many	   *many = palloc0(sizeof(Many));
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != MANY_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("incorrect number of output arguments")));
	call->tuple_desc = BlessTupleDesc(desc);
	call->user_fctx = many;
	many->context = CurrentMemoryContext;
	many->nids = request_task_ids(PG_GETARG_ARRAYTYPE_P(0), &many->ids);
	many->server = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	many->userid = GetUserId();
	many->limit = server_settings_get(many->server, many->userid)
					  ->max_concurrency;
	many->batch = http_batch_create(CurrentMemoryContext);
	many->left_at = monotonic_us();
	MemoryContextSwitchTo(old);
}

/*
 * anyvod_query_many(task_ids text[], server name) returns setof
 * (task_id text, response jsonb, error_code text, error_message text)
 */
Datum
anyvod_query_many(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;
	Many	   *many;
	TaskRequest *task;
	Datum		row;

	if (SRF_IS_FIRSTCALL())
	{
		call = SRF_FIRSTCALL_INIT();
		many_begin(call, fcinfo);
	}
	call = SRF_PERCALL_SETUP();
	many = call->user_fctx;
	if (monotonic_us() - many->left_at > MANY_PAUSE)
		many->resumed_at = monotonic_us();

	task = many_next(many);
	if (task == NULL)
		SRF_RETURN_DONE(call);
	row = many_row(call->tuple_desc, task);
	if (task->request != NULL)
		many_release(many, task);
	pfree(task);
	many->left_at = monotonic_us();
	SRF_RETURN_NEXT(call, row);
}
