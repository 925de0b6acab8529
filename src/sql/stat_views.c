/*-------------------------------------------------------------------------
 *
 * stat_views.c
 *		The functions behind anyvod_stat_worker and anyvod_stat_server.
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

PG_FUNCTION_INFO_V1(anyvod_stat_get_workers);
PG_FUNCTION_INFO_V1(anyvod_stat_get_servers);
PG_FUNCTION_INFO_V1(anyvod_stat_reset);


/*
 * Rows
 */

/* A row that is being made. */
typedef struct StatRow
{
	ReturnSetInfo *result;
	Datum	   *values;
	bool	   *nulls;
	int			n;				/* columns that have a value */
} StatRow;

static StatRow
stat_begin(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	StatRow		row = {.result = result};

	InitMaterializedSRF(fcinfo, 0);
	row.values = palloc(result->setDesc->natts * sizeof(Datum));
	row.nulls = palloc(result->setDesc->natts * sizeof(bool));
	return row;
}

/* Give the column of that name a value, which is of that type. */
static void
stat_put(StatRow *row, const char *name, Oid type, Datum value, bool isnull)
{
	TupleDesc	desc = row->result->setDesc;

	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) != 0 ||
			TupleDescAttr(desc, i)->atttypid != type)
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
	stat_put(row, name, FLOAT8OID,
			 Float8GetDatum(rint(begin + (end - begin) * rank) / 1000),
			 all == 0);
}

/* The row is made: each column must have a value. */
static void
stat_end(StatRow *row)
{
	if (row->n != row->result->setDesc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the library \"anyvod\" has other statistics columns than the extension's script"),
				 errhint("Use ALTER EXTENSION anyvod UPDATE.")));
	tuplestore_putvalues(row->result->setResult, row->result->setDesc,
						 row->values, row->nulls);
	row->n = 0;
}

/* May the caller see figures that are not its own? */
static bool
stat_sees_all(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
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

/* How a database is served, and what to do about that; NULL if nothing. */
static const char *
stat_state(Oid database, const Slot *slot, const Counters *counters,
		   const char **hint)
{
	bool		wanted = slot->state != SLOT_FREE;
	const char *missing;

	*hint = NULL;
	if (counters->condition == COUNTERS_TABLE_MISSING &&
		slot->state != SLOT_STARTING)
	{
		*hint = "Move \"anyvod_tasks\" back to the extension's schema with ALTER TABLE ... SET SCHEMA.";
		return "table missing";
	}
	if (slot->pid == 0 && wanted && slot->state != SLOT_BLOCKED)
	{
		missing = slot_missing(hint);
		if (missing != NULL)
			return "no launcher";
		if (!anyvod_worker)
		{
			*hint = "Set \"anyvod.worker\" to on.";
			return "off";
		}
	}
	switch (slot->state)
	{
		case SLOT_FREE:
			return anyvod_worker ? "ended" : "off";
		case SLOT_CLOSED:
			*hint = stat_closed_hint(database);
			return "no connections allowed";
		case SLOT_WANTED:
		case SLOT_STARTING:
			return "starting";
		case SLOT_QUEUED:
			*hint = "Raise \"anyvod.max_databases\".";
			return "waiting for a slot";
		case SLOT_NO_PROCESS:
			*hint = "Raise \"max_worker_processes\".";
			return "waiting for a process slot";
		case SLOT_FAILED:
		case SLOT_BACKOFF:
			*hint = "Look into the server log.";
			return "failing";
		case SLOT_BLOCKED:
			return "yielding";
		default:
			break;
	}
	if (counters->worker == 0)
		return "starting";
	if (counters->condition == COUNTERS_TABLE_LOCKED)
	{
		*hint = "A session has locked \"anyvod_tasks\": see pg_locks.";
		return "table locked";
	}
	return counters->pending > 0 ? "serving" : "idle";
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
	const char *hint;

	stat_put(row, "datid", OIDOID, ObjectIdGetDatum(database), false);
	stat_put(row, "pid", INT4OID, Int32GetDatum(slot->pid), slot->pid == 0);
	stat_put_text(row, "state", stat_state(database, slot, counters, &hint));
	stat_put_text(row, "hint", hint);
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
	stat_end(row);
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
	if (!all &&
		compat_server_aclcheck(server->serverid, GetUserId(), ACL_USAGE) !=
			ACLCHECK_OK)
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
	stat_end(row);
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
 * anyvod_stat_reset() returns void
 */
Datum
anyvod_stat_reset(PG_FUNCTION_ARGS)
{
	if (shmem_get() != NULL)
		counters_reset();
	PG_RETURN_VOID();
}
