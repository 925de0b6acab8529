/*-------------------------------------------------------------------------
 *
 * hooks.c
 *		What sessions do that workers have to know of.
 *
 * The triggers of anyvod_tasks note rows that have become pending, the utility
 * hook notes commands.  What was noted is announced once, after the commit,
 * when catalog changes have been sent to all and locks are gone: a worker that
 * is woken before could still see the old state.  A transaction that is rolled
 * back announces nothing; an id of a subtransaction that was is harmless.
 *
 * What a command changes is not looked at here: it wakes the workers that have
 * something blocked, and they see by catalog invalidation whether that was
 * changed.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE fail, after five seconds, if another process is connected to the
 * database or its template.  The worker is one, and nobody should have to
 * know.  So its database is blocked: the worker leaves, and no other is
 * started until the transaction, or an error in a subtransaction, has ended
 * the command and given its locks back.  Only for a command of the database's
 * owner, as otherwise anyone could send any worker away.  (Others can copy a
 * template, but that has no worker.)  DROP DATABASE tells by itself, through
 * the object-access hook, after it has checked; the others are looked at
 * before.
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
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "clock.h"
#include "compat.h"
#include "control/hooks.h"
#include "control/shmem.h"
#include "control/slot.h"

/*
 * How long, in microseconds, a command waits for a worker to end by itself,
 * and then for its being terminated.
 */
#define DATABASE_YIELD_WAIT INT64CONST(300000)
#define DATABASE_TERMINATE_WAIT INT64CONST(500000)

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access_hook = NULL;

/* Databases that this session has blocked, in TopTransactionContext. */
static List *blocked = NIL;

/* This session: what the transaction that is under way has done. */
static struct
{
	bool		work;			/* rows became pending */
	bool		written;		/* sessions may wait for rows it has written */
	bool		commands;		/* in this database */
	bool		commands_for_all;	/* on shared objects */
	bool		drops;			/* the extension may have been dropped */
	bool		databases;		/* pg_database may have changed */
	bool		sets;			/* settings that workers start from */
	Oid			set_database;	/* of which database, InvalidOid: of several */
} noted;
static SlotIds new_ids;


/*
 * The transaction
 */

/* Nothing has been done yet. */
static void
xact_forget(void)
{
	memset(&noted, 0, sizeof(noted));
	new_ids.len = 0;
	new_ids.scan = false;
}

/*
 * The transaction ends.  The utility hook sees the COMMIT PREPARED of a client,
 * but not that of logical replication.
 */
static void
xact_at_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PREPARE)
		return;
	if (noted.work && MyBackendType == B_BG_WORKER)
		slot_announce_prepared(MyDatabaseId);
	xact_forget();
}

/* Announce what has been done.  Must not throw. */
static void
xact_announce(void)
{
	if (noted.work)
		(void) slot_announce_work(MyDatabaseId, new_ids.ids, new_ids.len,
								  new_ids.scan);
	if (noted.written || new_ids.scan)
		slot_wake_waiters();
	if (noted.commands)
		slot_announce_command(MyDatabaseId,
							  noted.drops ? SLOT_COMMAND_DROPS :
											SLOT_COMMAND_ALTERS);
	if (noted.commands_for_all)
		slot_announce_command(InvalidOid, SLOT_COMMAND_ALTERS);
	if (noted.databases)
		slot_set_latch(shmem_get()->launcher);
	if (noted.sets)
		slot_announce_command(noted.set_database, SLOT_COMMAND_SETS);
}

/*
 * The transaction has given its locks back, or a part of it that has failed
 * has.  A database that is unblocked too early for the rest is still locked:
 * no worker can connect to it.  Must not throw.
 */
static void
xact_at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
				void *arg)
{
	ListCell   *cell;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || (!is_top_level && is_commit))
		return;
	foreach(cell, blocked)
		slot_unblock(lfirst_oid(cell));
	blocked = NIL;
	if (!is_top_level)
		return;
	if (is_commit)
		xact_announce();
	xact_forget();
}

/* Is this a session that may note anything? */
static bool
xact_may_note(void)
{
	return shmem_get() != NULL && OidIsValid(MyDatabaseId) &&
		!slot_is_worker();
}

/* Is it noted already that rows of any kind may have become pending? */
bool
xact_scan_is_noted(void)
{
	return new_ids.scan;
}

/*
 * A row has become pending.  In a worker, what users have added to the table
 * has made it so; the worker looks when its transaction has ended.
 */
void
xact_note_task(const char *task_id)
{
	int			size = strlen(task_id) + 1;

	if (slot_is_worker())
		(void) slot_announce_work(MyDatabaseId, task_id, size, false);
	if (!xact_may_note())
		return;
	noted.work = true;
	slot_add_ids(&new_ids, task_id, size);
}

/* Rows may be pending that nobody has told of. */
void
xact_note_scan(void)
{
	if (slot_is_worker())
		(void) slot_announce_work(MyDatabaseId, NULL, 0, true);
	else if (xact_may_note())
		noted.work = new_ids.scan = true;
}

