/*-------------------------------------------------------------------------
 *
 * counters.c
 *		What the workers count and learn, for all to see.
 *
 * A worker counts in memory of its own and copies that to its database's entry
 * of shared memory a few times an iteration, not for each request.  There the
 * counters outlive it, so that figures can be read after the work is done; they
 * start afresh with the server, as they are for watching and not for
 * accounting.  So do the durations that it has learned, until others need the
 * room.
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

/* This worker's counters, and where all see them, NULL until it counts. */
static Counters mine;
static Counters *shown = NULL;

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

/* The figures start at nothing; what is so now stays. */
static void
counters_clear(Counters *counters, TimestampTz now)
{
	memset(&counters->figures, 0, sizeof(counters->figures));
	counters->restarts = 0;
	counters->error_at = 0;
	counters->reset_at = now;
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		memset(&counters->servers[i].figures, 0,
			   sizeof(CountersServerFigures));
		counters->servers[i].error_at = 0;
	}
}

/*
 * Let all see what this worker has counted.  If that was reset, what has been
 * counted since the last call is lost.
 */
void
counters_publish(void)
{
	if (shown == NULL)
		return;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (shown->reset_at != mine.reset_at)
		counters_clear(&mine, shown->reset_at);
	if (shown->worker == MyProcPid)
		*shown = mine;
	LWLockRelease(shmem_lock());
}

/* Pauses and requests of a worker end with it. */
static void
counters_end_requests(void)
{
	mine.in_flight = 0;
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		mine.servers[i].in_flight = 0;
		mine.servers[i].server_until = mine.servers[i].key_until = 0;
	}
}

/* This worker ends, whyever. */
static void
counters_detach(int code, Datum arg)
{
	mine.worker = 0;
	mine.left_at = GetCurrentTimestamp();
	counters_end_requests();
	counters_publish();
	shown = NULL;
}

/*
 * This worker, which has its slot, has work, so its figures are worth keeping;
 * from now on it counts.
 */
void
counters_attach(void)
{
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shown = &shmem_find(MyDatabaseId)->counters;
	shown->worker = MyProcPid;
	mine = *shown;
	LWLockRelease(shmem_lock());
	mine.started_at = GetCurrentTimestamp();
	mine.oldest_due = PG_INT64_MAX;
	mine.condition = COUNTERS_WELL;
	counters_end_requests();
	for (int i = 0; i < COUNTERS_SERVERS; i++)
		uses = Max(uses, mine.servers[i].used);
	counters_publish();
	before_shmem_exit(counters_detach, (Datum) 0);
}

/*
 * What keeps this worker from its work, for the views.  One that has not
 * attached, as it leaves at once, may tell so, too.
 */
void
counters_set_condition(CountersCondition condition)
{
	if (shown != NULL && mine.condition == condition)
		return;
	mine.condition = condition;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shmem_find(MyDatabaseId)->counters.condition = condition;
	LWLockRelease(shmem_lock());
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
	if (mine.in_flight > 0)
		activity = "waiting for responses";
	if (timeout != 0)
		pgstat_report_activity(STATE_IDLE, activity);
	mine.pending = pending;
	mine.oldest_due = oldest_due;
	counters_publish();
}

/* A server and mapping of this worker, NULL if they are not kept. */
static CountersServer *
counters_find_server(Oid serverid, Oid umid)
{
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		CountersServer *server = &mine.servers[i];

		if (server->serverid == serverid && server->umid == umid)
			return server;
	}
	return NULL;
}

/* A request has been started. */
void
counters_request(Oid serverid, Oid umid)
{
	CountersServer *server = counters_find_server(serverid, umid);

	if (server == NULL)
	{
		/* in the place of the least recently used */
		server = mine.servers;
		for (int i = 1; i < COUNTERS_SERVERS; i++)
		{
			if (mine.servers[i].used < server->used)
				server = &mine.servers[i];
		}
		memset(server, 0, sizeof(CountersServer));
		server->serverid = serverid;
		server->umid = umid;
	}
	server->used = ++uses;
	server->in_flight++;
	server->figures.requests++;
	mine.in_flight++;
	mine.figures.polls++;
}

/* How a request ended, in a word. */
const char *
counters_kind_name(int kind)
{
	return kind == COUNTERS_NO_RESPONSE ? "no_response" :
										  answer_verdict_name(kind);
}

