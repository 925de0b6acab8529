/*-------------------------------------------------------------------------
 *
 * neighbour.c
 *		Making way for commands that want a database for themselves.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE ... TEMPLATE fail, after five seconds, if another process is
 * connected to the database.  The worker is one, and nobody should have to
 * know.  So it is sent away first, by announce_ban(), which also keeps it away
 * until the command has ended.
 *
 * Only for a command that will be carried out as far as privileges go:
 * otherwise anyone could send any worker away.  DROP DATABASE tells by itself,
 * through the object-access hook, after it has checked; the others are looked
 * at before.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "compat.h"
#include "control/announce.h"
#include "control/neighbour.h"

static object_access_hook_type prev_object_access_hook = NULL;

/* May the current user create databases? */
static bool
neighbour_may_create(void)
{
	HeapTuple	tuple;
	bool		may = superuser();

	if (may)
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

/* May the current user copy this database? */
static bool
neighbour_may_copy(Oid database)
{
	HeapTuple	tuple;
	bool		may = false;

	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate ||
			compat_database_ownercheck(database, GetUserId());
		ReleaseSysCache(tuple);
	}
	return may;
}

/* The value of an option of a command, NULL if it is not given. */
static const char *
neighbour_option(List *options, const char *name)
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
 * The database that a command wants for itself, if the current user may have
 * that; else InvalidOid.
 */
static Oid
neighbour_wanted(Node *command)
{
	const char *name = NULL;
	bool		copy = false;
	bool		may;
	Oid			database;

	if (IsA(command, CreatedbStmt))
	{
		name = neighbour_option(((CreatedbStmt *) command)->options,
								"template");
		copy = true;
	}
	else if (IsA(command, RenameStmt) &&
			 ((RenameStmt *) command)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) command)->subname;
	else if (IsA(command, AlterDatabaseStmt) &&
			 neighbour_option(((AlterDatabaseStmt *) command)->options,
							  "tablespace") != NULL)
		name = ((AlterDatabaseStmt *) command)->dbname;
	if (name == NULL)
		return InvalidOid;

	database = get_database_oid(name, true);
	if (!OidIsValid(database))
		return InvalidOid;
	if (copy)
		may = neighbour_may_create() && neighbour_may_copy(database);
	else
		may = compat_database_ownercheck(database, GetUserId());
	return may ? database : InvalidOid;
}

/* Look at a command before it is carried out. */
void
neighbour_make_way(Node *command)
{
	Oid			database;

	if (!IsA(command, CreatedbStmt) && !IsA(command, RenameStmt) &&
		!IsA(command, AlterDatabaseStmt))
		return;
	database = neighbour_wanted(command);
	if (OidIsValid(database))
		announce_ban(database);
}

/*
 * DROP DATABASE has found that it may, and is about to look for others who
 * are connected.
 */
static void
neighbour_on_access(ObjectAccessType access, Oid class, Oid object, int part,
					void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class, object, part, arg);
	if (access == OAT_DROP && class == DatabaseRelationId)
		announce_ban(object);
}

void
neighbour_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = neighbour_on_access;
}
