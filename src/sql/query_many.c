/*-------------------------------------------------------------------------
 *
 * many.c
 *		Asking about many tasks at once: anyvod_query_many().
 *
 * The rows come one a call, in the order in which the answers arrive.  At any
 * time at most max_concurrency questions have been asked whose rows have not
 * been returned, so that no more bodies than that are in memory, and a
 * consumer that stops early has caused few questions that he did not want.
 *
 * Everything lives in the memory context of the multi-call protocol.  At an
 * early end, a LIMIT or a closed cursor, that is deleted by the callback that
 * SRF_FIRSTCALL_INIT() registers with the ExprContext; after an error it goes
 * with its parents.  Either way the batch's own callback breaks off what is
 * in flight.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "clock.h"
#include "compat.h"
#include "sql/request.h"
#include "response/to_datum.h"
#include "signature.h"
#include "server/settings.h"

PG_FUNCTION_INFO_V1(anyvod_query_many);

/* Columns of a row, as the SQL script has them. */
static const Oid many_columns[] = {TEXTOID, JSONBOID, TEXTOID, TEXTOID};
#define MANY_COLUMNS lengthof(many_columns)

/*
 * When the next row is asked for so long (in microseconds) after the last, a
 * request in flight may have come to grief because nobody attended to it: by
 * its own timeout, or by the gateway's.
 */
#define MANY_PAUSE INT64CONST(1000000)

/* A question that has been asked, and whose row has not been returned. */
typedef struct ManyAsk
{
	TaskRequest ask;
	const char *task_id;
	bool		repeated;		/* asked again; that is done once */
} ManyAsk;

/* A call of the function, from its first row to its last. */
typedef struct Many
{
	HttpBatch  *batch;
	const char *server;
	Oid			userid;			/* who began it; a cursor may have moved on */
	int			max_concurrency;
	TaskIds		ids;
	int			next;			/* the first id that has not been asked for */
	int			outstanding;	/* ManyAsks that there are */
	int64		left_at;		/* when the last row was returned */
	int64		resumed_at;		/* end of the last pause of the consumer */
} Many;

/* Check the arguments and make what the call needs; nothing is asked yet. */
static Many *
many_create(FunctionCallInfo fcinfo)
{
	static const Oid arguments[] = {TEXTARRAYOID, NAMEOID};
	Many	   *many = palloc0(sizeof(Many));

	signature_check(fcinfo, InvalidOid, arguments, lengthof(arguments));
	request_task_ids(&many->ids, PG_GETARG_ARRAYTYPE_P(0));
	many->server = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	many->userid = GetUserId();
	many->max_concurrency = server_settings_get(many->server,
												many->userid)
								->max_concurrency;
	many->batch = http_batch_create(CurrentMemoryContext);
	many->left_at = monotonic_us();
	return many;
}

/*
 * Start as many questions as may be outstanding.  Returns whether any was
 * started.
 */
static bool
many_fill(Many *many, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		started = false;

	while (many->outstanding < many->max_concurrency &&
		   http_room(many->batch) > 0 && many->next < many->ids.n)
	{
		ManyAsk    *ask = palloc0(sizeof(ManyAsk));

		ask->ask.server = many->server;
		ask->ask.userid = many->userid;
		ask->task_id = many->ids.ids[many->next++];
		request_start(&ask->ask, many->batch, ask->task_id, ask);
		many->outstanding++;
		started = true;
	}
	MemoryContextSwitchTo(old);
	return started;
}

/* A question has come to its end: is it to be asked again? */
static bool
many_is_to_repeat(const Many *many, const ManyAsk *ask)
{
	const HttpRequest *request = ask->ask.request;

	if (ask->repeated)
		return false;
	switch (request->result)
	{
		case HTTP_COMPLETE:
			return request_has_other_key(&ask->ask);
		case HTTP_UNREACHABLE:
		case HTTP_BROKEN:
		case HTTP_TIMED_OUT:
			return request->started < many->resumed_at;
		default:
			return false;
	}
}

/*
 * Wait for the next question that comes to its end, and read its answer; NULL
 * if there is none any more.
 */
static ManyAsk *
many_next(Many *many, MemoryContext context)
{
	for (;;)
	{
		bool		started = many_fill(many, context);
		HttpRequest *request;
		ManyAsk    *ask;

		if (many->outstanding == 0)
			return NULL;

		/* What was started goes out before anything that takes time. */
		if (!http_has_finished(many->batch))
			(void) http_run_once(-1);
		else if (started)
			(void) http_run_once(0);
		request = http_take_finished(many->batch);
		if (request == NULL)
			continue;

		ask = request->tag;
		if (!request_read(&ask->ask))
			continue;
		if (!many_is_to_repeat(many, ask))
			return ask;
		http_release(request);
		ask->repeated = true;
		request_start(&ask->ask, many->batch, ask->task_id, ask);
	}
}

/* A question and what came of it, as a row in the current memory context. */
static Datum
many_row(TupleDesc desc, const ManyAsk *ask)
{
	Datum		values[MANY_COLUMNS] = {0};
	bool		nulls[MANY_COLUMNS] = {false, true, true, true};
	RequestError trouble;
	bool		troubled;
	char	   *why;

	troubled = request_describe_error(&ask->ask, &trouble);
	if (!troubled &&
		!result_try_jsonb(&ask->ask.answer, &values[1], &why))
	{
		troubled = true;
		trouble.sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		trouble.message = RESULT_NOT_JSONB;
	}
	values[0] = CStringGetTextDatum(ask->task_id);
	if (troubled)
	{
		values[2] = CStringGetTextDatum(unpack_sql_state(trouble.sqlstate));
		values[3] = CStringGetTextDatum(trouble.message);
		nulls[2] = nulls[3] = false;
	}
	else
		nulls[1] = false;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* The first call: everything that can be an error is one here. */
static void
many_begin(FuncCallContext *call, FunctionCallInfo fcinfo)
{
	MemoryContext old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		desc = NULL;
	signature_check_columns(desc, many_columns, MANY_COLUMNS);
	call->tuple_desc = BlessTupleDesc(desc);
	call->user_fctx = many_create(fcinfo);
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
	ManyAsk    *ask;
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

	ask = many_next(many, call->multi_call_memory_ctx);
	if (ask == NULL)
		SRF_RETURN_DONE(call);
	row = many_row(call->tuple_desc, ask);
	http_release(ask->ask.request);
	pfree(ask);
	many->outstanding--;
	many->left_at = monotonic_us();
	SRF_RETURN_NEXT(call, row);
}