/*
 * A request has ended: with a response, by its verdict, or (NULL) without one
 * that could be read; "ours": by this process's fault.
 */
void
counters_response(Oid serverid, Oid umid, const HttpRequest *request,
				  const Answer *answer, bool ours)
{
	CountersServer *server = counters_find_server(serverid, umid);
	int			retries = Max(request->attempts - 1, 0);
	int			kind = COUNTERS_NO_RESPONSE;
	bool		failed;

	if (answer != NULL)
		kind = answer->verdict;
	else if (request->result == HTTP_TOO_LARGE)
		kind = ANSWER_UNREADABLE;
	/* is it an error of the server, not the task? */
	failed = kind >= ANSWER_AUTH && kind != ANSWER_UNKNOWN_TASK && !ours;
	if (failed)
		counters_error(counters_kind_name(kind));
	mine.in_flight--;
	mine.figures.polls += retries;
	if (request->result == HTTP_COMPLETE)
		mine.figures.request_times[counters_bucket(request->elapsed)]++;
	if (server == NULL)			/* others were used meanwhile */
		return;
	server->in_flight = Max(server->in_flight - 1, 0);
	server->figures.kinds[kind]++;
	server->figures.requests += retries;
	server->figures.connections += request->connected;
	if (failed)
	{
		server->error = kind;
		server->result = request->result;
		server->phase = request->phase;
		server->http_status = request->status;
		server->error_at = GetCurrentTimestamp();
	}
	else if (!ours)
		server->key_until = 0;
}

/* A request has changed nothing in the table. */
void
counters_unchanged(void)
{
	mine.figures.unchanged++;
}

/*
 * A row has been written, just now, with what a response said; NULL: with
 * something else.  A task whose end is written for the first time after it was
 * seen running has been watched: that tells how long its end went unnoticed.
 */
void
counters_written(const Answer *answer, bool watched)
{
	mine.figures.written++;
	if (watched && answer != NULL && answer->has_ended_at &&
		(answer->verdict == ANSWER_SUCCEEDED ||
		 answer->verdict == ANSWER_FAILED))
	{
		int64		delay = GetCurrentTimestamp() - answer->ended_at;

		mine.figures.delays[counters_bucket(delay)]++;
	}
}

/* Something has gone wrong: an SQLSTATE, or how a request ended. */
void
counters_error(const char *sqlstate)
{
	strlcpy(mine.error, sqlstate, sizeof(mine.error));
	mine.error_at = GetCurrentTimestamp();
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

	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		CountersServer *server = &mine.servers[i];

		if (server->serverid != serverid)
			continue;
		server->server_until = at;
		server->server_limited = why == RETRY_RATE_LIMITED;
	}
}

/* This key was refused, and is not used until then. */
void
counters_key_refused(Oid serverid, Oid umid, int64 until)
{
	CountersServer *server = counters_find_server(serverid, umid);

	if (server != NULL)
		server->key_until = counters_timestamp(until);
}

/*
 * This worker has learned this of a key.  It takes the key's place, a free one,
 * or that of what was published first.
 */
void
counters_learned(const ScheduleSummary *summary)
{
	LearnedKey *keys = shmem_get()->learned;
	LearnedKey *key = &keys[0];

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < COUNTERS_LEARNED; i++)
	{
		if (keys[i].database == MyDatabaseId &&
			strcmp(keys[i].summary.server, summary->server) == 0 &&
			strcmp(keys[i].summary.task_type, summary->task_type) == 0 &&
			strcmp(keys[i].summary.model, summary->model) == 0)
		{
			key = &keys[i];
			break;
		}
		if (keys[i].published_at < key->published_at)
			key = &keys[i];
	}
	key->database = MyDatabaseId;
	key->published_at = GetCurrentTimestamp();
	key->summary = *summary;
	LWLockRelease(shmem_lock());
}


/*
 * Sessions
 */

/* The figures of this database start at nothing. */
void
counters_reset(void)
{
	SharedDatabase *entry;

	if (shmem_get() == NULL)
		return;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find(MyDatabaseId);
	if (entry != NULL)
		counters_clear(&entry->counters, GetCurrentTimestamp());
	LWLockRelease(shmem_lock());
}
