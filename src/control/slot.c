/*-------------------------------------------------------------------------
 *
 * slot.c
 *		The slot of a database: who serves it, and what is announced to it.
 *
 * A database with work has a slot in shared memory.  A transaction that made
 * work announces it after its commit: it counts up "work" there, leaves the ids
 * of the new rows, and sets the latch of the worker, or of the launcher, which
 * starts one.  A worker leaves only if no work was announced since it last
 * looked, under the same lock, so that none is missed.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "clock.h"
#include "compat.h"
#include "control/shmem.h"
#include "control/slot.h"

/*
 * The launcher is restarted after a second; one that has been missing for so
 * long was never registered (microseconds).
 */
#define SLOT_LAUNCHER_MISSING INT64CONST(5000000)

/* This worker's entry. */
static SharedDatabase *my_entry = NULL;


/* Set the latch of a process if it is still there.  Does not throw. */
void
slot_set_latch(pid_t pid)
{
	PGPROC	   *proc = pid != 0 ? BackendPidGetProc(pid) : NULL;

	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

/* Release the lock, and wake the launcher. */
static void
slot_unlock(void)
{
	pid_t		launcher = shmem_get()->launcher;

	LWLockRelease(shmem_lock());
	slot_set_latch(launcher);
}

/* The database waits for a worker, after those that do already. */
static void
slot_want(Slot *slot)
{
	slot->state = SLOT_WANTED;
	slot->wanted_since = monotonic_us();
	slot->lazy = false;
}


/*
 * Sessions: announcing.  None of this throws, as it comes after the commit.
 */

/* Add ids, or if there is no room for them, have pending rows scanned. */
void
slot_add_ids(SlotIds *to, const char *ids, int len)
{
	if (len > SLOT_NEW_IDS_SIZE - to->len)
		to->scan = true;
	else
	{
		memcpy(to->ids + to->len, ids, len);
		to->len += len;
	}
}

/*
 * A transaction has made work in a database: pending rows with those
 * null-terminated ids, "len" bytes in all; "scan": and others.  (What users
 * have added to the table may make some in a worker's own transaction.)
 * Returns false if there is no entry for the database: it is listed later.
 */
bool
slot_announce_work(Oid database, const char *ids, int len, bool scan)
{
	AnyvodShared *shared = shmem_get();
	SharedDatabase *entry;
	pid_t		pid = 0;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find_or_make(database);
	if (entry == NULL)
		shared->no_entry = true;
	else
	{
		Slot	   *slot = &entry->slot;

		slot->work++;
		slot_add_ids(&slot->new_ids, ids, len);
		slot->new_ids.scan |= scan;
		slot->lazy &= len == 0;
		if (slot->state == SLOT_FREE || slot->state == SLOT_CLOSED)
		{
			slot_want(slot);
			slot->lazy = len == 0;
		}
		pid = slot->pid;
	}
	if (pid == 0)
		pid = shared->launcher;
	LWLockRelease(shmem_lock());
	slot_set_latch(pid);
	return entry != NULL;
}

/*
 * A transaction was prepared that makes work, and nobody will announce its
 * commit: the launcher is to watch for its end.
 */
void
slot_announce_prepared(Oid database)
{
	SharedDatabase *entry;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find_or_make(database);
	if (entry != NULL)
		entry->slot.prepared = SLOT_PREPARED;
	else
		shmem_get()->no_entry = true;
	slot_unlock();
}

/*
 * A command has committed in a database, InvalidOid: in all of them.  Their
 * workers are told what that means to them.
 */
void
slot_announce_command(Oid database, SlotCommand command)
{
	AnyvodShared *shared = shmem_get();

	for (int i = 0; i < shared->ndatabases; i++)
	{
		Slot	   *slot = &shared->databases[i].slot;
		pid_t		pid;

		LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
		pid = slot->pid;
		if (OidIsValid(database) && shared->databases[i].oid != database)
			pid = 0;
		else if (command == SLOT_COMMAND_SETS)
			slot->state = pid != 0 && slot->state != SLOT_BLOCKED ?
				SLOT_RESTARTING :
				slot->state;
		else if (command == SLOT_COMMAND_DROPS || slot->has_blocked)
			slot->commands++;
		else
			pid = 0;
		LWLockRelease(shmem_lock());
		slot_set_latch(pid);
	}
}

/*
 * Let no worker serve a database until slot_unblock(); *worker is the one that
 * it has and that was told to leave, 0 if none.  Returns false if the database
 * has no work; then there is nothing to unblock.
 */
bool
slot_block(Oid database, pid_t *worker)
{
	SharedDatabase *entry;
	bool		blocked;

	*worker = 0;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find(database);
	blocked = entry != NULL && entry->slot.state != SLOT_FREE;
	if (blocked)
	{
		entry->slot.state = SLOT_BLOCKED;
		entry->slot.blocks++;
		*worker = entry->slot.pid;
	}
	LWLockRelease(shmem_lock());
	slot_set_latch(*worker);
	return blocked;
}

/* A command that wanted a database without a worker has ended. */
void
slot_unblock(Oid database)
{
	SharedDatabase *entry;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find(database);
	if (entry != NULL && entry->slot.state == SLOT_BLOCKED &&
		--entry->slot.blocks <= 0)
	{
		entry->slot.blocks = 0;
		if (entry->slot.pid != 0)
			entry->slot.state = SLOT_SERVING;
		else
			slot_want(&entry->slot);
	}
	slot_unlock();
}


/*
 * Sessions: waiting for rows
 */

/*
 * Why no worker can fill in rows, as a sentence, and what to do about it; NULL
 * if one can.  A standby needs none; one that is promoted starts its launcher
 * before it takes connections.
 */
const char *
slot_missing(const char **hint)
{
	AnyvodShared *shared = shmem_get();

	if (shared == NULL)
	{
		*hint = "Add \"anyvod\" to \"shared_preload_libraries\" and restart the server.";
		return "The library \"anyvod\" is not preloaded.";
	}
	if (shared->launcher == 0 && !RecoveryInProgress() &&
		monotonic_us() - shared->launcher_gone_at > SLOT_LAUNCHER_MISSING)
	{
		*hint = "Raise \"max_worker_processes\" and restart the server.";
		return "There is no process slot for the anyvod launcher.";
	}
	return NULL;
}

/* What sessions of this database that wait for its rows sleep on. */
static ConditionVariable *
slot_condition(void)
{
	return &shmem_get()->written[MyDatabaseId % SHMEM_CONDITIONS];
}

/*
 * Sleep until rows of this database may have been written, at most so many
 * milliseconds.  May return early, and does so the first time: the caller
 * looks again each time, and calls slot_end_sleep() at last.
 */
void
slot_sleep(long timeout)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = compat_wait_event("AnyvodTask");
	(void) ConditionVariableTimedSleep(slot_condition(), timeout, wait_event);
}