/* A row has been written that sessions may wait for. */
void
xact_note_written(void)
{
	if (xact_may_note())
		noted.written = true;
}

/* A database was created, dropped or altered, by whatever means. */
static void
xact_on_database_change(Datum arg, SysCacheIdentifier cache, uint32 hash)
{
	if (xact_may_note())
		noted.databases = true;
}


/*
 * Commands that want a database without other processes
 */

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
	pid_t		worker;

	blocked = lappend_oid(blocked, database);
	MemoryContextSwitchTo(old);
	if (!slot_block(database, &worker))
	{
		blocked = list_delete_last(blocked);
		return;
	}
	if (worker == 0 || database_await_end(worker, DATABASE_YIELD_WAIT))
		return;
	(void) kill(worker, SIGTERM);
	(void) database_await_end(worker, DATABASE_TERMINATE_WAIT);
}

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
			object_ownercheck(DatabaseRelationId, database, GetUserId()) ?
		database :
		InvalidOid;
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


/*
 * Commands that workers are told of
 */

/* May a command be about roles or databases, which all databases share? */
static bool
xact_is_shared(Node *command)
{
	switch (nodeTag(command))
	{
		case T_AlterDatabaseStmt:
		case T_AlterOwnerStmt:
		case T_AlterRoleStmt:
		case T_CreateRoleStmt:
		case T_DropOwnedStmt:
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
		case T_ReassignOwnedStmt:
		case T_RenameStmt:
			return true;
		default:
			return false;
	}
}

/* May a command drop the extension, and with it all that a worker does? */
static bool
xact_drops(Node *command)
{
	return IsA(command, DropOwnedStmt) ||
		(IsA(command, DropStmt) &&
		 (((DropStmt *) command)->removeType == OBJECT_EXTENSION ||
		  ((DropStmt *) command)->removeType == OBJECT_SCHEMA));
}

/*
 * Does a command change what the settings of a worker start from?  Then
 * *database is that of the worker, NULL for all of them.
 */
static bool
xact_sets(Node *command, const char **database)
{
	VariableSetStmt *set;

	if (IsA(command, AlterDatabaseSetStmt))
	{
		set = ((AlterDatabaseSetStmt *) command)->setstmt;
		*database = ((AlterDatabaseSetStmt *) command)->dbname;
	}
	else if (IsA(command, AlterRoleSetStmt) &&
			 ((AlterRoleSetStmt *) command)->role == NULL)
	{
		set = ((AlterRoleSetStmt *) command)->setstmt;
		*database = ((AlterRoleSetStmt *) command)->database;
	}
	else
		return false;
	return set->kind == VAR_RESET_ALL ||
		pg_strncasecmp(set->name, "anyvod.", strlen("anyvod.")) == 0;
}

/*
 * Look at utility commands, before and after they are carried out.  Nothing
 * of the statement is looked at when that has ended the transaction, which
 * may have freed it.
 */
static void
xact_process_utility(PlannedStmt *statement, const char *query, bool read_only,
					 ProcessUtilityContext context, ParamListInfo params,
					 QueryEnvironment *environment, DestReceiver *dest,
					 QueryCompletion *completion)
{
	Node	   *command = statement->utilityStmt;
	Oid			wanted = database_wanted(command);
	const char *database = NULL;
	bool		alters = GetCommandLogLevel(command) == LOGSTMT_DDL ||
		IsA(command, ReindexStmt);
	bool		shared = xact_is_shared(command);
	bool		drops = xact_drops(command);
	bool		sets = xact_sets(command, &database);
	bool		prepared = IsA(command, TransactionStmt) &&
		((TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED;

	if (OidIsValid(wanted))
		database_block(wanted);
	if (prev_process_utility)
		prev_process_utility(statement, query, read_only, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(statement, query, read_only, context, params,
								environment, dest, completion);

	if ((!alters && !prepared) || !xact_may_note())
		return;
	noted.commands = true;
	noted.commands_for_all |= shared || prepared;
	noted.drops |= drops || prepared;
	if (sets)
	{
		Oid			oid = database != NULL ?
			get_database_oid(database, true) :
			InvalidOid;

		if (!noted.sets || noted.set_database != oid)
			noted.set_database = noted.sets ? InvalidOid : oid;
		noted.sets = true;
	}
	if (prepared && OidIsValid(get_extension_oid("anyvod", true)))
		xact_note_scan();
}

/* Called while the library is preloaded. */
void
hooks_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = xact_process_utility;
	prev_object_access_hook = object_access_hook;
	object_access_hook = database_on_access;
	RegisterXactCallback(xact_at_end, NULL);
	RegisterResourceReleaseCallback(xact_at_release, NULL);
	CacheRegisterSyscacheCallback(DATABASEOID, xact_on_database_change,
								  (Datum) 0);
}
