/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Starting a worker where there is work, and waking it.
 *
 * Two kinds of processes, since a background process can connect to one
 * database only and for good: a single launcher, connected to none, starts a
 * worker in each database that has pending tasks.  The worker (worker.c) ends
 * when there are none left, so that a cluster without work has one sleeping
 * process.
 *
 * They meet in shared memory, where each database with work has a place.  A
 * transaction that made work announces it after its commit: it counts up
 * "wakes" in its database's place and sets the latch of the worker, or of the
 * launcher if there is no worker.  A worker leaves only if no wake has come
 * since it last looked, under the same lock, so that none is missed.  When the
 * server starts, the launcher visits each database once: a worker that finds
 * nothing to do leaves at once.
 *
 * If the server crashes, shared memory starts afresh and so does the launcher;
 * the tables are the truth, so nothing needs to be kept here.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "anyvod.h"
#include "launcher.h"
#include "neighbour.h"
#include "stat.h"

/* A worker that fails is started again after so long, doubling each time. */
#define LAUNCHER_FIRST_BACKOFF 200
#define LAUNCHER_LAST_BACKOFF (60 * 1000)

/*
 * How long, in milliseconds, a command that wants a database for itself waits
 * for its worker to end by itself, and then for its being terminated.
 */
#define LAUNCHER_ASIDE_WAIT 300
#define LAUNCHER_TERMINATE_WAIT 500

/* Running for so long, in milliseconds, makes earlier failures forgotten. */
#define LAUNCHER_GOOD_RUN (60 * 1000)

/* While no process slot is free, look again after so long (milliseconds). */
#define LAUNCHER_SLOT_WAIT 1000

/* One database that has, or may have, work.  Guarded by the lock. */
typedef struct LauncherPlace
{
	Oid			database;		/* InvalidOid: the place is free */
	pid_t		worker;			/* attached worker, 0 if none */
	uint32		wakes;			/* how often work was announced */
	uint32		changes;		/* how often servers or mappings changed */
	pid_t		banned_by;		/* who wants it without a worker, or 0 */
	bool		recheck;		/* is the database still there? */
	bool		serving;		/* the worker has looked, and stays */
	bool		failed;			/* a worker ended without having left */
	bool		slotless;		/* no process slot was free for a worker */
	bool		failing;		/* workers fail, the next is yet to start */
} LauncherPlace;

/*
 * Sessions wait for the settling of rows on one of so many condition
 * variables, by their database.  They are apart from the places, since those
 * come and go while sessions wait; two databases that share one wake each
 * other's sessions in vain, no more.
 */
#define LAUNCHER_CONDITIONS 64

typedef struct LauncherShared
{
	ConditionVariable settled[LAUNCHER_CONDITIONS];
	pid_t		launcher;		/* 0 while it is not running */
	bool		crowded;		/* work was announced that found no place */
	int			nplaces;
	LauncherPlace places[FLEXIBLE_ARRAY_MEMBER];
} LauncherShared;

/* What the launcher alone knows of a place. */
typedef struct LauncherStart
{
	BackgroundWorkerHandle *handle; /* NULL: no worker started */
	TimestampTz started;
	int			backoff;		/* milliseconds, 0 after success */
	TimestampTz retry_at;		/* no start before this */
} LauncherStart;

static LauncherShared *shared = NULL;
static LWLock *shared_lock = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

/* This session: what the transaction that is under way has done. */
static bool work_noted = false; /* rows to be asked for */
static bool change_noted = false;	/* servers, mappings or rights changed */
static Oid	created = InvalidOid;	/* a database, which may have rows */
static bool committed = false;	/* it has committed, nobody was told yet */
static Oid	banned = InvalidOid;	/* database that it wants without worker */

/* This worker: its place. */
static LauncherPlace *my_place = NULL;

/* Has a worker's own writing made work? */
static bool own_work = false;

/* The launcher: by place; and databases that are still to be visited. */
static LauncherStart *starts = NULL;
static List *to_visit = NIL;
static Oid	visited = InvalidOid;	/* being visited right now */
static bool slots_wanted = false;	/* none was free in this round */
static bool slots_missing = false;	/* said so in the log */
static bool places_missing = false; /* said so in the log */


/*
 * Shared memory
 */

