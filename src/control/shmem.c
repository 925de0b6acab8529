/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		The shared memory of anyvod: one struct, one lock.
 *
 * It is there if the library is preloaded.  It starts afresh with the server,
 * also after a crash: the tables are the truth, so nothing has to be kept.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "anyvod.h"
#include "clock.h"
#include "control/shmem.h"

static AnyvodShared *shared = NULL;
static LWLock *lock = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static int
shmem_entries(void)
{
	return anyvod_max_databases + SHMEM_WAITING_DATABASES;
}

static Size
shmem_size(void)
{
	return add_size(offsetof(AnyvodShared, databases),
					mul_size(shmem_entries(), sizeof(SharedDatabase)));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche("anyvod", 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("anyvod", shmem_size(), &found);
	if (!found)
	{
		memset(shared, 0, shmem_size());
		shared->launcher_gone_at = monotonic_us();
		shared->ndatabases = shmem_entries();
		for (int i = 0; i < SHMEM_CONDITIONS; i++)
			ConditionVariableInit(&shared->written[i]);
	}
	LWLockRelease(AddinShmemInitLock);
	lock = &GetNamedLWLockTranche("anyvod")->lock;
}

/* Called while the library is preloaded. */
void
shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* The shared memory, NULL if the library is not preloaded. */
AnyvodShared *
shmem_get(void)
{
	return shared;
}

LWLock *
shmem_lock(void)
{
	return lock;
}

/* The entry of a database, NULL if it has none.  The lock is held. */
SharedDatabase *
shmem_find(Oid database)
{
	for (int i = 0; i < shared->ndatabases; i++)
	{
		if (shared->databases[i].oid == database)
			return &shared->databases[i];
	}
	return NULL;
}

/*
 * The entry whose loss matters least: one that holds nothing but what can be
 * had again, or old figures.  NULL if all are in use.
 */
static SharedDatabase *
shmem_find_reusable(void)
{
	SharedDatabase *found = NULL;

	for (int i = 0; i < shared->ndatabases; i++)
	{
		SharedDatabase *entry = &shared->databases[i];

		if (entry->slot.state <= SLOT_CLOSED && entry->slot.prepared == 0 &&
			entry->counters.worker == 0 &&
			(found == NULL || entry->slot.state < found->slot.state ||
			 (entry->slot.state == found->slot.state &&
			  entry->counters.left_at < found->counters.left_at)))
			found = entry;
	}
	return found;
}

/*
 * The entry of a database, made if need be, in the place of one without work
 * whose worker left longest ago; NULL if all have work.  The lock is held.
 */
SharedDatabase *
shmem_find_or_make(Oid database)
{
	SharedDatabase *entry = shmem_find(database);

	if (entry == NULL)
		entry = shmem_find(InvalidOid);
	if (entry == NULL)
		entry = shmem_find_reusable();
	if (entry != NULL && entry->oid != database)
	{
		memset(entry, 0, sizeof(SharedDatabase));
		entry->oid = database;
		entry->counters.reset_at = GetCurrentTimestamp();
	}
	return entry;
}
