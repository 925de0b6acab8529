/*-------------------------------------------------------------------------
 *
 * counters.h
 *		What the workers count and learn, for all to see.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_COUNTERS_H
#define ANYVOD_COUNTERS_H

#include "datatype/timestamp.h"
#include "http/client.h"
#include "response/answer.h"
#include "schedule/retry.h"
#include "schedule/schedule.h"

/* How a request ends: with a response, by its verdict, or with none. */
#define COUNTERS_NO_RESPONSE ANSWER_VERDICTS
#define COUNTERS_KINDS (ANSWER_VERDICTS + 1)

/* (server, mapping) pairs kept of a database: the least recently used goes. */
#define COUNTERS_SERVERS 32

/*
 * Histograms have four buckets for each doubling, so that a percentile is off
 * by a quarter at most: the first is for less than 2^7 microseconds, the last
 * ends at 2^39, six days, and takes in what is longer.
 */
#define COUNTERS_FIRST_BIT 7
#define COUNTERS_BUCKETS (1 + 4 * 32)

/* What keeps a worker from its work, whatever the gateways do. */
typedef enum CountersCondition
{
	COUNTERS_WELL,
	COUNTERS_TABLE_LOCKED,		/* a session holds a lock on anyvod_tasks */
	COUNTERS_TABLE_MISSING,		/* it is not in the extension's schema */
} CountersCondition;

/* Figures of a database. */
typedef struct CountersFigures
{
	uint64		polls;			/* requests that were started */
	uint64		written;		/* rows */
	uint64		unchanged;		/* requests that changed nothing */
	uint64		request_times[COUNTERS_BUCKETS];	/* of those responded to */
	uint64		delays[COUNTERS_BUCKETS];	/* of detection */
} CountersFigures;

/* Figures of a server and mapping. */
typedef struct CountersServerFigures
{
	uint64		requests;
	uint64		connections;	/* that were made for them */
	uint64		kinds[COUNTERS_KINDS];	/* how they ended */
} CountersServerFigures;

/* A server and the mapping with which it is polled. */
typedef struct CountersServer
{
	Oid			serverid;		/* InvalidOid: free */
	Oid			umid;			/* user mapping, InvalidOid: without one */
	uint64		used;			/* the greater, the more recently */
	int			in_flight;
	TimestampTz server_until;	/* the server is paused, 0 if not */
	bool		server_limited; /* since it wants fewer requests */
	TimestampTz key_until;		/* the key was refused, 0 if not */
	TimestampTz error_at;		/* 0: there was none */
	int			error;			/* its kind */
	HttpResult	result;			/* of the request that failed */
	HttpPhase	phase;
	int			http_status;
	CountersServerFigures figures;
} CountersServer;

/*
 * The counters of a database.  They outlive its workers.  Guarded by the lock
 * of shmem.h; the worker writes them, and while there is none the launcher
 * "restarts".
 */
typedef struct Counters
{
	pid_t		worker;			/* that counts, 0: none */
	TimestampTz started_at;		/* of the latest worker, 0: there was none */
	TimestampTz left_at;		/* of the latest worker that left */
	TimestampTz reset_at;		/* since when is counted */
	uint64		restarts;		/* workers that ended by failing */
	CountersCondition condition;
	int64		pending;		/* tasks that are known */
	int64		oldest_due;		/* the first time at which one is or was due;
								 * monotonic_us(), PG_INT64_MAX: none */
	int			in_flight;		/* requests */
	char		error[16];		/* the latest: an SQLSTATE or kind */
	TimestampTz error_at;
	CountersFigures figures;
	CountersServer servers[COUNTERS_SERVERS];
} Counters;

/* Keys of all databases that are kept; the one published first goes. */
#define COUNTERS_LEARNED 256

/* What was learned of how long the tasks of a key take. */
typedef struct LearnedKey
{
	Oid			database;		/* InvalidOid: free */
	TimestampTz published_at;
	ScheduleSummary summary;
} LearnedKey;

/* For the worker.  "until" is a time of monotonic_us(), 0: it is not so. */
extern void counters_attach(void);
extern void counters_request(Oid serverid, Oid umid);
extern void counters_response(Oid serverid, Oid umid,
							  const HttpRequest *request,
							  const Answer *answer, bool ours);
extern void counters_unchanged(void);
extern void counters_written(const Answer *answer, bool watched);
extern void counters_error(const char *sqlstate);
extern void counters_server_paused(Oid serverid, int64 until,
								   RetryKind why);
extern void counters_key_refused(Oid serverid, Oid umid, int64 until);
extern void counters_set_condition(CountersCondition condition);
extern void counters_learned(const ScheduleSummary *summary);
extern void counters_publish(void);
extern void counters_before_wait(long timeout, int64 pending,
								 int64 oldest_due);

/* For the views. */
extern const char *counters_kind_name(int kind);
extern int64 counters_bucket_begin(int bucket);
extern void counters_reset(void);

#endif							/* ANYVOD_COUNTERS_H */
