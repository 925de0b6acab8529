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
 * With more databases than process slots or places, they take turns: while one
 * waits, a worker that has had its turn is told to make room.  Nobody wakes up
 * for that unless somebody waits.
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
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "control/announce.h"
#include "anyvod.h"
#include "launcher/launcher.h"
#include "control/neighbour.h"
#include "control/stat.h"

/* A worker that fails is started again after so long, doubling each time. */
#define LAUNCHER_FIRST_BACKOFF 200
#define LAUNCHER_LAST_BACKOFF (60 * 1000)

/* Running for so long, in milliseconds, makes earlier failures forgotten. */
#define LAUNCHER_GOOD_RUN (60 * 1000)

/* While somebody waits for a slot or place, look again after this (ms). */
#define LAUNCHER_SLOT_WAIT 1000

/*
 * While databases wait, a worker makes room after a turn of so long; after the
 * shorter one, if it has nothing to do for so long (milliseconds).
 */
#define LAUNCHER_TURN (10 * 1000)
#define LAUNCHER_SHORT_TURN (2 * 1000)
#define LAUNCHER_REST (10 * 1000)

/* What is missing is said in the log no oftener than this (milliseconds). */
#define LAUNCHER_REPORT_EVERY (10 * 60 * 1000)

/* One database that has, or may have, work.  Guarded by the lock. */
typedef struct LauncherPlace
{
	Oid			database;		/* InvalidOid: the place is free */
	pid_t		worker;			/* attached worker, 0 if none */
	uint32		wakes;			/* how often work was announced */
	uint32		changes;		/* how often servers or mappings changed */
	uint32		mends;			/* how often roles, rights or the table did */
	bool		outdated;		/* settings that the worker has read changed */
	bool		turn_over;		/* others wait: the worker is to make room */
	TimestampTz serving_since;	/* if "serving" */
	pg_atomic_uint64 rests_until;	/* monotonic_us() when the worker has
									 * something to do, written without lock */
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
	bool		prepared;		/* a prepared transaction may change servers,
								 * mappings, roles or rights */
	int			ncrowd;
	Oid			crowd[LAUNCHER_CROWD];	/* databases that wait for a place, in
										 * turn */
	bool		crowd_overflowed;	/* and there are others */
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
	TimestampTz waits_since;	/* for a worker, 0 if it does not */
} LauncherStart;

static LauncherShared *shared = NULL;
static LWLock *shared_lock = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* This worker: its place. */
static LauncherPlace *my_place = NULL;

/* How often this worker's own writing has made work. */
static uint32 own_work = 0;

/* The launcher: by place; and databases that are still to be visited. */
static LauncherStart *starts = NULL;
static List *to_visit = NIL;
static Oid	visited = InvalidOid;	/* being visited right now */
static int *line = NULL;		/* places, by how long they wait */
static bool slots_wanted = false;	/* none was free in this round */
static TimestampTz slots_reported = 0;	/* said so in the log */
static TimestampTz places_reported = 0; /* said so in the log */


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
		pg_atomic_init_u64(&place->rests_until, 0);
	}
	return place;
}

/* Have a database wait for a place, after the others.  The lock is held. */
static void
launcher_join_crowd(Oid database)
{
	for (int i = 0; i < shared->ncrowd; i++)
	{
		if (shared->crowd[i] == database)
			return;
	}
	if (shared->ncrowd < LAUNCHER_CROWD)
		shared->crowd[shared->ncrowd++] = database;
	else
		shared->crowd_overflowed = true;
}

/* Set the latch of a process if it is still there. */
void
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

/* Count what is announced up in a place; returns whom to wake. */
static pid_t
launcher_count_news(LauncherPlace *place, int news)
{
	if (news & (LAUNCHER_WORK | LAUNCHER_CHANGE))
		place->wakes++;
	if (news & LAUNCHER_CHANGE)
		place->changes++;
	if (news & LAUNCHER_MEND)
		place->mends++;
	if ((news & LAUNCHER_SETTINGS) && place->worker != 0)
		place->outdated = true;
	return place->worker;
}