static Size
launcher_shared_size(void)
{
	return add_size(offsetof(LauncherShared, places),
					mul_size(anyvod_max_databases, sizeof(LauncherPlace)));
}

static void
launcher_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(launcher_shared_size());
	RequestNamedLWLockTranche("anyvod", 1);
}

static void
launcher_shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("anyvod", launcher_shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, launcher_shared_size());
		shared->nplaces = anyvod_max_databases;
		for (int i = 0; i < LAUNCHER_CONDITIONS; i++)
			ConditionVariableInit(&shared->settled[i]);
	}
	LWLockRelease(AddinShmemInitLock);
	shared_lock = &GetNamedLWLockTranche("anyvod")->lock;
}

/* The place of a database, NULL if it has none.  The lock is held. */
static LauncherPlace *
launcher_find(Oid database)
{
	for (int i = 0; i < shared->nplaces; i++)
	{
		if (shared->places[i].database == database)
			return &shared->places[i];
	}
	return NULL;
}

/* The place of a database, made if need be; NULL if there is no room. */
static LauncherPlace *
launcher_find_or_make(Oid database)
{
	LauncherPlace *place = launcher_find(database);

	if (place == NULL && (place = launcher_find(InvalidOid)) != NULL)
	{
		memset(place, 0, sizeof(LauncherPlace));
		place->database = database;
	}
	return place;
}

/* Set the latch of a process if it is still there. */
static void
launcher_set_latch(pid_t pid)
{
	PGPROC	   *proc = pid != 0 ? BackendPidGetProc(pid) : NULL;

	if (proc != NULL)
		SetLatch(&proc->procLatch);
}


/*
 * Sessions: announcing work
 */

/* Can anything fill rows in: is the library preloaded? */
bool
launcher_present(void)
{
	return shared != NULL;
}

/* What sessions of a database that wait for its rows sleep on. */
static ConditionVariable *
launcher_condition(Oid database)
{
	return &shared->settled[database % LAUNCHER_CONDITIONS];
}

/*
 * Sleep until rows of this database may have been settled, at most so many
 * milliseconds.  May return early, and does so the first time: the caller
 * looks again each time, and calls launcher_end_sleep() at last.
 */
void
launcher_sleep(long timeout)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = compat_wait_event("AnyvodTask");
	(void) ConditionVariableTimedSleep(launcher_condition(MyDatabaseId),
									   timeout, wait_event);
}

/* No more of launcher_sleep(). */
void
launcher_end_sleep(void)
{
	(void) ConditionVariableCancelSleep();
}

/* Rows of this database have been settled, and that has been committed. */
void
launcher_tell_sleepers(void)
{
	ConditionVariableBroadcast(launcher_condition(MyDatabaseId));
}

/*
 * Announce that a database has work, or that its servers or mappings have
 * changed; the latter matters only where there is a worker.  Must not throw.
 */
static void
launcher_announce(Oid database, bool work, bool change)
{
	LauncherPlace *place;
	pid_t		pid = 0;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = work ? launcher_find_or_make(database) : launcher_find(database);
	if (place != NULL)
	{
		place->wakes++;
		if (change)
			place->changes++;
		pid = place->worker;
	}
	else if (work)
		shared->crowded = true;
	if (pid == 0)
		pid = shared->launcher;
	LWLockRelease(shared_lock);
	launcher_set_latch(pid);
	/* Somebody may have settled rows by hand, or set them to pending. */
	if (work)
		ConditionVariableBroadcast(launcher_condition(database));
}

/* The command that wanted a database for itself has ended. */
static void
launcher_unban(void)
{
	LauncherPlace *place;
	pid_t		launcher;

	if (!OidIsValid(banned))
		return;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = launcher_find(banned);
	if (place != NULL && place->banned_by == MyProcPid)
	{
		place->banned_by = 0;
		place->recheck = true;
	}
	launcher = shared->launcher;
	LWLockRelease(shared_lock);
	banned = InvalidOid;
	launcher_set_latch(launcher);
}

/*
 * The transaction ends.  If it commits, what it noted is announced a little
 * later, when the catalog changes that it made have been sent to all and its
 * locks are gone: a worker that is woken before could still see the old ones.
 */
