/*-------------------------------------------------------------------------
 *
 * stat_schedule.c
 *		What workers have learned of durations, for all to see.
 *
 * A worker copies the keys of which it has learned something to shared memory,
 * once a second at most, when it is awake anyway.  What was learned outlives it
 * there, until others need the room.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "anyvod.h"
#include "response/to_datum.h"
#include "control/shmem.h"
#include "control/stat_schedule.h"

PG_FUNCTION_INFO_V1(anyvod_stat_get_schedules);
PG_FUNCTION_INFO_V1(anyvod_forecast_of);

/* Columns of the functions, as the SQL script has them. */
#define STAT_SCHEDULE_COLUMNS 8
#define STAT_FORECAST_COLUMNS 4


/*
 * Shared memory
 */

/* The slot for a key: its own, a free one, or the oldest.  Lock held. */
static StatSchedule *
stat_schedule_slot(const ScheduleSummary *summary)
{
	StatSchedule *keys = shmem_get()->schedules.keys;
	StatSchedule *oldest = &keys[0];

	for (int i = 0; i < STAT_SCHEDULES; i++)
	{
		StatSchedule *entry = &keys[i];

		if (entry->database == MyDatabaseId &&
			strcmp(entry->summary.server, summary->server) == 0 &&
			strcmp(entry->summary.task_type, summary->task_type) == 0 &&
			strcmp(entry->summary.model, summary->model) == 0)
			return entry;
		if (entry->published_at < oldest->published_at)
			oldest = entry;
	}
	return oldest;
}

/* A worker has learned this of a key. */
void
stat_schedule_publish(const ScheduleSummary *summary)
{
	StatSchedule *entry;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = stat_schedule_slot(summary);
	entry->database = MyDatabaseId;
	entry->published_at = GetCurrentTimestamp();
	entry->summary = *summary;
	LWLockRelease(shmem_lock());
}

/*
 * Look for what is known of this server, type and model in this database.
 * Only that is copied: a view asks so for each row that it shows.
 */
static bool
stat_schedule_find(const char *server, const char *task_type,
				   const char *model, StatSchedule *found)
{
	const StatSchedule *keys;
	bool		is_there = false;

	if (shmem_get() == NULL)
		return false;
	keys = shmem_get()->schedules.keys;
	LWLockAcquire(shmem_lock(), LW_SHARED);
	for (int i = 0; i < STAT_SCHEDULES && !is_there; i++)
	{
		const ScheduleSummary *summary = &keys[i].summary;

		is_there = keys[i].database == MyDatabaseId &&
			strcmp(summary->server, server) == 0 &&
			schedule_is_name(summary->task_type, task_type) &&
			schedule_is_name(summary->model, model);
		if (is_there)
			*found = keys[i];
	}
	LWLockRelease(shmem_lock());
	return is_there;
}


/*
 * What is shown
 */

/* May the caller use the server of that name, in this database? */
static bool
stat_schedule_may_use(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);

	return server != NULL &&
		compat_server_aclcheck(server->serverid, GetUserId(), ACL_USAGE) ==
		ACLCHECK_OK;
}

/* May the caller see this? */
static bool
stat_schedule_is_visible(const StatSchedule *entry)
{
	if (!OidIsValid(entry->database))
		return false;
	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		return true;
	return entry->database == MyDatabaseId &&
		stat_schedule_may_use(entry->summary.server);
}

static void
stat_schedule_put(ReturnSetInfo *set, const StatSchedule *entry)
{
	const ScheduleSummary *summary = &entry->summary;
	Datum		values[STAT_SCHEDULE_COLUMNS];
	bool		nulls[STAT_SCHEDULE_COLUMNS] = {false};

	values[0] = ObjectIdGetDatum(entry->database);
	values[1] = CStringGetTextDatum(summary->server);
	values[2] = result_text(summary->task_type, &nulls[2]);
	values[3] = result_text(summary->model, &nulls[3]);
	values[4] = Int64GetDatum(summary->ended);
	values[5] = Int64GetDatum(summary->running);
	values[6] = Float8GetDatum(summary->median / 1000.0);
	values[7] = Float8GetDatum(summary->p95 / 1000.0);
	tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

/* What anyvod_stat_schedule shows; nothing if anyvod is not preloaded. */
Datum
anyvod_stat_get_schedules(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	StatSchedules *copy;

	InitMaterializedSRF(fcinfo, 0);
	if (set->setDesc->natts != STAT_SCHEDULE_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("incorrect number of output arguments")));
	if (shmem_get() == NULL)
		return (Datum) 0;
	copy = palloc(sizeof(StatSchedules));
	LWLockAcquire(shmem_lock(), LW_SHARED);
	memcpy(copy, &shmem_get()->schedules, sizeof(StatSchedules));
	LWLockRelease(shmem_lock());
	for (int i = 0; i < STAT_SCHEDULES; i++)
	{
		if (stat_schedule_is_visible(&copy->keys[i]))
			stat_schedule_put(set, &copy->keys[i]);
	}
	return (Datum) 0;
}

/* A text argument in UTF-8. */
static const char *
stat_schedule_utf8(FunctionCallInfo fcinfo, int n)
{
	char	   *string = text_to_cstring(PG_GETARG_TEXT_PP(n));
	size_t		len;

	return result_to_utf8(string, strlen(string), &len);
}

static Datum
stat_schedule_interval(int64 microseconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = microseconds;
	return IntervalPGetDatum(interval);
}

/*
 * How long a task of this server, type and model that was started then has
 * been running, and will, as far as that is known.
 */
Datum
anyvod_forecast_of(PG_FUNCTION_ARGS)
{
	Datum		values[STAT_FORECAST_COLUMNS] = {0};
	bool		nulls[STAT_FORECAST_COLUMNS] = {true, true, true, true};
	TupleDesc	desc;
	StatSchedule entry;
	int64		elapsed;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != STAT_FORECAST_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("incorrect number of output arguments")));
	desc = BlessTupleDesc(desc);
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(3)))
		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values,
														  nulls)));
	elapsed = GetCurrentTimestamp() - PG_GETARG_TIMESTAMPTZ(3);
	if (stat_schedule_find(NameStr(*PG_GETARG_NAME(0)),
						   stat_schedule_utf8(fcinfo, 1),
						   stat_schedule_utf8(fcinfo, 2), &entry) &&
		stat_schedule_is_visible(&entry))
	{
		ScheduleForecast forecast;

		/* as the worker does: see durations_record_running() */
		elapsed -= entry.summary.skew + INT64CONST(500000);
		schedule_forecast(&entry.summary, elapsed, &forecast);
		values[1] = stat_schedule_interval(forecast.median);
		values[2] = stat_schedule_interval(forecast.p90);
		values[3] = Float8GetDatum(forecast.learned);
		nulls[1] = nulls[2] = nulls[3] = false;
	}
	values[0] = stat_schedule_interval(Max(elapsed, 0));
	nulls[0] = false;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
