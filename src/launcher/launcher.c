/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The process that starts a worker where there is work.
 *
 * A background process can connect to one database only and for good.  So
 * there are two kinds: a single launcher, connected to none, starts a worker
 * in each database that has pending tasks, and sleeps.  The worker (worker.c)
 * ends when there are none left, so that a cluster without work has one
 * sleeping process.
 *
 * When the server starts, each database is scanned once: a worker is started
 * there that leaves at once if it finds nothing to do.  So is a database that
 * begins to take connections.  Templates are not served.
 *
 * Databases that wait for a worker are started in the order in which they
 * began to, see slot.h.  While one waits because max_databases are served or
 * no process slot is free, the worker that has served for longest is told to
 * finish.  Nobody wakes up for that unless somebody waits.  Databases beyond
 * the entries of shared memory are found by listing all, once there is room.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "anyvod.h"
#include "clock.h"
#include "compat.h"
#include "control/shmem.h"
#include "launcher/launcher.h"

#define SECOND INT64CONST(1000000)

/*
 * A worker that fails is started again after so long, doubling each time
 * (microseconds).  Running for so long makes earlier failures forgotten.
 */
#define LAUNCHER_FIRST_BACKOFF (SECOND / 5)
#define LAUNCHER_LAST_BACKOFF (60 * SECOND)
#define LAUNCHER_GOOD_RUN (60 * SECOND)

/* While a database waits, look again after this. */
#define LAUNCHER_RETRY SECOND

/* While one waits, a worker is told to finish when it has served for this. */
#define LAUNCHER_TURN (10 * SECOND)

/* A start-up scan that takes longer does not keep the next one waiting. */
#define LAUNCHER_SCAN_TIME (3 * SECOND)

/* A worker for a scan that anybody can ask for is started no oftener. */
#define LAUNCHER_SCAN_EVERY SECOND

/* All databases are listed no oftener because some had no entry. */
#define LAUNCHER_LIST_EVERY (10 * SECOND)

/*
 * While a database with work takes no connections, see so often whether
 * pg_database has changed: an UPDATE of it tells nobody.
 */
#define LAUNCHER_CLOSED_EVERY (10 * SECOND)

/* While prepared transactions may make work, look so often for their end. */
#define LAUNCHER_PREPARED_EVERY (2 * SECOND)

/* What is missing is said in the log no oftener than this. */
#define LAUNCHER_REPORT_EVERY (10 * 60 * SECOND)

/* States as a set: those that want a worker, those whose worker has failed. */
#define IN(state) (1 << (state))
#define LAUNCHER_WAITING \
	(IN(SLOT_WANTED) | IN(SLOT_QUEUED) | IN(SLOT_NO_PROCESS))
#define LAUNCHER_FAILED (IN(SLOT_STARTING) | IN(SLOT_FAILED))

/* What the launcher alone knows of an entry.  Times are monotonic_us(). */
typedef struct LauncherStart
{
	BackgroundWorkerHandle *handle; /* NULL: no worker started */
	Oid			database;		/* the latest that it was started in */
	int64		started;
	int64		backoff;		/* 0 after a worker that has left */
	int64		retry_at;		/* in SLOT_BACKOFF */
} LauncherStart;

static AnyvodShared *shared = NULL;
static LauncherStart *starts = NULL;	/* by entry */
static int *waiting = NULL;		/* entries that want a worker, in order */
static int	nwaiting = 0;

static List *connectable = NIL; /* databases, when they were last listed */
static List *to_scan = NIL;		/* databases, in turn */
static bool databases_changed = false;	/* since then */
static int64 listed_at = 0;
static int64 prepared_at = 0;	/* when to look for prepared transactions */
static int64 next_at = 0;		/* when to look again, at the latest */


/* Look again then. */
static void
launcher_look_at(int64 time)
{
	next_at = Min(next_at, time);
}

/*
 * A database without worker comes from one of these states to another.
 * Returns false if it was in none of them any more.
 */