static void
launcher_at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			committed = work_noted || change_noted || OidIsValid(created);
			launcher_unban();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			work_noted = change_noted = false;
			created = InvalidOid;
			launcher_unban();
			break;
		default:
			break;
	}
}

/* The transaction has given its locks back. */
static void
launcher_at_release(ResourceReleasePhase phase, bool is_commit,
					bool		is_top_level, void *arg)
{
	bool		work = work_noted;
	bool		change = change_noted;
	Oid			copy = created;

	if (!committed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	committed = work_noted = change_noted = false;
	created = InvalidOid;
	if (work || change)
		launcher_announce(MyDatabaseId, work, change);
	if (OidIsValid(copy))
		launcher_announce(copy, true, false);
}

/* Have the end of this session's transactions seen, from the first need on. */
static void
launcher_watch_xacts(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(launcher_at_xact_end, NULL);
	RegisterResourceReleaseCallback(launcher_at_release, NULL);
	registered = true;
}

/*
 * Note that this transaction makes work: its commit will announce it, once.
 * In a worker, what users have added to the table has made it; the loop
 * sees to that itself.
 */
void
launcher_note_work(void)
{
	if (shared == NULL)
		return;
	if (my_place != NULL)
	{
		own_work = true;
		return;
	}
	launcher_watch_xacts();
	work_noted = true;
}

/* Wait until a worker has ended, at most so many milliseconds. */
static void
launcher_await_end(pid_t worker, int wait)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													wait);

	while (BackendPidGetProc(worker) != NULL &&
		   GetCurrentTimestamp() < until)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT,
						 5, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * A command of this session wants a database for itself, and may have it:
 * send its worker away, and start no other until the transaction has ended.
 */
void
launcher_ban(Oid database)
{
	LauncherPlace *place;
	pid_t		worker = 0;

	if (shared == NULL)
		return;
	launcher_watch_xacts();
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = launcher_find(database);
	if (place != NULL)
	{
		place->banned_by = MyProcPid;
		worker = place->worker;
	}
	LWLockRelease(shared_lock);
	if (place == NULL)
		return;
	banned = database;
	if (worker == 0)
		return;
	launcher_set_latch(worker);
	launcher_await_end(worker, LAUNCHER_ASIDE_WAIT);
	if (BackendPidGetProc(worker) == NULL)
		return;
	(void) kill(worker, SIGTERM);
	launcher_await_end(worker, LAUNCHER_TERMINATE_WAIT);
}

/*
 * Copy what there is to be seen of the databases with a place to "views", which
 * has room for anyvod_max_databases; returns how many there are.
 */
int
launcher_view(LauncherView *views)
{
	int			n = 0;

	LWLockAcquire(shared_lock, LW_SHARED);
	for (int i = 0; i < shared->nplaces; i++)
	{
		const LauncherPlace *place = &shared->places[i];

		if (!OidIsValid(place->database))
			continue;
		views[n].database = place->database;
		views[n].worker = place->worker;
		views[n].serving = place->serving;
		views[n].banned = place->banned_by != 0;
		views[n].slotless = place->slotless;
		views[n].failing = place->failing;
		n++;
	}
	LWLockRelease(shared_lock);
	return n;
}

/*
 * Does a command change who may ask which server, where and with which key,
 * whether the table's owner may use its schema, or whether there is a table?
 */
static bool
launcher_is_change(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CreateForeignServerStmt:
		case T_AlterForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
		case T_CreateRoleStmt:
		case T_GrantRoleStmt:
		case T_AlterExtensionStmt:
			return true;
		case T_DropStmt:
			return ((DropStmt *) command)->removeType == OBJECT_EXTENSION;
		case T_GrantStmt:
			return ((GrantStmt *) command)->objtype == OBJECT_FOREIGN_SERVER ||
				((GrantStmt *) command)->objtype == OBJECT_SCHEMA;
		case T_RenameStmt:
			return ((RenameStmt *) command)->renameType ==
				OBJECT_FOREIGN_SERVER;
		case T_AlterOwnerStmt:
			return ((AlterOwnerStmt *) command)->objectType ==
				OBJECT_FOREIGN_SERVER;
		default:
			return false;
	}
}

/*
 * Look at utility commands, after they have been carried out: a changed
 * server or mapping ends the pauses of those that were in trouble; what
 * COMMIT PREPARED commits, and a new database that is a copy, may have work.
 */
