/*-------------------------------------------------------------------------
 *
 * counters.c
 *		Counting what the workers do.
 *
 * A worker counts in memory of its own and adds that to shared memory now and
 * then, when it is awake anyway: counting takes no lock and wakes nobody.  The
 * counters of a database outlive its workers, so that figures can be read
 * after the work is done; they start afresh with the server, as they are for
 * watching and not for accounting.
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

/*
 * While it is busy a worker publishes no oftener than this (milliseconds):
 * nobody's eye is quicker, and it is one lock in a thousand requests.
 */
#define COUNTERS_PUBLISH_EVERY 50

/*
 * This worker.  "counted" and its servers' figures are what was counted since
 * they were last published; its servers are at the same indexes as the shared
 * ones, which no other process fills.
 */
static struct
{
	Counters   *shared;			/* NULL: not attached */
	Counters	counted;
	bool		changed[COUNTERS_SERVERS];	/* since they were published */
	bool		dirty;
	uint64		uses;
	int64		publish_at;		/* not before this while busy */
} mine;


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
 * Publishing
 */

/* Add figures to others; "size" is in bytes. */
static void
counters_add(void *figures, const void *counted, Size size)
{
	uint64	   *to = figures;
	const uint64 *from = counted;

	for (Size i = 0; i < size / sizeof(uint64); i++)
		to[i] += from[i];
}

/* Publish what was counted of a server. */
static void
counters_publish_server(CountersServer *shared, CountersServer *counted)
{
	CountersServer before = *shared;
	bool		same = before.serverid == counted->serverid &&
		before.umid == counted->umid;

	*shared = *counted;
	memset(&counted->figures, 0, sizeof(counted->figures));
	counted->error_at = 0;
	if (!same)
		return;
	counters_add(&shared->figures, &before.figures, sizeof(before.figures));
	if (shared->error_at == 0)
	{
		shared->error_at = before.error_at;
		shared->error = before.error;
		shared->result = before.result;
		shared->phase = before.phase;
		shared->http_status = before.http_status;
	}
}

/* Publish what was counted.  Must not throw. */
static void
counters_publish(void)
{
	Counters   *shared = mine.shared;
	Counters   *counted = &mine.counted;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shared->pending = counted->pending;
	shared->in_flight = counted->in_flight;
	shared->oldest_due = counted->oldest_due;
	shared->condition = counted->condition;
	if (mine.dirty)
		counters_add(&shared->figures, &counted->figures,
					 sizeof(CountersFigures));
	if (counted->error_at != 0)
	{
		strlcpy(shared->error, counted->error, sizeof(shared->error));
		shared->error_at = counted->error_at;
	}
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		if (mine.changed[i])
			counters_publish_server(&shared->servers[i], &counted->servers[i]);
	}
	LWLockRelease(shmem_lock());

	if (mine.dirty)
		memset(&counted->figures, 0, sizeof(CountersFigures));
	counted->error_at = 0;
	memset(mine.changed, 0, sizeof(mine.changed));
	mine.dirty = false;
}

/* Pauses and requests of a worker end with it. */
static void
counters_end_pauses(CountersServer *servers)
{
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		servers[i].in_flight = 0;
		servers[i].server_until = servers[i].key_until = 0;
	}
}

/* This worker ends, whyever. */
static void
counters_detach(int code, Datum arg)
{
	counters_publish();
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (mine.shared->worker == MyProcPid)
	{
		mine.shared->worker = 0;
		mine.shared->left_at = GetCurrentTimestamp();
		counters_end_pauses(mine.shared->servers);
	}
	LWLockRelease(shmem_lock());
	mine.shared = NULL;
}

/*
 * This worker, which has its slot, has work, so its figures are worth keeping;
 * from now on it counts.
 */
void
counters_attach(void)
{
	Counters   *shared;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shared = &shmem_find(MyDatabaseId)->counters;
	shared->worker = MyProcPid;
	shared->started_at = GetCurrentTimestamp();
	shared->oldest_due = mine.counted.oldest_due = PG_INT64_MAX;
	shared->condition = COUNTERS_WELL;
	counters_end_pauses(shared->servers);
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		mine.counted.servers[i].serverid = shared->servers[i].serverid;
		mine.counted.servers[i].umid = shared->servers[i].umid;
		mine.counted.servers[i].used = shared->servers[i].used;
		mine.uses = Max(mine.uses, shared->servers[i].used);
	}
	LWLockRelease(shmem_lock());
	mine.shared = shared;
	before_shmem_exit(counters_detach, (Datum) 0);
}

/*
 * What keeps this worker from its work, for the views.  One that has not
 * attached, as it leaves at once, may tell so, too.
 */
