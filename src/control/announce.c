/*-------------------------------------------------------------------------
 *
 * announce.c
 *		Telling workers, at commit, what a session has done.
 *
 * Rows to be asked for are noted by the table's triggers; commands that
 * change what a worker goes by are noted here, as they pass: servers and user
 * mappings, roles and rights, the table and its schema, settings.  Roles
 * belong to all databases, the others to one.  What was noted is announced
 * once, after the commit, by launcher_announce(); a transaction that is rolled
 * back announces nothing.
 *
 * A change that is announced in vain costs a worker a look at its tasks, so
 * commands are told apart by what they name, and no catalog is read for them.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "control/announce.h"
#include "launcher/launcher.h"
#include "control/neighbour.h"

/* The table, by the name that a command gives it. */
#define ANNOUNCE_TABLE "anyvod_tasks"

/* What a worker's database can set for it. */
#define ANNOUNCE_SETTING_PREFIX "anyvod."

/*
 * How long, in milliseconds, a command that wants a database for itself waits
 * for its worker to end by itself, and then for its being terminated.
 */
#define ANNOUNCE_ASIDE_WAIT 300
#define ANNOUNCE_TERMINATE_WAIT 500

static ProcessUtility_hook_type prev_process_utility = NULL;

/* This session: what the transaction that is under way has done. */
static int	noted = 0;			/* LAUNCHER_..., for this database */
static int	noted_for_all = 0;	/* for all databases */
static Oid	created = InvalidOid;	/* a database, which may have rows */
static List *reset_databases = NIL; /* whose settings have changed, InvalidOid
									 * for all; in TopTransactionContext */
static bool committed = false;	/* it has committed, nobody was told yet */
static Oid	banned = InvalidOid;	/* database that it wants without worker */


/*
 * The transaction
 */

static void
announce_forget(void)
{
	noted = noted_for_all = 0;
	created = InvalidOid;
	reset_databases = NIL;
	committed = false;
}

/* The command that wanted a database for itself has ended. */
static void
announce_unban(void)
{
	if (OidIsValid(banned))
		launcher_unban(banned);
	banned = InvalidOid;
}

/*
 * The transaction ends.  If it commits, what it noted is announced a little
 * later, when the catalog changes that it made have been sent to all and its
 * locks are gone: a worker that is woken before could still see the old ones.
 */
static void
announce_at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			committed = true;
			announce_unban();
			break;
		case XACT_EVENT_PREPARE:
			/* Whoever commits it will not know what it did. */
			if (noted_for_all != 0 || (noted & ~LAUNCHER_WORK) != 0)
				launcher_note_prepared();
			announce_forget();
			announce_unban();
			break;
		case XACT_EVENT_ABORT:
			announce_forget();
			announce_unban();
			break;
		default:
			break;
	}
}

