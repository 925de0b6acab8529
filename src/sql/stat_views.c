/*-------------------------------------------------------------------------
 *
 * stat_views.c
 *		The functions behind the views of statistics, and forecasts.
 *
 * Each shows what its caller may see, whichever way it is called, so the views
 * need no filter.  A column is what the SQL script calls so: values are given
 * by name, and their order is the script's alone.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "anyvod.h"
#include "clock.h"
#include "compat.h"
#include "control/shmem.h"
#include "response/to_datum.h"

PG_FUNCTION_INFO_V1(anyvod_stat_get_workers);
PG_FUNCTION_INFO_V1(anyvod_stat_get_servers);
PG_FUNCTION_INFO_V1(anyvod_stat_get_schedules);
PG_FUNCTION_INFO_V1(anyvod_forecast_of);
PG_FUNCTION_INFO_V1(anyvod_stat_reset);


/*
 * Rows
 */

/* A row that is being made. */
typedef struct StatRow
{
	Tuplestorestate *set;		/* that it is for, NULL if it is the result */
	TupleDesc	desc;
	Datum	   *values;
	bool	   *nulls;
	int			n;				/* columns that have a value */
} StatRow;

/* Begin with the result of a function. */
static StatRow
stat_begin(FunctionCallInfo fcinfo)
{
	StatRow		row = {0};

	if (fcinfo->flinfo->fn_retset)
	{
		ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;

		InitMaterializedSRF(fcinfo, 0);
		row.set = set->setResult;
		row.desc = set->setDesc;
	}
	else if (get_call_result_type(fcinfo, NULL, &row.desc) ==
			 TYPEFUNC_COMPOSITE)
		row.desc = BlessTupleDesc(row.desc);
	else
		elog(ERROR, "return type must be a row type");
	row.values = palloc(row.desc->natts * sizeof(Datum));
	row.nulls = palloc(row.desc->natts * sizeof(bool));
	return row;
}

/* Give the column of that name a value, which is of that type. */
static void
stat_put(StatRow *row, const char *name, Oid type, Datum value, bool isnull)
{
	for (int i = 0; i < row->desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(row->desc, i);

		if (strcmp(NameStr(column->attname), name) != 0 ||
			column->atttypid != type)
			continue;
		row->values[i] = value;
		row->nulls[i] = isnull;
		row->n++;
	}
}

static void
stat_put_count(StatRow *row, const char *name, int64 count)
{
	stat_put(row, name, INT8OID, Int64GetDatum(count), false);
}

/* A text, NULL for null. */
static void
stat_put_text(StatRow *row, const char *name, const char *text)
{
	stat_put(row, name, TEXTOID,
			 text != NULL ? CStringGetTextDatum(text) : (Datum) 0,
			 text == NULL);
}

/* A time, 0 for null. */
static void
stat_put_time(StatRow *row, const char *name, TimestampTz time)
{
	stat_put(row, name, TIMESTAMPTZOID, TimestampTzGetDatum(time), time == 0);
}

static void
stat_put_double(StatRow *row, const char *name, double value, bool isnull)
{
	stat_put(row, name, FLOAT8OID, Float8GetDatum(value), isnull);
}

/* A percentile in milliseconds; null if nothing was counted. */
static void
stat_put_percentile(StatRow *row, const char *name, const uint64 *buckets,
					double percent)
{
	double		all = 0;
	double		rank;
	double		begin;
	double		end;
	int			i;

	for (i = 0; i < COUNTERS_BUCKETS; i++)
		all += buckets[i];
	rank = all * percent / 100;
	for (i = 0; i < COUNTERS_BUCKETS - 1 && rank > buckets[i]; i++)
		rank -= buckets[i];
	if (buckets[i] > 0)
		rank = Min(rank / buckets[i], 1);
	begin = counters_bucket_begin(i);
	end = counters_bucket_begin(i + 1);
	stat_put_double(row, name, rint(begin + (end - begin) * rank) / 1000,
					all == 0);
}

