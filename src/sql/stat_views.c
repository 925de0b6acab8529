/*-------------------------------------------------------------------------
 *
 * stat_views.c
 *		The functions behind anyvod_stat_worker and anyvod_stat_server.
 *
 * Each shows what its caller may see, whichever way it is called, so the views
 * need no filter.  Their columns are found by name: a table says of each name
 * what it is and where it stands, and the SQL script in which order.
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
#include "utils/float.h"
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
 * Columns
 */

/* What a column is, in C and in SQL. */
typedef enum StatKind
{
	STAT_OID,					/* Oid */
	STAT_PID,					/* pid_t, 0: null; integer */
	STAT_INT,					/* int; integer */
	STAT_COUNT,					/* uint64; bigint */
	STAT_GAUGE,					/* int64, negative: null; bigint */
	STAT_TEXT,					/* const char *, NULL: null */
	STAT_NAME,					/* the same, as name */
	STAT_TIME,					/* TimestampTz, 0: null */
	STAT_P50,					/* percentiles in milliseconds of a */
	STAT_P95,					/* histogram; double precision */
	STAT_P99,
} StatKind;

static const Oid stat_types[] = {
	[STAT_OID] = OIDOID,
	[STAT_PID] = INT4OID,
	[STAT_INT] = INT4OID,
	[STAT_COUNT] = INT8OID,
	[STAT_GAUGE] = INT8OID,
	[STAT_TEXT] = TEXTOID,
	[STAT_NAME] = NAMEOID,
	[STAT_TIME] = TIMESTAMPTZOID,
	[STAT_P50] = FLOAT8OID,
	[STAT_P95] = FLOAT8OID,
	[STAT_P99] = FLOAT8OID,
};

static const double percents[] = {
	[STAT_P50] = 50,
	[STAT_P95] = 95,
	[STAT_P99] = 99,
};

typedef struct StatColumn
{
	const char *name;
	StatKind	kind;
	size_t		offset;			/* in the struct of a row */
} StatColumn;

/* A row of anyvod_stat_get_workers(). */
typedef struct StatWorker
{
	Oid			datid;
	const char *state;
	const char *hint;
	int64		pending;
	int64		in_flight;
	TimestampTz oldest_due;
	const char *last_error;
	Slot		slot;			/* without its ids */
	Counters	counters;		/* without its servers */
} StatWorker;

static const StatColumn worker_columns[] = {
	{"datid", STAT_OID, offsetof(StatWorker, datid)},
	{"pid", STAT_PID, offsetof(StatWorker, slot.pid)},
	{"state", STAT_TEXT, offsetof(StatWorker, state)},
	{"hint", STAT_TEXT, offsetof(StatWorker, hint)},
	{"pending", STAT_GAUGE, offsetof(StatWorker, pending)},
	{"oldest_due", STAT_TIME, offsetof(StatWorker, oldest_due)},
	{"in_flight", STAT_GAUGE, offsetof(StatWorker, in_flight)},
	{"polls", STAT_COUNT, offsetof(StatWorker, counters.figures.polls)},
	{"changes_written", STAT_COUNT,
	 offsetof(StatWorker, counters.figures.written)},
	{"unchanged", STAT_COUNT, offsetof(StatWorker, counters.figures.unchanged)},
	{"request_p50_ms", STAT_P50,
	 offsetof(StatWorker, counters.figures.request_times)},
	{"request_p95_ms", STAT_P95,
	 offsetof(StatWorker, counters.figures.request_times)},
	{"request_p99_ms", STAT_P99,
	 offsetof(StatWorker, counters.figures.request_times)},
	{"detection_p50_ms", STAT_P50,
	 offsetof(StatWorker, counters.figures.delays)},
	{"detection_p95_ms", STAT_P95,
	 offsetof(StatWorker, counters.figures.delays)},
	{"last_error", STAT_TEXT, offsetof(StatWorker, last_error)},
	{"last_error_at", STAT_TIME, offsetof(StatWorker, counters.error_at)},
	{"restarts", STAT_COUNT, offsetof(StatWorker, counters.restarts)},
	{"started_at", STAT_TIME, offsetof(StatWorker, counters.started_at)},
	{"stats_reset", STAT_TIME, offsetof(StatWorker, counters.reset_at)},
	{NULL}
};

/* A row of anyvod_stat_get_servers(). */
typedef struct StatServer
{
	const char *server;
	const char *mapped_role;
	const char *state;
	TimestampTz paused_until;
	const char *paused_why;
	const char *last_error;
	const char *last_error_detail;
	CountersServer counters;
} StatServer;

#define STAT_SERVER_KIND(kind) \
	offsetof(StatServer, counters.figures.kinds[kind])

