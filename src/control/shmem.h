/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		The shared memory of anyvod: one struct, one lock.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SHMEM_H
#define ANYVOD_SHMEM_H

#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "control/counters.h"
#include "control/slot.h"

/* Databases beyond anyvod.max_databases that can wait for their turn. */
#define SHMEM_WAITING_DATABASES 64

/*
 * Sessions wait for rows on one of so many condition variables, by their
 * database.  They are apart from the slots, since those come and go while
 * sessions wait; two databases that share one wake each other's sessions in
 * vain, no more.
 */
#define SHMEM_CONDITIONS 64

/* What is known of a database: its slot, and the counters, which it keeps. */
typedef struct SharedDatabase
{
	Oid			oid;			/* InvalidOid: the entry is free */
	Slot		slot;
	Counters	counters;
} SharedDatabase;

/* Plain data only.  Guarded by the lock, but for the condition variables. */
typedef struct AnyvodShared
{
	ConditionVariable written[SHMEM_CONDITIONS];
	pid_t		launcher;		/* 0 while it is not running */
	int64		launcher_gone_at;	/* then since when; monotonic_us() */
	bool		no_entry;		/* a database with work got no entry: all are
								 * to be listed when there is room */
	LearnedKey	learned[COUNTERS_LEARNED];
	int			ndatabases;
	SharedDatabase databases[FLEXIBLE_ARRAY_MEMBER];
} AnyvodShared;

extern void shmem_init(void);
extern AnyvodShared *shmem_get(void);
extern LWLock *shmem_lock(void);
extern SharedDatabase *shmem_find(Oid database);
extern SharedDatabase *shmem_find_or_make(Oid database);

#endif							/* ANYVOD_SHMEM_H */
