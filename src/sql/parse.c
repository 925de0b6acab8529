/*-------------------------------------------------------------------------
 *
 * parse.c
 *		anyvod_parse() and anyvod_files(): reading a response at hand.
 *
 * No network, and no error whatever the response is.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "response/answer.h"
#include "response/to_datum.h"

PG_FUNCTION_INFO_V1(anyvod_parse);
PG_FUNCTION_INFO_V1(anyvod_files);

/* Columns of anyvod_files, as the SQL script has them. */
#define FILES_COLUMNS 7

/* Read the response that is a function's only argument, as of HTTP 200. */
static void
parse_argument(FunctionCallInfo fcinfo, Answer *answer)
{
	Jsonb	   *response = PG_GETARG_JSONB_P(0);
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