/* Announce something to all workers.  Must not throw. */
static void
launcher_announce_to_all(int news)
{
	for (int i = 0; i < shared->nplaces; i++)
	{
		LauncherPlace *place = &shared->places[i];
		pid_t		worker = 0;

		LWLockAcquire(shared_lock, LW_EXCLUSIVE);
		if (OidIsValid(place->database))
			worker = launcher_count_news(place, news);
		LWLockRelease(shared_lock);
		launcher_set_latch(worker);
	}
}

/*
 * Announce news, LAUNCHER_... or several of them, to the worker of a database,
 * InvalidOid for all.  Only work has one started.  Must not throw.
 */
void
launcher_announce(Oid database, int news)
{
	bool		work = (news & LAUNCHER_WORK) != 0;
	LauncherPlace *place;
	pid_t		pid = 0;

	if (!OidIsValid(database))
	{
		launcher_announce_to_all(news);
		return;
	}
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = work ? launcher_find_or_make(database) : launcher_find(database);
	if (place != NULL)
		pid = launcher_count_news(place, news);
	else if (work)
		launcher_join_crowd(database);
	if (pid == 0)
		pid = shared->launcher;
	LWLockRelease(shared_lock);
	launcher_set_latch(pid);
	/* Somebody may have settled rows by hand, or set them to pending. */
	if (work)
		ConditionVariableBroadcast(launcher_condition(database));
}

/* The command that wanted a database for itself has ended. */
void
launcher_unban(Oid database)
{
	LauncherPlace *place;
	pid_t		launcher;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = launcher_find(database);
	if (place != NULL && place->banned_by == MyProcPid)
	{
		place->banned_by = 0;
		place->recheck = true;
	}
	launcher = shared->launcher;
	LWLockRelease(shared_lock);
	launcher_set_latch(launcher);
}

/* A transaction has been prepared that changes what workers go by. */
void
launcher_note_prepared(void)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->prepared = true;
	LWLockRelease(shared_lock);
}

/* May a prepared transaction change what workers go by? */
bool
launcher_has_prepared(void)
{
	return shared != NULL && shared->prepared;
}

/*
 * Let no worker be started in a database until launcher_unban(); *worker is
 * the one that it has, 0 if none.  Returns false if the database has no place,
 * hence nothing to do.
 */
bool
launcher_ban(Oid database, pid_t *worker)
{
	LauncherPlace *place;

	*worker = 0;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = launcher_find(database);
	if (place != NULL)
	{
		place->banned_by = MyProcPid;
		*worker = place->worker;
	}
	LWLockRelease(shared_lock);
	return place != NULL;
}

/*
 * Copy what there is to be seen of the databases that have a place or wait for
 * one to "views", which has room for launcher_most_views(); returns how many
 * there are.
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
		views[n].placeless = false;
		views[n].slotless = place->slotless;
		views[n].failing = place->failing;
		n++;
	}
	for (int i = 0; i < shared->ncrowd; i++)
	{
		memset(&views[n], 0, sizeof(LauncherView));
		views[n].database = shared->crowd[i];
		views[n++].placeless = true;
	}
	LWLockRelease(shared_lock);
	return n;
}

int
launcher_most_views(void)
{
	return shared->nplaces + LAUNCHER_CROWD;
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

/* Is this process a worker that has its place? */
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
	my_place->serving_since = GetCurrentTimestamp();
	launcher = shared->launcher;
	LWLockRelease(shared_lock);
	launcher_set_latch(launcher);	/* it may visit the next database */
}

/* What users have added to the table has made work while this worker wrote. */
void
launcher_note_own_work(void)
{
	own_work++;
}