/* The row is made, each column of which must have a value. */
static HeapTuple
stat_end(StatRow *row)
{
	HeapTuple	tuple;

	if (row->n != row->desc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the library \"anyvod\" has other statistics columns than the extension's script"),
				 errhint("Use ALTER EXTENSION anyvod UPDATE.")));
	tuple = heap_form_tuple(row->desc, row->values, row->nulls);
	if (row->set != NULL)
		tuplestore_puttuple(row->set, tuple);
	row->n = 0;
	return tuple;
}

/* May the caller see figures that are not its own? */
static bool
stat_sees_all(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/* May the caller use this server? */
static bool
stat_may_use(Oid serverid)
{
	return object_aclcheck(ForeignServerRelationId, serverid, GetUserId(),
						   ACL_USAGE) == ACLCHECK_OK;
}


/*
 * anyvod_stat_worker
 */

/* Why nobody may connect to a database, as a hint. */
static const char *
stat_closed_hint(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID,
										ObjectIdGetDatum(database));
	bool		is_template = false;

	if (HeapTupleIsValid(tuple))
	{
		is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return is_template ? "A template database is not served." :
						 "Use ALTER DATABASE ... ALLOW_CONNECTIONS true.";
}

/* How a database is served, and what to do about that. */
typedef struct StatState
{
	const char *name;
	const char *hint;			/* NULL: nothing */
} StatState;

/* Where the slot tells all.  In the other states there is a worker. */
static const StatState stat_states[] = {
	[SLOT_FREE] = {"ended", NULL},
	[SLOT_CLOSED] = {"no connections allowed", NULL},
	[SLOT_WANTED] = {"starting", NULL},
	[SLOT_QUEUED] = {"waiting for a slot",
					 "Raise \"anyvod.max_databases\"."},
	[SLOT_NO_PROCESS] = {"waiting for a process slot",
						 "Raise \"max_worker_processes\"."},
	[SLOT_STARTING] = {"starting", NULL},
	[SLOT_FAILED] = {"failing", "Look into the server log."},
	[SLOT_BACKOFF] = {"failing", "Look into the server log."},
	[SLOT_BLOCKED] = {"yielding", NULL},
};

static StatState
stat_state(Oid database, const Slot *slot, const Counters *counters)
{
	StatState	state = stat_states[slot->state];
	const char *hint;

	if (counters->condition == COUNTERS_TABLE_MISSING &&
		slot->state != SLOT_STARTING)
		return (StatState){
			"table missing",
			"Move \"anyvod_tasks\" back to the extension's schema with ALTER TABLE ... SET SCHEMA."
		};
	if (slot->state == SLOT_FREE && !anyvod_worker)
		return (StatState){"off", NULL};
	if (slot->pid == 0 && slot->state != SLOT_FREE &&
		slot->state != SLOT_BLOCKED)
	{
		if (slot_missing(&hint) != NULL)
			return (StatState){"no launcher", hint};
		if (!anyvod_worker)
			return (StatState){"off", "Set \"anyvod.worker\" to on."};
	}
	if (slot->state == SLOT_CLOSED)
		state.hint = stat_closed_hint(database);
	if (state.name != NULL)
		return state;
	if (counters->worker == 0)
		return (StatState){"starting", NULL};
	if (counters->condition == COUNTERS_TABLE_LOCKED)
		return (StatState){
			"table locked",
			"A session has locked \"anyvod_tasks\": see pg_locks."
		};
	return (StatState){counters->pending > 0 ? "serving" : "idle", NULL};
}

/*
 * Add the row of a database.  Gauges are null where no worker keeps them.
 * "oldest_due" is the wall-clock time of a time of monotonic_us().
 */
static void
stat_put_worker(StatRow *row, Oid database, const Slot *slot,
				const Counters *counters)
{
	const CountersFigures *figures = &counters->figures;
	bool		counting = counters->worker != 0;
	bool		due = counting && counters->oldest_due != PG_INT64_MAX;
	StatState	state = stat_state(database, slot, counters);

	stat_put(row, "datid", OIDOID, ObjectIdGetDatum(database), false);
	stat_put(row, "pid", INT4OID, Int32GetDatum(slot->pid), slot->pid == 0);
	stat_put_text(row, "state", state.name);
	stat_put_text(row, "hint", state.hint);
	stat_put(row, "pending", INT8OID, Int64GetDatum(counters->pending),
			 !counting);
	stat_put_time(row, "oldest_due",
				  due ? GetCurrentTimestamp() +
						  (counters->oldest_due - monotonic_us()) :
						0);
	stat_put(row, "in_flight", INT8OID, Int64GetDatum(counters->in_flight),
			 !counting);
	stat_put_count(row, "polls", figures->polls);
	stat_put_count(row, "changes_written", figures->written);
	stat_put_count(row, "unchanged", figures->unchanged);
	stat_put_percentile(row, "request_p50_ms", figures->request_times, 50);
	stat_put_percentile(row, "request_p95_ms", figures->request_times, 95);
	stat_put_percentile(row, "request_p99_ms", figures->request_times, 99);
	stat_put_percentile(row, "detection_p50_ms", figures->delays, 50);
	stat_put_percentile(row, "detection_p95_ms", figures->delays, 95);
	stat_put_text(row, "last_error",
				  counters->error_at != 0 ? counters->error : NULL);
	stat_put_time(row, "last_error_at", counters->error_at);
	stat_put_count(row, "restarts", counters->restarts);
	stat_put_time(row, "started_at", counting ? counters->started_at : 0);
	stat_put_time(row, "stats_reset", counters->reset_at);
	(void) stat_end(row);
}

/*
 * anyvod_stat_get_workers() returns setof record
 */
Datum
anyvod_stat_get_workers(PG_FUNCTION_ARGS)
{
	AnyvodShared *shared = shmem_get();
	StatRow		row = stat_begin(fcinfo);
	SharedDatabase *copy = palloc(sizeof(SharedDatabase));

	for (int i = 0; shared != NULL && i < shared->ndatabases; i++)
	{
		LWLockAcquire(shmem_lock(), LW_SHARED);
		*copy = shared->databases[i];
		LWLockRelease(shmem_lock());
		if (OidIsValid(copy->oid) &&
			(copy->oid == MyDatabaseId || stat_sees_all()))
			stat_put_worker(&row, copy->oid, &copy->slot, &copy->counters);
	}
	PG_RETURN_NULL();
}


/*
 * anyvod_stat_server
 */

/* What the latest error of a server was like. */
static const char *
stat_error_detail(const CountersServer *server)
{
	const char *phase = http_phase_name(server->phase);

	switch (server->result)
	{
		case HTTP_COMPLETE:
			return psprintf("HTTP %d", server->http_status);
		case HTTP_UNREACHABLE:
			return psprintf("no connection while %s", phase);
		case HTTP_TIMED_OUT:
			return psprintf("timed out while %s", phase);
		case HTTP_TOO_LARGE:
			return "response too large";
		case HTTP_NO_DESCRIPTOR:
			return "no file descriptor left";
		case HTTP_NO_ROOM:
		case HTTP_NO_MEMORY:
			return "no memory left";
		default:
			return psprintf("broken off while %s", phase);
	}
}

/*
 * Whose mapping a server is polled with: 'public', a role, or NULL for none.
 * Returns false if the mapping is gone or the caller may not use it.
 */
static bool
stat_mapped_role(const CountersServer *server, bool all, const char **role)
{
	HeapTuple	tuple;
	Oid			user;

	*role = NULL;
	if (!all && !stat_may_use(server->serverid))
		return false;
	if (!OidIsValid(server->umid))
		return true;
	tuple = SearchSysCache1(USERMAPPINGOID, ObjectIdGetDatum(server->umid));
	if (!HeapTupleIsValid(tuple))
		return false;
	user = ((Form_pg_user_mapping) GETSTRUCT(tuple))->umuser;
	ReleaseSysCache(tuple);
	if (!all && OidIsValid(user) && user != GetUserId())
		return false;
	*role = OidIsValid(user) ? GetUserNameFromId(user, true) : "public";
	return *role != NULL;
}

/* A name, NULL for null. */
static void
stat_put_name(StatRow *row, const char *column, const char *name)
{
	NameData   *value = palloc0(sizeof(NameData));

	if (name != NULL)
		namestrcpy(value, name);
	stat_put(row, column, NAMEOID, NameGetDatum(value), name == NULL);
}

/* Add the row of a server and mapping, if the caller may see it. */
static void
stat_put_server(StatRow *row, const CountersServer *counters, bool all)
{
	ForeignServer *server = GetForeignServerExtended(counters->serverid,
													 FSV_MISSING_OK);
	TimestampTz until = Max(counters->server_until, counters->key_until);
	bool		paused = until > GetCurrentTimestamp();
	bool		failed = counters->error_at != 0;
	const char *why = counters->server_limited ? "rate_limited" : "failures";
	const char *role;

	if (server == NULL || !stat_mapped_role(counters, all, &role))
		return;
	if (counters->key_until > counters->server_until)
		why = "auth";
	stat_put_name(row, "server", server->servername);
	stat_put_name(row, "mapped_role", role);
	stat_put_text(row, "state", paused ? "paused" : "working");
	stat_put_time(row, "paused_until", paused ? until : 0);
	stat_put_text(row, "paused_why", paused ? why : NULL);
	stat_put_count(row, "requests", counters->figures.requests);
	stat_put(row, "in_flight", INT4OID, Int32GetDatum(counters->in_flight),
			 false);
	for (int kind = 0; kind < COUNTERS_KINDS; kind++)
		stat_put_count(row, counters_kind_name(kind),
					   counters->figures.kinds[kind]);
	stat_put_count(row, "connections", counters->figures.connections);
	stat_put_text(row, "last_error",
				  failed ? counters_kind_name(counters->error) : NULL);
	stat_put_text(row, "last_error_detail",
				  failed ? stat_error_detail(counters) : NULL);
	stat_put_time(row, "last_error_at", counters->error_at);
	(void) stat_end(row);
}

/*
 * anyvod_stat_get_servers() returns setof record
 *
 * Those of this database.
 */
Datum
anyvod_stat_get_servers(PG_FUNCTION_ARGS)
{
	CountersServer servers[COUNTERS_SERVERS];
	SharedDatabase *entry;
	StatRow		row = stat_begin(fcinfo);

	memset(servers, 0, sizeof(servers));
	if (shmem_get() != NULL)
	{
		LWLockAcquire(shmem_lock(), LW_SHARED);
		entry = shmem_find(MyDatabaseId);
		if (entry != NULL)
			memcpy(servers, entry->counters.servers, sizeof(servers));
		LWLockRelease(shmem_lock());
	}
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		if (OidIsValid(servers[i].serverid))
			stat_put_server(&row, &servers[i], stat_sees_all());
	}
	PG_RETURN_NULL();
}


