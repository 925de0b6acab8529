/*-------------------------------------------------------------------------
 *
 * query.c
 *		SQL functions that ask now, and those that read an answer at hand.
 *
 * Each asks through the one event loop of http.c, reads through answer.c and
 * either returns what the answer says of the task or raises the error that
 * says why there is none.  Nothing here remembers anything.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_enum.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "answer.h"
#include "http.h"
#include "result.h"
#include "upstream.h"

PG_FUNCTION_INFO_V1(anyvod_query);
PG_FUNCTION_INFO_V1(anyvod_status);
PG_FUNCTION_INFO_V1(anyvod_parse);
PG_FUNCTION_INFO_V1(anyvod_files);

/* Columns of anyvod_result and of anyvod_files, as the SQL script has them. */
#define QUERY_RESULT_COLUMNS 7
#define QUERY_FILES_COLUMNS 7

/* What one question takes; lives in a context of its own. */
typedef struct QueryCall
{
	MemoryContext context;
	HttpRequest *request;
	const char *server;
	Oid			serverid;
	int			max_response_size;
	uint64		upstream_id;	/* what it was asked with */
	Answer		answer;
} QueryCall;


/*
 * Errors
 */

/* "upstream said ..." for a DETAIL: code, message, request id, HTTP status. */
static char *
query_detail(const QueryCall *call)
{
	const Answer *answer = &call->answer;
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, _("The upstream answered HTTP status %d"),
					 answer->http_status);
	if (answer->error_code != NULL)
		appendStringInfo(&detail, _(", code \"%s\""),
						 result_cstring(answer->error_code,
										strlen(answer->error_code)));
	if (answer->error_message != NULL && answer->error_message[0] != '\0')
		appendStringInfo(&detail, _(", message \"%s\""),
						 result_cstring(answer->error_message,
										strlen(answer->error_message)));
	if (answer->request_id != NULL)
		appendStringInfo(&detail, _(", request id \"%s\""),
						 result_cstring(answer->request_id,
										strlen(answer->request_id)));
	appendStringInfoChar(&detail, '.');
	return detail.data;
}

/* Words of ours or of libcurl's, if any, as a DETAIL. */
static int
query_errdetail(const char *words)
{
	char	   *sentence;

	if (words == NULL || words[0] == '\0')
		return 0;
	sentence = psprintf("%s.", words);
	sentence[0] = pg_toupper((unsigned char) sentence[0]);
	return errdetail_internal("%s", sentence);
}

/* The question could not be asked, or got no answer. */
static void
query_raise_outcome(const QueryCall *call)
{
	const HttpRequest *request = call->request;
	const char *phase = http_phase_name(request->phase);

	switch (request->outcome)
	{
		case HTTP_UNREACHABLE:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
					 errmsg("could not connect to server \"%s\"",
							call->server),
					 errdetail("While %s: %s.", phase, request->trouble),
					 errhint("Check the server's options \"base_url\", \"proxy\" and \"ca_file\".")));
			break;
		case HTTP_TIMED_OUT:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("server \"%s\" did not answer in time",
							call->server),
					 errdetail("Timed out after %lld ms while %s.",
							   (long long) request->elapsed / 1000, phase),
					 errhint("Consider the server's options \"timeout\" and \"connect_timeout\".")));
			break;
		case HTTP_TOO_LARGE:
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the answer of server \"%s\" is too large",
							call->server),
					 errdetail("It has more than %d bytes.",
							   call->max_response_size),
					 errhint("Consider raising the server's option \"max_response_size\".")));
			break;
		case HTTP_NO_DESCRIPTOR:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("no file descriptor is left to ask server \"%s\"",
							call->server),
					 errhint("Consider raising \"max_files_per_process\".")));
			break;
		case HTTP_NO_MEMORY:
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory while asking server \"%s\"",
							call->server),
					 query_errdetail(request->trouble)));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("the connection to server \"%s\" broke off",
							call->server),
					 errdetail("While %s: %s.", phase, request->trouble)));
			break;
	}
}

