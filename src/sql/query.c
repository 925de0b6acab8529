/*-------------------------------------------------------------------------
 *
 * query.c
 *		SQL functions that ask now, and those that read an answer at hand.
 *
 * Each asks through ask.c and either returns what the answer says of the task
 * or raises the error that says why it says nothing.  Nothing here remembers
 * anything.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "response/answer.h"
#include "sql/request.h"
#include "http/client.h"
#include "response/to_datum.h"
#include "signature.h"

PG_FUNCTION_INFO_V1(anyvod_query);
PG_FUNCTION_INFO_V1(anyvod_status);
PG_FUNCTION_INFO_V1(anyvod_parse);
PG_FUNCTION_INFO_V1(anyvod_files);

/* Columns of anyvod_files, as the SQL script has them. */
static const Oid query_files_columns[] = {
	INT4OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID
};
#define QUERY_FILES_COLUMNS lengthof(query_files_columns)

/*
 * TaskRequest about the task of a function's first argument the server of its second,
 * and read the answer; raises an error if that does not tell of the task.
 * "type" is that of the function's result, InvalidOid if it is a row.
 * Everything is in a context of its own, which the caller deletes; it is
 * current on return.
 */
static TaskRequest *
query_ask(FunctionCallInfo fcinfo, Oid type, MemoryContext *context)
{
	static const Oid arguments[] = {TEXTOID, NAMEOID};
	RequestError trouble;
	char	   *task_id;
	TaskRequest *ask;

	signature_check(fcinfo, type, arguments, lengthof(arguments));
	*context = AllocSetContextCreate(CurrentMemoryContext, "anyvod question",
									 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(*context);
	task_id = request_task_id(PG_GETARG_TEXT_PP(0));
	ask = palloc0(sizeof(TaskRequest));
	ask->server = NameStr(*PG_GETARG_NAME(1));
	ask->userid = GetUserId();
	(void) request_run(ask, http_batch_create(*context), task_id, REQUEST_NO_DEADLINE);
	if (request_describe_error(ask, &trouble))
		request_raise(&trouble);
	return ask;
}

/*
 * anyvod_query(task_id text, server name) returns jsonb
 */
Datum
anyvod_query(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	TaskRequest *ask = query_ask(fcinfo, JSONBOID, &context);
	Datum		result;

	MemoryContextSwitchTo(caller);
	result = result_jsonb(&ask->answer);
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
	TaskRequest *ask;
	Datum		result;

	result_check_row(fcinfo);
	ask = query_ask(fcinfo, InvalidOid, &context);
	MemoryContextSwitchTo(caller);
	result = result_row(fcinfo, &ask->answer);
	MemoryContextDelete(context);
	PG_RETURN_DATUM(result);
}


/*
 * Reading
 */

/*
 * Read the answer that is a function's only argument, as if it came under
 * HTTP 200.
 */
static void
query_read_jsonb(FunctionCallInfo fcinfo, Answer *answer)
{
	static const Oid arguments[] = {JSONBOID};
	Jsonb	   *response;
	StringInfoData text;
	const char *utf8;
	size_t		len;

	signature_check(fcinfo, InvalidOid, arguments, lengthof(arguments));
	response = PG_GETARG_JSONB_P(0);
	initStringInfo(&text);
	JsonbToCString(&text, &response->root, VARSIZE(response));
	utf8 = result_to_utf8(text.data, text.len, &len);
	answer_read(answer, 200, "application/json", utf8, len);
}

/*
 * anyvod_parse(response jsonb) returns anyvod_result
 */
Datum
anyvod_parse(PG_FUNCTION_ARGS)
{
	Answer		answer;

	query_read_jsonb(fcinfo, &answer);
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
	signature_check_columns(set->setDesc, query_files_columns,
							QUERY_FILES_COLUMNS);
	query_read_jsonb(fcinfo, &answer);
	for (int i = 0; i < answer.nfiles; i++)
	{
		const AnswerFile *file = &answer.files[i];
		Datum		values[QUERY_FILES_COLUMNS] = {0};
		bool		nulls[QUERY_FILES_COLUMNS] = {0};

		values[0] = Int32GetDatum(i + 1);
		values[1] = result_text(file->file_url, &nulls[1]);
		nulls[2] = !file->has_expire_time;
		values[2] = TimestampTzGetDatum(file->expire_time);
		values[3] = result_text(file->file_type, &nulls[3]);
		values[4] = result_text(file->storage_mode, &nulls[4]);
		values[5] = result_text(file->file_id, &nulls[5]);
		values[6] = result_text(file->media_name, &nulls[6]);
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	return (Datum) 0;
}
