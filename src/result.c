/*-------------------------------------------------------------------------
 *
 * result.c
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

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "result.h"

/* Bytes that are converted at once. */
#define RESULT_CHUNK 65536

/* Does the database take UTF-8 as it is? */
static bool
result_is_utf8(void)
{
	return GetDatabaseEncoding() == PG_UTF8 ||
		GetDatabaseEncoding() == PG_SQL_ASCII;
}

/*
 * Convert valid text from one encoding to another, piece by piece, and put
 * '?' for each character that has no counterpart.
 */
static void
result_convert(StringInfo out, int from, int to, const char *text, size_t len)
{
	Oid			proc = FindDefaultConversionProc(from, to);
	int			room = RESULT_CHUNK * MAX_CONVERSION_GROWTH + 1;
	char	   *converted = palloc(room);
	size_t		done = 0;

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
			appendStringInfoString(out, converted);
		}
		done += n;
		if (n > 0)
			continue;
		if (IS_HIGHBIT_SET(text[done]))
			appendStringInfoChar(out, '?');
		else
			appendStringInfoChar(out, text[done]);
		done += pg_encoding_mblen(from, text + done);
	}
	pfree(converted);
}

/*
 * UTF-8 text that is known to be valid, in the database's encoding.  The
 * result is terminated, and may be "utf8" itself.
 */
char *
result_cstring(const char *utf8, size_t len)
{
	StringInfoData out;

	if (result_is_utf8())
		return utf8[len] == '\0' ?
			unconstify(char *, utf8) :
			pnstrdup(utf8, len);
	initStringInfo(&out);
	result_convert(&out, PG_UTF8, GetDatabaseEncoding(), utf8, len);
	return out.data;
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

/* Text of the database, in UTF-8; raises nothing. */
char *
result_to_utf8(const char *text, size_t len, size_t *utf8_len)
{
	StringInfoData out;

	*utf8_len = len;
	if (result_is_utf8())
		return unconstify(char *, text);
	initStringInfo(&out);
	result_convert(&out, GetDatabaseEncoding(), PG_UTF8, text, len);
	*utf8_len = out.len;
	return out.data;
}

/*
 * The whole answer as jsonb.  Raises 54000 for what jsonb cannot hold, a
 * number of 200,000 digits for one.
 */
Datum
result_jsonb(const Answer *answer)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *json;
	Datum		result = (Datum) 0;

	Assert(answer->json != NULL);
	json = result_cstring(answer->json, answer->json_len);
	PG_TRY();
	{
		result = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
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
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the answer holds what jsonb cannot hold"),
				 errdetail("%s", error->message)));
	}
	PG_END_TRY();
	return result;
}

/* The label of anyvod_state that a verdict stands for, NULL if none does. */
const char *
result_state(const Answer *answer)
{
	switch (answer->verdict)
	{
		case ANSWER_RUNNING:
			return "pending";
		case ANSWER_SUCCEEDED:
			return "succeeded";
		case ANSWER_FAILED:
		case ANSWER_NO_OUTPUT:
			return "failed";
		default:
			return NULL;
	}
}
