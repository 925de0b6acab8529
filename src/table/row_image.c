/*-------------------------------------------------------------------------
 *
 * row_image.c
 *		Updates of rows as values of the database.
 *
 * An update's image is a row of its own: the columns of the table that a
 * response can tell of, and what says which row it is for.  One goes into a
 * statement as parameters, many as a table that lives as long as the statement.
 * The statements are update.c's.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/timestamp.h"

#include "response/to_datum.h"
#include "table/row_image.h"

/* Columns of an image, in the order of the parameters that write them. */
typedef enum ImageColumn
{
	COLUMN_N,
	COLUMN_TASK_ID,
	COLUMN_SERVER,
	COLUMN_OWNER,
	COLUMN_STATE,
	COLUMN_STATUS,
	COLUMN_PROGRESS,
	COLUMN_FILE_URL,
	COLUMN_EXPIRE_TIME,
	COLUMN_TASK_TYPE,
	COLUMN_MODEL,
	COLUMN_ERROR_CODE,
	COLUMN_ERROR_MESSAGE,
	COLUMN_RESPONSE,
	COLUMN_POLLS,
	COLUMN_STARTED_AT,
	COLUMN_ENDED_AT,
} ImageColumn;
StaticAssertDecl(COLUMN_ENDED_AT == IMAGE_COLUMNS - 1, "all columns");

const ImageType image_columns[IMAGE_COLUMNS] = {
	[COLUMN_N] = {"n", INT4OID},
	[COLUMN_TASK_ID] = {"task_id", TEXTOID},
	[COLUMN_SERVER] = {"server", TEXTOID},
	[COLUMN_OWNER] = {"owner", TEXTOID},
	[COLUMN_STATE] = {"state", TEXTOID},
	[COLUMN_STATUS] = {"status", TEXTOID},
	[COLUMN_PROGRESS] = {"progress", INT4OID},
	[COLUMN_FILE_URL] = {"file_url", TEXTOID},
	[COLUMN_EXPIRE_TIME] = {"expire_time", TIMESTAMPTZOID},
	[COLUMN_TASK_TYPE] = {"task_type", TEXTOID},
	[COLUMN_MODEL] = {"model", TEXTOID},
	[COLUMN_ERROR_CODE] = {"error_code", TEXTOID},
	[COLUMN_ERROR_MESSAGE] = {"error_message", TEXTOID},
	[COLUMN_RESPONSE] = {"response", JSONBOID},
	[COLUMN_POLLS] = {"polls", INT4OID},
	[COLUMN_STARTED_AT] = {"started_at", TIMESTAMPTZOID},
	[COLUMN_ENDED_AT] = {"ended_at", TIMESTAMPTZOID},
};


static void
image_put(RowImage *row, ImageColumn column, Datum value, bool isnull)
{
	row->values[column] = value;
	row->nulls[column] = isnull;
}

/* A string that may be null, from UTF-8. */
static void
image_put_text(RowImage *row, ImageColumn column, const char *utf8)
{
	bool		isnull;
	Datum		value = result_text(utf8, &isnull);

	image_put(row, column, value, isnull);
}

/* A string of the database's encoding. */
static void
image_put_string(RowImage *row, ImageColumn column,
				 const char *string)
{
	image_put(row, column, CStringGetTextDatum(string), false);
}

/* What the response says. */
static void
image_put_answer(RowImage *row, const TableUpdate *update)
{
	static const Answer nothing = {.progress = -1};
	const Answer *answer = update->answer ? update->answer : &nothing;
	bool		settles = table_update_settles(update);
	Datum		response = (Datum) 0;
	bool		keep;
	char	   *why;

	image_put_text(row, COLUMN_STATUS, answer->status);
	image_put(row, COLUMN_PROGRESS, Int32GetDatum(answer->progress),
			  answer->progress < 0);
	image_put_text(row, COLUMN_FILE_URL, answer->file_url);
	image_put(row, COLUMN_EXPIRE_TIME,
			  TimestampTzGetDatum(answer->expire_time),
			  !answer->has_expire_time);
	image_put_text(row, COLUMN_TASK_TYPE, answer->task_type);
	image_put_text(row, COLUMN_MODEL, answer->model);
	image_put(row, COLUMN_STARTED_AT,
			  TimestampTzGetDatum(answer->started_at),
			  !answer->has_started_at);
	image_put(row, COLUMN_ENDED_AT, TimestampTzGetDatum(answer->ended_at),
			  !answer->has_ended_at || !settles);
	/* the file matters more than a response that jsonb cannot hold */
	keep = settles && answer->json != NULL &&
		answer->json_len <= TABLE_MAX_RESPONSE &&
		result_try_jsonb(answer, &response, &why);
	image_put(row, COLUMN_RESPONSE, response, !keep);
}

/* The image of an update, the n-th of its statement. */
void
image_fill(RowImage *row, const TableUpdate *update, int n)
{
	const Answer *answer = update->answer;
	const char *code = update->error_code;
	const char *message = update->error_message;

	if (code == NULL && answer != NULL)
	{
		code = answer->error_code;
		message = answer->error_message;
	}
	image_put(row, COLUMN_N, Int32GetDatum(n), false);
	image_put_string(row, COLUMN_TASK_ID, update->task_id);
	image_put_string(row, COLUMN_SERVER, update->server);
	image_put_string(row, COLUMN_OWNER, update->owner);
	image_put_string(row, COLUMN_STATE, update->state);
	image_put_text(row, COLUMN_ERROR_CODE, code);
	if (update->native && message != NULL)
		image_put_string(row, COLUMN_ERROR_MESSAGE, message);
	else
		image_put_text(row, COLUMN_ERROR_MESSAGE, message);
	image_put(row, COLUMN_POLLS, Int32GetDatum(update->polls), false);
	image_put_answer(row, update);
}

/* What the rows of images look like. */
static TupleDesc
image_describe(void)
{
	List	   *names = NIL;
	List	   *types = NIL;
	List	   *typmods = NIL;
	List	   *collations = NIL;

	for (int i = 0; i < IMAGE_COLUMNS; i++)
	{
		Oid			type = image_columns[i].type;

		names = lappend(names, makeString(pstrdup(image_columns[i].name)));
		types = lappend_oid(types, type);
		typmods = lappend_int(typmods, -1);
		collations = lappend_oid(collations, get_typcollation(type));
	}
	return BuildDescFromLists(names, types, typmods, collations);
}

/*
 * Have statements of this transaction see images as a table IMAGE_TABLE, as
 * triggers see what a statement has changed.  One is made after the other in
 * the same memory, as each leaves many small pieces on its way to jsonb.
 */
Tuplestorestate *
image_register(TableUpdate **updates, int n)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	EphemeralNamedRelation relation =
		palloc0(sizeof(EphemeralNamedRelationData));
	TupleDesc	desc = image_describe();
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "anyvod row image",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);

	for (int i = 0; i < n; i++)
	{
		RowImage	row;

		image_fill(&row, updates[i], i);
		tuplestore_putvalues(store, desc, row.values, row.nulls);
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	relation->md.name = pstrdup(IMAGE_TABLE);
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = n;
	relation->reldata = store;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not register what is to be written")));
	return store;
}