static void
launcher_process_utility(PlannedStmt *statement, const char *query,
						 bool read_only, ProcessUtilityContext context,
						 ParamListInfo params, QueryEnvironment *environment,
						 DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *command = statement->utilityStmt;
	bool		change = launcher_is_change(command);
	bool		work = IsA(command, TransactionStmt) &&
		((TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED;

	neighbour_make_way(command);
	if (prev_process_utility)
		prev_process_utility(statement, query, read_only, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(statement, query, read_only, context, params,
								environment, dest, completion);

	if (work)
		work = OidIsValid(get_extension_oid("anyvod", true));
	if (IsA(command, CreatedbStmt))
		created = get_database_oid(((CreatedbStmt *) command)->dbname, true);
	if (!(change || work || OidIsValid(created)) || my_place != NULL ||
		!OidIsValid(MyDatabaseId))
		return;
	launcher_watch_xacts();
	work_noted |= work;
	change_noted |= change;
}


/*
 * Workers: their place
 */

/* This worker ends, whyever: without having left, it has failed. */
static void
launcher_detach(int code, Datum arg)
{
	pid_t		launcher;

	if (my_place == NULL)
		return;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_place->worker = 0;
	my_place->serving = false;
	my_place->failed = true;
	launcher = shared->launcher;
	LWLockRelease(shared_lock);
	my_place = NULL;
	launcher_set_latch(launcher);
}

/*
 * Take the place of this worker's database.  Does not return if another
 * worker has it.
 */
void
launcher_attach(void)
{
	LauncherPlace *place;
	pid_t		other = 0;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = launcher_find_or_make(MyDatabaseId);
	if (place != NULL)
	{
		other = place->worker != 0 ? place->worker : place->banned_by;
		if (other == 0)
		{
			place->worker = MyProcPid;
			place->failed = false;
			my_place = place;
		}
	}
	LWLockRelease(shared_lock);

	if (my_place == NULL)
	{
		ereport(DEBUG1,
				(errmsg_internal("no anyvod worker for database %u on account of process %d",
								 MyDatabaseId, (int) other)));
		proc_exit(0);
	}
	before_shmem_exit(launcher_detach, (Datum) 0);
}

/* Is this process a worker with a place? */
bool
launcher_is_worker(void)
{
	return my_place != NULL;
}

/* This worker has looked and stays: its visit is over. */
void
launcher_serve(void)
{
	pid_t		launcher;

	if (my_place->serving)
		return;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_place->serving = true;
	launcher = shared->launcher;
	LWLockRelease(shared_lock);
	launcher_set_latch(launcher);	/* it may visit the next database */
}

/* What was announced to this worker. */
LauncherNews
launcher_news(void)
{
	LauncherNews news;

	LWLockAcquire(shared_lock, LW_SHARED);
	news.wakes = my_place->wakes;
	news.changes = my_place->changes;
	news.banned = my_place->banned_by != 0;
	LWLockRelease(shared_lock);
	news.own_work = own_work;
	own_work = false;
	return news;
}

/*
 * Give this worker's place up, if no work was announced since launcher_news()
 * gave "wakes".  The caller then ends the process.
 */
bool
launcher_leave(uint32 wakes)
{
	pid_t		launcher;
	bool		leave;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	leave = my_place->wakes == wakes;
	if (leave)
		memset(my_place, 0, sizeof(LauncherPlace));
	launcher = shared->launcher;
	LWLockRelease(shared_lock);
	if (leave)
	{
		my_place = NULL;
		launcher_set_latch(launcher);
	}
	return leave;
}

/*
 * Make way for a command that wants the database for itself; the place is
 * kept, so that a worker comes back when that has ended.
 */
void
launcher_step_aside(void)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_place->worker = 0;
	my_place->serving = false;
	LWLockRelease(shared_lock);
	my_place = NULL;
}


/*
 * The launcher
 */

/* The launcher ends. */
static void
launcher_gone(int code, Datum arg)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->launcher = 0;
	LWLockRelease(shared_lock);
}

/* Lower a time to sleep, in milliseconds and -1 for ever, to "wait". */
static void
launcher_lower(long *timeout, long wait)
{
	if (*timeout < 0 || wait < *timeout)
		*timeout = wait;
}

/* May a worker connect to this database? */
static bool
launcher_connectable(Form_pg_database database)
{
	return database->datallowconn && !database->datistemplate &&
		database->datconnlimit != COMPAT_INVALID_DATABASE;
}

/* List the databases that are to be visited. */
static void
launcher_list_databases(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!launcher_connectable(database))
			continue;
		old = MemoryContextSwitchTo(TopMemoryContext);
		to_visit = list_append_unique_oid(to_visit, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
}

/* Is a database that has failed to take a worker still there? */
static bool
launcher_database_exists(Oid oid)
{
	HeapTuple	tuple;
	bool		exists = false;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	if (HeapTupleIsValid(tuple))
	{
		exists = launcher_connectable((Form_pg_database) GETSTRUCT(tuple));
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	return exists;
}

/* Ask the postmaster for a worker; false if there is no process slot. */
static bool
launcher_start_worker(LauncherStart *start, Oid database)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION | COMPAT_BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "anyvod", MAXPGPATH);
	strlcpy(worker.bgw_function_name, "worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "anyvod worker for database %u",
			 database);
	strlcpy(worker.bgw_type, "anyvod worker", BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &start->handle);
	MemoryContextSwitchTo(old);
	if (!started)
		start->handle = NULL;
	return started;
}

