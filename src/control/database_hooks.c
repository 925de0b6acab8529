/*-------------------------------------------------------------------------
 *
 * database_hooks.c
 *		Commands that want a database without other processes.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE fail, after five seconds, if another process is connected to the
 * database or its template.  The worker is one, and nobody should have to
 * know.  So its database is blocked: the worker leaves, and no other is
 * started until the command has ended, with the transaction whose locks it
 * holds, or by an error with the subtransaction that catches it.
 *
 * Only for a command of the database's owner, as otherwise anyone could send
 * any worker away.  (Others can copy a template, but that has no worker.)  DROP
 * DATABASE tells by itself, through the object-access hook, after it has
 * checked; the others are looked at before.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "clock.h"
#include "compat.h"
#include "control/database_hooks.h"
#include "control/shmem.h"
#include "control/slot.h"

/*
 * How long, in microseconds, a command waits for a worker to end by itself,
 * and then for its being terminated.
 */
#define DATABASE_YIELD_WAIT INT64CONST(300000)
#define DATABASE_TERMINATE_WAIT INT64CONST(500000)

/* A database that this session has blocked. */
typedef struct Block
{
	Oid			database;
	SubTransactionId subxact;	/* whose abort unblocks it */
} Block;

static object_access_hook_type prev_object_access_hook = NULL;

/* All of them, in TopTransactionContext. */
static List *blocks = NIL;


/*
 * Blocking and unblocking
 */

/* A subtransaction ends: by error, or into its parent. */
static void
database_at_subxact_end(SubXactEvent event, SubTransactionId subxact,
						SubTransactionId parent, void *arg)
{
	ListCell   *cell;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	foreach(cell, blocks)
	{
		Block	   *block = lfirst(cell);

		if (block->subxact != subxact)
			continue;
		block->subxact = parent;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			continue;
		slot_unblock(block->database);
		blocks = foreach_delete_current(blocks, cell);
	}
}

/* The transaction has given its locks back.  Must not throw. */
static void
database_at_release(ResourceReleasePhase phase, bool is_commit,
					bool		is_top_level, void *arg)
{
	ListCell   *cell;

	if (blocks == NIL || phase != RESOURCE_RELEASE_AFTER_LOCKS ||
		!is_top_level)
		return;
	foreach(cell, blocks)
		slot_unblock(((Block *) lfirst(cell))->database);
	blocks = NIL;
}

/* Wait until a worker has ended, at most so many microseconds. */
static bool
database_await_end(pid_t worker, int64 wait)
{
	int64		until = monotonic_us() + wait;

	while (BackendPidGetProc(worker) != NULL)
	{
		if (monotonic_us() >= until)
			return false;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT,
						 5, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	return true;
}

/* Have a database without a worker until the command has ended. */
static void
database_block(Oid database)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Block	   *block = palloc(sizeof(Block));
	pid_t		worker;

	block->database = database;
	block->subxact = GetCurrentSubTransactionId();
	blocks = lappend(blocks, block);
	MemoryContextSwitchTo(old);
	if (!slot_block(database, &worker))
	{
		blocks = list_delete_last(blocks);
		return;
	}
	if (worker == 0 || database_await_end(worker, DATABASE_YIELD_WAIT))
		return;
	(void) kill(worker, SIGTERM);
	(void) database_await_end(worker, DATABASE_TERMINATE_WAIT);
}


/*
 * Which commands
 */

/* The value of an option of a command, NULL if it is not given. */
static const char *
database_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/*
 * The database that a command wants without others, if the current user may
 * have that; else InvalidOid.
 */
static Oid
database_wanted(Node *command)
{
	const char *name = NULL;
	Oid			database;

	if (IsA(command, CreatedbStmt))
	{
		name = database_option(((CreatedbStmt *) command)->options,
							   "template");
		if (name == NULL)
			name = "template1";
	}
	else if (IsA(command, RenameStmt) &&
			 ((RenameStmt *) command)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) command)->subname;
	else if (IsA(command, AlterDatabaseStmt) &&
			 database_option(((AlterDatabaseStmt *) command)->options,
							 "tablespace") != NULL)
		name = ((AlterDatabaseStmt *) command)->dbname;
	if (name == NULL)
		return InvalidOid;

	database = get_database_oid(name, true);
	return OidIsValid(database) &&
			compat_database_ownercheck(database, GetUserId()) ?
		database :
		InvalidOid;
}

/* Look at a utility command before it is carried out. */
void
database_hooks_before(Node *command)
{
	Oid			database;

	if (!IsA(command, CreatedbStmt) && !IsA(command, RenameStmt) &&
		!IsA(command, AlterDatabaseStmt))
		return;
	database = database_wanted(command);
	if (OidIsValid(database))
		database_block(database);
}

/*
 * DROP DATABASE has found that it may, and is about to look for others who
 * are connected.
 */
static void
database_on_access(ObjectAccessType access, Oid class, Oid object, int part,
				   void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class, object, part, arg);
	if (access == OAT_DROP && class == DatabaseRelationId)
		database_block(object);
}

/* Called while the library is preloaded. */
void
database_hooks_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = database_on_access;
	RegisterSubXactCallback(database_at_subxact_end, NULL);
	RegisterResourceReleaseCallback(database_at_release, NULL);
}
