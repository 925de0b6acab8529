/*-------------------------------------------------------------------------
 *
 * stat_schedule.c
 *		What workers have learned of durations, for all to see.
 *
 * A worker copies its keys to shared memory once a second at most, when it is
 * awake anyway and has learned something.  What was learned outlives it there,
 * until others need the room.
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
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "anyvod.h"
#include "response/to_datum.h"
#include "control/stat_schedule.h"

PG_FUNCTION_INFO_V1(anyvod_stat_get_schedules);
PG_FUNCTION_INFO_V1(anyvod_forecast_of);

/* Keys of all databases that are kept; the one published first goes. */
#define STAT_SCHEDULES 256

/* Columns of the functions, as the SQL script has them. */
#define STAT_SCHEDULE_COLUMNS 16
#define STAT_FORECAST_COLUMNS 4

/* A key of a database. */
typedef struct StatSchedule
{
	Oid			database;		/* InvalidOid: free */
	TimestampTz published_at;
	ScheduleSummary summary;
} StatSchedule;

static StatSchedule *shared = NULL;
static LWLock *shared_lock = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;


/*
 * Shared memory
 */

static Size
stat_schedule_size(void)
{
	return mul_size(STAT_SCHEDULES, sizeof(StatSchedule));
}

static void
stat_schedule_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(stat_schedule_size());
	RequestNamedLWLockTranche("anyvod_schedule", 1);
}

static void
stat_schedule_shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("anyvod_schedule", stat_schedule_size(), &found);
	if (!found)
		memset(shared, 0, stat_schedule_size());
	LWLockRelease(AddinShmemInitLock);
	shared_lock = &GetNamedLWLockTranche("anyvod_schedule")->lock;
}

/* Called while the library is preloaded. */
void
stat_schedule_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = stat_schedule_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = stat_schedule_shmem_startup;
}

/* The place for a key: its own, a free one, or the oldest.  Lock held. */
static StatSchedule *
stat_schedule_place(const ScheduleSummary *summary)
{
	StatSchedule *oldest = &shared[0];

	for (int i = 0; i < STAT_SCHEDULES; i++)
	{
		StatSchedule *entry = &shared[i];

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

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry = stat_schedule_place(summary);
	entry->database = MyDatabaseId;
	entry->published_at = GetCurrentTimestamp();
	entry->summary = *summary;
	LWLockRelease(shared_lock);
}

/* A copy of what is shared, NULL if anyvod is not preloaded. */
static StatSchedule *
stat_schedule_copy(void)
{
	StatSchedule *copy;

	if (shared == NULL)
		return NULL;
	copy = palloc(stat_schedule_size());
	LWLockAcquire(shared_lock, LW_SHARED);
	memcpy(copy, shared, stat_schedule_size());
	LWLockRelease(shared_lock);
	return copy;
}

/*
 * Look for what is known of this server, type and model in this database.
 * Only that is copied: a view asks so for each row that it shows.
 */
static bool
stat_schedule_find(const char *server, const char *task_type,
				   const char *model, StatSchedule *found)
{
	bool		is_there = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared_lock, LW_SHARED);
	for (int i = 0; i < STAT_SCHEDULES && !is_there; i++)
	{
		const ScheduleSummary *summary = &shared[i].summary;

		is_there = shared[i].database == MyDatabaseId &&
			strcmp(summary->server, server) == 0 &&
			schedule_is_name(summary->task_type, task_type) &&
			schedule_is_name(summary->model, model);
		if (is_there)
			*found = shared[i];
	}
	LWLockRelease(shared_lock);
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
	int			n = 0;

	values[n++] = ObjectIdGetDatum(entry->database);
	values[n++] = CStringGetTextDatum(summary->server);
	values[n] = result_text(summary->task_type, &nulls[n]);
	n++;
	values[n] = result_text(summary->model, &nulls[n]);
	n++;
	values[n++] = Int64GetDatum(summary->ended);
	values[n++] = Int64GetDatum(summary->censored);
	values[n++] = Int64GetDatum(summary->running);
	values[n++] = Float8GetDatum(summary->median / 1000.0);
	values[n++] = Float8GetDatum(summary->p95 / 1000.0);
	for (int i = n; i < (int) STAT_SCHEDULE_COLUMNS - 1; i++)
		nulls[i] = !summary->built;
	values[n++] = Float8GetDatum(summary->requests);
	values[n++] = Float8GetDatum(summary->mean_delay / 1000.0);
	values[n++] = Float8GetDatum(summary->p95_delay / 1000.0);
	values[n++] = Int32GetDatum(summary->next_build);
	values[n++] = Float8GetDatum(summary->c);
	values[n++] = Float8GetDatum(summary->pressure);
	values[n++] = TimestampTzGetDatum(entry->published_at);
	Assert(n == STAT_SCHEDULE_COLUMNS);
	tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

/* What anyvod_stat_schedule shows. */
Datum
anyvod_stat_get_schedules(PG_FUNCTION_ARGS)
{
	StatSchedule *copy = stat_schedule_copy();

	InitMaterializedSRF(fcinfo, 0);
	if (((ReturnSetInfo *) fcinfo->resultinfo)->setDesc->natts !=
		STAT_SCHEDULE_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("incorrect number of output arguments")));
	for (int i = 0; copy != NULL && i < STAT_SCHEDULES; i++)
	{
		if (stat_schedule_is_visible(&copy[i]))
			stat_schedule_put((ReturnSetInfo *) fcinfo->resultinfo, &copy[i]);
	}
	return (Datum) 0;
}

/* A text argument in UTF-8. */
static const char *
stat_schedule_word(FunctionCallInfo fcinfo, int n)
{
	char	   *word = text_to_cstring(PG_GETARG_TEXT_PP(n));
	size_t		len;

	return result_to_utf8(word, strlen(word), &len);
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
						   stat_schedule_word(fcinfo, 1),
						   stat_schedule_word(fcinfo, 2), &entry) &&
		stat_schedule_is_visible(&entry))
	{
		ScheduleForecast forecast;

		/* as the worker reckons: see pace_note_running() */
		elapsed -= entry.summary.skew + INT64CONST(500000);
		schedule_forecast_from(&entry.summary, elapsed, &forecast);
		values[1] = stat_schedule_interval(forecast.median);
		values[2] = stat_schedule_interval(forecast.p90);
		values[3] = Float8GetDatum(forecast.learned);
		nulls[1] = nulls[2] = nulls[3] = false;
	}
	values[0] = stat_schedule_interval(Max(elapsed, 0));
	nulls[0] = false;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