/* No more of slot_sleep(). */
void
slot_end_sleep(void)
{
	(void) ConditionVariableCancelSleep();
}

/* Rows of this database have been written, and that has been committed. */
void
slot_wake_waiters(void)
{
	ConditionVariableBroadcast(slot_condition());
}


/*
 * The worker
 */

/* This worker ends without having left: it has failed. */
static void
slot_detach(int code, Datum arg)
{
	if (my_entry == NULL)
		return;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	my_entry->slot.pid = 0;
	my_entry->slot.has_blocked = false;
	if (my_entry->slot.state != SLOT_BLOCKED)
		my_entry->slot.state = SLOT_FAILED;
	slot_unlock();
	my_entry = NULL;
}

/*
 * Take the slot of this worker's database.  Ends the process if another worker
 * has it or none is wanted.
 */
void
slot_attach(void)
{
	SharedDatabase *entry;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	entry = shmem_find(MyDatabaseId);
	if (entry != NULL && entry->slot.pid == 0 &&
		entry->slot.state != SLOT_FREE && entry->slot.state != SLOT_BLOCKED)
	{
		entry->slot.pid = MyProcPid;
		entry->slot.state = SLOT_STARTING;
		my_entry = entry;
	}
	LWLockRelease(shmem_lock());
	if (my_entry == NULL)
		proc_exit(0);
	before_shmem_exit(slot_detach, (Datum) 0);
}

