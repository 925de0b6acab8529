/*-------------------------------------------------------------------------
 *
 * settled.c
 *		Reading settled rows, the latest first.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/timestamp.h"

#include "response/to_datum.h"
#include "table/settled.h"
#include "table/access.h"

typedef struct SettledPage
{
	int			max;
	TimestampTz before;
	SettledTakeRow take;
	void	   *arg;
	int			n;
} SettledPage;

/*
 * Rows that were settled at the same time belong together, since the time is
 * all that the next page has to go by.  They may be very many, if somebody has
 * settled them himself; then some are left out.
 */
#define SETTLED_TIES 2

static char *
settled_utf8(SPITupleTable *rows, int n, int column)
{
	char	   *text = table_string(rows, n, column);

	return text != NULL ? result_to_utf8(text) : NULL;
}

static void
settled_read_body(void *arg)
{
	static TablePlan plan = {
		.sql = "SELECT settled_at::pg_catalog.timestamptz,"
			   " server::pg_catalog.name, pg_catalog.left(task_type, 1000),"
			   " pg_catalog.left(model, 1000),"
			   " started_at::pg_catalog.timestamptz,"
			   " ended_at::pg_catalog.timestamptz FROM %1$s.anyvod_tasks"
			   " WHERE state <> 'pending' AND settled_at < $1"
			   " ORDER BY settled_at DESC FETCH FIRST ($2) ROWS WITH TIES",
		.nargs = 2,
		.types = {TIMESTAMPTZOID, INT4OID},
	};
	SettledPage *page = arg;
	Datum		values[2];
	SPITupleTable *rows;

	values[0] = TimestampTzGetDatum(page->before);
	values[1] = Int32GetDatum(page->max);
	if (SPI_execute_plan(table_plan(&plan), values, NULL, true,
						 SETTLED_TIES * page->max) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read settled tasks")));
	rows = SPI_tuptable;
	page->n = (int) SPI_processed;
	for (int i = 0; i < page->n; i++)
	{
		SettledRow	row;
		bool		isnull[2];

		row.server = table_name(rows, i, 2);
		row.task_type = settled_utf8(rows, i, 3);
		row.model = settled_utf8(rows, i, 4);
		row.started_at =
			DatumGetTimestampTz(table_value(rows, i, 5, &isnull[0]));
		row.ended_at =
			DatumGetTimestampTz(table_value(rows, i, 6, &isnull[1]));
		if (row.server != NULL && !isnull[0] && !isnull[1])
			page->take(&row, page->arg);
		page->before =
			DatumGetTimestampTz(table_value(rows, i, 1, &isnull[0]));
	}
}

/*
 * Take those of the latest "max" rows settled before "before" that say how
 * long their tasks took.  "before" is where to go on, "n" says how many rows
 * there were.
 */
TableResult
settled_read(int max, TimestampTz *before, SettledTakeRow take, void *arg,
			 int *n)
{
	SettledPage page = {max, *before, take, arg, 0};
	TableResult result = table_read("read settled tasks",
									settled_read_body, &page);

	*before = page.before;
	*n = page.n;
	return result;
}
