/*-------------------------------------------------------------------------
 *
 * xact_hooks.c
 *		Announcing, at commit, what a session has done.
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
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "compat.h"
#include "control/database_hooks.h"
#include "control/shmem.h"
#include "control/slot.h"
#include "control/xact_hooks.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

/* This session: what the transaction that is under way has done. */
static struct
{
	bool		work;			/* rows became pending */
	bool		scan;			/* more than new_ids tells of */
	int			new_ids_len;	/* see slot.h */
	bool		written;		/* sessions may wait for rows it has written */
	bool		commands;		/* in this database */
	bool		commands_for_all;	/* on shared objects */
	bool		drops;			/* the extension may have been dropped */
	bool		databases;		/* pg_database may have changed */
	List	   *settings;		/* databases whose settings have changed,
								 * InvalidOid for all; TopTransactionContext */
	bool		any;			/* any of these */
	bool		committed;		/* it has committed, nobody was told yet */
} noted;
static char new_ids[SLOT_NEW_IDS_SIZE];


/*
 * The transaction
 */

/* The transaction ends. */
static void
xact_at_end(XactEvent event, void *arg)
{
	if (!noted.any)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			noted.committed = true;
			break;
		case XACT_EVENT_PREPARE:

			/*
			 * The utility hook sees COMMIT PREPARED of a client, but not that
			 * of logical replication.
			 */
			if (noted.work && MyBackendType == B_BG_WORKER)
				slot_announce_prepared(MyDatabaseId);
			memset(&noted, 0, sizeof(noted));
			break;
		case XACT_EVENT_ABORT:
			memset(&noted, 0, sizeof(noted));
			break;
		default:
			break;
	}
}

/* The transaction has given its locks back.  Must not throw. */
static void
xact_at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
				void *arg)
{
	ListCell   *cell;

	if (!noted.committed || phase != RESOURCE_RELEASE_AFTER_LOCKS ||
		!is_top_level)
		return;
	if (noted.work)
		(void) slot_announce_work(MyDatabaseId, new_ids, noted.new_ids_len,
								  noted.scan);
	if (noted.written || noted.scan)
		slot_wake_waiters();
	if (noted.commands)
		slot_announce_commands(MyDatabaseId, noted.drops);
	if (noted.commands_for_all)
		slot_announce_commands(InvalidOid, false);
	if (noted.databases)
		slot_set_latch(shmem_get()->launcher);
	foreach(cell, noted.settings)
		slot_announce_settings(lfirst_oid(cell));
	memset(&noted, 0, sizeof(noted));
}

/* May this process note anything? */
static bool
xact_may_note(void)
{
	return shmem_get() != NULL && OidIsValid(MyDatabaseId);
}

/* Is it noted already that rows of any kind may have become pending? */
bool
xact_scan_is_noted(void)
{
	return noted.scan;
}

/*
 * A row has become pending.  In a worker, what users have added to the table
 * has made it so; the worker looks when its transaction has ended.
 */
void
xact_note_task(const char *task_id)
{
	int			size = strlen(task_id) + 1;

	if (!xact_may_note())
		return;
	if (slot_is_worker())
	{
		(void) slot_announce_work(MyDatabaseId, task_id, size, false);
		return;
	}
	noted.any = noted.work = true;
	if (size > SLOT_NEW_IDS_SIZE - noted.new_ids_len)
		noted.scan = true;
	else
	{
		memcpy(new_ids + noted.new_ids_len, task_id, size);
		noted.new_ids_len += size;
	}
}

/* Rows may be pending that nobody has told of. */
void
xact_note_scan(void)
{
	if (slot_is_worker())
		(void) slot_announce_work(MyDatabaseId, NULL, 0, true);
	else if (xact_may_note())
		noted.any = noted.work = noted.scan = true;
}

/* A row has been written that sessions may wait for. */
void
xact_note_written(void)
{
	if (xact_may_note() && !slot_is_worker())
		noted.any = noted.written = true;
}

/* A database was created, dropped or altered, by whatever means. */
static void
xact_on_database_change(Datum arg, SysCacheIdentifier cache, uint32 hash)
{
	if (xact_may_note() && !slot_is_worker())
		noted.any = noted.databases = true;
}


/*
 * Commands
 */

/*
 * Can a command change nothing that a worker goes by?  Those that are frequent
 * are listed: any other wakes workers that have something blocked.
 */
static bool
xact_is_harmless(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CallStmt:
		case T_CheckPointStmt:
		case T_ClosePortalStmt:
		case T_ConstraintsSetStmt:
		case T_CopyStmt:
		case T_DeallocateStmt:
		case T_DeclareCursorStmt:
		case T_DiscardStmt:
		case T_DoStmt:
		case T_ExecuteStmt:
		case T_ExplainStmt:
		case T_FetchStmt:
		case T_ListenStmt:
		case T_LoadStmt:
		case T_LockStmt:
		case T_NotifyStmt:
		case T_PrepareStmt:
		case T_TransactionStmt:
		case T_UnlistenStmt:
		case T_VacuumStmt:
		case T_VariableSetStmt:
		case T_VariableShowStmt:
			return true;
		default:
			return false;
	}
}

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

/* Note whose settings a command has changed. */
static void
xact_note_settings(const char *database)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Oid			oid = database == NULL ?
		InvalidOid :
		get_database_oid(database, true);

	noted.settings = list_append_unique_oid(noted.settings, oid);
	MemoryContextSwitchTo(old);
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
	const char *database = NULL;
	bool		harmless = xact_is_harmless(command);
	bool		shared = xact_is_shared(command);
	bool		drops = xact_drops(command);
	bool		sets = xact_sets(command, &database);
	bool		prepared = IsA(command, TransactionStmt) &&
		((TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED;

	database_hooks_before(command);
	if (prev_process_utility)
		prev_process_utility(statement, query, read_only, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(statement, query, read_only, context, params,
								environment, dest, completion);

	if ((harmless && !prepared) || !xact_may_note() || slot_is_worker())
		return;
	noted.any = noted.commands = true;
	noted.commands_for_all |= shared || prepared;
	noted.drops |= drops || prepared;
	if (sets)
		xact_note_settings(database);
	if (prepared && OidIsValid(get_extension_oid("anyvod", true)))
		xact_note_scan();
}

/* Called while the library is preloaded. */
void
xact_hooks_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = xact_process_utility;
	RegisterXactCallback(xact_at_end, NULL);
	RegisterResourceReleaseCallback(xact_at_release, NULL);
	CacheRegisterSyscacheCallback(DATABASEOID, xact_on_database_change,
								  (Datum) 0);
}