/*
 * anyvod_stat_schedule, and forecasts
 */

/* May the caller see this? */
static bool
stat_sees_learned(const LearnedKey *key)
{
	ForeignServer *server;

	if (!OidIsValid(key->database) || stat_sees_all())
		return OidIsValid(key->database);
	if (key->database != MyDatabaseId)
		return false;
	server = GetForeignServerByName(key->summary.server, true);
	return server != NULL && stat_may_use(server->serverid);
}

/* A text in UTF-8, NULL for null. */
static void
stat_put_utf8(StatRow *row, const char *column, const char *utf8)
{
	stat_put_text(row, column, result_cstring(utf8, strlen(utf8)));
}

/*
 * anyvod_stat_get_schedules() returns setof record
 */
Datum
anyvod_stat_get_schedules(PG_FUNCTION_ARGS)
{
	StatRow		row = stat_begin(fcinfo);
	LearnedKey *key = palloc(sizeof(LearnedKey));

	for (int i = 0; shmem_get() != NULL && i < COUNTERS_LEARNED; i++)
	{
		const ScheduleSummary *summary = &key->summary;

		LWLockAcquire(shmem_lock(), LW_SHARED);
		*key = shmem_get()->learned[i];
		LWLockRelease(shmem_lock());
		if (!stat_sees_learned(key))
			continue;
		stat_put(&row, "datid", OIDOID, ObjectIdGetDatum(key->database), false);
		stat_put_text(&row, "server", summary->server);
		stat_put_utf8(&row, "task_type", summary->task_type);
		stat_put_utf8(&row, "model", summary->model);
		stat_put_count(&row, "ended", summary->ended);
		stat_put_count(&row, "running", summary->running);
		stat_put_double(&row, "duration_p50_ms", summary->median / 1000.0,
						false);
		stat_put_double(&row, "duration_p95_ms", summary->p95 / 1000.0, false);
		(void) stat_end(&row);
	}
	PG_RETURN_NULL();
}