/* The transaction has given its locks back.  Must not throw. */
static void
announce_at_release(ResourceReleasePhase phase, bool is_commit,
					bool		is_top_level, void *arg)
{
	ListCell   *cell;

	if (!committed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (noted != 0)
		launcher_announce(MyDatabaseId, noted);
	if (noted_for_all != 0)
		launcher_announce(InvalidOid, noted_for_all);
	if (OidIsValid(created))
		launcher_announce(created, LAUNCHER_WORK);
	foreach(cell, reset_databases)
		launcher_announce(lfirst_oid(cell), LAUNCHER_SETTINGS);
	announce_forget();
}

/* Have the end of this session's transactions seen, from the first need on. */
static void
announce_watch_xacts(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(announce_at_xact_end, NULL);
	RegisterResourceReleaseCallback(announce_at_release, NULL);
	registered = true;
}

/*
 * Note that this transaction makes work: its commit will announce it, once.
 * In a worker, what users have added to the table has made it; the loop sees
 * to that itself.
 */
void
announce_work(void)
{
	if (!launcher_present())
		return;
	if (launcher_is_worker())
	{
		launcher_note_own_work();
		return;
	}
	announce_watch_xacts();
	noted |= LAUNCHER_WORK;
}

/* Wait until a worker has ended, at most so many milliseconds. */
static void
announce_await_end(pid_t worker, int wait)
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
announce_ban(Oid database)
{
	pid_t		worker;

	if (!launcher_present())
		return;
	announce_watch_xacts();
	if (!launcher_ban(database, &worker))
		return;
	banned = database;
	if (worker == 0)
		return;
	launcher_set_latch(worker);
	announce_await_end(worker, ANNOUNCE_ASIDE_WAIT);
	if (BackendPidGetProc(worker) == NULL)
		return;
	(void) kill(worker, SIGTERM);
	announce_await_end(worker, ANNOUNCE_TERMINATE_WAIT);
}


/*
 * Commands
 */

/* Does a command name the table? */
static bool
announce_is_table(const RangeVar *relation)
{
	return relation != NULL && strcmp(relation->relname, ANNOUNCE_TABLE) == 0;
}

/* Does DROP name a trigger, policy or rule of the table? */
static bool
announce_drops_from_table(const DropStmt *drop)
{
	ListCell   *cell;

	foreach(cell, drop->objects)
	{
		List	   *name = castNode(List, lfirst(cell));
		int			n = list_length(name);

		if (n > 1 && strcmp(strVal(list_nth(name, n - 2)), ANNOUNCE_TABLE) == 0)
			return true;
	}
	return false;
}

/* Does GRANT or REVOKE concern the table? */
static bool
announce_grants_on_table(const GrantStmt *grant)
{
	ListCell   *cell;

	if (grant->targtype != ACL_TARGET_OBJECT)
		return true;			/* all tables of a schema */
	foreach(cell, grant->objects)
	{
		if (announce_is_table(lfirst_node(RangeVar, cell)))
			return true;
	}
	return false;
}

static int
announce_of_drop(const DropStmt *drop)
{
	switch (drop->removeType)
	{
		case OBJECT_EXTENSION:
		case OBJECT_FOREIGN_SERVER:
		case OBJECT_SCHEMA:
			return LAUNCHER_CHANGE;
		case OBJECT_POLICY:
		case OBJECT_RULE:
		case OBJECT_TRIGGER:
			return announce_drops_from_table(drop) ? LAUNCHER_MEND : 0;
		default:
			return 0;
	}
}

static int
announce_of_grant(const GrantStmt *grant)
{
	switch (grant->objtype)
	{
		case OBJECT_FOREIGN_SERVER:
		case OBJECT_SCHEMA:
			return LAUNCHER_MEND;
		case OBJECT_TABLE:
			return announce_grants_on_table(grant) ? LAUNCHER_MEND : 0;
		default:
			return 0;
	}
}

static int
announce_of_rename(const RenameStmt *rename)
{
	switch (rename->renameType)
	{
		case OBJECT_FOREIGN_SERVER:
			return LAUNCHER_CHANGE;
		case OBJECT_SCHEMA:
			return LAUNCHER_MEND;
		default:
			/* of the table, or something of it, or to its name */
			return announce_is_table(rename->relation) ||
					(rename->newname != NULL &&
					 strcmp(rename->newname, ANNOUNCE_TABLE) == 0) ?
				LAUNCHER_MEND :
				0;
	}
}

static int
announce_of_owner(const AlterOwnerStmt *owner)
{
	switch (owner->objectType)
	{
		case OBJECT_FOREIGN_SERVER:
			return LAUNCHER_CHANGE;
		case OBJECT_SCHEMA:
			return LAUNCHER_MEND;
		default:
			return 0;
	}
}

/*
 * Does a command change who may ask which server, where and with which key,
 * or what the worker may do with the table, in this database?
 */
static int
announce_of(Node *command)
{
	bool		table = false;

	switch (nodeTag(command))
	{
		case T_CreateForeignServerStmt:
		case T_AlterForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
		case T_AlterExtensionStmt:
			return LAUNCHER_CHANGE;
		case T_DropOwnedStmt:
		case T_ReassignOwnedStmt:
			return LAUNCHER_MEND;
		case T_DropStmt:
			return announce_of_drop((DropStmt *) command);
		case T_GrantStmt:
			return announce_of_grant((GrantStmt *) command);
		case T_RenameStmt:
			return announce_of_rename((RenameStmt *) command);
		case T_AlterOwnerStmt:
			return announce_of_owner((AlterOwnerStmt *) command);
		case T_AlterTableStmt:
			table = announce_is_table(((AlterTableStmt *) command)->relation);
			break;
		case T_AlterObjectSchemaStmt:
			table = announce_is_table(
				((AlterObjectSchemaStmt *) command)->relation);
			break;
		case T_CreateTrigStmt:
			table = announce_is_table(((CreateTrigStmt *) command)->relation);
			break;
		case T_CreatePolicyStmt:
			table = announce_is_table(((CreatePolicyStmt *) command)->table);
			break;
		case T_AlterPolicyStmt:
			table = announce_is_table(((AlterPolicyStmt *) command)->table);
			break;
		default:
			break;
	}
	return table ? LAUNCHER_MEND : 0;
}

/* Does a command change roles, what they may, or who owns a database? */
static int
announce_of_roles(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
			return LAUNCHER_MEND;
		case T_RenameStmt:
			return ((RenameStmt *) command)->renameType == OBJECT_ROLE ?
				LAUNCHER_MEND :
				0;
		case T_AlterOwnerStmt:
			return ((AlterOwnerStmt *) command)->objectType ==
					OBJECT_DATABASE ?
				LAUNCHER_MEND :
				0;
		default:
			return 0;
	}
}

