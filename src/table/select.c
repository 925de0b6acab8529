/*-------------------------------------------------------------------------
 *
 * select.c
 *		Reading pending rows of anyvod_tasks.
 *
 * The table's owner can have altered it, so nothing is taken for granted: types
 * are made ours, rows without server or owner are left out, and long texts are
 * cut.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "table/select.h"

/* Bytes of a row's text that are read at most; a response's has 200. */
#define SELECT_LONGEST_TEXT 4000

/* What is read of a row: see select_take_row(). */
#define SELECT_COLUMNS \
	"t.task_id::pg_catalog.text, t.server::pg_catalog.name," \
	" t.owner::pg_catalog.name, t.status::pg_catalog.text," \
	" t.progress::pg_catalog.int4, t.task_type::pg_catalog.text," \
	" t.model::pg_catalog.text, t.error_code::pg_catalog.text," \
	" t.started_at::pg_catalog.timestamptz," \
	" t.created_at::pg_catalog.timestamptz," \
	" t.updated_at::pg_catalog.timestamptz"

typedef struct SelectPending
{
	const char **task_ids;
	int			n;				/* of them, or rows that a page has at most */
	const TableCursor *cursor;
	TableRows  *rows;
	MemoryContext context;		/* the caller's, where the rows are made */
} SelectPending;


/* A text of a row, NULL for null; cut if it is longer than a response's. */
static char *
select_text(const Datum *values, const bool *nulls, int column)
{
	char	   *string;
	int			len;

	if (nulls[column])
		return NULL;
	if (toast_raw_datum_size(values[column]) <= SELECT_LONGEST_TEXT)
		return TextDatumGetCString(values[column]);
	string = text_to_cstring(DatumGetTextPSlice(values[column], 0,
												SELECT_LONGEST_TEXT));
	len = (int) strlen(string);
	string[pg_mbcliplen(string, len, len)] = '\0';
	return string;
}

/* A point of time of a row, 0 for null. */
static TimestampTz
select_time(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? 0 : DatumGetTimestampTz(values[column]);
}

static void
select_take_row(const Datum *values, const bool *nulls, void *arg)
{
	TableRows  *rows = arg;

	if (rows->n == rows->room)
	{
		rows->room *= 2;		/* a table without its key has ids twice */
		rows->rows = repalloc(rows->rows, rows->room * sizeof(TableRow));
	}
	rows->rows[rows->n++] = (TableRow){
		.task_id = select_text(values, nulls, 0),
		.server = pstrdup(NameStr(*DatumGetName(values[1]))),
		.owner = pstrdup(NameStr(*DatumGetName(values[2]))),
		.status = select_text(values, nulls, 3),
		.progress = nulls[4] ? -1 : DatumGetInt32(values[4]),
		.task_type = select_text(values, nulls, 5),
		.model = select_text(values, nulls, 6),
		.error_code = select_text(values, nulls, 7),
		.has_started_at = !nulls[8],
		.started_at = select_time(values, nulls, 8),
		.created_at = select_time(values, nulls, 9),
		.written_at = select_time(values, nulls, nulls[10] ? 9 : 10),
	};
}

/* Make room for rows in the caller's memory context. */
static void
select_begin(SelectPending *select)
{
	select->rows->n = 0;
	select->rows->room = select->n;
	select->rows->rows = MemoryContextAlloc(select->context,
											select->n * sizeof(TableRow));
}


/*
 * Each row is looked up by its key, whatever the planner believes of the
 * table's size: nothing can be moved across OFFSET, and the state is compared
 * as text so that the index of pending rows is no way.
 */
static void
select_by_id_body(void *arg)
{
	static TablePlan plan = {
		.sql = "SELECT t.* FROM pg_catalog.unnest($1) AS d (task_id), LATERAL"
			   " (SELECT " SELECT_COLUMNS " FROM %1$s.anyvod_tasks AS t"
			   " WHERE t.task_id = d.task_id"
			   " AND t.state::pg_catalog.text = 'pending'"
			   " AND t.server IS NOT NULL"
			   " AND t.owner IS NOT NULL OFFSET 0) AS t",
		.nargs = 1,
		.types = {TEXTARRAYOID},
		.generic = true,
	};
	SelectPending *select = arg;
	Datum	   *ids = palloc(select->n * sizeof(Datum));
	Datum		values[1];

	for (int i = 0; i < select->n; i++)
		ids[i] = CStringGetTextDatum(select->task_ids[i]);
	values[0] = PointerGetDatum(construct_array(ids, select->n, TEXTOID, -1,
												false, TYPALIGN_INT));
	select_begin(select);
	table_select("read pending tasks", table_plan(&plan), values,
				 select_take_row, select->rows, select->context);
}

/*
 * table_select_pending
 *		Read those of these tasks whose rows are there and pending, in no order.
 */
TableResult
table_select_pending(const char **task_ids, int n, TableRows *rows)
{
	SelectPending select = {
		.task_ids = task_ids,
		.n = n,
		.rows = rows,
		.context = CurrentMemoryContext,
	};

	return table_read("read pending tasks", select_by_id_body, &select);
}

/* The statement of a page; the first has no row to go on from. */
#define SELECT_PAGE(condition) \
	"SELECT " SELECT_COLUMNS " FROM %1$s.anyvod_tasks AS t" \
	" WHERE t.state = 'pending'" \
	" AND t.server IS NOT NULL AND t.owner IS NOT NULL" condition \
	" ORDER BY t.created_at DESC, t.task_id::pg_catalog.text DESC LIMIT $1"

static void
select_page_body(void *arg)
{
	static TablePlan first = {
		.sql = SELECT_PAGE(""),
		.nargs = 1,
		.types = {INT4OID},
		.generic = true,
	};
	static TablePlan next = {
		.sql = SELECT_PAGE(" AND (t.created_at, t.task_id::pg_catalog.text)"
						   " OPERATOR(pg_catalog.<) ($2, $3)"),
		.nargs = 3,
		.types = {INT4OID, TIMESTAMPTZOID, TEXTOID},
		.generic = true,
	};
	SelectPending *select = arg;
	const TableCursor *cursor = select->cursor;
	Datum		values[3];

	values[0] = Int32GetDatum(select->n);
	values[1] = TimestampTzGetDatum(cursor->created_at);
	values[2] = CStringGetTextDatum(cursor->task_id);
	select_begin(select);
	table_select("scan pending tasks",
				 table_plan(cursor->begun ? &next : &first), values,
				 select_take_row, select->rows, select->context);
}

/*
 * table_scan_pending
 *		Read up to "max" pending rows from the cursor on, the newest first, and
 *		move the cursor behind them.  Fewer rows mean that these are the last.
 */
TableResult
table_scan_pending(TableCursor *cursor, int max, TableRows *rows)
{
	SelectPending select = {
		.n = max,
		.cursor = cursor,
		.rows = rows,
		.context = CurrentMemoryContext,
	};
	TableResult result = table_read("scan pending tasks", select_page_body,
									&select);

	if (result == TABLE_DONE && rows->n > 0)
	{
		const TableRow *last = &rows->rows[rows->n - 1];

		int			len = (int) strlen(last->task_id);

		/* the table's owner may have dropped the check of its length */
		len = pg_mbcliplen(last->task_id, len, sizeof(cursor->task_id) - 1);
		cursor->begun = true;
		cursor->created_at = last->created_at;
		memcpy(cursor->task_id, last->task_id, len);
		cursor->task_id[len] = '\0';
	}
	return result;
}
