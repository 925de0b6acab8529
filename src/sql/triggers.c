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
#include "announce.h"
#include "anyvod.h"
#include "launcher.h"

PG_FUNCTION_INFO_V1(anyvod_tasks_changed);
PG_FUNCTION_INFO_V1(anyvod_tasks_turned);
PG_FUNCTION_INFO_V1(anyvod_wake);


/* Warn, once a session, if nothing will fill rows of the table in, and why. */
static void
trigger_warn(Relation relation)
{
	static bool checked = false;
	Oid			schema = RelationGetNamespace(relation);
	Oid			owner = relation->rd_rel->relowner;
	bool		usable;

	if (checked)
		return;
	checked = true;
	usable = compat_schema_aclcheck(schema, owner, ACL_USAGE) == ACLCHECK_OK;
	if (launcher_present() && anyvod_worker && usable)
		return;
	ereport(WARNING,
			(errcode(launcher_present() && anyvod_worker ?
						 ERRCODE_INSUFFICIENT_PRIVILEGE :
						 ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("nothing will fill in the rows of \"anyvod_tasks\""),
			 !launcher_present() ?
				 errdetail("The library \"anyvod\" is not preloaded.") :
				 !anyvod_worker ?
				 errdetail("The setting \"anyvod.worker\" is off.") :
				 errdetail("Its owner may not use the schema \"%s\".",
						   get_namespace_name(schema)),
			 !launcher_present() ?
				 errhint("Add \"anyvod\" to \"shared_preload_libraries\" and restart the server.") :
				 !anyvod_worker ?
				 errhint("Set \"anyvod.worker\" to on and reload the configuration.") :
				 errhint("Use GRANT USAGE ON SCHEMA %s TO %s.",
						 quote_identifier(get_namespace_name(schema)),
						 quote_identifier(GetUserNameFromId(owner, false)))));
}

/*
 * Is this the extension's own table?  Another may have columns of the same
 * names and other types.
 */
static bool
trigger_is_ours(Relation relation)
{
	static Oid	known = InvalidOid;
	Oid			extension;

	if (strcmp(RelationGetRelationName(relation), "anyvod_tasks") != 0)
		return false;
	if (RelationGetRelid(relation) == known)
		return true;
	extension = get_extension_oid("anyvod", true);
	if (!OidIsValid(extension) ||
		getExtensionOfObject(RelationRelationId,
							 RelationGetRelid(relation)) != extension)
		return false;
	known = RelationGetRelid(relation);
	return true;
}

/* Raise an error unless called as a trigger of our table. */
static TriggerData *
trigger_data(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!trigger_is_ours(trigger->tg_relation))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("the function must be called as a trigger of the extension's table \"anyvod_tasks\"")));
	return trigger;
}

/*
 * AFTER INSERT OR UPDATE OF state, server, owner: there may be work.  The
 * worker's own updates make none, but what users have added to the table may
 * insert or update more.
 */
Datum
anyvod_tasks_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo);
	bool		insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);

	if (insert)
		trigger_warn(trigger->tg_relation);
	if (insert || !launcher_is_worker() ||
		DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) > 1)
		announce_work();
	return PointerGetDatum(NULL);
}

/* Is a row pending? */
static bool
trigger_is_pending(HeapTuple row, TupleDesc desc)
{
	char	   *state = SPI_getvalue(row, desc, SPI_fnumber(desc, "state"));

	return state != NULL && strcmp(state, "pending") == 0;
}

/* Is a column of two rows the same? */
static bool
trigger_same(HeapTuple a, HeapTuple b, TupleDesc desc, const char *name)
{
	int			column = SPI_fnumber(desc, name);
	char	   *text_a = SPI_getvalue(a, desc, column);
	char	   *text_b = SPI_getvalue(b, desc, column);

	return text_a == NULL || text_b == NULL ?
		text_a == text_b :
		strcmp(text_a, text_b) == 0;
}

/* A row that was pending is polled as before. */
static bool
trigger_is_unturned(const TriggerData *trigger, TupleDesc desc)
{
	HeapTuple	old = trigger->tg_trigtuple;
	HeapTuple	new = trigger->tg_newtuple;

	return trigger_is_pending(old, desc) &&
		trigger_same(old, new, desc, "task_id") &&
		trigger_same(old, new, desc, "server") &&
		trigger_same(old, new, desc, "owner");
}

/* The row without what is known of its task. */
static HeapTuple
trigger_forget(HeapTuple row, TupleDesc desc)
{
	static const char *const learned[] = {
		"status", "progress", "file_url", "expire_time", "error_code",
		"error_message", "response", "started_at", "ended_at", "settled_at"
	};
	int			columns[lengthof(learned)];
	Datum		values[lengthof(learned)] = {0};
	bool		nulls[lengthof(learned)];

	for (int i = 0; i < (int) lengthof(learned); i++)
	{
		columns[i] = SPI_fnumber(desc, learned[i]);
		nulls[i] = true;
		if (columns[i] <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of \"anyvod_tasks\" does not exist",
							learned[i])));
	}
	return heap_modify_tuple_by_cols(row, desc, lengthof(learned), columns,
									 values, nulls);
}

/*
 * BEFORE UPDATE: a row that becomes pending, or is to be polled elsewhere, is
 * as if it had never been polled; one that a user settles has been settled
 * now.
 *
 * This is decided here and not by a WHEN clause, which each UPDATE would have
 * to read and prepare anew, at a tenth of what settling a single row takes.
 */
Datum
anyvod_tasks_turned(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo);
	TupleDesc	desc = trigger->tg_relation->rd_att;
	HeapTuple	row = trigger->tg_newtuple;
	int			settled_at = SPI_fnumber(desc, "settled_at");
	Datum		now =
		TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	bool		isnull;

	if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		settled_at <= 0 || SPI_fnumber(desc, "state") <= 0 ||
		SPI_gettypeid(desc, settled_at) != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("the function must be called before UPDATE of a row of \"anyvod_tasks\"")));

	if (trigger_is_pending(row, desc))
	{
		if (!trigger_is_unturned(trigger, desc))
			row = trigger_forget(row, desc);
		return PointerGetDatum(row);
	}
	(void) SPI_getbinval(row, desc, settled_at, &isnull);
	if (isnull && trigger_is_pending(trigger->tg_trigtuple, desc))
	{
		isnull = false;
		row = heap_modify_tuple_by_cols(row, desc, 1, &settled_at, &now,
										&isnull);
	}
	return PointerGetDatum(row);
}

/*
 * anyvod_wake() returns void
 */
Datum
anyvod_wake(PG_FUNCTION_ARGS)
{
	announce_work();
	PG_RETURN_VOID();
}