static bool
launcher_move(Slot *slot, int from, SlotState to)
{
	bool		moves;

	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	moves = slot->pid == 0 && (IN(slot->state) & from) != 0;
	if (moves)
		slot->state = to;
	LWLockRelease(shmem_lock());
	return moves;
}

/* What a process of anyvod has in common with the other kind. */
static BackgroundWorker
launcher_process(const char *function, const char *type)
{
	BackgroundWorker process = {0};

	process.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	process.bgw_start_time = BgWorkerStart_RecoveryFinished;
	strlcpy(process.bgw_library_name, "anyvod",
			sizeof(process.bgw_library_name));
	strlcpy(process.bgw_function_name, function, BGW_MAXLEN);
	strlcpy(process.bgw_name, type, BGW_MAXLEN);
	strlcpy(process.bgw_type, type, BGW_MAXLEN);
	return process;
}


/*
 * Databases
 */

/* pg_database has changed. */
static void
launcher_on_database_change(Datum arg, SysCacheIdentifier cache, uint32 hash)
{
	databases_changed = true;
}

/* Is a database one that workers are started in? */
static bool
launcher_is_connectable(Form_pg_database database)
{
	return database->datallowconn && !database->datistemplate &&
		database->datconnlimit != COMPAT_INVALID_DATABASE;
}

/*
 * Forget what is known of databases that are not among these, and have workers
 * leave those that take no connections any more.
 */
static void
launcher_leave_databases(const List *existing, const List *now_connectable)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		SharedDatabase *entry = &shared->databases[i];
		Oid			oid = entry->oid;

		if (!OidIsValid(oid) || list_member_oid(now_connectable, oid))
			continue;
		slot_announce_command(oid, SLOT_COMMAND_SETS);
		if (list_member_oid(existing, oid))
			continue;
		LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
		if (entry->oid == oid && entry->counters.worker == 0 &&
			(entry->slot.state == SLOT_FREE ||
			 entry->slot.state == SLOT_CLOSED))
			memset(entry, 0, sizeof(SharedDatabase));
		LWLockRelease(shmem_lock());
	}
}

/*
 * List the databases, and have those scanned that have begun to take
 * connections; "all": all that do.
 */
static void
launcher_list_databases(bool all)
{
	List	   *existing = NIL;
	List	   *now_connectable = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	List	   *found;
	MemoryContext old;

	databases_changed = false;
	relation = table_open(DatabaseRelationId, AccessShareLock);
	(void) GetTransactionSnapshot();
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		existing = lappend_oid(existing, database->oid);
		if (launcher_is_connectable(database))
			now_connectable = lappend_oid(now_connectable, database->oid);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);

	launcher_leave_databases(existing, now_connectable);
	found = all ? now_connectable :
				  list_difference_oid(now_connectable, connectable);
	old = MemoryContextSwitchTo(TopMemoryContext);
	to_scan = list_concat_unique_oid(to_scan, found);
	list_free(connectable);
	connectable = list_copy(now_connectable);
	MemoryContextSwitchTo(old);
}

/* List the databases if that is called for. */
static void
launcher_note_databases(int64 now)
{
	if (databases_changed)
		launcher_list_databases(false);
	if (!shared->no_entry || to_scan != NIL)
		return;
	if (now < listed_at + LAUNCHER_LIST_EVERY)
	{
		launcher_look_at(listed_at + LAUNCHER_LIST_EVERY);
		return;
	}
	listed_at = now;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shared->no_entry = false;
	LWLockRelease(shmem_lock());
	launcher_list_databases(true);
}

/* Is a start-up scan going on that the next one waits for? */
static bool
launcher_is_scanning(int64 now)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		if (shared->databases[i].slot.state != SLOT_STARTING ||
			now >= starts[i].started + LAUNCHER_SCAN_TIME)
			continue;
		launcher_look_at(starts[i].started + LAUNCHER_SCAN_TIME);
		return true;
	}
	return false;
}

/*
 * Have the next database scanned, unless a scan goes on.  If it gets no entry,
 * whoever finishes makes room.
 */
static void
launcher_scan_next(int64 now)
{
	if (to_scan != NIL && !launcher_is_scanning(now) &&
		slot_announce_work(linitial_oid(to_scan), NULL, 0, true))
		to_scan = list_delete_first(to_scan);
}


