/*-------------------------------------------------------------------------
 *
 * stat.c
 *		Counting what the workers do, and showing it in views.
 *
 * A worker counts in memory of its own and adds that to shared memory now and
 * then, when it is awake anyway: counting takes no lock and wakes nobody.
 * Shared memory has an entry a database, which outlives its workers, so that
 * figures can be read after the work is done; they start afresh with the
 * server, as they are for watching and not for accounting.
 *
 * Nothing here names a task, a URL or anything that a gateway said: of trouble
 * its kind is kept, an HTTP status or how far a connection came, an SQLSTATE.
 * Functions show what their caller may see, whichever way they are called, so
 * the views need no filter.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "clock.h"
#include "compat.h"
#include "anyvod.h"
#include "launcher/launcher.h"
#include "worker/queue.h"
#include "control/stat.h"

PG_FUNCTION_INFO_V1(anyvod_stat_get_workers);
PG_FUNCTION_INFO_V1(anyvod_stat_get_servers);
PG_FUNCTION_INFO_V1(anyvod_stat_reset);

/* How a question ends: with an answer, by its verdict, or with none. */
#define STAT_NO_ANSWER ANSWER_VERDICTS
#define STAT_KINDS (ANSWER_VERDICTS + 1)

/* Columns of the functions, as the SQL script has them. */
#define STAT_WORKER_COLUMNS 32
#define STAT_SERVER_COLUMNS 22
StaticAssertDecl(STAT_WORKER_COLUMNS == 21 + STAT_KINDS, "a column a kind");
StaticAssertDecl(STAT_SERVER_COLUMNS == 11 + STAT_KINDS, "a column a kind");

/* Accounts that are kept of a database: the least recently used one goes. */
#define STAT_ACCOUNTS 32

/*
 * While it is busy a worker publishes no oftener than this (milliseconds):
 * nobody's eye is quicker, and it is one lock in a thousand requests.
 */
#define STAT_PUBLISH_EVERY 50

/*
 * Counting due tasks takes one part in so many of a worker's time, but is done
 * each second if it may take ten times that (microseconds).
 */
#define STAT_COUNT_SHARE 1000
#define STAT_COUNT_EVERY INT64CONST(1000000)

/* A task is late when it has been due for longer than this (microseconds). */
#define STAT_LATE INT64CONST(1000000)

/*
 * Histograms have four buckets for each doubling, so that a percentile is off
 * by a quarter at most: the first is for less than 2^7 microseconds, the last
 * ends at 2^39, six days, and takes in what is longer.
 */
#define STAT_FIRST_BIT 7
#define STAT_BUCKETS (1 + 4 * 32)

/* Longest SQLSTATE or kind, with its end. */
#define STAT_WORD 16

/* Figures of a database.  All are uint64: they are added as an array. */
typedef struct StatFigures
{
	uint64		polls;			/* requests that were started */
	uint64		kinds[STAT_KINDS];	/* how they ended */
	uint64		written;		/* rows */
	uint64		unchanged;		/* requests that changed nothing */
	uint64		request_times[STAT_BUCKETS];	/* of those answered */
	uint64		delays[STAT_BUCKETS];	/* of detection */
} StatFigures;

/* Figures of an account, likewise. */
typedef struct StatAccountFigures
{
	uint64		requests;
	uint64		connections;	/* that were made for them */
	uint64		kinds[STAT_KINDS];
} StatAccountFigures;

/*
 * When the tasks that wait are due.  A worker that sleeps tells nobody that
 * more of them have become due meanwhile, so who reads this reckons it: so
 * many were, and so many became so within the time of each bucket.
 */
typedef struct StatWaits
{
	int64		first_due;		/* monotonic_us(); kept while not counted */
	uint64		asked;			/* requests since counting, for what was due */
	int64		counted_at;		/* monotonic_us() */
	uint64		late;			/* due for STAT_LATE or longer */
	uint64		due;			/* for less */
	uint64		due_in[STAT_BUCKETS];	/* time until then */
} StatWaits;