/* What was announced to this worker. */
LauncherNews
launcher_news(void)
{
	LauncherNews news;

	LWLockAcquire(shared_lock, LW_SHARED);
	news.wakes = my_place->wakes;
	news.changes = my_place->changes;
	news.mends = my_place->mends;
	news.go = my_place->banned_by != 0 || my_place->outdated;
	news.turn_over = my_place->turn_over;
	LWLockRelease(shared_lock);
	news.own_work = own_work;
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
 * This worker has nothing to do until then (monotonic_us()), unless it is told
 * of something.
 */
void
launcher_note_rest(int64 until)
{
	pg_atomic_write_u64(&my_place->rests_until, (uint64) until);
}

/* This worker gives its place up, or leaves it to the next. */
static void
launcher_let_go(bool give_up)
{
	my_place->worker = 0;
	my_place->serving = false;
	my_place->outdated = false;
	my_place->turn_over = false;
	if (give_up)
		memset(my_place, 0, sizeof(LauncherPlace));
	my_place = NULL;
}

/*
 * Make way for a command that wants the database for itself, or for a worker
 * that starts from other settings; the place is kept, so that one comes when
 * that has ended.
 */
void
launcher_step_aside(void)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	launcher_let_go(false);
	LWLockRelease(shared_lock);
}

/*
 * This worker's turn is over.  Its database waits for the next one, after all
 * who wait already: for a worker, or for a place if others wait for that.
 */
void
launcher_end_turn(void)
{
	bool		crowded;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	crowded = shared->ncrowd > 0;
	if (crowded)
		launcher_join_crowd(MyDatabaseId);
	launcher_let_go(crowded);
	LWLockRelease(shared_lock);
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
	strlcpy(worker.bgw_library_name, "anyvod",
			sizeof(worker.bgw_library_name));
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

/* May the log say, and not too often, that something is missing? */
static bool
launcher_may_report(bool missing, TimestampTz *reported)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!missing ||
		(*reported != 0 &&
		 !TimestampDifferenceExceeds(*reported, now, LAUNCHER_REPORT_EVERY)))
		return false;
	*reported = now;
	return true;
}

/* Say that databases wait for a process slot. */
static void
launcher_report_slots(void)
{
	if (launcher_may_report(slots_wanted, &slots_reported))
		ereport(LOG,
				(errmsg("no background worker slot is free for anyvod"),
				 errdetail("Databases with pending tasks take turns."),
				 errhint("Consider raising \"max_worker_processes\".")));
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
		start->waits_since = 0;
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
	if (start->waits_since == 0)
		start->waits_since = now;
	started = launcher_start_worker(start, database);
	if (started)
		start->waits_since = 0;
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
			busy = place != NULL && !place->serving && !place->slotless &&
				place->banned_by == 0 &&
				starts[place - shared->places].backoff == 0;
			LWLockRelease(shared_lock);
			if (busy)
				return;
			visited = InvalidOid;
			continue;
		}

		LWLockAcquire(shared_lock, LW_EXCLUSIVE);
		place = launcher_find_or_make(linitial_oid(to_visit));
		if (place == NULL && shared->ncrowd < LAUNCHER_CROWD)
		{
			launcher_join_crowd(linitial_oid(to_visit));
			to_visit = list_delete_first(to_visit);
			LWLockRelease(shared_lock);
			continue;
		}
		LWLockRelease(shared_lock);
		if (place == NULL)
			return;				/* whoever leaves makes room */
		visited = linitial_oid(to_visit);
		to_visit = list_delete_first(to_visit);
		return;
	}
}

/* Give places that have become free to who waits for one. */
static void
launcher_seat_crowd(void)
{
	LauncherPlace *place;
	int			n = 0;
	bool		others;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	while (n < shared->ncrowd &&
		   (place = launcher_find_or_make(shared->crowd[n])) != NULL)
	{
		place->recheck = true;
		n++;
	}
	shared->ncrowd -= n;
	memmove(shared->crowd, shared->crowd + n, shared->ncrowd * sizeof(Oid));
	others = shared->crowd_overflowed && shared->ncrowd == 0;
	if (others)
		shared->crowd_overflowed = false;
	n = shared->ncrowd;
	LWLockRelease(shared_lock);

	if (others)
		launcher_list_databases();
	if (launcher_may_report(n > 0, &places_reported))
		ereport(LOG,
				(errmsg("all %d databases that anyvod serves at once have pending tasks",
						shared->nplaces),
				 errdetail("Databases with pending tasks take turns."),
				 errhint("Consider raising \"anyvod.max_databases\".")));
}


/*
 * The launcher: taking turns
 */

