/*-------------------------------------------------------------------------
 *
 * access.c
 *		Short transactions on anyvod_tasks.
 *
 * Nothing in them waits for the network.  Each runs as the table's owner,
 * looked up anew, as a security-restricted operation, so that what users have
 * added to the table runs with no more than the owner's rights; settings that
 * such code changes are put back.  The table's lock is taken only if it can be
 * had at once.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "control/counters.h"
#include "table/access.h"

#define SECOND INT64CONST(1000000)

/* A trigger that catches a cancel is cancelled again after this (ms). */
#define TABLE_CANCEL_AGAIN 200

/* Log lines about the table and its rows: so many in so long. */
#define TABLE_LOG_LINES 20
#define TABLE_LOG_PERIOD (600 * SECOND)

/* The schema that plans name, quoted; NULL before the first. */
static char *table_schema = NULL;

/* How many there have been. */
static uint32 table_schemas = 0;

/* The table's size in the running transaction. */
static BlockNumber table_blocks = 0;

/* The extension's table, until something has changed. */
static struct
{
	bool		valid;
	uint32		changes;		/* that may concern it */
	Oid			table;
	char		schema[2 * NAMEDATALEN + 2];	/* quoted */
} table_found;

/*
 * Pin this process's settings that must not depend on what a role or database
 * has set.
 */
void
table_pin_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	} pinned[] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"row_security", "off"},
		{"synchronous_commit", "local"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"},	/* from 17 on */
		{"lock_timeout", "1s"},
		{"idle_in_transaction_session_timeout", "0"},
		{"session_replication_role", "origin"},
		{"exit_on_error", "off"},
		/* Always through the keys. */
		{"enable_seqscan", "off"},
		{"enable_sort", "off"},
		{"enable_incremental_sort", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_nestloop", "on"},
		{"enable_memoize", "off"},	/* no key comes twice */
		{"enable_indexscan", "on"},
		{"enable_bitmapscan", "on"},
		{"plan_cache_mode", "auto"},
		{"max_parallel_workers_per_gather", "0"},
		{"jit", "off"},
	};

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		if (GetConfigOption(pinned[i].name, true, false) != NULL)
			SetConfigOption(pinned[i].name, pinned[i].value, PGC_SUSET,
							PGC_S_OVERRIDE);
	}
}


/*
 * Transactions
 */

/* The schema of an extension, InvalidOid if there is no such extension. */
static Oid
table_extension_schema(Oid extension)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	Oid			schema = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(relation, ExtensionOidIndexId, true, NULL, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return schema;
}

static void
table_forget(void)
{
	table_found.valid = false;
	table_found.changes++;
}

static void
table_on_relation(Datum arg, Oid relation)
{
	if (!table_found.valid || relation == InvalidOid ||
		relation == table_found.table)
		table_forget();
}

static void
table_on_schema(Datum arg, int cache, uint32 hash)
{
	table_forget();
}

/* Have changes that end the validity of table_found forget it. */
static void
table_register(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(table_on_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, table_on_schema, (Datum) 0);
	registered = true;
}

/* Look the extension's table up. */
static bool
table_look_up(void)
{
	Oid			extension = get_extension_oid("anyvod", true);
	Oid			namespace;

	if (!OidIsValid(extension))
		return false;
	namespace = table_extension_schema(extension);
	table_found.table = get_relname_relid("anyvod_tasks", namespace);
	if (!OidIsValid(table_found.table) ||
		getExtensionOfObject(RelationRelationId,
							 table_found.table) != extension)
		return false;
	strlcpy(table_found.schema,
			quote_identifier(get_namespace_name(namespace)),
			sizeof(table_found.schema));
	return true;
}

/*
 * Find the extension's table and its schema, quoted; false if there is none.
 * The schema's name is good until the next call.
 */
bool
table_find(Oid *table, const char **schema)
{
	table_register();
	if (!table_found.valid)
	{
		uint32		changes = table_found.changes;

		if (!table_look_up())
			return false;
		table_found.valid = changes == table_found.changes;
	}
	*table = table_found.table;
	*schema = table_found.schema;
	return true;
}

/* Counts up when the table may have been altered. */
uint32
table_alterations(void)
{
	return table_found.changes;
}