static const StatColumn server_columns[] = {
	{"server", STAT_NAME, offsetof(StatServer, server)},
	{"mapped_role", STAT_NAME, offsetof(StatServer, mapped_role)},
	{"state", STAT_TEXT, offsetof(StatServer, state)},
	{"paused_until", STAT_TIME, offsetof(StatServer, paused_until)},
	{"paused_why", STAT_TEXT, offsetof(StatServer, paused_why)},
	{"requests", STAT_COUNT, offsetof(StatServer, counters.figures.requests)},
	{"in_flight", STAT_INT, offsetof(StatServer, counters.in_flight)},
	{"running", STAT_COUNT, STAT_SERVER_KIND(ANSWER_RUNNING)},
	{"succeeded", STAT_COUNT, STAT_SERVER_KIND(ANSWER_SUCCEEDED)},
	{"failed", STAT_COUNT, STAT_SERVER_KIND(ANSWER_FAILED)},
	{"no_output", STAT_COUNT, STAT_SERVER_KIND(ANSWER_NO_OUTPUT)},
	{"auth", STAT_COUNT, STAT_SERVER_KIND(ANSWER_AUTH)},
	{"rate_limited", STAT_COUNT, STAT_SERVER_KIND(ANSWER_RATE_LIMITED)},
	{"unknown_task", STAT_COUNT, STAT_SERVER_KIND(ANSWER_UNKNOWN_TASK)},
	{"transient", STAT_COUNT, STAT_SERVER_KIND(ANSWER_TRANSIENT)},
	{"rejected", STAT_COUNT, STAT_SERVER_KIND(ANSWER_REJECTED)},
	{"unreadable", STAT_COUNT, STAT_SERVER_KIND(ANSWER_UNREADABLE)},
	{"no_response", STAT_COUNT, STAT_SERVER_KIND(COUNTERS_NO_RESPONSE)},
	{"connections", STAT_COUNT,
	 offsetof(StatServer, counters.figures.connections)},
	{"last_error", STAT_TEXT, offsetof(StatServer, last_error)},
	{"last_error_detail", STAT_TEXT, offsetof(StatServer, last_error_detail)},
	{"last_error_at", STAT_TIME, offsetof(StatServer, counters.error_at)},
	{NULL}
};

/* A percentile of a histogram in milliseconds; NaN if nothing was counted. */
static double
stat_percentile(const uint64 *buckets, double percent)
{
	double		all = 0;
	double		rank;
	double		begin;
	double		end;
	int			i;

	for (i = 0; i < COUNTERS_BUCKETS; i++)
		all += buckets[i];
	if (all == 0)
		return get_float8_nan();
	rank = all * percent / 100;
	for (i = 0; i < COUNTERS_BUCKETS - 1 && rank > buckets[i]; i++)
		rank -= buckets[i];
	if (buckets[i] > 0)
		rank = Min(rank / buckets[i], 1);
	begin = counters_bucket_begin(i);
	end = counters_bucket_begin(i + 1);
	return rint(begin + (end - begin) * rank) / 1000;
}

/* The value of a column of a row. */
static Datum
stat_value(const StatColumn *column, const void *row, bool *isnull)
{
	const void *at = (const char *) row + column->offset;
	const char *text;
	double		percentile;

	*isnull = false;
	switch (column->kind)
	{
		case STAT_OID:
			return ObjectIdGetDatum(*(const Oid *) at);
		case STAT_PID:
			*isnull = *(const pid_t *) at == 0;
			return Int32GetDatum(*(const pid_t *) at);
		case STAT_INT:
			return Int32GetDatum(*(const int *) at);
		case STAT_COUNT:
			return Int64GetDatum((int64) * (const uint64 *) at);
		case STAT_GAUGE:
			*isnull = *(const int64 *) at < 0;
			return Int64GetDatum(*(const int64 *) at);
		case STAT_TIME:
			*isnull = *(const TimestampTz *) at == 0;
			return TimestampTzGetDatum(*(const TimestampTz *) at);
		case STAT_TEXT:
		case STAT_NAME:
			text = *(const char *const *) at;
			*isnull = text == NULL;
			if (text == NULL)
				return (Datum) 0;
			if (column->kind == STAT_TEXT)
				return CStringGetTextDatum(text);
			return DirectFunctionCall1(namein, CStringGetDatum(text));
		default:
			break;
	}
	percentile = stat_percentile(at, percents[column->kind]);
	*isnull = isnan(percentile);
	return Float8GetDatum(percentile);
}

/* The result of a function that is being made. */
typedef struct StatSet
{
	Tuplestorestate *rows;
	TupleDesc	desc;
	const StatColumn **columns; /* of "desc" */
} StatSet;

/* Begin the result of a function whose columns are among these. */
static StatSet
stat_begin(FunctionCallInfo fcinfo, const StatColumn *columns)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	StatSet		set;

	InitMaterializedSRF(fcinfo, 0);
	set.rows = info->setResult;
	set.desc = info->setDesc;
	set.columns = palloc(set.desc->natts * sizeof(StatColumn *));
	for (int i = 0; i < set.desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(set.desc, i);
		const StatColumn *column = columns;

		while (column->name != NULL &&
			   strcmp(column->name, NameStr(attribute->attname)) != 0)
			column++;
		if (column->name == NULL ||
			stat_types[column->kind] != attribute->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("there is no statistics column \"%s\" of this type",
							NameStr(attribute->attname))));
		set.columns[i] = column;
	}
	return set;
}