/* Those that wait come first, in the order in which they began to. */
static int
launcher_compare_waits(const void *a, const void *b)
{
	TimestampTz wait_a = starts[*(const int *) a].waits_since;
	TimestampTz wait_b = starts[*(const int *) b].waits_since;

	if (wait_a == wait_b)
		return *(const int *) a - *(const int *) b;
	if (wait_a == 0 || wait_b == 0)
		return wait_a == 0 ? 1 : -1;
	return wait_a < wait_b ? -1 : 1;
}

/* May the worker of a place be told that its turn is over? */
static bool
launcher_has_had_turn(LauncherPlace *place, TimestampTz now)
{
	int64		rests_until;

	if (place->worker == 0 || !place->serving || place->turn_over)
		return false;
	if (TimestampDifferenceExceeds(place->serving_since, now, LAUNCHER_TURN))
		return true;
	rests_until = (int64) pg_atomic_read_u64(&place->rests_until);
	return TimestampDifferenceExceeds(place->serving_since, now,
									  LAUNCHER_SHORT_TURN) &&
		rests_until >= monotonic_us() + LAUNCHER_REST * INT64CONST(1000);
}

/* The place whose worker is missed least, NULL if none has had its turn. */
static LauncherPlace *
launcher_choose(TimestampTz now)
{
	LauncherPlace *chosen = NULL;
	int64		chosen_rest = 0;

	for (int i = 0; i < shared->nplaces; i++)
	{
		LauncherPlace *place = &shared->places[i];
		int64		rest;

		if (!OidIsValid(place->database) || !launcher_has_had_turn(place, now))
			continue;
		rest = (int64) pg_atomic_read_u64(&place->rests_until);
		if (chosen == NULL || rest > chosen_rest ||
			(rest == chosen_rest &&
			 place->serving_since < chosen->serving_since))
		{
			chosen = place;
			chosen_rest = rest;
		}
	}
	return chosen;
}

/* How many databases wait for whom no worker makes room yet. */
static int
launcher_count_waiting(void)
{
	int			waiting;

	LWLockAcquire(shared_lock, LW_SHARED);
	waiting = shared->ncrowd;
	for (int i = 0; i < shared->nplaces; i++)
	{
		const LauncherPlace *place = &shared->places[i];
		bool		ending = starts[i].handle != NULL && place->worker == 0 &&
			!place->failed;

		if (place->slotless)
			waiting++;
		if (place->turn_over || ending)
			waiting--;
	}
	LWLockRelease(shared_lock);
	return waiting;
}

/*
 * As many workers as there are databases that wait for a worker or a place
 * are told to make room, once each has had its turn.  So a database waits for
 * one turn when as many wait as run, for two when twice as many do, and so on.
 */
static void
launcher_take_turns(long *timeout)
{
	TimestampTz now = GetCurrentTimestamp();
	int			waiting = launcher_count_waiting();

	if (waiting > 0)
		launcher_lower(timeout, LAUNCHER_SLOT_WAIT);
	while (waiting-- > 0)
	{
		LauncherPlace *place;
		pid_t		worker = 0;

		LWLockAcquire(shared_lock, LW_EXCLUSIVE);
		place = launcher_choose(now);
		if (place != NULL)
		{
			place->turn_over = true;
			worker = place->worker;
		}
		LWLockRelease(shared_lock);
		if (place == NULL)
			break;
		launcher_set_latch(worker);
	}
}

/* One round: everything that can be done now; returns how long to sleep. */
static long
launcher_round(void)
{
	long		timeout = -1;

	launcher_seat_crowd();
	launcher_visit();
	slots_wanted = false;
	for (int i = 0; i < shared->nplaces; i++)
		line[i] = i;
	qsort(line, shared->nplaces, sizeof(int), launcher_compare_waits);
	for (int i = 0; i < shared->nplaces; i++)
		launcher_tend(line[i], &timeout);
	launcher_report_slots();
	if (anyvod_worker)
		launcher_take_turns(&timeout);

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
	line = MemoryContextAlloc(TopMemoryContext, shared->nplaces * sizeof(int));
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
	announce_init();
	neighbour_init();
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;	/* second */
	strlcpy(worker.bgw_library_name, "anyvod",
			sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "anyvod launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "anyvod launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