/* The owner of a relation. */
static Oid
table_owner(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Keep the size of the table, which is locked. */
static void
table_measure(Oid table)
{
	Relation	relation = table_open(table, NoLock);

	table_blocks = RelationGetNumberOfBlocks(relation);
	table_close(relation, NoLock);
}

/* Use this schema, which may have another name than before, from now on. */
static void
table_use_schema(const char *schema)
{
	if (table_schema != NULL && strcmp(schema, table_schema) == 0)
		return;
	if (table_schema != NULL)
		pfree(table_schema);
	table_schema = NULL;
	table_schema = MemoryContextStrdup(TopMemoryContext, schema);
	table_schemas++;
}

/*
 * The inside of a transaction: find and lock the table, become its owner.
 * Nothing is deferred until that is over, since it could not run then.
 */
static TableResult
table_transact(LOCKMODE lock, TableBody body, void *arg)
{
	Oid			table;
	Oid			owner;
	Oid			saved_user;
	int			saved_context;
	int			nest_level;
	const char *schema;
	ConstraintsSetStmt immediate = {.type = T_ConstraintsSetStmt};

	if (!table_find(&table, &schema))
		return TABLE_ABSENT;
	if (!ConditionalLockRelationOid(table, lock))
		return TABLE_LOCKED;
	owner = table_owner(table);
	if (!OidIsValid(owner))
		return TABLE_ABSENT;
	table_measure(table);

	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(owner,
						   saved_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();

	table_use_schema(schema);
	AfterTriggerSetState(&immediate);
	body(arg);

	SPI_finish();
	PopActiveSnapshot();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(saved_user, saved_context);
	return TABLE_DONE;
}

/*
 * Cancel what runs in a transaction on the table after so many milliseconds,
 * instead of an earlier limit.  (statement_timeout does nothing in a process
 * that no client sends statements to, so its timer is free.)
 */
void
table_arm_limit(int time_limit)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													time_limit);

	enable_timeout_every(STATEMENT_TIMEOUT, until, TABLE_CANCEL_AGAIN);
}

/* Cancel it no more, also should the time have been up just now. */
void
table_disarm_limit(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

/*
 * table_run
 *		Run "body" in a transaction of its own that may take "time_limit"
 *		milliseconds.
 *
 * An error ends it and is returned in "error", made in the caller's memory
 * context; NULL if there was none.
 */
TableResult
table_run(LOCKMODE lock, int time_limit, TableBody body, void *arg,
		  ErrorData **error)
{
	MemoryContext caller = CurrentMemoryContext;
	int64		end = monotonic_us() + time_limit * INT64CONST(1000);
	volatile TableResult result = TABLE_FAILED;

	*error = NULL;
	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		StartTransactionCommand();
		table_arm_limit(time_limit);
		result = table_transact(lock, body, arg);
		CommitTransactionCommand();
		table_disarm_limit();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		table_disarm_limit();
		MemoryContextSwitchTo(caller);
		*error = CopyErrorData();
		FlushErrorState();
		if ((*error)->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			monotonic_us() >= end)
			(*error)->message = psprintf("it took longer than %d ms",
										 time_limit);
		AbortCurrentTransaction();
		/* Somebody has locked an index, most likely. */
		result = (*error)->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ?
			TABLE_LOCKED :
			TABLE_FAILED;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	/* A user's trigger may have taken some for the session. */
	LockReleaseSession(USER_LOCKMETHOD);
	MemoryContextSwitchTo(caller);
	return result;
}

/*
 * May another line about the table or its rows be written to the log?  A fault
 * of many rows, or one that comes back each second, must not fill it.
 */
bool
table_may_log(void)
{
	static int64 begin = 0;
	static int	lines = 0;
	int64		now = monotonic_us();

	if (lines == 0 || now - begin >= TABLE_LOG_PERIOD)
	{
		begin = now;
		lines = 0;
	}
	if (lines == TABLE_LOG_LINES - 1)
		ereport(LOG,
				(errmsg("anyvod logs no more errors of \"anyvod_tasks\" for up to %d minutes",
						(int) (TABLE_LOG_PERIOD / SECOND / 60))));
	if (lines >= TABLE_LOG_LINES - 1)
	{
		lines = TABLE_LOG_LINES;
		return false;
	}
	lines++;
	return true;
}

/*
 * Log the error that a transaction ended with; NULL: it did not.  The same
 * error is not logged again before the transaction has succeeded or another
 * error has come.
 */
void
table_log(const char *doing, const ErrorData *error)
{
	static const char *logged_doing = NULL;
	static char logged[256];

	if (error == NULL)
	{
		if (logged_doing == doing)
			logged_doing = NULL;
		return;
	}
	counters_error(unpack_sql_state(error->sqlerrcode));
	if (logged_doing == doing &&
		strncmp(error->message, logged, sizeof(logged) - 1) == 0)
		return;
	logged_doing = doing;
	strlcpy(logged, error->message, sizeof(logged));
	if (!table_may_log())
		return;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("anyvod could not %s: %s", doing, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}

/*
 * Run "body", which reads the table, in a transaction, and log an error.
 * "doing" is a constant that says what could not be done.
 */
TableResult
table_read(const char *doing, TableBody body, void *arg)
{
	ErrorData  *error;
	TableResult result = table_run(AccessShareLock, TABLE_TIME_LIMIT, body,
								   arg, &error);

	if (result == TABLE_FAILED)
		table_log(doing, error);
	else if (result == TABLE_DONE)
		table_log(doing, NULL);
	return result;
}

/* Is an error one of the system, as a full disk is?  (Classes 53 and 58) */
bool
table_is_system_error(int sqlstate)
{
	int			class = ERRCODE_TO_CATEGORY(sqlstate);

	return class == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR);
}

/*
 * The prepared statement of a plan.  It is prepared when it is first used,
 * when the schema that it names has another name, and when the table has become
 * twice as large: what suits few rows may not suit many.
 */
SPIPlanPtr
table_plan(TablePlan *plan)
{
	SPIPlanPtr	prepared;

	if (plan->prepared != NULL && plan->schema == table_schemas &&
		plan->most_blocks >= table_blocks)
		return plan->prepared;
	if (plan->prepared != NULL)
		SPI_freeplan(plan->prepared);
	plan->prepared = NULL;
	prepared = SPI_prepare_cursor(psprintf(plan->sql, table_schema),
								  plan->nargs, plan->types,
								  plan->generic ? CURSOR_OPT_GENERIC_PLAN :
												  CURSOR_OPT_CUSTOM_PLAN);
	if (prepared == NULL || SPI_keepplan(prepared) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare a statement: %s",
						SPI_result_code_string(SPI_result))));
	plan->prepared = prepared;
	plan->most_blocks = 2 * table_blocks;
	plan->schema = table_schemas;
	return prepared;
}