/* A server and the mapping with which it is asked. */
typedef struct StatAccount
{
	Oid			serverid;		/* InvalidOid: free */
	Oid			umid;			/* user mapping, InvalidOid: without one */
	uint64		used;			/* the greater, the more recently */
	int			in_flight;
	TimestampTz server_until;	/* the server is paused, 0 if not */
	bool		server_limited; /* since it wants fewer requests */
	TimestampTz key_until;		/* the key was refused, 0 if not */
	TimestampTz trouble_at;		/* 0: there was none */
	int			trouble;		/* its kind */
	HttpResult	result;			/* of the request that was in trouble */
	HttpPhase	phase;
	int			http_status;
	StatAccountFigures figures;
} StatAccount;

/* A database.  All of them are guarded by the lock. */
typedef struct StatDatabase
{
	Oid			database;		/* InvalidOid: free */
	bool		attached;		/* has a worker that counts */
	TimestampTz left_at;		/* if not: since when */
	TimestampTz started_at;		/* of the worker */
	TimestampTz reset_at;		/* since when is counted */
	uint64		restarts;		/* workers that ended by failing */
	int64		pending;		/* tasks that are known */
	int			in_flight;		/* requests */
	StatWaits	waits;
	char		error[STAT_WORD];	/* the latest, "" if none */
	TimestampTz error_at;
	StatFigures figures;
	StatAccount accounts[STAT_ACCOUNTS];
} StatDatabase;

typedef struct StatShared
{
	int			ndatabases;
	StatDatabase databases[FLEXIBLE_ARRAY_MEMBER];
} StatShared;

static StatShared *shared = NULL;
static LWLock *shared_lock = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/*
 * This worker.  "counted" and its accounts' figures are what was counted since
 * they were last published, its accounts are at the same places as the shared
 * ones, which no other process fills.
 */
static struct
{
	StatDatabase *entry;		/* NULL: not attached */
	StatDatabase counted;
	bool		changed[STAT_ACCOUNTS]; /* since they were published */
	bool		dirty;
	uint64		uses;
	int64		publish_at;		/* not before this while busy */
	int64		count_at;		/* due tasks are not counted before this */
} mine;


/*
 * Shared memory
 */

static Size
stat_shared_size(void)
{
	return add_size(offsetof(StatShared, databases),
					mul_size(anyvod_max_databases, sizeof(StatDatabase)));
}

static void
stat_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(stat_shared_size());
	RequestNamedLWLockTranche("anyvod_stat", 1);
}

static void
stat_shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("anyvod_stat", stat_shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, stat_shared_size());
		shared->ndatabases = anyvod_max_databases;
	}
	LWLockRelease(AddinShmemInitLock);
	shared_lock = &GetNamedLWLockTranche("anyvod_stat")->lock;
}

/* Called while the library is preloaded. */
void
stat_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = stat_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = stat_shmem_startup;
}

/* The entry of a database, NULL if it has none.  The lock is held. */
static StatDatabase *
stat_find(Oid database)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		if (shared->databases[i].database == database)
			return &shared->databases[i];
	}
	return NULL;
}

/* The entry that has been without a worker for longest, NULL: all have one. */
static StatDatabase *
stat_find_longest_left(void)
{
	StatDatabase *longest = NULL;

	for (int i = 0; i < shared->ndatabases; i++)
	{
		StatDatabase *entry = &shared->databases[i];

		if (!entry->attached &&
			(longest == NULL || entry->left_at < longest->left_at))
			longest = entry;
	}
	return longest;
}

/*
 * The entry of a database, made if need be, in the place of that which has
 * been without a worker for longest; NULL if all have one.  The lock is held.
 */
static StatDatabase *
stat_find_or_make(Oid database)
{
	StatDatabase *entry = stat_find(database);

	if (entry != NULL)
		return entry;
	entry = stat_find(InvalidOid);
	if (entry == NULL)
		entry = stat_find_longest_left();
	if (entry == NULL)
		return NULL;
	memset(entry, 0, sizeof(StatDatabase));
	entry->database = database;
	entry->reset_at = entry->left_at = GetCurrentTimestamp();
	return entry;
}

/* Add figures to others; "size" is in bytes. */
static void
stat_add(void *figures, const void *counted, Size size)
{
	uint64	   *to = figures;
	const uint64 *from = counted;

	for (Size i = 0; i < size / sizeof(uint64); i++)
		to[i] += from[i];
}