/* A 200 that holds no task. */
static void
query_raise_unreadable(const QueryCall *call)
{
	const Answer *answer = &call->answer;
	const char *server = call->server;

	switch (answer->flaw)
	{
		case ANSWER_FLAW_TOO_DEEP:
			ereport(ERROR,
					(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
					 errmsg("the answer of server \"%s\" is nested too deep",
							server),
					 errdetail("An answer may be nested %d levels deep.",
							   ANSWER_MAX_DEPTH)));
			break;
		case ANSWER_FLAW_TOO_LARGE:
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the answer of server \"%s\" is too large",
							server)));
			break;
		case ANSWER_FLAW_HTML:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("server \"%s\" answered with a web page",
							server),
					 errdetail("HTTP status %d, content type \"%s\".",
							   answer->http_status,
							   call->request->content_type),
					 errhint("Check the server's option \"base_url\": the gateway has no task queries there.")));
			break;
		case ANSWER_FLAW_NO_TASK:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("the answer of server \"%s\" holds no task",
							server),
					 query_errdetail(answer->flaw_detail),
					 errhint("Check the server's option \"base_url\".")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("the answer of server \"%s\" is not valid JSON",
							server),
					 query_errdetail(answer->flaw_detail),
					 errhint("Check the server's option \"base_url\".")));
			break;
	}
}

/* The answer is a refusal. */
static void
query_raise_refusal(const QueryCall *call)
{
	const char *server = call->server;
	int			retry_after = call->request->retry_after;

	switch (call->answer.verdict)
	{
		case ANSWER_AUTH:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					 errmsg("server \"%s\" refused the API key", server),
					 errdetail_internal("%s", query_detail(call)),
					 errhint("Check the user mapping of role \"%s\", or of PUBLIC, for server \"%s\".",
							 GetUserNameFromId(GetUserId(), false), server)));
			break;
		case ANSWER_RATE_LIMITED:
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("server \"%s\" refused: too many requests",
							server),
					 errdetail_internal("%s", query_detail(call)),
					 retry_after >= 0 ?
						 errhint("Try again in %d s.", retry_after) :
						 errhint("Try again later.")));
			break;
		case ANSWER_UNKNOWN_TASK:
			ereport(ERROR,
					(errcode(ERRCODE_NO_DATA_FOUND),
					 errmsg("server \"%s\" does not know the task", server),
					 errdetail_internal("%s", query_detail(call)),
					 errhint("Tasks are known for three days after they were submitted.")));
			break;
		case ANSWER_REJECTED:
			ereport(ERROR,
					(errcode(ERRCODE_IO_ERROR),
					 errmsg("server \"%s\" refused the request", server),
					 errdetail_internal("%s", query_detail(call)),
					 errhint("Check the server's option \"base_url\".")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_IO_ERROR),
					 errmsg("server \"%s\" could not answer", server),
					 errdetail_internal("%s", query_detail(call)),
					 retry_after >= 0 ?
						 errhint("Try again in %d s.", retry_after) :
						 0));
			break;
	}
}


/*
 * Asking
 */

/* Ask and read the answer.  Raises an error if none comes. */
static void
query_ask_once(QueryCall *call, HttpBatch *batch, const char *task_id)
{
	const Upstream *upstream = upstream_get(call->server, GetUserId());

	call->serverid = upstream->serverid;
	call->upstream_id = upstream->id;
	call->max_response_size = upstream->max_response_size;
	call->request = http_start(batch, upstream, task_id, NULL);
	while (call->request->outcome == HTTP_IN_FLIGHT)
		(void) http_turn(-1);
	http_keep(call->request);

	if (call->request->outcome != HTTP_ANSWERED)
		query_raise_outcome(call);
	answer_read(&call->answer, call->request->status,
				call->request->content_type, call->request->body,
				call->request->body_len);
}

/* The key was refused; has the file that it came from another by now? */
static bool
query_has_other_key(const QueryCall *call)
{
	return upstream_forget(call->serverid, GetUserId()) &&
		upstream_get(call->server, GetUserId())->id != call->upstream_id;
}

/*
 * Ask about the task of a function's first argument the server of its second
 * and read the answer.  Everything is in a context of its own, which the
 * caller deletes; it is current on return.
 */
