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
 * of its second, and read the response; raises an error if that does not tell
 * of the task.  Everything is in a context of its own, which the caller
 * deletes; it is current on return.
 */
static TaskRequest *
query_run(FunctionCallInfo fcinfo, MemoryContext *context)
{
	TaskRequest *task;
	RequestError error;

	*context = AllocSetContextCreate(CurrentMemoryContext, "anyvod request",
									 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(*context);
	task = palloc0(sizeof(TaskRequest));
	task->server = NameStr(*PG_GETARG_NAME(1));
	task->userid = GetUserId();
	task->task_id = request_task_id(PG_GETARG_TEXT_PP(0));
	(void) request_run(task, http_batch_create(*context), REQUEST_NO_DEADLINE);
	if (errors_describe(task, &error))
		errors_raise(&error);
	return task;
}

/*
 * anyvod_query(task_id text, server name) returns jsonb
 */
Datum
anyvod_query(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	TaskRequest *task = query_run(fcinfo, &context);
	Datum		result;

	MemoryContextSwitchTo(caller);
	result = result_jsonb(&task->answer);
	MemoryContextDelete(context);
	PG_RETURN_DATUM(result);
}

/*
 * anyvod_status(task_id text, server name) returns anyvod_result
 */
Datum
anyvod_status(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	TaskRequest *task;
	Datum		result;

	result_check_row(fcinfo);
	task = query_run(fcinfo, &context);
	MemoryContextSwitchTo(caller);
	result = result_row(fcinfo, &task->answer);
	MemoryContextDelete(context);
	PG_RETURN_DATUM(result);
}