/*
 * Histograms
 */

/* The bucket of a time in microseconds. */
static int
stat_bucket(int64 time)
{
	int			bit;
	int			bucket;

	if (time < (INT64CONST(1) << STAT_FIRST_BIT))
		return 0;
	bit = pg_leftmost_one_pos64((uint64) time);
	bucket = 1 + 4 * (bit - STAT_FIRST_BIT) + ((time >> (bit - 2)) & 3);
	return Min(bucket, STAT_BUCKETS - 1);
}

/* Where a bucket begins, in microseconds. */
static int64
stat_bucket_begin(int bucket)
{
	int			quarter = bucket - 1;

	if (bucket == 0)
		return 0;
	return INT64CONST(1) * (4 + quarter % 4)
		<< (STAT_FIRST_BIT - 2 + quarter / 4);
}


/*
 * The launcher
 */

/* A worker has failed to start, or has ended without having left. */
void
stat_note_restart(Oid database)
{
	StatDatabase *entry;

	if (!OidIsValid(database))
		return;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry = stat_find_or_make(database);
	if (entry != NULL)
		entry->restarts++;
	LWLockRelease(shared_lock);
}

/* A database is gone. */
void
stat_forget(Oid database)
{
	StatDatabase *entry;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry = stat_find(database);
	if (entry != NULL && !entry->attached)
		memset(entry, 0, sizeof(StatDatabase));
	LWLockRelease(shared_lock);
}


/*
 * The worker: publishing
 */

/* Publish what was counted of an account. */
static void
stat_publish_account(StatAccount *account, StatAccount *counted)
{
	StatAccount before = *account;
	bool		same = before.serverid == counted->serverid &&
		before.umid == counted->umid;

	*account = *counted;
	memset(&counted->figures, 0, sizeof(counted->figures));
	counted->trouble_at = 0;
	if (!same)
		return;
	stat_add(&account->figures, &before.figures, sizeof(before.figures));
	if (account->trouble_at == 0)
	{
		account->trouble_at = before.trouble_at;
		account->trouble = before.trouble;
		account->result = before.result;
		account->phase = before.phase;
		account->http_status = before.http_status;
	}
}

/* Publish what was counted.  Must not throw. */
static void
stat_publish(void)
{
	StatDatabase *entry = mine.entry;
	StatDatabase *counted = &mine.counted;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry->pending = counted->pending;
	entry->in_flight = counted->in_flight;
	entry->waits = counted->waits;
	if (mine.dirty)
		stat_add(&entry->figures, &counted->figures, sizeof(StatFigures));
	if (counted->error_at != 0)
	{
		strlcpy(entry->error, counted->error, sizeof(entry->error));
		entry->error_at = counted->error_at;
	}
	for (int i = 0; i < STAT_ACCOUNTS; i++)
	{
		if (mine.changed[i])
			stat_publish_account(&entry->accounts[i], &counted->accounts[i]);
	}
	LWLockRelease(shared_lock);

	if (mine.dirty)
		memset(&counted->figures, 0, sizeof(StatFigures));
	counted->error_at = 0;
	memset(mine.changed, 0, sizeof(mine.changed));
	mine.dirty = false;
}

/* Pauses and requests of a worker end with it. */
static void
stat_settle_accounts(StatAccount *accounts)
{
	for (int i = 0; i < STAT_ACCOUNTS; i++)
	{
		accounts[i].in_flight = 0;
		accounts[i].server_until = accounts[i].key_until = 0;
	}
}

/* This worker ends, whyever. */
static void
stat_detach(int code, Datum arg)
{
	stat_publish();
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	mine.entry->attached = false;
	mine.entry->left_at = GetCurrentTimestamp();
	stat_settle_accounts(mine.entry->accounts);
	LWLockRelease(shared_lock);
	mine.entry = NULL;
}

/*
 * This worker has work, so its figures are worth keeping; from now on it
 * counts.  The launcher has seen to it that it is the database's only one.
 */