/*
 * Prepared transactions
 */

/* The sum of the ids of a database's prepared transactions, 0: no such. */
static uint32
launcher_sum_prepared(Oid database)
{
	uint32		sum = 0;

	for (int i = 0; i < max_prepared_xacts; i++)
	{
		const PGPROC *proc = &PreparedXactProcs[i];

		if (proc->databaseId == database && TransactionIdIsNormal(proc->xid) &&
			TransactionIdIsInProgress(proc->xid))
			sum += proc->xid;
	}
	return sum;
}

/*
 * Transactions were prepared that make work, and nobody tells of their commit:
 * look every other second, as long as there are prepared transactions, and
 * have pending rows scanned when they are others than before.
 */
static void
launcher_watch_prepared(int64 now)
{
	bool		look = now >= prepared_at;

	if (look)
		prepared_at = now + LAUNCHER_PREPARED_EVERY;
	for (int i = 0; i < shared->ndatabases; i++)
	{
		SharedDatabase *entry = &shared->databases[i];
		uint32		seen = entry->slot.prepared;
		uint32		sum;

		if (seen == 0)
			continue;
		launcher_look_at(prepared_at);
		if (!look)
			continue;
		sum = launcher_sum_prepared(entry->oid);
		if (sum != seen)
			(void) slot_announce_work(entry->oid, NULL, 0, true);
		LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
		if (entry->slot.prepared == seen)
			entry->slot.prepared = sum;
		LWLockRelease(shmem_lock());
	}
}


/*
 * Starting
 */

/* Have a worker started; false if there is no process slot. */
static bool
launcher_start_worker(LauncherStart *start, Oid database)
{
	BackgroundWorker worker = launcher_process("worker_main", "anyvod worker");
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		started;

	worker.bgw_flags |= COMPAT_BGWORKER_INTERRUPTIBLE;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_name, BGW_MAXLEN, "anyvod worker for database %u",
			 database);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	started = RegisterDynamicBackgroundWorker(&worker, &start->handle);
	MemoryContextSwitchTo(old);
	return started;
}

/* Forget a worker that has ended; if it has left, also earlier failures. */
static void
launcher_reap(LauncherStart *start, const Slot *slot)
{
	pid_t		pid;

	if (start->handle == NULL ||
		GetBackgroundWorkerPid(start->handle, &pid) != BGWH_STOPPED)
		return;
	pfree(start->handle);
	start->handle = NULL;
	if ((IN(slot->state) & LAUNCHER_FAILED) == 0)
		start->backoff = 0;
}

/* A worker has ended without having left: the next one starts in a while. */
static void
launcher_back_off(LauncherStart *start, SharedDatabase *entry, int64 now)
{
	Slot	   *slot = &entry->slot;

	if (start->database != entry->oid ||
		now - start->started > LAUNCHER_GOOD_RUN)
		start->backoff = 0;
	start->backoff = Max(start->backoff * 2, LAUNCHER_FIRST_BACKOFF);
	start->backoff = Min(start->backoff, LAUNCHER_LAST_BACKOFF);
	start->retry_at = now + start->backoff;
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	if (slot->pid == 0 && (IN(slot->state) & LAUNCHER_FAILED) != 0)
	{
		entry->counters.restarts++;
		slot->state = SLOT_BACKOFF;
	}
	LWLockRelease(shmem_lock());
	launcher_look_at(start->retry_at);
}

/* Look after an entry without worker. */
static void
launcher_tend(LauncherStart *start, SharedDatabase *entry, int64 now)
{
	Slot	   *slot = &entry->slot;

	if ((IN(slot->state) & LAUNCHER_FAILED) != 0)
		launcher_back_off(start, entry, now);
	else if (slot->state == SLOT_BACKOFF && now < start->retry_at)
		launcher_look_at(start->retry_at);
	else if (slot->state == SLOT_BACKOFF)
		(void) launcher_move(slot, IN(SLOT_BACKOFF), SLOT_WANTED);
	else if (slot->state == SLOT_CLOSED)
		launcher_look_at(now + LAUNCHER_CLOSED_EVERY);
}