/* Is this process a worker that has its slot? */
bool
slot_is_worker(void)
{
	return my_entry != NULL;
}

/* This worker's first scan is over, and it stays. */
void
slot_set_serving(void)
{
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (my_entry->slot.state == SLOT_STARTING)
		my_entry->slot.state = SLOT_SERVING;
	if (my_entry->slot.serving_since == 0)
		my_entry->slot.serving_since = monotonic_us();
	slot_unlock();				/* it may start the next first scan */
}

/* What was announced to this worker. */
SlotSignals
slot_signals(void)
{
	const Slot *slot = &my_entry->slot;
	SlotSignals signals;

	LWLockAcquire(shmem_lock(), LW_SHARED);
	signals.work = slot->work;
	signals.commands = slot->commands;
	signals.leave = slot->state == SLOT_BLOCKED ||
		slot->state == SLOT_RESTARTING;
	signals.finish = slot->state == SLOT_FINISHING;
	LWLockRelease(shmem_lock());
	return signals;
}

/*
 * Take what was announced: append the ids of new pending rows, each with its
 * null byte.  They may be of rows that are not there any more.  Returns true
 * if there were others: all pending rows are to be scanned.
 */
bool
slot_take_new_ids(StringInfo ids)
{
	SlotIds    *new_ids = &my_entry->slot.new_ids;
	bool		scan;

	enlargeStringInfo(ids, SLOT_NEW_IDS_SIZE);
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	appendBinaryStringInfo(ids, new_ids->ids, new_ids->len);
	scan = new_ids->scan;
	new_ids->len = 0;
	new_ids->scan = false;
	LWLockRelease(shmem_lock());
	return scan;
}

/* Is this worker to be woken when a command has committed? */
void
slot_set_blocked(bool blocked)
{
	if (my_entry->slot.has_blocked == blocked)
		return;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	my_entry->slot.has_blocked = blocked;
	LWLockRelease(shmem_lock());
}

/* The database is served no more; its entry is kept for its figures only. */
static void
slot_clear(SharedDatabase *entry)
{
	uint32		prepared = entry->slot.prepared;

	memset(&entry->slot, 0, sizeof(Slot));
	entry->slot.prepared = prepared;
	if (entry->counters.started_at == 0 && entry->counters.restarts == 0 &&
		entry->counters.condition == COUNTERS_WELL && prepared == 0)
		entry->oid = InvalidOid;
}

/*
 * Give this worker's slot up, unless work was announced since slot_signals()
 * gave "work".  If it returns true the caller ends the process.
 */
bool
slot_leave(uint32 work)
{
	bool		leave;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	leave = my_entry->slot.work == work;
	if (leave)
		slot_clear(my_entry);
	slot_unlock();
	if (leave)
		my_entry = NULL;
	return leave;
}

/*
 * Leave for a command that wants the database, for other settings, or for
 * others that wait.  The database then waits for its next worker, after those
 * that wait already.  The caller ends the process.
 */
void
slot_yield(void)
{
	Slot	   *slot = &my_entry->slot;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	slot->pid = 0;
	slot->has_blocked = false;
	slot->serving_since = 0;
	slot->new_ids.scan = true;	/* what was taken is to be found again */
	if (slot->state == SLOT_FINISHING && shmem_get()->no_entry)
		slot_clear(my_entry);	/* listed later, with those without one */
	else if (slot->state != SLOT_BLOCKED)
		slot_want(slot);
	slot_unlock();
	my_entry = NULL;
}