void
stat_attach(void)
{
	StatDatabase *entry;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry = stat_find_or_make(MyDatabaseId);
	if (entry != NULL)
	{
		entry->attached = true;
		entry->started_at = GetCurrentTimestamp();
		entry->pending = queue_size();
		entry->waits.first_due = QUEUE_NEVER;
		stat_settle_accounts(entry->accounts);
		for (int i = 0; i < STAT_ACCOUNTS; i++)
		{
			mine.counted.accounts[i].serverid = entry->accounts[i].serverid;
			mine.counted.accounts[i].umid = entry->accounts[i].umid;
			mine.counted.accounts[i].used = entry->accounts[i].used;
			mine.uses = Max(mine.uses, entry->accounts[i].used);
		}
	}
	LWLockRelease(shared_lock);
	mine.entry = entry;
	if (entry != NULL)
		before_shmem_exit(stat_detach, (Datum) 0);
}

/* A task has so long to wait, in microseconds; negative: it is overdue. */
static void
stat_note_wait(int64 wait)
{
	StatWaits  *waits = &mine.counted.waits;

	if (wait <= -STAT_LATE)
		waits->late++;
	else if (wait <= 0)
		waits->due++;
	else
		waits->due_in[stat_bucket(wait)]++;
}

/* Count when tasks are due, and do not do so again too soon. */
static void
stat_count_waits(int64 now)
{
	int64		taken;

	memset(&mine.counted.waits, 0, sizeof(StatWaits));
	mine.counted.waits.counted_at = now;
	queue_visit_waits(stat_note_wait, now);
	mine.count_at = monotonic_us();
	taken = mine.count_at - now;
	mine.count_at += Min(STAT_COUNT_SHARE * taken,
						 Max(STAT_COUNT_SHARE / 10 * taken, STAT_COUNT_EVERY));
}

/* What a worker that waits waits for. */
static const char *
stat_waits_for(void)
{
	if (mine.counted.in_flight > 0)
		return "waiting for answers";
	if (queue_size() > 0)
		return "waiting until a task is due";
	return "waiting for new tasks";
}

/*
 * This worker is about to wait for so many milliseconds at most, -1: until
 * something happens.  Publish what was counted unless that was done just now
 * and it will be awake again soon, and let pg_stat_activity say what it does.
 */
void
stat_before_wait(long timeout)
{
	StatDatabase *counted = &mine.counted;
	int64		now = monotonic_us();

	if (timeout != 0)
		pgstat_report_activity(STATE_IDLE, stat_waits_for());
	if (mine.entry == NULL ||
		(now < mine.publish_at && timeout >= 0 &&
		 timeout < STAT_PUBLISH_EVERY))
		return;
	if (now >= mine.count_at)
		stat_count_waits(now);
	counted->waits.first_due = queue_first_due();
	counted->pending = (int64) queue_size();
	mine.publish_at = now + STAT_PUBLISH_EVERY * INT64CONST(1000);
	stat_publish();
}


/*
 * The worker: counting
 */

/* An account of this worker, NULL if it is not among those kept. */
static StatAccount *
stat_find_account(Oid serverid, Oid umid)
{
	for (int i = 0; i < STAT_ACCOUNTS; i++)
	{
		StatAccount *account = &mine.counted.accounts[i];

		if (account->serverid == serverid && account->umid == umid)
		{
			mine.changed[i] = true;
			return account;
		}
	}
	return NULL;
}

/* The same, in the place of the least recently used if it is new. */
static StatAccount *
stat_find_or_make_account(Oid serverid, Oid umid)
{
	StatAccount *account = stat_find_account(serverid, umid);

	if (account == NULL)
	{
		StatAccount *accounts = mine.counted.accounts;

		account = accounts;
		for (int i = 1; i < STAT_ACCOUNTS; i++)
		{
			if (accounts[i].used < account->used)
				account = &accounts[i];
		}
		memset(account, 0, sizeof(StatAccount));
		account->serverid = serverid;
		account->umid = umid;
		mine.changed[account - accounts] = true;
	}
	account->used = ++mine.uses;
	return account;
}

/* A request has been started. */
void
stat_note_request(Oid serverid, Oid umid)
{
	StatAccount *account = stat_find_or_make_account(serverid, umid);

	account->in_flight++;
	account->figures.requests++;
	mine.counted.waits.asked++;
	mine.counted.in_flight++;
	mine.counted.figures.polls++;
	mine.dirty = true;
}