/* A text argument in UTF-8. */
static const char *
stat_utf8_argument(FunctionCallInfo fcinfo, int n)
{
	return result_to_utf8(text_to_cstring(PG_GETARG_TEXT_PP(n)));
}

/*
 * Copy what is known of a function's first arguments, a server, type and model,
 * in this database.  Only that is copied: a view asks so for each row that it
 * shows.
 */
static bool
stat_find_learned(FunctionCallInfo fcinfo, LearnedKey *found)
{
	const char *server = NameStr(*PG_GETARG_NAME(0));
	const char *task_type = stat_utf8_argument(fcinfo, 1);
	const char *model = stat_utf8_argument(fcinfo, 2);

	found->database = InvalidOid;
	if (shmem_get() == NULL)
		return false;
	LWLockAcquire(shmem_lock(), LW_SHARED);
	for (int i = 0; i < COUNTERS_LEARNED; i++)
	{
		const LearnedKey *key = &shmem_get()->learned[i];

		if (key->database == MyDatabaseId &&
			strcmp(key->summary.server, server) == 0 &&
			schedule_is_name(key->summary.task_type, task_type) &&
			schedule_is_name(key->summary.model, model))
		{
			*found = *key;
			break;
		}
	}
	LWLockRelease(shmem_lock());
	return stat_sees_learned(found);
}

