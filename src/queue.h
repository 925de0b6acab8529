/*-------------------------------------------------------------------------
 *
 * queue.h
 *		What a worker keeps in memory: which task is due when, and how each
 *		server is doing.
 *
 * All times are microseconds of http_clock(), which never jumps.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_QUEUE_H
#define ANYVOD_QUEUE_H

#include "datatype/timestamp.h"
#include "lib/pairingheap.h"
#include "schedule.h"
#include "upstream.h"

/* "No time", for functions that give a time to wait for. */
#define QUEUE_NEVER PG_INT64_MAX

/* A server: its tasks by due time, its pace and its health. */
typedef struct QueueServer
{
	NameData	name;			/* key of the hash table */
	pairingheap *due;			/* tasks that wait to be asked for */
	int			in_flight;		/* requests */
	int			max_concurrency;	/* most of them */
	double		rate_limit;		/* requests a second */
	int64		next_slot;		/* pacing: when the next request is due */
	int64		paused_until;	/* no request before this */
	ScheduleRetry paused_why;	/* then the reason */
	int			failures;		/* in a row, of the server as a whole */
	int64		failed_at;		/* when the last of them was noted */
} QueueServer;

/* A role on a server, if the server has refused its key. */
typedef struct QueueAccount
{
	NameData	server;			/* key of the hash table, with owner */
	NameData	owner;
	uint64		upstream_id;	/* the refused key's */
	int64		paused_until;
} QueueAccount;

/* A pending task. */
typedef struct QueueTask
{
	pairingheap_node node;		/* in its server's "due", if "queued" */
	QueueServer *server;
	int64		due;
	TimestampTz created_at;		/* of the row */
	int64		trouble_since;	/* first answer of "trouble" */
	int			polls;			/* questions not yet written into the row */
	uint16		failures;		/* in a row, of asking */
	uint16		row_failures;	/* in a row, of reading or writing its row */
	uint16		skips;			/* in a row, of writing it while it was held */
	uint16		troubles;		/* in a row, of the kind of "trouble" */
	uint8		trouble;		/* ScheduleRetry, if "troubles" > 0 */
	bool		held;			/* by trouble of its server or account */
	bool		queued;
	bool		confirmed;		/* its row was seen in this round */
	bool		logged;			/* that its row fails is in the log */
	char		task_id[FLEXIBLE_ARRAY_MEMBER];
} QueueTask;

extern void queue_init(void);
extern uint64 queue_size(void);
extern QueueTask *queue_find(const char *task_id);
extern QueueTask *queue_add(const char *task_id, const char *server,
							TimestampTz created_at, int64 now);
extern void queue_remove(QueueTask *task);
extern void queue_put(QueueTask *task, int64 due);
extern void queue_move(QueueTask *task, const char *server, int64 now);
extern void queue_note_change(QueueTask *task, int64 now);
extern void queue_forget_trouble(int64 now);

extern int	queue_take(QueueTask **tasks, int max, int64 now);
extern int64 queue_next(int64 now);
extern void queue_visit_waits(void (*visit)(int64 wait), int64 now);

extern void queue_note_limits(QueueServer *server, const Upstream *upstream);
extern void queue_note_start(QueueServer *server, int64 now);
extern void queue_note_success(QueueServer *server, int64 started);
extern void queue_note_failure(QueueServer *server, ScheduleRetry why,
							   int retry_after, int64 started, int64 now,
							   double random);

extern void queue_pause_account(const char *server, const char *owner,
								uint64		upstream_id, int64 until);
extern int64 queue_account_paused(const char *server, const char *owner,
								  uint64 upstream_id, int64 now);

#endif							/* ANYVOD_QUEUE_H */