/* Does a request that ended so tell of trouble of the server, not the task? */
static bool
stat_is_trouble(int kind)
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

static const char *
stat_kind_name(int kind)
{
	return kind == STAT_NO_ANSWER ? "no_answer" : answer_verdict_name(kind);
}

/* A request has ended. */
static void
stat_note_end(const StatRequest *request, int kind)
{
	StatAccount *account = stat_find_account(request->serverid, request->umid);

	mine.counted.in_flight--;
	mine.counted.figures.polls += request->retries;
	mine.counted.figures.kinds[kind]++;
	if (request->result == HTTP_COMPLETE)
		mine.counted.figures.request_times[stat_bucket(request->elapsed)]++;
	mine.dirty = true;
	if (stat_is_trouble(kind))
		stat_note_error(stat_kind_name(kind));
	if (account == NULL)
		return;					/* others were used meanwhile */

	account->in_flight = Max(account->in_flight - 1, 0);
	account->figures.kinds[kind]++;
	account->figures.requests += request->retries;
	account->figures.connections += request->connected;
	if (!stat_is_trouble(kind))
	{
		account->key_until = 0;
		return;
	}
	account->trouble = kind;
	account->result = request->result;
	account->phase = request->phase;
	account->http_status = request->http_status;
	account->trouble_at = GetCurrentTimestamp();
}

void
stat_note_answer(const StatRequest *request, AnswerVerdict verdict)
{
	stat_note_end(request, verdict);
}

/* A request has ended without a response, or with one that is too large. */
void
stat_note_no_answer(const StatRequest *request)
{
	bool		too_large = request->result == HTTP_TOO_LARGE;

	stat_note_end(request, too_large ? ANSWER_UNREADABLE : STAT_NO_ANSWER);
}

/* A request has changed nothing in the table. */
void
stat_note_unchanged(void)
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
stat_note_written(const Answer *answer, bool watched)
{
	mine.counted.figures.written++;
	mine.dirty = true;
	if (watched && answer != NULL && answer->has_ended_at &&
		(answer->verdict == ANSWER_SUCCEEDED ||
		 answer->verdict == ANSWER_FAILED))
	{
		int64		delay = GetCurrentTimestamp() - answer->ended_at;

		mine.counted.figures.delays[stat_bucket(delay)]++;
	}
}

/* Something has gone wrong: an SQLSTATE, or how a request ended. */
void
stat_note_error(const char *sqlstate)
{
	strlcpy(mine.counted.error, sqlstate, sizeof(mine.counted.error));
	mine.counted.error_at = GetCurrentTimestamp();
}

/* A time of monotonic_us() that is to come, 0 if it is past. */
static TimestampTz
stat_timestamp(int64 until)
{
	int64		wait = until - monotonic_us();

	return wait > 0 ? GetCurrentTimestamp() + wait : 0;
}

/* A server, or what has failed there, rests until then, whatever the key. */
void
stat_note_pause(Oid serverid, int64 until, RetryKind why)
{
	TimestampTz at = until > 0 ? stat_timestamp(until) : 0;

	for (int i = 0; i < STAT_ACCOUNTS; i++)
	{
		StatAccount *account = &mine.counted.accounts[i];

		if (account->serverid != serverid || account->server_until == at)
			continue;
		account->server_until = at;
		account->server_limited = why == RETRY_RATE_LIMITED;
		mine.changed[i] = true;
	}
}

/* A role asks nothing with this key until then. */
void
stat_note_refused_key(Oid serverid, Oid umid, int64 until)
{
	StatAccount *account = stat_find_account(serverid, umid);

	if (account != NULL)
		account->key_until = stat_timestamp(until);
}

/* Servers or mappings have changed: all are asked again. */
void
stat_forget_pauses(void)
{
	for (int i = 0; i < STAT_ACCOUNTS; i++)
	{
		StatAccount *account = &mine.counted.accounts[i];

		account->server_until = account->key_until = 0;
		mine.changed[i] = OidIsValid(account->serverid);
	}
}


/*
 * The views
 */

/* A row of a view that is being made. */
typedef struct StatRow
{
	int			n;				/* columns that are filled in */
	Datum		values[Max(STAT_WORKER_COLUMNS, STAT_SERVER_COLUMNS)];
	bool		nulls[Max(STAT_WORKER_COLUMNS, STAT_SERVER_COLUMNS)];
} StatRow;

