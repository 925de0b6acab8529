/*-------------------------------------------------------------------------
 *
 * to_datum.c
 *		From an Answer to values of the database.
 *
 * An answer is UTF-8; the database may have another encoding.  A character
 * that it does not have becomes '?', as the task's file must not be lost over
 * somebody's prompt.  Reading an answer is not done here, nor is asking.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "response/to_datum.h"

/* Bytes that are converted at once. */
#define RESULT_CHUNK 65536

/* Columns of anyvod_result, as the SQL script has them. */
#define RESULT_COLUMNS 7

/*
 * Convert len bytes of valid text from one encoding to another, piece by
 * piece, with '?' for each character that has no counterpart.  The result is
 * terminated, and may be "text" itself.  Raises nothing.
 */
static char *
result_convert(const char *text, size_t len, int from, int to)
{
	StringInfoData out;
	Oid			proc = FindDefaultConversionProc(from, to);
	int			room = RESULT_CHUNK * MAX_CONVERSION_GROWTH + 1;
	char	   *converted;
	size_t		done = 0;

	if (from == to || GetDatabaseEncoding() == PG_SQL_ASCII)
		return text[len] == '\0' ? unconstify(char *, text) :
								   pnstrdup(text, len);
	initStringInfo(&out);
	converted = palloc(room);
	while (done < len)
	{
		int			n = 0;

		if (OidIsValid(proc))
		{
			int			piece = pg_encoding_mbcliplen(from, text + done,
													  Min(len - done,
														  RESULT_CHUNK),
													  RESULT_CHUNK);

			n = pg_do_encoding_conversion_buf(proc, from, to,
											  (unsigned char *) text + done,
											  piece,
											  (unsigned char *) converted,
											  room, true);
			appendStringInfoString(&out, converted);
		}
		done += n;
		if (n > 0)
			continue;
		appendStringInfoChar(&out,
							 IS_HIGHBIT_SET(text[done]) ? '?' : text[done]);
		done += pg_encoding_mblen(from, text + done);
	}
	pfree(converted);
	return out.data;
}

/* len bytes of UTF-8 that is known to be valid, in the database's encoding. */
char *
result_cstring(const char *utf8, size_t len)
{
	return result_convert(utf8, len, PG_UTF8, GetDatabaseEncoding());
}

/* The same as a text value; a null pointer is null. */
Datum
result_text(const char *utf8, bool *isnull)
{
	*isnull = utf8 == NULL;
	if (*isnull)
		return (Datum) 0;
	return CStringGetTextDatum(result_cstring(utf8, strlen(utf8)));
}

/* Text of the database, in UTF-8. */
char *
result_to_utf8(const char *text)
{
	return result_convert(text, strlen(text), GetDatabaseEncoding(), PG_UTF8);
}

/*
 * The whole answer as jsonb; false if jsonb cannot hold it, a number of
 * 200,000 digits for one, and then why.
 *
 * The error is caught without a subtransaction, which a parallel query would
 * not allow: reading jsonb takes memory and nothing else.
 */
bool
result_try_jsonb(const Answer *answer, Datum *result, char **why)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool ok = true;

	Assert(answer->json != NULL);
	PG_TRY();
	{
		char	   *json = result_cstring(answer->json, answer->json_len);

		*result = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			class;

		/* Cancel, and trouble of the server itself, are not the answer's. */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		class = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (class != ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) &&
			class != ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED))
			PG_RE_THROW();
		FlushErrorState();
		*why = error->message;
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

/* The same, raising 54000 for what jsonb cannot hold. */
Datum
result_jsonb(const Answer *answer)
{
	Datum		result = (Datum) 0;
	char	   *why;

	if (!result_try_jsonb(answer, &result, &why))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg(RESULT_NOT_JSONB),
				 errdetail("%s", why)));
	return result;
}


/*
 * Composite results
 */

/*
 * The row type of a function's result, looked up once a call site.  Raises an
 * error unless it is anyvod_result.
 */
TupleDesc
result_row_type(FunctionCallInfo fcinfo)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	MemoryContext old;

	if (desc != NULL)
		return desc;
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != RESULT_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the function's result is not of type anyvod_result")));
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	MemoryContextSwitchTo(old);
	fcinfo->flinfo->fn_extra = desc;
	return desc;
}

/*
 * An answer as a row of anyvod_result, for the function that is called.
 */
Datum
result_row(FunctionCallInfo fcinfo, const Answer *answer)
{
	/* the labels of anyvod_state */
	static const char *const states[ANSWER_VERDICTS] = {
		[ANSWER_RUNNING] = "pending",
		[ANSWER_SUCCEEDED] = "succeeded",
		[ANSWER_FAILED] = "failed",
		[ANSWER_NO_OUTPUT] = "failed",
	};
	TupleDesc	desc = result_row_type(fcinfo);
	const char *state = states[answer->verdict];
	Datum		values[RESULT_COLUMNS] = {0};
	bool		nulls[RESULT_COLUMNS] = {0};

	values[0] = result_text(answer->status, &nulls[0]);
	nulls[1] = answer->progress < 0;
	values[1] = Int32GetDatum(answer->progress);
	values[2] = result_text(answer->file_url, &nulls[2]);
	nulls[3] = !answer->has_expire_time;
	values[3] = TimestampTzGetDatum(answer->expire_time);
	nulls[4] = state == NULL;
	if (state != NULL)
		values[4] =
			DirectFunctionCall2(enum_in, CStringGetDatum(state),
								ObjectIdGetDatum(TupleDescAttr(desc, 4)
													 ->atttypid));
	values[5] = result_text(answer->error_code, &nulls[5]);
	values[6] = result_text(answer->error_message, &nulls[6]);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
