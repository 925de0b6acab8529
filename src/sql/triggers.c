/*-------------------------------------------------------------------------
 *
 * triggers.c
 *		The triggers of anyvod_tasks, and waking the worker by hand.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "anyvod.h"
#include "control/hooks.h"
#include "control/slot.h"
#include "table/access.h"

PG_FUNCTION_INFO_V1(anyvod_tasks_changed);
PG_FUNCTION_INFO_V1(anyvod_tasks_turned);
PG_FUNCTION_INFO_V1(anyvod_wake);

/* May the table's owner use its schema?  If not, say how to let him. */
static const char *
trigger_owner_problem(Relation relation, const char **hint)
{
	Oid			schema = RelationGetNamespace(relation);
	Oid			owner = relation->rd_rel->relowner;
	const char *name = get_namespace_name(schema);

	if (object_aclcheck(NamespaceRelationId, schema, owner, ACL_USAGE) ==
		ACLCHECK_OK)
		return NULL;
	*hint = psprintf("Use GRANT USAGE ON SCHEMA %s TO %s.",
					 quote_identifier(name),
					 quote_identifier(GetUserNameFromId(owner, false)));
	return psprintf("Its owner may not use the schema \"%s\".", name);
}

/* Warn, once a session, if nothing will fill rows of the table in, and why. */
static void
trigger_warn(Relation relation)
{
	static bool checked = false;
	int			sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	const char *schema;
	const char *hint = NULL;
	const char *detail;
	Oid			table;

	if (checked)
		return;
	checked = true;
	detail = slot_missing(&hint);
	if (detail == NULL && !anyvod_worker)
	{
		detail = "The setting \"anyvod.worker\" is off.";
		hint = "Set \"anyvod.worker\" to on and reload the configuration.";
	}
	if (detail == NULL && !table_find(&table, &schema))
	{
		detail = "It is not in the extension's schema.";
		hint = "Move it back with ALTER TABLE ... SET SCHEMA.";
	}
	if (detail == NULL)
	{
		detail = trigger_owner_problem(relation, &hint);
		sqlstate = ERRCODE_INSUFFICIENT_PRIVILEGE;
	}
	if (detail != NULL)
		ereport(WARNING,
				(errcode(sqlstate),
				 errmsg("nothing will fill in the rows of \"anyvod_tasks\""),
				 errdetail_internal("%s", detail), errhint("%s", hint)));
}

/*
 * The row that a trigger is called for: a new one, or the new version of one.
 * Raises an error unless that is of the extension's own table: another may
 * have columns of the same names and other types.
 */
static HeapTuple
trigger_row(FunctionCallInfo fcinfo)
{
	static Oid	known = InvalidOid;
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple	row = NULL;
	Oid			table = InvalidOid;
	Oid			extension;

	if (CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
	{
		table = RelationGetRelid(trigger->tg_relation);
		row = TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ?
			trigger->tg_trigtuple :
			trigger->tg_newtuple;
	}
	if (row != NULL && table != known &&
		strcmp(RelationGetRelationName(trigger->tg_relation),
			   "anyvod_tasks") == 0)
	{
		extension = getExtensionOfObject(RelationRelationId, table);
		if (OidIsValid(extension) &&
			extension == get_extension_oid("anyvod", true))
			known = table;
	}
	if (row == NULL || table != known)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("the function must be called as a row trigger of the extension's table \"anyvod_tasks\"")));
	return row;
}

/* A column of the table, which its owner can change. */
static int
trigger_column(TupleDesc desc, const char *name)
{
	int			column = SPI_fnumber(desc, name);

	if (column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" of \"anyvod_tasks\" does not exist",
						name)));
	return column;
}

/* A value of a row as text, "" if it is null. */
static const char *
trigger_text(HeapTuple row, TupleDesc desc, const char *name)
{
	const char *text = SPI_getvalue(row, desc, trigger_column(desc, name));

	return text != NULL ? text : "";
}

/*
 * AFTER INSERT OR UPDATE OF task_id, state, server, owner: the worker is told,
 * at commit, of a row that is pending; sessions may wait for one that is not.
 * The worker's own updates tell nothing, but what users have added to the
 * table may insert or update more.
 */
Datum
anyvod_tasks_changed(PG_FUNCTION_ARGS)
{
	HeapTuple	row = trigger_row(fcinfo);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	TupleDesc	desc = trigger->tg_relation->rd_att;

	if (insert)
		trigger_warn(trigger->tg_relation);
	if (xact_scan_is_noted() ||
		(!insert && slot_is_worker() &&
		 DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) == 1))
		return PointerGetDatum(NULL);
	if (strcmp(trigger_text(row, desc, "state"), "pending") == 0)
		xact_note_task(trigger_text(row, desc, "task_id"));
	else
		xact_note_written();
	return PointerGetDatum(NULL);
}

/*
 * BEFORE INSERT OR UPDATE: a row that becomes pending, or is to be polled
 * elsewhere, is as if it had never been polled; one that a user settles, or
 * inserts as settled, has been settled now.
 *
 * This is decided here and not by a WHEN clause, which each UPDATE would have
 * to read and prepare anew, at a tenth of what settling a single row takes.
 */
Datum
anyvod_tasks_turned(PG_FUNCTION_ARGS)
{
	static const char *const polled[] = {"state", "task_id", "server", "owner"};
	static const char *const learned[] = {
		"status", "progress", "file_url", "expire_time", "error_code",
		"error_message", "response", "started_at", "ended_at", "settled_at"
	};
	HeapTuple	row = trigger_row(fcinfo);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc = trigger->tg_relation->rd_att;
	HeapTuple	old = trigger->tg_trigtuple;
	bool		insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	bool		changed = insert;
	int			columns[lengthof(learned) + 1];
	Datum		values[lengthof(learned) + 1] = {0};
	bool		nulls[lengthof(learned) + 1];
	int			n = 0;			/* columns that get another value */
	int			now = 0;		/* the one of them that gets the time */

	for (int i = 0; i < (int) lengthof(polled) && !changed; i++)
		changed = strcmp(trigger_text(old, desc, polled[i]),
						 trigger_text(row, desc, polled[i])) != 0;
	if (!changed)
		return PointerGetDatum(row);
	if (strcmp(trigger_text(row, desc, "state"), "pending") == 0)
	{
		if (insert)
			return PointerGetDatum(row);
		for (; n < (int) lengthof(learned); n++)
		{
			columns[n] = trigger_column(desc, learned[n]);
			nulls[n] = true;
		}
		/* it is not to be given up before it was polled once more */
		now = trigger_column(desc, "updated_at");
	}
	else if (insert || strcmp(trigger_text(old, desc, "state"), "pending") == 0)
	{
		now = trigger_column(desc, "settled_at");
		if (!heap_attisnull(row, now, desc))
			return PointerGetDatum(row);
	}
	/* unless the owner has changed its type */
	if (now != 0 && SPI_gettypeid(desc, now) == TIMESTAMPTZOID)
	{
		columns[n] = now;
		values[n] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
		nulls[n++] = false;
	}
	if (n > 0)
		row = heap_modify_tuple_by_cols(row, desc, n, columns, values, nulls);
	return PointerGetDatum(row);
}

/*
 * anyvod_wake() returns void
 */
Datum
anyvod_wake(PG_FUNCTION_ARGS)
{
	xact_note_scan();
	PG_RETURN_VOID();
}
