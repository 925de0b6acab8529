/*-------------------------------------------------------------------------
 *
 * query.c
 *		anyvod_query() and anyvod_status(): one request, one response.
 *
 * Each returns what the response says of the task, or raises the error that
 * says why it says nothing.  Nothing is remembered.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "http/client.h"
#include "response/to_datum.h"
#include "sql/request.h"

PG_FUNCTION_INFO_V1(anyvod_query);
PG_FUNCTION_INFO_V1(anyvod_status);

/*
 * Send a request about the task of a function's first argument to the server
 * of its second, and make the function's result of the response; raises an
 * error if that does not tell of the task.
 */
static Datum
query_run(FunctionCallInfo fcinfo, bool as_jsonb)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "anyvod request",
												  ALLOCSET_DEFAULT_SIZES);
	TaskRequest task = {.server = NameStr(*PG_GETARG_NAME(1)),
						.userid = GetUserId()};
	ErrorData  *error;
	Datum		result;

	MemoryContextSwitchTo(context);
	task.task_id = request_task_id(PG_GETARG_TEXT_PP(0));
	(void) request_run(&task, http_batch_create(context), REQUEST_NO_DEADLINE);
	error = errors_describe(&task);
	if (error != NULL)
		ThrowErrorData(error);

	MemoryContextSwitchTo(caller);
	result = as_jsonb ?
		result_jsonb(&task.answer) :
		result_row(fcinfo, &task.answer);
	MemoryContextDelete(context);
	return result;
}

/*
 * anyvod_query(task_id text, server name) returns jsonb
 */
Datum
anyvod_query(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(query_run(fcinfo, true));
}

/*
 * anyvod_status(task_id text, server name) returns anyvod_result
 */
Datum
anyvod_status(PG_FUNCTION_ARGS)
{
	result_check_row(fcinfo);
	PG_RETURN_DATUM(query_run(fcinfo, false));
}