static QueryCall *
query_ask(FunctionCallInfo fcinfo)
{
	text	   *argument = PG_GETARG_TEXT_PP(0);
	const char *server = NameStr(*PG_GETARG_NAME(1));
	int			len = VARSIZE_ANY_EXHDR(argument);
	MemoryContext context;
	HttpBatch  *batch;
	QueryCall  *call;
	char		task_id[UPSTREAM_MAX_TASK_ID + 1];

	upstream_check_task_id(VARDATA_ANY(argument), len);
	memcpy(task_id, VARDATA_ANY(argument), len);
	task_id[len] = '\0';

	context = AllocSetContextCreate(CurrentMemoryContext, "anyvod question",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	call = palloc0(sizeof(QueryCall));
	call->context = context;
	call->server = server;

	batch = http_batch_create(context);
	query_ask_once(call, batch, task_id);
	if (call->answer.verdict == ANSWER_AUTH && query_has_other_key(call))
		query_ask_once(call, batch, task_id);
	switch (call->answer.verdict)
	{
		case ANSWER_RUNNING:
		case ANSWER_SUCCEEDED:
		case ANSWER_FAILED:
		case ANSWER_NO_OUTPUT:
			break;
		case ANSWER_UNREADABLE:
			query_raise_unreadable(call);
			break;
		case ANSWER_REJECTED:
			if (call->answer.flaw == ANSWER_FLAW_HTML)
				query_raise_unreadable(call);
			query_raise_refusal(call);
			break;
		default:
			query_raise_refusal(call);
			break;
	}
	return call;
}

/*
 * anyvod_query(task_id text, server name) returns jsonb
 */
Datum
anyvod_query(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	QueryCall  *call = query_ask(fcinfo);
	Datum		result;

	MemoryContextSwitchTo(caller);
	result = result_jsonb(&call->answer);
	MemoryContextDelete(call->context);
	PG_RETURN_DATUM(result);
}


/*
 * Composite results
 */

/*
 * The value of an enum by its label.  Raises an error if the type lacks it,
 * as when the library is newer than the extension's script.
 */
static Datum
query_enum(Oid type, const char *label)
{
	HeapTuple	tuple;
	Oid			value;

	tuple = SearchSysCache2(ENUMTYPOIDNAME, ObjectIdGetDatum(type),
							CStringGetDatum(label));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type %s has no value \"%s\"",
						format_type_be(type), label),
				 errhint("Run \"ALTER EXTENSION anyvod UPDATE\".")));
	value = ((Form_pg_enum) GETSTRUCT(tuple))->oid;
	ReleaseSysCache(tuple);
	return ObjectIdGetDatum(value);
}

/* The row type of a function's result, looked up once a call site. */
static TupleDesc
query_row_type(FunctionCallInfo fcinfo, int columns)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	MemoryContext old;

	if (desc != NULL)
		return desc;
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != columns)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the function's result is not the one this library gives"),
				 errhint("Run \"ALTER EXTENSION anyvod UPDATE\".")));
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	MemoryContextSwitchTo(old);
	fcinfo->flinfo->fn_extra = desc;
	return desc;
}

/* An answer as a row of anyvod_result. */
static Datum
query_result_row(FunctionCallInfo fcinfo, const Answer *answer)
{
	TupleDesc	desc = query_row_type(fcinfo, QUERY_RESULT_COLUMNS);
	const char *state = result_state(answer);
	Datum		values[QUERY_RESULT_COLUMNS] = {0};
	bool		nulls[QUERY_RESULT_COLUMNS] = {0};

	values[0] = result_text(answer->status, &nulls[0]);
	nulls[1] = answer->progress < 0;
	values[1] = Int32GetDatum(answer->progress);
	values[2] = result_text(answer->file_url, &nulls[2]);
	nulls[3] = !answer->has_expire_time;
	values[3] = TimestampTzGetDatum(answer->expire_time);
	nulls[4] = state == NULL;
	if (state != NULL)
		values[4] = query_enum(TupleDescAttr(desc, 4)->atttypid, state);
	values[5] = result_text(answer->error_code, &nulls[5]);
	values[6] = result_text(answer->error_message, &nulls[6]);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * anyvod_status(task_id text, server name) returns anyvod_result
 */
Datum
anyvod_status(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	QueryCall  *call = query_ask(fcinfo);
	Datum		result;

	MemoryContextSwitchTo(caller);
	result = query_result_row(fcinfo, &call->answer);
	MemoryContextDelete(call->context);
	PG_RETURN_DATUM(result);
}

/* Read an answer that is at hand as jsonb, as if it came under HTTP 200. */
static void
query_read_jsonb(Answer *answer, Jsonb *response)
{
	StringInfoData text;
	const char *utf8;
	size_t		len;

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

	query_read_jsonb(&answer, PG_GETARG_JSONB_P(0));
	PG_RETURN_DATUM(query_result_row(fcinfo, &answer));
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
	if (set->setDesc->natts != QUERY_FILES_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the function's result is not the one this library gives"),
				 errhint("Run \"ALTER EXTENSION anyvod UPDATE\".")));
	query_read_jsonb(&answer, PG_GETARG_JSONB_P(0));
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
