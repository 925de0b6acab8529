/*-------------------------------------------------------------------------
 *
 * settled.c
 *		Reading settled rows, in the order of their settling.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "response/to_datum.h"
#include "table/settled.h"
#include "table/tracker.h"

typedef struct SettledReading
{
	int			max;
	TimestampTz at;
	TimestampTz until;
	SettledVisit visit;
	void	   *arg;
	int			n;
} SettledReading;

/*
 * Rows that were settled at the same time belong together, since the time is
 * all that the next page has to go by.  They may be very many, if somebody has
 * settled them himself; then some are left out.
 */
#define SETTLED_TIES 2

static void
settled_look_back_body(void *arg)
{
	static TrackerPlan look_back;
	SettledReading *reading = arg;
	Oid			types[2] = {TIMESTAMPTZOID, INT4OID};
	Datum		values[2];
	SPIPlanPtr	plan;
	bool		isnull;

	plan = tracker_plan(&look_back,
						psprintf("SELECT settled_at::pg_catalog.timestamptz"
								 " FROM %s.anyvod_tasks"
								 " WHERE state <> 'pending' AND settled_at < $1"
								 " ORDER BY settled_at DESC"
								 " FETCH FIRST ($2) ROWS WITH TIES",
								 tracker_get_schema()),
						2, types);
	values[0] = TimestampTzGetDatum(reading->at);
	values[1] = Int32GetDatum(reading->max);
	if (SPI_execute_plan(plan, values, NULL, true,
						 SETTLED_TIES * reading->max) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read settled tasks")));
	reading->n = (int) SPI_processed;
	if (reading->n > 0)
		reading->at =
			DatumGetTimestampTz(tracker_value(SPI_tuptable, SPI_processed - 1,
											  1, &isnull));
}

/* Visit the n-th fetched row if it says how long its task took. */
static void
settled_visit(SettledReading *reading, SPITupleTable *rows, int n)
{
	SettledRow	row;
	char	   *texts[2];
	bool		isnull[2];
	size_t		len;

	row.server = tracker_name(rows, n, 2);
	for (int i = 0; i < 2; i++)
	{
		texts[i] = tracker_string(rows, n, 3 + i);
		if (texts[i] != NULL)
			texts[i] = result_to_utf8(texts[i], strlen(texts[i]), &len);
	}
	row.task_type = texts[0];
	row.model = texts[1];
	row.started_at =
		DatumGetTimestampTz(tracker_value(rows, n, 5, &isnull[0]));
	row.ended_at = DatumGetTimestampTz(tracker_value(rows, n, 6, &isnull[1]));
	if (row.server != NULL && !isnull[0] && !isnull[1])
		reading->visit(&row, reading->arg);
}

static void
settled_read_body(void *arg)
{
	static TrackerPlan read;
	SettledReading *reading = arg;
	Oid			types[3] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID};
	Datum		values[3];
	SPIPlanPtr	plan;
	SPITupleTable *rows;
	bool		isnull;

	plan = tracker_plan(&read,
						psprintf("SELECT settled_at::pg_catalog.timestamptz,"
								 " server::pg_catalog.name,"
								 " pg_catalog.left(task_type, 1000),"
								 " pg_catalog.left(model, 1000),"
								 " started_at::pg_catalog.timestamptz,"
								 " ended_at::pg_catalog.timestamptz"
								 " FROM %s.anyvod_tasks"
								 " WHERE state <> 'pending'"
								 " AND settled_at >= $1 AND settled_at < $2"
								 " ORDER BY settled_at"
								 " FETCH FIRST ($3) ROWS WITH TIES",
								 tracker_get_schema()),
						3, types);
	values[0] = TimestampTzGetDatum(reading->at);
	values[1] = TimestampTzGetDatum(reading->until);
	values[2] = Int32GetDatum(reading->max);
	if (SPI_execute_plan(plan, values, NULL, true,
						 SETTLED_TIES * reading->max) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read settled tasks")));
	rows = SPI_tuptable;
	reading->n = (int) SPI_processed;
	for (int i = 0; i < reading->n; i++)
		settled_visit(reading, rows, i);
	if (reading->n > 0)
		reading->at =
			DatumGetTimestampTz(tracker_value(rows, reading->n - 1, 1,
											  &isnull)) +
			1;
}

/*
 * Find when the earliest of the "max" rows was settled that were settled last
 * before "at", which is set to it.  "n" says how many rows there were.
 */
TrackerOutcome
settled_look_back(int max, TimestampTz *at, int *n)
{
	SettledReading reading = {.max = max, .at = *at};
	TrackerOutcome outcome = tracker_read("read settled tasks",
										  settled_look_back_body, &reading);

	*at = reading.at;
	*n = reading.n;
	return outcome;
}

/*
 * Visit those of "max" rows, settled from "at" on and before "until", that say
 * how long their tasks took, in the order of their settling; "at" is where to
 * go on.  "n" says how many rows there were.
 */
TrackerOutcome
settled_read(int max, TimestampTz *at, TimestampTz until,
			 SettledVisit visit, void *arg, int *n)
{
	SettledReading reading = {max, *at, until, visit, arg, 0};
	TrackerOutcome outcome = tracker_read("read settled tasks",
										  settled_read_body, &reading);

	*at = reading.at;
	*n = reading.n;
	return outcome;
}
