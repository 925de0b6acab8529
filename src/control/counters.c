/*-------------------------------------------------------------------------
 *
 * counters.c
 *		Counting what the workers do.
 *
 * A worker counts in its database's entry of shared memory, which it alone
 * writes.  The counters outlive it, so that figures can be read after the work
 * is done; they start afresh with the server, as they are for watching and not
 * for accounting.
 *
 * Nothing here names a task, a URL or anything that a gateway said: of an
 * error its kind is kept, an HTTP status or how far a connection came, an
 * SQLSTATE.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "control/counters.h"
#include "control/shmem.h"

/* This worker's counters, NULL while it does not count. */
static Counters *mine = NULL;

/* So often it has used one of its servers. */
static uint64 uses = 0;


/*
 * Histograms
 */

/* The bucket of a time in microseconds. */
static int
counters_bucket(int64 time)
{
	int			bit;
	int			bucket;

	if (time < (INT64CONST(1) << COUNTERS_FIRST_BIT))
		return 0;
	bit = pg_leftmost_one_pos64((uint64) time);
	bucket = 1 + 4 * (bit - COUNTERS_FIRST_BIT) + ((time >> (bit - 2)) & 3);
	return Min(bucket, COUNTERS_BUCKETS - 1);
}

/* Where a bucket begins, in microseconds. */
int64
counters_bucket_begin(int bucket)
{
	int			quarter = bucket - 1;

	if (bucket == 0)
		return 0;
	return INT64CONST(1) * (4 + quarter % 4)
		<< (COUNTERS_FIRST_BIT - 2 + quarter / 4);
}


/*
 * The worker
 */

/* Begin to count, if this worker counts yet. */
static bool
counters_begin(void)
{
	if (mine != NULL)
		LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	return mine != NULL;
}

static void
counters_done(void)
{
	LWLockRelease(shmem_lock());
}

/* Pauses and requests of a worker end with it.  The lock is held. */
static void
counters_end_requests(void)
{
	mine->in_flight = 0;
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		mine->servers[i].in_flight = 0;
		mine->servers[i].server_until = mine->servers[i].key_until = 0;
	}
}

/* This worker ends, whyever. */
static void
counters_detach(int code, Datum arg)
{
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (mine->worker == MyProcPid)
	{
		mine->worker = 0;
		mine->left_at = GetCurrentTimestamp();
		counters_end_requests();
	}
	counters_done();
	mine = NULL;
}

/*
 * This worker, which has its slot, has work, so its figures are worth keeping;
 * from now on it counts.
 */
void
counters_attach(void)
{
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	mine = &shmem_find(MyDatabaseId)->counters;
	mine->worker = MyProcPid;
	mine->started_at = GetCurrentTimestamp();
	mine->oldest_due = PG_INT64_MAX;
	mine->condition = COUNTERS_WELL;
	counters_end_requests();
	for (int i = 0; i < COUNTERS_SERVERS; i++)
		uses = Max(uses, mine->servers[i].used);
	counters_done();
	before_shmem_exit(counters_detach, (Datum) 0);
}

/*
 * What keeps this worker from its work, for the views.  One that has not
 * attached, as it leaves at once, may tell so, too.
 */
void
counters_set_condition(CountersCondition condition)
{
	if (mine != NULL && mine->condition == condition)
		return;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (slot_is_worker())
		shmem_find(MyDatabaseId)->counters.condition = condition;
	counters_done();
}

/*
 * This worker is about to wait for so many milliseconds at most, -1: until
 * something happens; it knows so many pending tasks, of which the first is, or
 * was, due then.  Let the views and pg_stat_activity say what it does.
 */
void
counters_before_wait(long timeout, int64 pending, int64 oldest_due)
{
	const char *activity = "waiting for new tasks";

	if (pending > 0)
		activity = "waiting until a task is due";
	if (mine != NULL && mine->in_flight > 0)
		activity = "waiting for responses";
	if (timeout != 0)
		pgstat_report_activity(STATE_IDLE, activity);
	if (!counters_begin())
		return;
	mine->pending = pending;
	mine->oldest_due = oldest_due;
	counters_done();
}

/* A server and mapping of this worker, NULL if they are not kept. */
static CountersServer *
counters_find_server(Oid serverid, Oid umid)
{
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		CountersServer *server = &mine->servers[i];

		if (server->serverid == serverid && server->umid == umid)
			return server;
	}
	return NULL;
}

/* The same, in the place of the least recently used if it is new. */
static CountersServer *
counters_find_or_make_server(Oid serverid, Oid umid)
{
	CountersServer *server = counters_find_server(serverid, umid);

	if (server == NULL)
	{
		server = mine->servers;
		for (int i = 1; i < COUNTERS_SERVERS; i++)
		{
			if (mine->servers[i].used < server->used)
				server = &mine->servers[i];
		}
		memset(server, 0, sizeof(CountersServer));
		server->serverid = serverid;
		server->umid = umid;
	}
	server->used = ++uses;
	return server;
}