/* A worker has ended: forget it; if it failed, wait before the next. */
static void
launcher_reap(LauncherStart *start, LauncherPlace *place)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			database;
	bool		failed;
	pid_t		pid;

	if (GetBackgroundWorkerPid(start->handle, &pid) != BGWH_STOPPED)
		return;
	pfree(start->handle);
	start->handle = NULL;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	database = place->database;
	failed = place->failed;
	place->failed = false;
	place->failing = failed;
	LWLockRelease(shared_lock);

	if (failed)
		stat_note_restart(database);
	if (!failed)
	{
		start->backoff = 0;
		start->retry_at = 0;
		return;
	}
	if (TimestampDifferenceExceeds(start->started, now, LAUNCHER_GOOD_RUN))
		start->backoff = 0;
	start->backoff = Max(start->backoff * 2, LAUNCHER_FIRST_BACKOFF);
	start->backoff = Min(start->backoff, LAUNCHER_LAST_BACKOFF);
	start->retry_at = TimestampTzPlusMilliseconds(now, start->backoff);
}

/* Say once that a database waits for a process slot. */
static void
launcher_report_slots(void)
{
	if (slots_wanted && !slots_missing)
		ereport(LOG,
				(errmsg("no background worker slot is free for anyvod"),
				 errdetail("Databases with pending tasks wait for one."),
				 errhint("Consider raising \"max_worker_processes\".")));
	slots_missing = slots_wanted;
}

/*
 * Look after one place: reap its worker, start one if it needs one.  Lowers
 * "timeout", in milliseconds, to the time at which to look again.
 */
static void
launcher_tend(int i, long *timeout)
{
	LauncherPlace *place = &shared->places[i];
	LauncherStart *start = &starts[i];
	TimestampTz now = GetCurrentTimestamp();
	Oid			database;
	pid_t		worker;
	pid_t		banned_by;
	bool		recheck;
	bool		started;

	if (start->handle != NULL)
		launcher_reap(start, place);
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (place->banned_by != 0 && BackendPidGetProc(place->banned_by) == NULL)
	{
		place->banned_by = 0;
		place->recheck = true;
	}
	database = place->database;
	worker = place->worker;
	banned_by = place->banned_by;
	recheck = place->recheck;
	LWLockRelease(shared_lock);

	if (!OidIsValid(database))
	{
		start->backoff = 0;
		start->retry_at = 0;
		return;
	}
	if (start->handle != NULL || worker != 0 || !anyvod_worker)
		return;
	if (now < start->retry_at)
	{
		launcher_lower(timeout,
					   TimestampDifferenceMilliseconds(now, start->retry_at) +
						   1);
		return;
	}
	if (banned_by != 0)
	{
		/* Should the one who banned it die without a word. */
		launcher_lower(timeout, LAUNCHER_SLOT_WAIT);
		return;
	}
	if ((start->backoff > 0 || recheck) && !launcher_database_exists(database))
	{
		LWLockAcquire(shared_lock, LW_EXCLUSIVE);
		if (place->worker == 0)
			memset(place, 0, sizeof(LauncherPlace));
		LWLockRelease(shared_lock);
		stat_forget(database);
		return;
	}

	/* Until it attaches, a start counts as failed. */
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place->failed = true;
	place->recheck = false;
	LWLockRelease(shared_lock);
	start->started = now;
	started = launcher_start_worker(start, database);
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place->slotless = !started;
	if (started)
		place->failing = false;
	LWLockRelease(shared_lock);
	if (!started)
	{
		slots_wanted = true;
		launcher_lower(timeout, LAUNCHER_SLOT_WAIT);
	}
}