static void
stat_put(StatRow *row, Datum value, bool isnull)
{
	row->values[row->n] = value;
	row->nulls[row->n++] = isnull;
}

static void
stat_put_count(StatRow *row, uint64 count)
{
	stat_put(row, Int64GetDatum((int64) count), false);
}

/* A text, NULL for null. */
static void
stat_put_text(StatRow *row, const char *text)
{
	if (text == NULL)
		stat_put(row, (Datum) 0, true);
	else
		stat_put(row, CStringGetTextDatum(text), false);
}

/* A name, NULL for null. */
static void
stat_put_name(StatRow *row, const char *name)
{
	if (name == NULL)
		stat_put(row, (Datum) 0, true);
	else
		stat_put(row, DirectFunctionCall1(namein, CStringGetDatum(name)),
				 false);
}

/* A time, 0 for null. */
static void
stat_put_time(StatRow *row, TimestampTz time)
{
	stat_put(row, TimestampTzGetDatum(time), time == 0);
}

/* A percentile in milliseconds; null if nothing was counted. */
static void
stat_put_percentile(StatRow *row, const uint64 *buckets, double percent)
{
	double		all = 0;
	double		rank;
	double		begin;
	double		end;
	int			i;

	for (i = 0; i < STAT_BUCKETS; i++)
		all += buckets[i];
	rank = all * percent / 100;
	for (i = 0; i < STAT_BUCKETS - 1 && rank > buckets[i]; i++)
		rank -= buckets[i];
	if (buckets[i] > 0)
		rank = Min(rank / buckets[i], 1);
	begin = stat_bucket_begin(i);
	end = stat_bucket_begin(i + 1);
	stat_put(row, Float8GetDatum(rint(begin + (end - begin) * rank) / 1000),
			 all == 0);
}

/* Begin the result of a function; it must have so many columns. */
static ReturnSetInfo *
stat_begin(FunctionCallInfo fcinfo, int n)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (set->setDesc->natts != n)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("incorrect number of output arguments")));
	return set;
}

static void
stat_end_row(ReturnSetInfo *set, StatRow *row)
{
	Assert(row->n == set->setDesc->natts);
	tuplestore_putvalues(set->setResult, set->setDesc, row->values,
						 row->nulls);
}

