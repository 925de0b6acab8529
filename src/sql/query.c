/*-------------------------------------------------------------------------
 *
 * query.c
 *		One response: that of a request, or one at hand.
 *
 * anyvod_query() and anyvod_status() return what the response says of the
 * task, or raise the error that says why it says nothing.  anyvod_parse() and
 * anyvod_files() read their argument, and raise no error whatever that is.
 * Nothing is remembered.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "http/client.h"
#include "response/to_datum.h"
#include "sql/request.h"

PG_FUNCTION_INFO_V1(anyvod_query);
PG_FUNCTION_INFO_V1(anyvod_status);
PG_FUNCTION_INFO_V1(anyvod_parse);
PG_FUNCTION_INFO_V1(anyvod_files);

/* Columns of anyvod_files, as the SQL script has them. */
#define FILES_COLUMNS 7

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
	(void) result_row_type(fcinfo);
	PG_RETURN_DATUM(query_run(fcinfo, false));
}

/* Read the response that is a function's only argument, as of HTTP 200. */
static void
parse_argument(FunctionCallInfo fcinfo, Answer *answer)
{
	Jsonb	   *response = PG_GETARG_JSONB_P(0);
	StringInfoData text;
	const char *utf8;

	initStringInfo(&text);
	JsonbToCString(&text, &response->root, VARSIZE(response));
	utf8 = result_to_utf8(text.data);
	answer_read(answer, 200, "application/json", utf8, strlen(utf8));
}

/*
 * anyvod_parse(response jsonb) returns anyvod_result
 */
Datum
anyvod_parse(PG_FUNCTION_ARGS)
{
	Answer		answer;

	parse_argument(fcinfo, &answer);
	PG_RETURN_DATUM(result_row(fcinfo, &answer));
}

/*
 * anyvod_files(response jsonb) returns setof (ordinal, file_url, ...)
 */
Datum
anyvod_files(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Answer		answer;

	InitMaterializedSRF(fcinfo, 0);
	if (set->setDesc->natts != FILES_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("incorrect number of output arguments")));
	parse_argument(fcinfo, &answer);
	for (int i = 0; i < answer.nfiles; i++)
	{
		const AnswerFile *file = &answer.files[i];
		Datum		values[FILES_COLUMNS] = {0};
		bool		nulls[FILES_COLUMNS] = {0};

		values[0] = Int32GetDatum(i + 1);
		values[1] = result_text(file->file_url, &nulls[1]);
		nulls[2] = !file->expire_time.known;
		values[2] = TimestampTzGetDatum(file->expire_time.value);
		values[3] = result_text(file->file_type, &nulls[3]);
		values[4] = result_text(file->storage_mode, &nulls[4]);
		values[5] = result_text(file->file_id, &nulls[5]);
		values[6] = result_text(file->media_name, &nulls[6]);
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	return (Datum) 0;
}