/* Those that wait come in the order in which they began to. */
static int
launcher_compare_waits(const void *a, const void *b)
{
	int64		wait_a =
		shared->databases[*(const int *) a].slot.wanted_since;
	int64		wait_b =
		shared->databases[*(const int *) b].slot.wanted_since;

	return (wait_a > wait_b) - (wait_a < wait_b);
}

/* Look after all entries; returns how many have a worker. */
static int
launcher_tend_all(int64 now)
{
	int			running = 0;

	nwaiting = 0;
	for (int i = 0; i < shared->ndatabases; i++)
	{
		SharedDatabase *entry = &shared->databases[i];

		launcher_reap(&starts[i], &entry->slot);
		if (starts[i].handle != NULL || entry->slot.pid != 0)
		{
			running++;
			continue;
		}
		launcher_tend(&starts[i], entry, now);
		if ((IN(entry->slot.state) & LAUNCHER_WAITING) != 0)
			waiting[nwaiting++] = i;
	}
	qsort(waiting, nwaiting, sizeof(int), launcher_compare_waits);
	return running;
}

/*
 * Start a worker for an entry that waits for one.  Returns false if there is
 * no process slot.
 */
static bool
launcher_start(int i, int64 now)
{
	LauncherStart *start = &starts[i];
	SharedDatabase *entry = &shared->databases[i];
	Oid			database = entry->oid;

	if (!list_member_oid(connectable, database))
	{
		/* It is gone, or takes no connections, or is newer than the list. */
		(void) launcher_move(&entry->slot, LAUNCHER_WAITING, SLOT_CLOSED);
		databases_changed = true;
		launcher_look_at(now);
		return true;
	}
	if (!launcher_move(&entry->slot, LAUNCHER_WAITING, SLOT_STARTING))
		return true;
	start->database = database;
	start->started = now;
	if (launcher_start_worker(start, database))
		return true;
	(void) launcher_move(&entry->slot, IN(SLOT_STARTING), SLOT_NO_PROCESS);
	return false;
}

/* Say in the log, and not too often, why databases wait. */
static void
launcher_report(bool no_process, int64 now)
{
	static int64 reported[2] = {0};

	if (reported[no_process] != 0 &&
		now - reported[no_process] < LAUNCHER_REPORT_EVERY)
		return;
	reported[no_process] = now;
	if (no_process)
		ereport(LOG,
				(errmsg("no background worker slot is free for anyvod"),
				 errdetail("Databases with pending tasks take turns."),
				 errhint("Consider raising \"max_worker_processes\".")));
	else
		ereport(LOG,
				(errmsg("all %d databases that anyvod serves at once have pending tasks",
						anyvod_max_databases),
				 errdetail("Databases with pending tasks take turns."),
				 errhint("Consider raising \"anyvod.max_databases\".")));
}

/*
 * Start workers where they are wanted, while max_databases and process slots
 * suffice; "running" are there.  Returns how many databases have to wait.
 */
static int
launcher_start_all(int running, int64 now)
{
	bool		no_process = false;
	int			waits = 0;

	for (int i = 0; i < nwaiting; i++)
	{
		LauncherStart *start = &starts[waiting[i]];
		SharedDatabase *entry = &shared->databases[waiting[i]];

		if (entry->slot.lazy && start->database == entry->oid &&
			now < start->started + LAUNCHER_SCAN_EVERY)
		{
			launcher_look_at(start->started + LAUNCHER_SCAN_EVERY);
			continue;
		}
		if (!no_process && running < anyvod_max_databases)
		{
			no_process = !launcher_start(waiting[i], now);
			if (start->handle != NULL)
				running++;
			if (!no_process)
				continue;
		}
		(void) launcher_move(&entry->slot, LAUNCHER_WAITING,
							 no_process ? SLOT_NO_PROCESS : SLOT_QUEUED);
		waits++;
	}
	if (waits > 0)
		launcher_report(no_process, now);
	return waits;
}


/*
 * Taking turns
 */

