/*-------------------------------------------------------------------------
 *
 * change.c
 *		What is to be written into rows, as values of the database.
 *
 * A change is a row of its own, whose columns are those of the table that an
 * answer can tell of, and what says which row it is for.  One change goes into
 * a statement as parameters; many do as a table that lives as long as the
 * statement.  The statements are tracker.c's.
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

#include "table/change.h"
#include "response/to_datum.h"

/* Columns of a change, in the order of the parameters that write them. */
typedef enum ChangeColumn
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
} ChangeColumn;
StaticAssertDecl(COLUMN_ENDED_AT == CHANGE_COLUMNS - 1, "all columns");

const ChangeType change_columns[CHANGE_COLUMNS] = {
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
change_put(ChangeRow *row, ChangeColumn column, Datum value, bool isnull)
{
	row->values[column] = value;
	row->nulls[column] = isnull;
}

/* A string that may be null, from UTF-8. */
static void
change_put_text(ChangeRow *row, ChangeColumn column, const char *utf8)
{
	bool		isnull;
	Datum		value = result_text(utf8, &isnull);

	change_put(row, column, value, isnull);
}

/* A string of the database's encoding. */
static void
change_put_string(ChangeRow *row, ChangeColumn column,
				  const char *string)
{
	change_put(row, column, CStringGetTextDatum(string), false);
}

/* What the answer says of a change's row. */
static void
change_put_answer(ChangeRow *row, const TrackerChange *change)
{
	static const Answer nothing = {.progress = -1};
	const Answer *answer = change->answer ? change->answer : &nothing;
	bool		settles = tracker_settles(change);
	bool		keep;

	change_put_text(row, COLUMN_STATUS, answer->status);
	change_put(row, COLUMN_PROGRESS, Int32GetDatum(answer->progress),
			   answer->progress < 0);
	change_put_text(row, COLUMN_FILE_URL, answer->file_url);
	change_put(row, COLUMN_EXPIRE_TIME,
			   TimestampTzGetDatum(answer->expire_time),
			   !answer->has_expire_time);
	change_put_text(row, COLUMN_TASK_TYPE, answer->task_type);
	change_put_text(row, COLUMN_MODEL, answer->model);
	change_put(row, COLUMN_STARTED_AT,
			   TimestampTzGetDatum(answer->started_at),
			   !answer->has_started_at);
	change_put(row, COLUMN_ENDED_AT, TimestampTzGetDatum(answer->ended_at),
			   !answer->has_ended_at || !settles);
	keep = settles && answer->json != NULL && !change->drop_response &&
		answer->json_len <= TRACKER_MAX_RESPONSE;
	change_put(row, COLUMN_RESPONSE, keep ? result_jsonb(answer) : (Datum) 0,
			   !keep);
}

/* The n-th change as a row. */
void
change_fill(ChangeRow *row, const TrackerChange *change, int n)
{
	const Answer *answer = change->answer;
	const char *code = change->error_code;
	const char *message = change->error_message;

	if (code == NULL && answer != NULL)
	{
		code = answer->error_code;
		message = answer->error_message;
	}
	change_put(row, COLUMN_N, Int32GetDatum(n), false);
	change_put_string(row, COLUMN_TASK_ID, change->task_id);
	change_put_string(row, COLUMN_SERVER, change->server);
	change_put_string(row, COLUMN_OWNER, change->owner);
	change_put_string(row, COLUMN_STATE, change->state);
	change_put_text(row, COLUMN_ERROR_CODE, code);
	if (change->native && message != NULL)
		change_put_string(row, COLUMN_ERROR_MESSAGE, message);
	else
		change_put_text(row, COLUMN_ERROR_MESSAGE, message);
	change_put(row, COLUMN_POLLS, Int32GetDatum(change->polls), false);
	change_put_answer(row, change);
}

/* What the rows of changes look like. */
static TupleDesc
change_describe(void)
{
	List	   *names = NIL;
	List	   *types = NIL;
	List	   *typmods = NIL;
	List	   *collations = NIL;

	for (int i = 0; i < CHANGE_COLUMNS; i++)
	{
		Oid			type = change_columns[i].type;

		names = lappend(names, makeString(pstrdup(change_columns[i].name)));
		types = lappend_oid(types, type);
		typmods = lappend_int(typmods, -1);
		collations = lappend_oid(collations, get_typcollation(type));
	}
	return BuildDescFromLists(names, types, typmods, collations);
}

/*
 * Have statements of this transaction see changes as a table CHANGE_TABLE,
 * as triggers see what a statement has changed.  One is made after the other
 * in the same memory, which is a tenth of the time that a batch takes where
 * caches are short: an answer leaves many small pieces on its way to jsonb.
 */
Tuplestorestate *
change_show(TrackerChange **changes, int n)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	EphemeralNamedRelation relation =
		palloc0(sizeof(EphemeralNamedRelationData));
	TupleDesc	desc = change_describe();
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "anyvod change",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);

	for (int i = 0; i < n; i++)
	{
		ChangeRow	row;

		change_fill(&row, changes[i], i);
		tuplestore_putvalues(store, desc, row.values, row.nulls);
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	relation->md.name = pstrdup(CHANGE_TABLE);
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = n;
	relation->reldata = store;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not show what is to be written")));
	return store;
}