/* A column of a fetched row as a value. */
Datum
table_value(SPITupleTable *rows, uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(rows->vals[row], rows->tupdesc, column, isnull);
}

/* A column of type text of a fetched row, NULL for null. */
char *
table_string(SPITupleTable *rows, uint64 row, int column)
{
	bool		isnull;
	Datum		value = table_value(rows, row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* A column of type name, likewise; it is there as long as the row is. */
const char *
table_name(SPITupleTable *rows, uint64 row, int column)
{
	bool		isnull;
	Datum		value = table_value(rows, row, column, &isnull);

	return isnull ? NULL : NameStr(*DatumGetName(value));
}


/*
 * Rows as the executor finds them: SPI's own table of a result copies each, and
 * looks for each column from the row's beginning.
 */
typedef struct TableReceiver
{
	DestReceiver dest;			/* what the executor knows of this */
	TableTakeRow take;
	void	   *arg;
	MemoryContext memory;		/* that "take" works in */
} TableReceiver;

static void
table_receive_first(DestReceiver *dest, int operation, TupleDesc desc)
{
}

static void
table_receive_end(DestReceiver *dest)
{
}

static bool
table_receive(TupleTableSlot *slot, DestReceiver *dest)
{
	TableReceiver *receiver = (TableReceiver *) dest;
	MemoryContext old = MemoryContextSwitchTo(receiver->memory);

	slot_getallattrs(slot);
	receiver->take(slot->tts_values, slot->tts_isnull, receiver->arg);
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * Run a prepared SELECT with arguments none of which is null, and give its rows
 * to "take" while it runs.  "doing" says in an error what could not be done.
 */
void
table_select(const char *doing, SPIPlanPtr plan, const Datum *arguments,
			 TableTakeRow take, void *arg, MemoryContext memory)
{
	int			n = SPI_getargcount(plan);
	ParamListInfo params = makeParamList(n);
	TableReceiver receiver = {
		.dest = {
			.receiveSlot = table_receive,
			.rStartup = table_receive_first,
			.rShutdown = table_receive_end,
			.rDestroy = table_receive_end,
			.mydest = DestTuplestore,	/* not SPI's, and not nowhere */
		},
		.take = take,
		.arg = arg,
		.memory = memory,
	};
	SPIExecuteOptions options = {
		.params = params,
		.read_only = true,
		.dest = &receiver.dest,
	};

	for (int i = 0; i < n; i++)
		params->params[i] = (ParamExternData){
			.value = arguments[i],
			.pflags = PARAM_FLAG_CONST,
			.ptype = SPI_getargtypeid(plan, i),
		};
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not %s", doing)));
}