/*
 * Does a command change what the settings of a worker start from?  Then
 * *database is that of the worker, NULL for all of them.
 */
static bool
announce_sets(Node *command, const char **database)
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
		pg_strncasecmp(set->name, ANNOUNCE_SETTING_PREFIX,
					   strlen(ANNOUNCE_SETTING_PREFIX)) == 0;
}

/* Note whose settings a command has changed. */
static void
announce_note_settings(const char *database)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Oid			oid = database == NULL ?
		InvalidOid :
		get_database_oid(database, true);

	reset_databases = list_append_unique_oid(reset_databases, oid);
	MemoryContextSwitchTo(old);
}

/*
 * Look at utility commands, before and after they are carried out.  Nothing
 * of the statement is looked at when that has ended the transaction, which
 * may have freed it.
 */
static void
announce_process_utility(PlannedStmt *statement, const char *query,
						 bool read_only, ProcessUtilityContext context,
						 ParamListInfo params, QueryEnvironment *environment,
						 DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *command = statement->utilityStmt;
	int			here = announce_of(command);
	int			for_all = announce_of_roles(command);
	const char *database = NULL;
	bool		sets = announce_sets(command, &database);
	bool		creates = IsA(command, CreatedbStmt);
	bool		work = IsA(command, TransactionStmt) &&
		((TransactionStmt *) command)->kind == TRANS_STMT_COMMIT_PREPARED;

	neighbour_make_way(command);
	if (prev_process_utility)
		prev_process_utility(statement, query, read_only, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(statement, query, read_only, context, params,
								environment, dest, completion);

	if (!(here || for_all || sets || creates || work) ||
		launcher_is_worker() || !OidIsValid(MyDatabaseId))
		return;
	announce_watch_xacts();
	noted |= here;
	noted_for_all |= for_all;
	if (sets)
		announce_note_settings(database);
	if (creates)
		created = get_database_oid(((CreatedbStmt *) command)->dbname, true);
	if (work && OidIsValid(get_extension_oid("anyvod", true)))
		noted |= LAUNCHER_WORK;
	if (work && launcher_has_prepared())
		noted_for_all |= LAUNCHER_CHANGE | LAUNCHER_MEND;
}

/* Called while the library is preloaded. */
void
announce_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = announce_process_utility;
}
