/*-------------------------------------------------------------------------
 *
 * slot.h
 *		The slot of a database: who serves it, and what is announced to it.
 *
 * All of a slot is guarded by the one lock of shmem.h.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SLOT_H
#define ANYVOD_SLOT_H

#include "lib/stringinfo.h"

/* Ids of new pending rows that a slot or a session keeps, in bytes. */
#define SLOT_NEW_IDS_SIZE 8192

/* New pending rows. */
typedef struct SlotIds
{
	bool		scan;			/* there are more than these */
	int			len;
	char		ids[SLOT_NEW_IDS_SIZE]; /* null-terminated, one after another */
} SlotIds;

/* More transactions were prepared than the launcher has seen. */
#define SLOT_PREPARED PG_UINT32_MAX

/*
 * The states of a slot, and who changes them: S a session, L the launcher, W
 * the worker.  There is a worker ("pid") in SERVING, FINISHING and RESTARTING,
 * and may be one in STARTING and BLOCKED.
 *
 *		FREE -S,L: work-> WANTED <-L-> QUEUED, NO_PROCESS: what is missing
 *							|
 *							L: starts a worker
 *							v
 *		FREE <-W: leaves- STARTING -W: stays-> SERVING -W: leaves-> FREE
 *							|					 |
 *							|	 L: others wait -+-> FINISHING -W-> WANTED
 *							|	 S: settings ----+-> RESTARTING -W-> WANTED
 *							v
 *		WANTED <-L: later- BACKOFF <-L- FAILED <-W, L: it ended otherwise
 *
 *		any but FREE -S: a command wants the database-> BLOCKED
 *		BLOCKED -S: it has ended-> WANTED, or SERVING if the worker stayed
 *		WANTED -L: no connections are allowed-> CLOSED -S,L: work-> WANTED
 */
typedef enum SlotState
{
	SLOT_FREE,					/* nothing is to be done */
	SLOT_CLOSED,				/* work is known, but nobody may connect */
	SLOT_WANTED,				/* a worker is to be started */
	SLOT_QUEUED,				/* the same, but max_databases are served */
	SLOT_NO_PROCESS,			/* the same, but no process slot was free */
	SLOT_STARTING,				/* a worker starts, or makes its first scan */
	SLOT_SERVING,				/* it has work, or waits for some */
	SLOT_FINISHING,				/* it was told that others wait */
	SLOT_RESTARTING,			/* it was told that its settings are old */
	SLOT_FAILED,				/* it ended without having left */
	SLOT_BACKOFF,				/* the same; the next one starts in a while */
	SLOT_BLOCKED,				/* commands want it without a worker */
} SlotState;

/* A slot.  Where nothing else is said, who announces or serves writes. */
typedef struct Slot
{
	SlotState	state;
	pid_t		pid;			/* attached worker, which writes it; else 0 */
	uint32		work;			/* how often work was announced */
	uint32		commands;		/* how often commands were that may unblock
								 * something */
	bool		has_blocked;	/* the worker wants to know of commands */
	int64		wanted_since;	/* in WANTED, QUEUED, NO_PROCESS: the queue's
								 * order; monotonic_us() */
	int64		serving_since;	/* of the worker; monotonic_us() */
	int			blocks;			/* commands that want it without a worker */
	uint32		prepared;		/* 0, or the ids of prepared transactions that
								 * may make work, added up by the launcher */
	bool		lazy;			/* nothing but a scan was asked for */
	SlotIds		new_ids;
} Slot;

/* What a worker is told. */
typedef struct SlotSignals
{
	uint32		work;			/* as in the slot */
	uint32		commands;
	bool		leave;			/* at once: a command wants the database, or
								 * settings have changed */
	bool		finish;			/* others wait: poll nothing more, write what
								 * is in flight, then leave */
} SlotSignals;

/* What a command means to workers. */
typedef enum SlotCommand
{
	SLOT_COMMAND_ALTERS,		/* what is blocked may not be so any more */
	SLOT_COMMAND_DROPS,			/* the same, and the table may be gone */
	SLOT_COMMAND_SETS,			/* settings are old: another worker is to read
								 * them, if connections are allowed at all */
} SlotCommand;

/* For the worker. */
extern void slot_attach(void);
extern bool slot_is_worker(void);
extern void slot_set_serving(void);
extern SlotSignals slot_signals(void);
extern bool slot_take_new_ids(StringInfo ids);
extern void slot_set_blocked(bool blocked);
extern void slot_wake_waiters(void);
extern bool slot_leave(uint32 work);
extern void slot_yield(void);

/* For sessions: at commit. */
extern void slot_add_ids(SlotIds *to, const char *ids, int len);
extern bool slot_announce_work(Oid database, const char *ids, int len,
							   bool scan);
extern void slot_announce_prepared(Oid database);
extern void slot_announce_command(Oid database, SlotCommand command);
extern bool slot_block(Oid database, pid_t *worker);
extern void slot_unblock(Oid database);

/* For sessions: waiting for rows. */
extern const char *slot_missing(const char **hint);
extern void slot_sleep(long timeout);
extern void slot_end_sleep(void);

/* For all. */
extern void slot_set_latch(pid_t pid);

#endif							/* ANYVOD_SLOT_H */