/*
 * Visit the next database, if none is being visited: a worker is started
 * there that leaves at once when it finds nothing to do.
 */
static void
launcher_visit(void)
{
	LauncherPlace *place;
	bool		busy;

	while (to_visit != NIL || OidIsValid(visited))
	{
		if (OidIsValid(visited))
		{
			LWLockAcquire(shared_lock, LW_SHARED);
			place = launcher_find(visited);
			busy = place != NULL && !place->serving &&
				starts[place - shared->places].backoff == 0;
			LWLockRelease(shared_lock);
			if (busy)
				return;
			visited = InvalidOid;
			continue;
		}

		LWLockAcquire(shared_lock, LW_EXCLUSIVE);
		place = launcher_find_or_make(linitial_oid(to_visit));
		LWLockRelease(shared_lock);
		if (place == NULL)
			return;				/* a worker that leaves makes room */
		visited = linitial_oid(to_visit);
		to_visit = list_delete_first(to_visit);
		return;
	}
}

/* Look after databases that found no place. */
static void
launcher_check_crowd(void)
{
	bool		crowded;
	bool		again;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	again = shared->crowded && launcher_find(InvalidOid) != NULL;
	if (again)
		shared->crowded = false;
	crowded = shared->crowded;
	LWLockRelease(shared_lock);

	if (again)
		launcher_list_databases();
	if (crowded && !places_missing)
		ereport(LOG,
				(errmsg("all %d databases that anyvod serves at once have pending tasks",
						shared->nplaces),
				 errhint("Consider raising \"anyvod.max_databases\".")));
	places_missing = crowded;
}

/* One round: everything that can be done now; returns how long to sleep. */
static long
launcher_round(void)
{
	long		timeout = -1;

	launcher_check_crowd();
	launcher_visit();
	slots_wanted = false;
	for (int i = 0; i < shared->nplaces; i++)
		launcher_tend(i, &timeout);

	launcher_report_slots();

	/* A visit that has just ended makes way for the next. */
	if (to_visit != NIL)
	{
		Oid			before = visited;

		launcher_visit();
		if (visited != before)
			return 0;
	}
	return timeout;
}

/* The launcher's settings have changed. */
static void
launcher_reload(void)
{
	bool		was_on = anyvod_worker;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (anyvod_worker && !was_on)
		launcher_list_databases();
}

void
launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	/* Shared catalogs only; also makes this process known to SetLatch. */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	starts = MemoryContextAllocZero(TopMemoryContext,
									shared->nplaces * sizeof(LauncherStart));
	before_shmem_exit(launcher_gone, (Datum) 0);
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->launcher = MyProcPid;
	LWLockRelease(shared_lock);

	if (anyvod_worker)
		launcher_list_databases();
	for (;;)
	{
		long		timeout;
		int			events;

		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			proc_exit(1);		/* with 0 it would never be started again */
		if (ConfigReloadPending)
			launcher_reload();
		timeout = launcher_round();
		events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
		if (timeout >= 0)
			events |= WL_TIMEOUT;
		(void) WaitLatch(MyLatch, events, timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Called while the library is preloaded. */
void
launcher_init(void)
{
	BackgroundWorker worker = {0};

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = launcher_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = launcher_shmem_startup;

	if (IsBinaryUpgrade)
		return;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = launcher_process_utility;
	neighbour_init();
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;	/* second */
	strlcpy(worker.bgw_library_name, "anyvod", MAXPGPATH);
	strlcpy(worker.bgw_function_name, "launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "anyvod launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "anyvod launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