/*
 * So many databases wait: have as many workers finish, those that have served
 * for longest first, once each has served for a while.
 */
static void
launcher_take_turns(int waits, int64 now)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		const Slot *slot = &shared->databases[i].slot;

		/* One that is told to finish, or is ending, makes room already. */
		if (slot->state == SLOT_FINISHING ||
			(starts[i].handle != NULL && slot->pid == 0 &&
			 slot->state != SLOT_STARTING))
			waits--;
	}
	while (waits-- > 0)
	{
		Slot	   *chosen = NULL;
		pid_t		worker = 0;

		LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
		for (int i = 0; i < shared->ndatabases; i++)
		{
			Slot	   *slot = &shared->databases[i].slot;

			if (slot->state == SLOT_SERVING &&
				now >= slot->serving_since + LAUNCHER_TURN &&
				(chosen == NULL ||
				 slot->serving_since < chosen->serving_since))
				chosen = slot;
		}
		if (chosen != NULL)
		{
			chosen->state = SLOT_FINISHING;
			worker = chosen->pid;
		}
		LWLockRelease(shmem_lock());
		if (chosen == NULL)
			break;
		slot_set_latch(worker);
	}
}


/*
 * The process
 */

/* Do all that can be done now; returns how long to sleep in ms, or -1. */
static long
launcher_iterate(void)
{
	int64		now = monotonic_us();
	int			waits = 0;
	int			running;

	next_at = PG_INT64_MAX;
	StartTransactionCommand();	/* it takes invalidations in, too */
	if (anyvod_worker)
	{
		launcher_note_databases(now);
		launcher_scan_next(now);
	}
	launcher_watch_prepared(now);
	running = launcher_tend_all(now);
	if (anyvod_worker)
	{
		waits = launcher_start_all(running, now);
		if (to_scan != NIL && shared->no_entry)
			waits++;
		else if (to_scan != NIL && !launcher_is_scanning(now))
			launcher_look_at(now);
	}
	if (waits > 0)
	{
		launcher_take_turns(waits, now);
		launcher_look_at(now + LAUNCHER_RETRY);
	}
	CommitTransactionCommand();

	if (next_at == PG_INT64_MAX)
		return -1;
	return Max((next_at - monotonic_us() + 999) / 1000, 0);
}

/* The launcher ends. */
static void
launcher_gone(int code, Datum arg)
{
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shared->launcher = 0;
	shared->launcher_gone_at = monotonic_us();
	LWLockRelease(shmem_lock());
}

/* The launcher's settings have changed. */
static void
launcher_reload(void)
{
	bool		was_on = anyvod_worker;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (anyvod_worker && !was_on)
	{
		list_free(connectable);
		connectable = NIL;
		databases_changed = true;
	}
}

void
launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	/* Shared catalogs only; also makes this process known to SetLatch. */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	CacheRegisterSyscacheCallback(DATABASEOID, launcher_on_database_change,
								  (Datum) 0);

	shared = shmem_get();
	starts = MemoryContextAllocZero(TopMemoryContext,
									shared->ndatabases *
										sizeof(LauncherStart));
	waiting = MemoryContextAlloc(TopMemoryContext,
								 shared->ndatabases * sizeof(int));
	before_shmem_exit(launcher_gone, (Datum) 0);
	LWLockAcquire(shmem_lock(), LW_EXCLUSIVE);
	shared->launcher = MyProcPid;
	LWLockRelease(shmem_lock());

	databases_changed = anyvod_worker;	/* scan all */
	for (;;)
	{
		long		timeout;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			proc_exit(1);		/* with 0 it would never be started again */
		if (ConfigReloadPending)
			launcher_reload();
		timeout = launcher_iterate();
		if (timeout >= 0)
			events |= WL_TIMEOUT;
		(void) WaitLatch(MyLatch, events, timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Called while the library is preloaded. */
void
launcher_register(void)
{
	BackgroundWorker launcher = launcher_process("launcher_main",
												 "anyvod launcher");

	launcher.bgw_restart_time = 1;	/* second */
	RegisterBackgroundWorker(&launcher);
}