void
counters_set_condition(CountersCondition condition)
{
	Counters   *shared = mine.shared;

	if (mine.counted.condition == condition)
		return;
	mine.counted.condition = condition;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (shared == NULL && slot_is_worker())
		shared = &shmem_find(MyDatabaseId)->counters;
	if (shared != NULL)
		shared->condition = condition;
	LWLockRelease(shmem_lock());
}

/* What a worker that waits waits for. */
static const char *
counters_waits_for(int64 pending)
{
	if (mine.counted.in_flight > 0)
		return "waiting for responses";
	if (pending > 0)
		return "waiting until a task is due";
	return "waiting for new tasks";
}

/*
 * This worker is about to wait for so many milliseconds at most, -1: until
 * something happens; it knows so many pending tasks, of which the first is, or
 * was, due then.  Publish what was counted unless that was done just now and
 * it will be awake again soon, and let pg_stat_activity say what it does.
 */
void
counters_before_wait(long timeout, int64 pending, int64 oldest_due)
{
	int64		now = monotonic_us();

	if (timeout != 0)
		pgstat_report_activity(STATE_IDLE, counters_waits_for(pending));
	if (mine.shared == NULL ||
		(now < mine.publish_at && timeout >= 0 &&
		 timeout < COUNTERS_PUBLISH_EVERY))
		return;
	mine.counted.pending = pending;
	mine.counted.oldest_due = oldest_due;
	mine.publish_at = now + COUNTERS_PUBLISH_EVERY * INT64CONST(1000);
	counters_publish();
}


/*
 * Counting
 */

/* A server and mapping of this worker, NULL if they are not kept. */
static CountersServer *
counters_find_server(Oid serverid, Oid umid)
{
	for (int i = 0; i < COUNTERS_SERVERS; i++)
	{
		CountersServer *server = &mine.counted.servers[i];

		if (server->serverid == serverid && server->umid == umid)
		{
			mine.changed[i] = true;
			return server;
		}
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
		CountersServer *servers = mine.counted.servers;

		server = servers;
		for (int i = 1; i < COUNTERS_SERVERS; i++)
		{
			if (servers[i].used < server->used)
				server = &servers[i];
		}
		memset(server, 0, sizeof(CountersServer));
		server->serverid = serverid;
		server->umid = umid;
		mine.changed[server - servers] = true;
	}
	server->used = ++mine.uses;
	return server;
}

/* A request has been started. */
void
counters_request(Oid serverid, Oid umid)
{
	CountersServer *server = counters_find_or_make_server(serverid, umid);

	server->in_flight++;
	server->figures.requests++;
	mine.counted.in_flight++;
	mine.counted.figures.polls++;
	mine.dirty = true;
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
	CountersServer *server = counters_find_server(request->serverid,
												  request->umid);

	mine.counted.in_flight--;
	mine.counted.figures.polls += request->retries;
	if (request->result == HTTP_COMPLETE)
		mine.counted.figures.request_times[counters_bucket(request->elapsed)]++;
	mine.dirty = true;
	if (counters_is_error(kind))
		counters_error(counters_kind_name(kind));
	if (server == NULL)
		return;					/* others were used meanwhile */

	server->in_flight = Max(server->in_flight - 1, 0);
	server->figures.kinds[kind]++;
	server->figures.requests += request->retries;
	server->figures.connections += request->connected;
	if (!counters_is_error(kind))
	{
		server->key_until = 0;
		return;
	}
	server->error = kind;
	server->result = request->result;
	server->phase = request->phase;
	server->http_status = request->http_status;
	server->error_at = GetCurrentTimestamp();
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
	mine.counted.figures.unchanged++;
	mine.dirty = true;
}

/*
 * A row has been written, just now, with what an answer said; NULL: with
 * something else.  A task whose end is written for the first time after it was
 * seen running has been watched: that tells how long its end went unnoticed.
 */
void
counters_written(const Answer *answer, bool watched)
{
	mine.counted.figures.written++;
	mine.dirty = true;
	if (watched && answer != NULL && answer->has_ended_at &&
		(answer->verdict == ANSWER_SUCCEEDED ||
		 answer->verdict == ANSWER_FAILED))
	{
		int64		delay = GetCurrentTimestamp() - answer->ended_at;

		mine.counted.figures.delays[counters_bucket(delay)]++;
	}
}

/* Something has gone wrong: an SQLSTATE, or how a request ended. */
void
counters_error(const char *sqlstate)
{
	strlcpy(mine.counted.error, sqlstate, sizeof(mine.counted.error));
	mine.counted.error_at = GetCurrentTimestamp();
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
		CountersServer *server = &mine.counted.servers[i];

		if (server->serverid != serverid || server->server_until == at)
			continue;
		server->server_until = at;
		server->server_limited = why == RETRY_RATE_LIMITED;
		mine.changed[i] = true;
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
	LWLockRelease(shmem_lock());
}