/* Add a row, a StatWorker or StatServer, to the result. */
static void
stat_put(const StatSet *set, const void *row)
{
	Datum	   *values = palloc(set->desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(set->desc->natts * sizeof(bool));

	for (int i = 0; i < set->desc->natts; i++)
		values[i] = stat_value(set->columns[i], row, &nulls[i]);
	tuplestore_putvalues(set->rows, set->desc, values, nulls);
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
stat_state(const StatWorker *row, const char **hint)
{
	bool		wanted = row->slot.state != SLOT_FREE;
	const char *missing;

	*hint = NULL;
	if (row->counters.condition == COUNTERS_TABLE_MISSING &&
		row->slot.state != SLOT_STARTING)
	{
		*hint = "Move \"anyvod_tasks\" back to the extension's schema with ALTER TABLE ... SET SCHEMA.";
		return "table missing";
	}
	if (row->slot.pid == 0 && wanted && row->slot.state != SLOT_BLOCKED)
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
	switch (row->slot.state)
	{
		case SLOT_FREE:
			return anyvod_worker ? "ended" : "off";
		case SLOT_CLOSED:
			*hint = stat_closed_hint(row->datid);
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
	if (row->counters.worker == 0)
		return "starting";
	if (row->counters.condition == COUNTERS_TABLE_LOCKED)
	{
		*hint = "A session has locked \"anyvod_tasks\": see pg_locks.";
		return "table locked";
	}
	return row->counters.pending > 0 ? "serving" : "idle";
}

/*
 * Add the row of a database.  Gauges are null where no worker keeps them.
 * "oldest_due" is the wall-clock time of a time of monotonic_us().
 */
static void
stat_put_worker(const StatSet *set, StatWorker *row)
{
	const Counters *counters = &row->counters;
	bool		counting = counters->worker != 0;

	row->state = stat_state(row, &row->hint);
	row->pending = counting ? counters->pending : -1;
	row->in_flight = counting ? counters->in_flight : -1;
	row->oldest_due = 0;
	if (counting && counters->oldest_due != PG_INT64_MAX)
		row->oldest_due = GetCurrentTimestamp() +
			(counters->oldest_due - monotonic_us());
	row->last_error = counters->error_at != 0 ? counters->error : NULL;
	if (!counting)
		row->counters.started_at = 0;
	stat_put(set, row);
}

/*
 * anyvod_stat_get_workers() returns setof record
 */
Datum
anyvod_stat_get_workers(PG_FUNCTION_ARGS)
{
	AnyvodShared *shared = shmem_get();
	StatSet		set = stat_begin(fcinfo, worker_columns);
	StatWorker *row = palloc(sizeof(StatWorker));

	for (int i = 0; shared != NULL && i < shared->ndatabases; i++)
	{
		const SharedDatabase *entry = &shared->databases[i];

		LWLockAcquire(shmem_lock(), LW_SHARED);
		row->datid = entry->oid;
		memcpy(&row->slot, &entry->slot, offsetof(Slot, new_ids));
		memcpy(&row->counters, &entry->counters, offsetof(Counters, servers));
		LWLockRelease(shmem_lock());
		if (OidIsValid(row->datid) &&
			(row->datid == MyDatabaseId || stat_sees_all()))
			stat_put_worker(&set, row);
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

/* Add the row of a server and mapping, if the caller may see it. */
static void
stat_put_server(const StatSet *set, StatServer *row, bool all)
{
	const CountersServer *counters = &row->counters;
	ForeignServer *server = GetForeignServerExtended(counters->serverid,
													 FSV_MISSING_OK);
	TimestampTz until = Max(counters->server_until, counters->key_until);
	bool		paused = until > GetCurrentTimestamp();

	if (server == NULL || !stat_mapped_role(counters, all, &row->mapped_role))
		return;
	row->server = server->servername;
	row->state = paused ? "paused" : "working";
	row->paused_until = paused ? until : 0;
	row->paused_why = NULL;
	if (paused)
		row->paused_why =
			counters->key_until > counters->server_until ? "auth" :
			counters->server_limited                     ? "rate_limited" :
														   "failures";
	row->last_error = row->last_error_detail = NULL;
	if (counters->error_at != 0)
	{
		row->last_error = counters_kind_name(counters->error);
		row->last_error_detail = stat_error_detail(counters);
	}
	stat_put(set, row);
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
	StatSet		set = stat_begin(fcinfo, server_columns);
	StatServer	row;

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
		row.counters = servers[i];
		if (OidIsValid(servers[i].serverid))
			stat_put_server(&set, &row, stat_sees_all());
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