/* A request has been started. */
void
counters_request(Oid serverid, Oid umid)
{
	CountersServer *server;

	if (!counters_begin())
		return;
	server = counters_find_or_make_server(serverid, umid);
	server->in_flight++;
	server->figures.requests++;
	mine->in_flight++;
	mine->figures.polls++;
	counters_done();
}

/* Does a request that ended so tell of an error of the server, not the task? */
static bool
counters_is_error(int kind)
{
	switch (kind)
	{
		case ANSWER_RUNNING:
		case ANSWER_SUCCEEDED:
		case ANSWER_FAILED:
		case ANSWER_NO_OUTPUT:
		case ANSWER_UNKNOWN_TASK:
			return false;
		default:
			return true;
	}
}

/* How a request ended, in a word. */
const char *
counters_kind_name(int kind)
{
	return kind == COUNTERS_NO_RESPONSE ? "no_response" :
										  answer_verdict_name(kind);
}

/* A request has ended. */
static void
counters_end(const CountedRequest *request, int kind)
{
	CountersServer *server;

	if (counters_is_error(kind) && !request->ours)
		counters_error(counters_kind_name(kind));
	if (!counters_begin())
		return;
	mine->in_flight--;
	mine->figures.polls += request->retries;
	if (request->result == HTTP_COMPLETE)
		mine->figures.request_times[counters_bucket(request->elapsed)]++;
	server = counters_find_server(request->serverid, request->umid);
	if (server != NULL)			/* others were used meanwhile if not */
	{
		server->in_flight = Max(server->in_flight - 1, 0);
		server->figures.kinds[kind]++;
		server->figures.requests += request->retries;
		server->figures.connections += request->connected;
		if (counters_is_error(kind) && !request->ours)
		{
			server->error = kind;
			server->result = request->result;
			server->phase = request->phase;
			server->http_status = request->http_status;
			server->error_at = GetCurrentTimestamp();
		}
		else if (!request->ours)
			server->key_until = 0;
	}
	counters_done();
}

void
counters_response(const CountedRequest *request, AnswerVerdict verdict)
{
	counters_end(request, verdict);
}

/* A request has ended without a response, or with one that is too large. */
void
counters_no_response(const CountedRequest *request)
{
	bool		too_large = request->result == HTTP_TOO_LARGE;

	counters_end(request, too_large ? ANSWER_UNREADABLE : COUNTERS_NO_RESPONSE);
}

/* A request has changed nothing in the table. */
void
counters_unchanged(void)
{
	if (!counters_begin())
		return;
	mine->figures.unchanged++;
	counters_done();
}

/*
 * A row has been written, just now, with what a response said; NULL: with
 * something else.  A task whose end is written for the first time after it was
 * seen running has been watched: that tells how long its end went unnoticed.
 */
void
counters_written(const Answer *answer, bool watched)
{
	if (!counters_begin())
		return;
	mine->figures.written++;
	if (watched && answer != NULL && answer->has_ended_at &&
		(answer->verdict == ANSWER_SUCCEEDED ||
		 answer->verdict == ANSWER_FAILED))
	{
		int64		delay = GetCurrentTimestamp() - answer->ended_at;

		mine->figures.delays[counters_bucket(delay)]++;
	}
	counters_done();
}

/* Something has gone wrong: an SQLSTATE, or how a request ended. */
void
counters_error(const char *sqlstate)
{
	if (!counters_begin())
		return;
	strlcpy(mine->error, sqlstate, sizeof(mine->error));
	mine->error_at = GetCurrentTimestamp();
	counters_done();
}

/* A time of monotonic_us() that is to come, 0 if it is past. */
static TimestampTz
counters_timestamp(int64 until)
{
	int64		wait = until - monotonic_us();

	return wait > 0 ? GetCurrentTimestamp() + wait : 0;
}

/* A server is paused until then, whatever the key. */
void
counters_server_paused(Oid serverid, int64 until, RetryKind why)
{
	TimestampTz at = until > 0 ? counters_timestamp(until) : 0;

	if (!counters_begin())
		return;
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		CountersServer *server = &mine->servers[i];

		if (server->serverid != serverid)
			continue;
		server->server_until = at;
		server->server_limited = why == RETRY_RATE_LIMITED;
	}
	counters_done();
}

/* This key was refused, and is not used until then. */
void
counters_key_refused(Oid serverid, Oid umid, int64 until)
{
	CountersServer *server;

	if (!counters_begin())
		return;
	server = counters_find_server(serverid, umid);
	if (server != NULL)
		server->key_until = counters_timestamp(until);
	counters_done();
}


/*
 * Resetting
 */

/* The figures of this database start at nothing; what is so now stays. */
void
counters_reset(void)
{
	SharedDatabase *entry;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find(MyDatabaseId);
	if (entry != NULL)
	{
		Counters   *counters = &entry->counters;

		memset(&counters->figures, 0, sizeof(counters->figures));
		counters->restarts = 0;
		counters->error_at = 0;
		counters->reset_at = GetCurrentTimestamp();
		for (int i = 0; i < COUNTERS_SERVERS; i++)
		{
			memset(&counters->servers[i].figures, 0,
				   sizeof(CountersServerFigures));
			counters->servers[i].error_at = 0;
		}
	}
	counters_done();
}
