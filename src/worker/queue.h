/*-------------------------------------------------------------------------
 *
 * queue.h
 *		What a worker keeps in memory: which task is due when, and how each
 *		server is doing.
 *
 * All times are microseconds of monotonic_us(), which never jumps.
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
#include "server/settings.h"

/* "No time", for functions that give a time to wait for. */
#define QUEUE_NEVER PG_INT64_MAX

/*
 * How the questions of a kind fare.  A failure is counted once for all that
 * were under way together.
 */
typedef struct QueueHealth
{
	int			failures;		/* in a row */
	int64		failed_at;		/* when the last of them was noted */
	int64		paused_until;	/* no question of that kind before this */
	RetryKind	paused_why;		/* then the reason */
	bool		wanted;			/* the server itself has asked for that */
} QueueHealth;

/* Trouble that lasts, and the last that was heard of it. */
typedef struct QueueTrouble
{
	int64		since;			/* no proper answer since then; 0: there was */
	char		code[64];
	char		message[256];	/* UTF-8 */
} QueueTrouble;

/* A server: the accounts with tasks that wait, its pace and its health. */
typedef struct QueueServer
{
	NameData	name;			/* key of the hash table */
	dlist_head	accounts;		/* the one whose turn it is first */
	int			peers;			/* accounts that have tasks */
	uint32		turns;			/* tasks that have been taken */
	int			in_flight;		/* requests */
	int			suspects_in_flight; /* those of them about suspects */
	int			max_concurrency;	/* most of them */
	double		rate_limit;		/* requests a second */
	int64		next_slot;		/* pacing: when the next request is due */
	QueueHealth health;			/* of the server as a whole */
	QueueHealth suspects;		/* of what is asked about suspects */
	QueueTrouble trouble;
} QueueServer;

typedef struct QueueTask QueueTask;

/* A role on a server: its tasks by due time. */
typedef struct QueueAccount
{
	NameData	server_name;	/* key of the hash table, with owner */
	NameData	owner;
	QueueServer *server;
	dlist_node	node;			/* in the server's accounts, if any waits */
	int			tasks;			/* all that are known */
	int			in_flight;		/* requests */
	int			taken;			/* tasks, in queue_take() number "round" */
	uint32		round;
	pairingheap *fresh;			/* tasks that have not failed */
	pairingheap *suspects;		/* tasks whose last question has */
	Oid			serverid;		/* of the settings that were looked up last */
	Oid			userid;
	uint64		settings_id;	/* of a key that the server has refused; 0: no
								 * settings could be had */
	int64		check_until;	/* until then it is checked whether they have
								 * changed; 0: not at all */
	int64		paused_until;	/* then nothing is asked with that */
	int64		rests_until;	/* nor is a task taken to find that out */
	bool		refused;		/* and that key was not accepted since */
	int64		refused_at;		/* when the last that it refused was asked */
	int64		accepted_at;	/* when the last other one was, if since then */
	QueueTask  *probe;			/* "refused": the only one that is taken */
	QueueTrouble trouble;
} QueueAccount;

/* A pending task.  There may be a million. */
struct QueueTask
{
	pairingheap_node node;		/* in one of its account's heaps, if "queued" */
	QueueAccount *account;
	int64		due;
	TimestampTz created_at;		/* of the row */
	int			polls;			/* questions not yet written into the row */
	uint32		trouble_since;	/* first answer of "trouble", in ms, cut off */
	uint32		known_at;		/* in seconds, rounded up */
	ScheduleRunning running;	/* where it was last seen running */
	uint16		failures;		/* in a row, of asking */
	uint16		row_failures;	/* in a row, of reading or writing its row */
	uint16		skips;			/* in a row, of writing it while it was held */
	uint16		troubles;		/* in a row, of the kind of "trouble" */
	uint8		trouble : 4;	/* RetryKind, if "troubles" > 0 */
	bool		held : 1;		/* by trouble of its server or account */
	bool		barred : 1;		/* nobody could ask for it: its role, server,
								 * rights or key are in trouble */
	bool		queued : 1;
	bool		confirmed : 1;	/* its row was seen in this round */
	bool		logged : 1;		/* that its row fails is in the log */
	bool		refused : 1;	/* the server has refused the key for it */
	char		task_id[FLEXIBLE_ARRAY_MEMBER];
};

extern void queue_init(void);
extern uint64 queue_size(void);
extern QueueTask *queue_find(const char *task_id);
extern QueueTask *queue_add(const char *task_id, const char *server,
							const char *owner, TimestampTz created_at,
							int64 now);
extern void queue_remove(QueueTask *task);
extern void queue_put(QueueTask *task, int64 due);
extern bool queue_is_of(const QueueTask *task, const char *server,
						const char *owner);
extern void queue_move(QueueTask *task, const char *server, const char *owner,
					   int64 now);
extern void queue_note_change(QueueTask *task, int64 now);
extern int	queue_count(uint16 *counter);
extern void queue_forget_trouble(int64 now);
extern void queue_retry(const QueueAccount *account, int64 now);

extern bool queue_is_well(const QueueAccount *account, int64 now);
extern int	queue_take(QueueTask **tasks, int max, int64 until, int64 now);
extern int64 queue_next(int64 now);
extern int64 queue_first_due(void);

extern bool queue_is_stuck(int64 now);
extern int	queue_take_stuck(QueueTask **tasks, int max,
							 TimestampTz born_before, int64 grace, int64 now,
							 bool *more);
extern const QueueTrouble *queue_trouble(const QueueTask *task, int64 now);

extern void queue_note_limits(QueueServer *server,
							  const ServerSettings *settings);
extern void queue_note_start(QueueTask *task, int64 now);
extern void queue_note_end(QueueTask *task, int retries);
extern void queue_take_back(QueueTask *task);
extern void queue_note_success(QueueServer *server, int64 started);
extern void queue_note_answer(QueueTask *task, int64 started);
extern void queue_note_failure(QueueTask *task, RetryKind why,
							   int retry_after, int64 started, int64 now,
							   double random);
extern const QueueHealth *queue_resting(const QueueServer *server);
extern void queue_note_trouble(QueueTrouble *trouble, const char *code,
							   const char *message, int64 now);

extern bool queue_note_refusal(QueueTask *task, int64 started);
extern void queue_note_accepted(QueueAccount *account, int64 started);
extern void queue_pause_account(QueueAccount *account, uint64 settings_id,
								int64 until);
extern void queue_check_account(QueueAccount *account, int64 until);
extern int64 queue_next_check(void);
extern void queue_check_accounts(int64 now);
extern int64 queue_account_paused(QueueAccount *account,
								  const ServerSettings *settings,
								  int64 now);

#endif							/* ANYVOD_QUEUE_H */