/* May the caller see figures that are not his own? */
static bool
stat_sees_all(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/* How a database is served. */
static const char *
stat_state(const LauncherView *place, const StatDatabase *entry)
{
	if (place->worker == 0)
	{
		if (place->banned)
			return "making way";
		if (!anyvod_worker)
			return "off";
		if (!OidIsValid(place->database))
			return "ended";
		if (place->placeless)
			return "waiting for a place";
		if (place->slotless)
			return "waiting for a process slot";
		return place->failing ? "failing" : "starting";
	}
	if (!place->serving || !entry->attached)
		return "starting";
	return entry->pending > 0 ? "serving" : "idle";
}

/* What to do about that, NULL if nothing. */
static const char *
stat_hint(const LauncherView *place)
{
	if (place->worker != 0 || place->banned)
		return NULL;
	if (!anyvod_worker)
		return "Set \"anyvod.worker\" to on.";
	if (place->placeless)
		return "Raise \"anyvod.max_databases\".";
	if (place->slotless)
		return "Raise \"max_worker_processes\".";
	return place->failing ? "Look into the server log." : NULL;
}

/*
 * How many tasks have been due for so long, in microseconds, by now.  The
 * worker knows at any time whether there are any; how many is as of when it
 * counted, and what it has asked since then it took from those.
 */
static int64
stat_count_due(const StatDatabase *entry, int64 since)
{
	const StatWaits *waits = &entry->waits;
	int64		then = monotonic_us() - since;
	int64		elapsed = then - waits->counted_at;
	int64		due = waits->late;

	if (!entry->attached || waits->first_due > then)
		return 0;
	if (elapsed >= 0)
		due += waits->due;
	for (int i = 0; i < STAT_BUCKETS - 1; i++)
	{
		if (stat_bucket_begin(i + 1) <= elapsed)
			due += waits->due_in[i];
	}
	due -= (int64) waits->asked;
	return Min(Max(due, 1), entry->pending);
}

/* A gauge: null where no worker keeps it. */
static void
stat_put_gauge(StatRow *row, const StatDatabase *entry, int64 value)
{
	stat_put(row, Int64GetDatum(value), !entry->attached);
}

/* The row of a database. */
static void
stat_put_worker(ReturnSetInfo *set, const LauncherView *place,
				const StatDatabase *entry)
{
	const StatFigures *figures = &entry->figures;
	bool		running = place->worker != 0;
	StatRow		row = {0};

	stat_put(&row, ObjectIdGetDatum(entry->database), false);
	stat_put(&row, Int32GetDatum(place->worker), !running);
	stat_put_text(&row, stat_state(place, entry));
	stat_put_text(&row, stat_hint(place));
	stat_put_gauge(&row, entry, entry->pending);
	stat_put_gauge(&row, entry, entry->in_flight);
	stat_put_gauge(&row, entry, stat_count_due(entry, 0));
	stat_put_gauge(&row, entry, stat_count_due(entry, STAT_LATE));
	stat_put_count(&row, figures->polls);
	for (int kind = 0; kind < STAT_KINDS; kind++)
		stat_put_count(&row, figures->kinds[kind]);
	stat_put_count(&row, figures->written);
	stat_put_count(&row, figures->unchanged);
	stat_put_percentile(&row, figures->request_times, 50);
	stat_put_percentile(&row, figures->request_times, 95);
	stat_put_percentile(&row, figures->request_times, 99);
	stat_put_percentile(&row, figures->delays, 50);
	stat_put_percentile(&row, figures->delays, 95);
	stat_put_text(&row, entry->error_at != 0 ? entry->error : NULL);
	stat_put_time(&row, entry->error_at);
	stat_put_count(&row, entry->restarts);
	stat_put_time(&row, entry->attached ? entry->started_at : 0);
	stat_put_time(&row, entry->reset_at);
	stat_end_row(set, &row);
}

/* The place of a database among those that the launcher knows. */
static LauncherView
stat_find_place(const LauncherView *places, int nplaces, Oid database)
{
	LauncherView none = {0};

	for (int i = 0; i < nplaces; i++)
	{
		if (places[i].database == database)
			return places[i];
	}
	return none;
}

/* May the caller see the row of this database? */
static bool
stat_sees(Oid database)
{
	return OidIsValid(database) &&
		(database == MyDatabaseId || stat_sees_all());
}

/*
 * anyvod_stat_get_workers() returns setof record
 *
 * Databases that have an entry, and those that wait for their first worker.
 */
Datum
anyvod_stat_get_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = stat_begin(fcinfo, STAT_WORKER_COLUMNS);
	LauncherView *places;
	int			nplaces;
	List	   *known = NIL;
	StatDatabase entry;

	if (shared == NULL)
		PG_RETURN_NULL();
	places = palloc(launcher_most_views() * sizeof(LauncherView));
	nplaces = launcher_view(places);
	for (int i = 0; i < shared->ndatabases; i++)
	{
		LauncherView place;

		LWLockAcquire(shared_lock, LW_SHARED);
		memcpy(&entry, &shared->databases[i],
			   offsetof(StatDatabase, accounts));
		LWLockRelease(shared_lock);
		if (!stat_sees(entry.database))
			continue;
		place = stat_find_place(places, nplaces, entry.database);
		stat_put_worker(set, &place, &entry);
		known = lappend_oid(known, entry.database);
	}
	memset(&entry, 0, sizeof(entry));
	for (int i = 0; i < nplaces; i++)
	{
		entry.database = places[i].database;
		if (stat_sees(entry.database) &&
			!list_member_oid(known, entry.database))
			stat_put_worker(set, &places[i], &entry);
	}
	PG_RETURN_NULL();
}