/* A time in microseconds. */
static void
stat_put_interval(StatRow *row, const char *name, int64 time, bool isnull)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = time;
	stat_put(row, name, INTERVALOID, IntervalPGetDatum(interval), isnull);
}

/*
 * anyvod_forecast_of(server name, task_type text, model text, started_at
 * timestamptz) returns record
 *
 * How long such a task that was started then has been running, and will, as
 * far as that is known.
 */
Datum
anyvod_forecast_of(PG_FUNCTION_ARGS)
{
	TimestampTz started = PG_GETARG_TIMESTAMPTZ(3);
	StatRow		row = stat_begin(fcinfo);
	ScheduleForecast forecast = {0};
	LearnedKey	key;
	bool		finite = !TIMESTAMP_NOT_FINITE(started);
	bool		known;
	int64		elapsed = finite ? GetCurrentTimestamp() - started : 0;

	known = finite && stat_find_learned(fcinfo, &key);
	if (known)
	{
		/* as the worker does: see durations_record_running() */
		elapsed -= key.summary.skew + INT64CONST(500000);
		schedule_forecast(&key.summary, elapsed, &forecast);
	}
	stat_put_interval(&row, "elapsed", Max(elapsed, 0), !finite);
	stat_put_interval(&row, "remaining", forecast.median, !known);
	stat_put_interval(&row, "remaining_p90", forecast.p90, !known);
	stat_put_double(&row, "learned_from", forecast.learned, !known);
	PG_RETURN_DATUM(HeapTupleGetDatum(stat_end(&row)));
}

/*
 * anyvod_stat_reset() returns void
 */
Datum
anyvod_stat_reset(PG_FUNCTION_ARGS)
{
	counters_reset();
	PG_RETURN_VOID();
}
