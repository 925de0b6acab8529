/*-------------------------------------------------------------------------
 *
 * queue.h
 *		The tasks that a worker has in memory, and which is polled next.
 *
 * All times are microseconds of monotonic_us().
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_QUEUE_H
#define ANYVOD_QUEUE_H

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "schedule/retry.h"
#include "schedule/schedule.h"
#include "table/select.h"
#include "worker/server_health.h"

/* "No time", for functions that give a time to wait for. */
#define QUEUE_NEVER PG_INT64_MAX

/*
 * Tasks in memory, at most: some 200 bytes each.  The others wait in the table.
 */
#define QUEUE_MAX_TASKS 131072

/*
 * Where a task in memory is.
 *
 *	WAITING --queue_take()--> SELECTED --row pending--> IN_FLIGHT
 *		SELECTED --row gone--> forgotten; --table locked--> WAITING
 *	IN_FLIGHT --nothing to write--> WAITING
 *	IN_FLIGHT, SELECTED --something to write--> WRITING
 *	WRITING --row still pending--> WAITING; --row settled--> forgotten
 */
typedef enum TaskState
{
	TASK_WAITING,				/* in one of its role's heaps */
	TASK_SELECTED,				/* its row is being read */
	TASK_IN_FLIGHT,				/* its request is */
	TASK_WRITING,				/* its row is to be written, see write.c */
} TaskState;

/* A server: the roles with tasks that wait, its limits and its health. */
typedef struct QueueServer
{
	NameData	name;			/* key of the hash table */
	dlist_head	roles;			/* the one that is served next comes first */
	int			peers;			/* roles that have tasks */
	uint32		taken;			/* tasks, so far */
	int			in_flight;		/* requests */
	int			retrying_in_flight; /* those of them of retried tasks */
	int			max_concurrency;	/* most of them */
	double		rate_limit;		/* requests a second */
	int64		next_request;	/* rate_limit: when the next is due */
	ServerHealth health;
} QueueServer;

typedef struct QueueTask QueueTask;

/* A role on a server: its tasks by due time. */
typedef struct QueueRole
{
	NameData	server_name;	/* key of the hash table, with owner */
	NameData	owner;
	QueueServer *server;
	dlist_node	node;			/* in the server's roles, if any task waits */
	int			tasks;			/* in memory */
	int			in_flight;		/* requests */
	int			taken;			/* tasks, in queue_take() number "round" */
	uint32		round;
	pairingheap *healthy;		/* tasks whose last poll has not failed */
	pairingheap *retrying;		/* tasks whose last poll has */
	KeyHealth	key;
	QueueTask  *probe;			/* key refused: the only task that is taken */
} QueueRole;

/* A pending task. */
struct QueueTask
{
	pairingheap_node node;		/* while WAITING */
	QueueRole  *role;
	const TableRow *row;		/* as read in this round, else NULL */
	int64		due;
	TimestampTz created_at;		/* of the row */
	int			polls;			/* requests not yet written into the row */
	uint32		doubted_since;	/* first response of "doubted", in ms, cut */
	ScheduleRunning running;	/* where it is counted as running */
	uint32		seen;			/* a request that began then found it running;
								 * in ms, cut */
	uint16		failures;		/* of polls in a row */
	uint16		read_failures;	/* in a row, of reading its row */
	uint16		doubts;			/* in a row, of the kind of "doubted" */
	uint8		doubted : 4;	/* RetryKind: what the server says of the
								 * task, not believed yet, if "doubts" > 0 */
	uint8		state : 2;		/* TaskState */
	bool		blocked : 1;	/* by its server, role or key: a change of them
								 * makes it due */
	bool		refused : 1;	/* the server has refused the key for it */
	bool		logged : 1;		/* that its row cannot be written */
	bool		was_running : 1;	/* a response said so, see "seen" */
	char		task_id[FLEXIBLE_ARRAY_MEMBER];
};

extern void queue_init(void);
extern uint64 queue_size(void);
extern QueueTask *queue_find(const char *task_id);
extern QueueTask *queue_add(const TableRow *row, int64 now);
extern void queue_remove(QueueTask *task);
extern void queue_put(QueueTask *task, int64 due);
extern bool queue_is_of(const QueueTask *task, const TableRow *row);
extern void queue_move(QueueTask *task, const TableRow *row, int64 now);
extern int	queue_count(uint16 *counter);

extern int	queue_take(QueueTask **tasks, int max, int surplus, int64 now);
extern int64 queue_next(int64 now);
extern int64 queue_oldest_due(void);
extern bool queue_has_slot(const QueueServer *server, int64 now);

extern void queue_set_limits(QueueServer *server,
							 const ServerSettings *settings);
extern void queue_start(QueueTask *task, int64 now);
extern void queue_end(QueueTask *task, int retries);
extern void queue_response(QueueTask *task, int64 started);
extern bool queue_is_retrying(const QueueTask *task);

extern void queue_unblock(QueueRole *role, int64 now);
extern bool queue_has_blocked(int64 now);
extern void queue_check_soon(void);
extern int64 queue_next_check(void);
extern void queue_check_settings(int64 now);

extern QueueRole *queue_find_role(const TableRow *row);
extern const HealthError *queue_lasting_error(const QueueRole *role);
extern int64 queue_error_lasts_at(void);

#endif							/* ANYVOD_QUEUE_H */