/* What an account's latest trouble was like. */
static const char *
stat_trouble_detail(const StatAccount *account)
{
	const char *phase = http_phase_name(account->phase);

	switch (account->result)
	{
		case HTTP_COMPLETE:
			return psprintf("HTTP %d", account->http_status);
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
 * Whose mapping an account has: 'public', a role, or NULL for none.  Returns
 * false if the mapping is gone or the caller may not use the account.
 */
static bool
stat_mapped_role(const StatAccount *account, bool all, const char **role)
{
	HeapTuple	tuple;
	Oid			user;

	*role = NULL;
	if (!all &&
		compat_server_aclcheck(account->serverid, GetUserId(),
							   ACL_USAGE) != ACLCHECK_OK)
		return false;
	if (!OidIsValid(account->umid))
		return true;
	tuple = SearchSysCache1(USERMAPPINGOID, ObjectIdGetDatum(account->umid));
	if (!HeapTupleIsValid(tuple))
		return false;
	user = ((Form_pg_user_mapping) GETSTRUCT(tuple))->umuser;
	ReleaseSysCache(tuple);
	if (!all && OidIsValid(user) && user != GetUserId())
		return false;
	*role = OidIsValid(user) ? GetUserNameFromId(user, true) : "public";
	return *role != NULL;
}

/* The row of an account, if the caller may see it. */
static void
stat_put_account(ReturnSetInfo *set, const StatAccount *account, bool all)
{
	ForeignServer *server = GetForeignServerExtended(account->serverid,
													 FSV_MISSING_OK);
	TimestampTz until = Max(account->server_until, account->key_until);
	bool		paused = until > GetCurrentTimestamp();
	bool		troubled = account->trouble_at != 0;
	const char *why = "failures";
	const char *role;
	StatRow		row = {0};

	if (server == NULL || !stat_mapped_role(account, all, &role))
		return;
	if (account->key_until > account->server_until)
		why = "auth";
	else if (account->server_limited)
		why = "rate_limited";

	stat_put_name(&row, server->servername);
	stat_put_name(&row, role);
	stat_put_text(&row, paused ? "paused" : "working");
	stat_put_time(&row, paused ? until : 0);
	stat_put_text(&row, paused ? why : NULL);
	stat_put_count(&row, account->figures.requests);
	stat_put(&row, Int32GetDatum(account->in_flight), false);
	for (int kind = 0; kind < STAT_KINDS; kind++)
		stat_put_count(&row, account->figures.kinds[kind]);
	stat_put_count(&row, account->figures.connections);
	stat_put_text(&row, troubled ? stat_kind_name(account->trouble) : NULL);
	stat_put_text(&row, troubled ? stat_trouble_detail(account) : NULL);
	stat_put_time(&row, account->trouble_at);
	stat_end_row(set, &row);
}

/*
 * anyvod_stat_get_servers() returns setof record
 *
 * The accounts of this database.
 */
Datum
anyvod_stat_get_servers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = stat_begin(fcinfo, STAT_SERVER_COLUMNS);
	StatDatabase *entry;
	StatAccount accounts[STAT_ACCOUNTS];

	if (shared == NULL)
		PG_RETURN_NULL();
	memset(accounts, 0, sizeof(accounts));
	LWLockAcquire(shared_lock, LW_SHARED);
	entry = stat_find(MyDatabaseId);
	if (entry != NULL)
		memcpy(accounts, entry->accounts, sizeof(accounts));
	LWLockRelease(shared_lock);

	for (int i = 0; i < STAT_ACCOUNTS; i++)
	{
		if (OidIsValid(accounts[i].serverid))
			stat_put_account(set, &accounts[i], stat_sees_all());
	}
	PG_RETURN_NULL();
}

/*
 * anyvod_stat_reset() returns void
 *
 * Figures of this database start at nothing; what is so now stays.
 */
Datum
anyvod_stat_reset(PG_FUNCTION_ARGS)
{
	StatDatabase *entry;

	if (shared == NULL)
		PG_RETURN_VOID();
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry = stat_find(MyDatabaseId);
	if (entry != NULL)
	{
		memset(&entry->figures, 0, sizeof(entry->figures));
		entry->restarts = 0;
		entry->error_at = 0;
		entry->reset_at = GetCurrentTimestamp();
		for (int i = 0; i < STAT_ACCOUNTS; i++)
		{
			memset(&entry->accounts[i].figures, 0,
				   sizeof(StatAccountFigures));
			entry->accounts[i].trouble_at = 0;
		}
	}
	LWLockRelease(shared_lock);
	PG_RETURN_VOID();
}
