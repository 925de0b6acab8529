/*-------------------------------------------------------------------------
 *
 * tracker.c
 *		The worker's reads and writes of anyvod_tasks.
 *
 * Each call is one short transaction (a write that fails is several), in
 * which nothing waits for the network.  It runs as the table's owner, looked
 * up anew each time, as a security-restricted operation, so that what users
 * have added to the table runs with no more than the owner's rights; settings
 * that such code changes are put back.  The table's lock is taken only if it
 * can be had at once.
 *
 * What is asked, when, and what an answer means for a row is not known here.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
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
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "anyvod.h"
#include "table/change.h"
#include "control/counters.h"
#include "table/tracker.h"

/* A trigger that catches that is told again after so long, in milliseconds. */
#define TRACKER_INSIST 200

/* Bytes of a row's text that are read at most; an answer has 200. */
#define TRACKER_LONGEST_TEXT 4000

/* The channel that is told of settled rows. */
#define TRACKER_CHANNEL "anyvod_tasks"

/* Above this fill of the NOTIFY queue, rows are settled without telling. */
#define TRACKER_FULL_QUEUE 0.9

/* The schema that plans name, quoted; NULL before the first. */
static char *tracker_schema = NULL;

/* How many there have been. */
static uint32 tracker_schemas = 0;

/* The table's size in the running transaction. */
static BlockNumber tracker_blocks = 0;

/* The extension's table, until something has changed. */
static struct
{
	bool		valid;
	uint32		changes;		/* that may concern it */
	Oid			table;
	char		schema[2 * NAMEDATALEN + 2];	/* quoted */
} tracker_found;

/*
 * Pin this process's settings that must not depend on what a role or database
 * has set.
 */
void
tracker_pin_settings(void)
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
tracker_extension_schema(Oid extension)
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
tracker_forget_table(void)
{
	tracker_found.valid = false;
	tracker_found.changes++;
}

static void
tracker_on_relation(Datum arg, Oid relation)
{
	if (!tracker_found.valid || relation == InvalidOid ||
		relation == tracker_found.table)
		tracker_forget_table();
}

static void
tracker_on_schema(Datum arg, int cache, uint32 hash)
{
	tracker_forget_table();
}

/* Be told of changes that tracker_found does not outlive. */
static void
tracker_register(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(tracker_on_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, tracker_on_schema, (Datum) 0);
	registered = true;
}

/* Look the extension's table up. */
static bool
tracker_look_up(void)
{
	Oid			extension = get_extension_oid("anyvod", true);
	Oid			namespace;

	if (!OidIsValid(extension))
		return false;
	namespace = tracker_extension_schema(extension);
	tracker_found.table = get_relname_relid("anyvod_tasks", namespace);
	if (!OidIsValid(tracker_found.table) ||
		getExtensionOfObject(RelationRelationId,
							 tracker_found.table) != extension)
		return false;
	strlcpy(tracker_found.schema,
			quote_identifier(get_namespace_name(namespace)),
			sizeof(tracker_found.schema));
	return true;
}

/*
 * Find the extension's table and its schema, quoted; false if there is none.
 * The schema's name is good until the next call.
 */
bool
tracker_find_table(Oid *table, const char **schema)
{
	tracker_register();
	if (!tracker_found.valid)
	{
		uint32		changes = tracker_found.changes;

		if (!tracker_look_up())
			return false;
		tracker_found.valid = changes == tracker_found.changes;
	}
	*table = tracker_found.table;
	*schema = tracker_found.schema;
	return true;
}

/* The owner of a relation. */
static Oid
tracker_owner(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Note the size of the table, which is locked. */
static void
tracker_measure(Oid table)
{
	Relation	relation = table_open(table, NoLock);

	tracker_blocks = RelationGetNumberOfBlocks(relation);
	table_close(relation, NoLock);
}

/* Note the extension's schema, which may have another name now. */
static void
tracker_note_schema(const char *schema)
{
	if (tracker_schema != NULL && strcmp(schema, tracker_schema) == 0)
		return;
	if (tracker_schema != NULL)
		pfree(tracker_schema);
	tracker_schema = NULL;
	tracker_schema = MemoryContextStrdup(TopMemoryContext, schema);
	tracker_schemas++;
}

/* The schema that a statement should name, quoted. */
const char *
tracker_get_schema(void)
{
	return tracker_schema;
}

/*
 * The inside of a transaction: find and lock the table, become its owner.
 * Nothing is deferred until that is over, since it could not run then.
 */
static TrackerOutcome
tracker_transact(LOCKMODE lock, TrackerBody body, void *arg)
{
	Oid			table;
	Oid			owner;
	Oid			saved_user;
	int			saved_context;
	int			nest_level;
	const char *schema;
	ConstraintsSetStmt immediate = {.type = T_ConstraintsSetStmt};

	if (!tracker_find_table(&table, &schema))
		return TRACKER_ABSENT;
	if (!ConditionalLockRelationOid(table, lock))
		return TRACKER_BUSY;
	owner = tracker_owner(table);
	if (!OidIsValid(owner))
		return TRACKER_ABSENT;
	tracker_measure(table);

	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(owner,
						   saved_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();

	tracker_note_schema(schema);
	AfterTriggerSetState(&immediate);
	body(arg);

	SPI_finish();
	PopActiveSnapshot();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(saved_user, saved_context);
	return TRACKER_DONE;
}

/*
 * Run "body" in a transaction of its own that may take "time_limit"
 * milliseconds (statement_timeout does nothing in a process that no client
 * sends statements to, so its timer is set here).  An error
 * ends that and is returned in "error", made in the caller's memory context.
 */
TrackerOutcome
tracker_run(LOCKMODE lock, int time_limit, TrackerBody body, void *arg,
			ErrorData **error)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  time_limit);
	volatile TrackerOutcome outcome = TRACKER_FAILED;

	*error = NULL;
	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		StartTransactionCommand();
		enable_timeout_every(STATEMENT_TIMEOUT, end, TRACKER_INSIST);
		outcome = tracker_transact(lock, body, arg);
		CommitTransactionCommand();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false; /* should it have gone off just now */
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		MemoryContextSwitchTo(caller);
		*error = CopyErrorData();
		FlushErrorState();
		if ((*error)->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			GetCurrentTimestamp() >= end)
			(*error)->message = psprintf("it took longer than %d ms",
										 time_limit);
		AbortCurrentTransaction();
		/* Somebody has locked an index, most likely. */
		outcome = (*error)->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ?
			TRACKER_BUSY :
			TRACKER_FAILED;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	/* A user's trigger may have taken some for the session. */
	LockReleaseSession(USER_LOCKMETHOD);
	MemoryContextSwitchTo(caller);
	return outcome;
}

/* Tell the log of an error that a transaction ended with, but not again. */
void
tracker_log(const char *doing, const ErrorData *error)
{
	static char said[256];

	counters_error(unpack_sql_state(error->sqlerrcode));
	if (strncmp(error->message, said, sizeof(said) - 1) == 0)
		return;
	strlcpy(said, error->message, sizeof(said));
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("anyvod could not %s: %s", doing, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}

/* Run "body", which reads the table, and tell the log if that fails. */
TrackerOutcome
tracker_read(const char *doing, TrackerBody body, void *arg)
{
	ErrorData  *error;
	TrackerOutcome outcome = tracker_run(AccessShareLock, TRACKER_TIME_LIMIT,
										 body, arg, &error);

	if (outcome == TRACKER_FAILED)
		tracker_log(doing, error);
	return outcome;
}

/* Is an error for want of room, memory or the like?  (Classes 53 and 58) */
bool
tracker_is_systems(int sqlstate)
{
	int			class = ERRCODE_TO_CATEGORY(sqlstate);

	return class == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR);
}

/*
 * Is a plan's statement prepared?  It is not the first time, when the schema
 * that this names has another name, and when the table has become twice as
 * large: what suits few rows may not suit many.
 */
static bool
tracker_has_plan(TrackerPlan *plan)
{
	if (plan->prepared != NULL &&
		(plan->schema != tracker_schemas || plan->most_blocks < tracker_blocks))
	{
		SPI_freeplan(plan->prepared);
		plan->prepared = NULL;
	}
	return plan->prepared != NULL;
}

/*
 * The prepared statement of a plan; it is prepared from "sql" unless it is
 * already.
 */
SPIPlanPtr
tracker_plan(TrackerPlan *plan, const char *sql, int nargs, Oid *types)
{
	(void) tracker_has_plan(plan);
	if (plan->prepared == NULL)
	{
		int			options = plan->generic ? CURSOR_OPT_GENERIC_PLAN :
											  CURSOR_OPT_CUSTOM_PLAN;
		SPIPlanPtr	prepared = SPI_prepare_cursor(sql, nargs, types, options);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not prepare a statement: %s",
							SPI_result_code_string(SPI_result))));
		plan->prepared = prepared;
		plan->most_blocks = 2 * tracker_blocks;
		plan->schema = tracker_schemas;
	}
	return plan->prepared;
}

/* A column of a fetched row as a value. */
Datum
tracker_value(SPITupleTable *rows, uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(rows->vals[row], rows->tupdesc, column, isnull);
}

/* A column of type text of a fetched row, NULL for null. */
char *
tracker_string(SPITupleTable *rows, uint64 row, int column)
{
	bool		isnull;
	Datum		value = tracker_value(rows, row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* A column of type name, likewise; it is there as long as the row is. */
const char *
tracker_name(SPITupleTable *rows, uint64 row, int column)
{
	bool		isnull;
	Datum		value = tracker_value(rows, row, column, &isnull);

	return isnull ? NULL : NameStr(*DatumGetName(value));
}


/*
 * Rows as they are found: SPI's own table of a result copies each, and looks
 * for each column from the row's beginning.
 */
typedef void (*TrackerTake)(const Datum *values, const bool *nulls, void *arg);

typedef struct TrackerReceiver
{
	DestReceiver dest;			/* what the executor knows of this */
	TrackerTake take;
	void	   *arg;
	MemoryContext memory;		/* that "take" works in */
} TrackerReceiver;

static void
tracker_receive_first(DestReceiver *dest, int operation, TupleDesc desc)
{
}

static void
tracker_receive_end(DestReceiver *dest)
{
}

static bool
tracker_receive(TupleTableSlot *slot, DestReceiver *dest)
{
	TrackerReceiver *receiver = (TrackerReceiver *) dest;
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
static void
tracker_select(const char *doing, SPIPlanPtr plan, const Datum *arguments,
			   TrackerTake take, void *arg, MemoryContext memory)
{
	int			n = SPI_getargcount(plan);
	ParamListInfo params = makeParamList(n);
	TrackerReceiver receiver = {
		.dest = {
			.receiveSlot = tracker_receive,
			.rStartup = tracker_receive_first,
			.rShutdown = tracker_receive_end,
			.rDestroy = tracker_receive_end,
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

/* A text of a row, NULL for null. */
static char *
tracker_text(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? NULL : TextDatumGetCString(values[column]);
}

/*
 * The same, but cut if it is longer than what answers have: the table's owner
 * can write anything.
 */
static char *
tracker_short_text(const Datum *values, const bool *nulls, int column)
{
	char	   *string;
	int			len;

	if (nulls[column] ||
		toast_raw_datum_size(values[column]) <= TRACKER_LONGEST_TEXT)
		return tracker_text(values, nulls, column);
	string = text_to_cstring(DatumGetTextPSlice(values[column], 0,
												TRACKER_LONGEST_TEXT));
	len = (int) strlen(string);
	string[pg_mbcliplen(string, len, len)] = '\0';
	return string;
}

/* A point of time of a row, 0 for null. */
static TimestampTz
tracker_time(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? 0 : DatumGetTimestampTz(values[column]);
}


/*
 * Listing
 */

/*
 * A listing goes through the index of pending rows: those never answered,
 * whose status is null, and then the others.  This far it has come.
 */
static struct
{
	bool		all;			/* the others, too */
	bool		answered;		/* it is at those */
	char	   *status;			/* of the last row, "" before the first */
	char	   *task_id;
} tracker_position;

typedef struct TrackerListing
{
	int			max;
	TrackerListedVisit visit;
	void	   *arg;
	MemoryContext memory;		/* of one row */
	int			listed;
	const char *status;			/* of the last row */
	const char *task_id;
} TrackerListing;

/* The text of a page's statement. */
static char *
tracker_list_sql(bool answered)
{
	return psprintf("SELECT task_id::pg_catalog.text,"
					" server::pg_catalog.name,"
					" owner::pg_catalog.name,"
					" created_at::pg_catalog.timestamptz,"
					" status::pg_catalog.text,"
					" status IS NULL AND progress IS NULL"
					" AND task_type IS NULL AND model IS NULL"
					" AND error_code IS NULL AND started_at IS NULL"
					" FROM %s.anyvod_tasks"
					" WHERE state = 'pending'"
					" AND server IS NOT NULL AND owner IS NOT NULL"
					" AND %s"
					" ORDER BY status::pg_catalog.text,"
					" task_id::pg_catalog.text LIMIT $3",
					tracker_schema,
					answered ?
						"(status::pg_catalog.text, task_id::pg_catalog.text)"
						" OPERATOR(pg_catalog.>) ($1, $2)" :
						"status IS NULL AND task_id::pg_catalog.text"
						" OPERATOR(pg_catalog.>) $2");
}

/* The next page begins after this row. */
static void
tracker_set_position(const char *status, const char *task_id)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	if (tracker_position.status != NULL)
		pfree(tracker_position.status);
	if (tracker_position.task_id != NULL)
		pfree(tracker_position.task_id);
	tracker_position.status = pstrdup(status ? status : "");
	tracker_position.task_id = pstrdup(task_id);
	MemoryContextSwitchTo(old);
}

/* See to a row that has been found. */
static void
tracker_take_listed(const Datum *values, const bool *nulls, void *arg)
{
	TrackerListing *listing = arg;
	TrackerListed row;

	MemoryContextReset(listing->memory);
	listing->task_id = tracker_text(values, nulls, 0);
	listing->status = tracker_text(values, nulls, 4);
	listing->listed++;
	row.task_id = listing->task_id;
	row.server = NameStr(*DatumGetName(values[1]));
	row.owner = NameStr(*DatumGetName(values[2]));
	row.created_at = tracker_time(values, nulls, 3);
	row.answered = listing->status != NULL;
	row.blank = DatumGetBool(values[5]);
	listing->visit(&row, listing->arg);
}

static void
tracker_list_body(void *arg)
{
	static TrackerPlan list[2] = {{.generic = true}, {.generic = true}};
	TrackerListing *listing = arg;
	bool		answered = tracker_position.answered;
	Oid			types[3] = {TEXTOID, TEXTOID, INT4OID};
	Datum		values[3];
	SPIPlanPtr	plan;

	plan = tracker_plan(&list[answered],
						tracker_has_plan(&list[answered]) ?
							NULL :
							tracker_list_sql(answered),
						3, types);
	values[0] = CStringGetTextDatum(tracker_position.status);
	values[1] = CStringGetTextDatum(tracker_position.task_id);
	values[2] = Int32GetDatum(listing->max);
	listing->memory = AllocSetContextCreate(CurrentMemoryContext, "anyvod row",
											ALLOCSET_SMALL_SIZES);
	tracker_select("list pending tasks", plan, values, tracker_take_listed,
				   listing, listing->memory);
	if (listing->listed > 0)
		tracker_set_position(listing->status, listing->task_id);
}

/*
 * Begin to list the pending rows: all of them, or those that were never
 * answered.
 */
void
tracker_list_begin(bool all)
{
	tracker_position.all = all;
	tracker_position.answered = false;
	tracker_set_position("", "");
}

/*
 * Visit up to "max" rows more; "more" says whether there may be others.  The
 * strings that "visit" sees are gone after it.  A row that comes to stand
 * before those visited is missed: whoever commits one wakes the worker.
 */
TrackerOutcome
tracker_list_page(int max, TrackerListedVisit visit, void *arg, bool *more)
{
	TrackerListing listing = {.max = max, .visit = visit, .arg = arg};
	TrackerOutcome outcome;

	*more = true;
	outcome = tracker_read("list pending tasks", tracker_list_body, &listing);
	if (outcome != TRACKER_DONE || listing.listed == max)
		return outcome;
	*more = tracker_position.all && !tracker_position.answered;
	tracker_position.answered = true;
	tracker_set_position("", "");
	return outcome;
}


/*
 * Confirming
 */

typedef struct TrackerConfirming
{
	const char **task_ids;
	int			n;
	TrackerRow *rows;
	int			room;			/* so many; the table may have no key */
	int			found;
	TrackerRowVisit visit;
	void	   *arg;
} TrackerConfirming;

/* Task ids, which are ASCII, as an array. */
static Datum
tracker_id_array(const char **task_ids, int n)
{
	Datum	   *values = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = CStringGetTextDatum(task_ids[i]);
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * The statement that reads rows.
 *
 * The table's owner can have altered it, so nothing is taken for granted:
 * types are made ours, and nulls left out.  The state is compared as text for
 * the reason that tracker_write_sql() gives.  Each row is looked up by its key,
 * since nothing can be moved across OFFSET: so the plan suits every table.
 */
static char *
tracker_confirm_sql(void)
{
	return psprintf("SELECT t.* FROM pg_catalog.unnest($1)"
					" AS d (task_id), LATERAL"
					" (SELECT t.task_id::pg_catalog.text,"
					" t.server::pg_catalog.name,"
					" t.owner::pg_catalog.name,"
					" t.status::pg_catalog.text,"
					" t.progress::pg_catalog.int4,"
					" t.task_type::pg_catalog.text,"
					" t.model::pg_catalog.text,"
					" t.error_code::pg_catalog.text,"
					" t.started_at::pg_catalog.timestamptz,"
					" t.created_at::pg_catalog.timestamptz"
					" FROM %s.anyvod_tasks AS t"
					" WHERE t.task_id = d.task_id"
					" AND t.state::pg_catalog.text = 'pending'"
					" AND t.server IS NOT NULL"
					" AND t.owner IS NOT NULL OFFSET 0) AS t",
					tracker_schema);
}

/*
 * Keep a row: it is visited when all are read, since a visit may begin a
 * subtransaction, and fail there.
 */
static void
tracker_take_row(const Datum *values, const bool *nulls, void *arg)
{
	TrackerConfirming *confirming = arg;

	if (confirming->found == confirming->room)
	{
		confirming->room *= 2;
		confirming->rows = repalloc(confirming->rows,
									confirming->room * sizeof(TrackerRow));
	}
	confirming->rows[confirming->found++] = (TrackerRow){
		.task_id = tracker_text(values, nulls, 0),
		.server = pstrdup(NameStr(*DatumGetName(values[1]))),
		.owner = pstrdup(NameStr(*DatumGetName(values[2]))),
		.status = tracker_short_text(values, nulls, 3),
		.progress = nulls[4] ? -1 : DatumGetInt32(values[4]),
		.task_type = tracker_short_text(values, nulls, 5),
		.model = tracker_short_text(values, nulls, 6),
		.error_code = tracker_short_text(values, nulls, 7),
		.has_started_at = !nulls[8],
		.started_at = tracker_time(values, nulls, 8),
		.created_at = tracker_time(values, nulls, 9),
	};
}

static void
tracker_confirm_body(void *arg)
{
	static TrackerPlan confirm = {.generic = true};
	TrackerConfirming *confirming = arg;
	Oid			types[1] = {TEXTARRAYOID};
	Datum		values[1];
	SPIPlanPtr	plan;

	plan = tracker_plan(&confirm,
						tracker_has_plan(&confirm) ? NULL :
													 tracker_confirm_sql(),
						1, types);
	values[0] = tracker_id_array(confirming->task_ids, confirming->n);
	confirming->room = confirming->n;
	confirming->rows = palloc(confirming->room * sizeof(TrackerRow));
	tracker_select("read pending tasks", plan, values, tracker_take_row,
				   confirming, CurrentMemoryContext);
	for (int i = 0; i < confirming->found; i++)
		confirming->visit(&confirming->rows[i], confirming->arg);
}

/*
 * Visit those of the tasks whose rows are still there and pending, in a
 * read-only transaction that is still open during the visits; rows of one
 * server and owner one after another.
 */
TrackerOutcome
tracker_confirm(const char **task_ids, int n, TrackerRowVisit visit,
				void *arg)
{
	TrackerConfirming confirming = {
		.task_ids = task_ids,
		.n = n,
		.visit = visit,
		.arg = arg,
	};

	return tracker_read("read pending tasks", tracker_confirm_body, &confirming);
}

typedef struct TrackerVisiting
{
	const TrackerRow *rows;
	int			n;
	TrackerRowVisit visit;
	void	   *arg;
} TrackerVisiting;

static void
tracker_visit_body(void *arg)
{
	TrackerVisiting *visiting = arg;

	for (int i = 0; i < visiting->n; i++)
		visiting->visit(&visiting->rows[i], visiting->arg);
}

/*
 * Visit rows that a listing has just found, as tracker_confirm() does, and
 * do not read them again.
 */
TrackerOutcome
tracker_visit(const TrackerRow *rows, int n, TrackerRowVisit visit, void *arg)
{
	TrackerVisiting visiting = {rows, n, visit, arg};

	return tracker_read("ask for pending tasks", tracker_visit_body, &visiting);
}


/*
 * Writing
 */

typedef struct TrackerWriting
{
	TrackerChange **changes;
	int			n;
	bool		notify;
} TrackerWriting;

/* Does a change settle its row? */
bool
tracker_settles(const TrackerChange *change)
{
	return strcmp(change->state, "pending") != 0;
}

/* Changes as a relation; a single one is the parameters. */
static void
tracker_append_changes(StringInfo sql, bool single)
{
	if (!single)
	{
		appendStringInfoString(sql, CHANGE_TABLE " AS a");
		return;
	}
	for (int i = 0; i < CHANGE_COLUMNS; i++)
		appendStringInfo(sql, "%s$%d AS %s", i > 0 ? ", " : "(SELECT ", i + 1,
						 change_columns[i].name);
	appendStringInfoString(sql, ") AS a");
}

/*
 * The statement that writes changes, or a single one.
 *
 * The subquery takes a change's row if it is still what was asked for, without
 * waiting for one that somebody holds.  Standing in the condition, it is looked
 * up once for a change and needs no join, through which columns would have to
 * be passed on.  (LIMIT is for a table whose owner has dropped its key.)  Both
 * look-ups must go through the primary key, whatever the planner believes of
 * the table's size; the state is compared as text so that the index of pending
 * rows, which statistics may call empty, is no way.
 */
static char *
tracker_write_sql(bool single)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "UPDATE %1$s.anyvod_tasks AS t SET"
					 " state = a.state::%1$s.anyvod_state,"
					 " status = COALESCE(a.status, t.status),"
					 " progress = COALESCE(a.progress, t.progress),"
					 " file_url = a.file_url,"
					 " expire_time = a.expire_time,"
					 " task_type = COALESCE(a.task_type, t.task_type),"
					 " model = COALESCE(a.model, t.model),"
					 " error_code = a.error_code,"
					 " error_message = a.error_message,"
					 " response = a.response,"
					 " polls = t.polls + a.polls,"
					 " started_at = COALESCE(a.started_at, t.started_at),"
					 " ended_at = a.ended_at,"
					 " updated_at = pg_catalog.now(),"
					 " settled_at = CASE WHEN a.state <> 'pending'"
					 " THEN pg_catalog.now() END"
					 " FROM ",
					 tracker_schema);
	tracker_append_changes(&sql, single);
	appendStringInfo(&sql,
					 " WHERE t.task_id ="
					 " (SELECT r.task_id FROM %s.anyvod_tasks AS r"
					 " WHERE r.task_id = a.task_id"
					 " AND r.server = a.server AND r.owner = a.owner"
					 " AND r.state::pg_catalog.text = 'pending'"
					 " LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)"
					 " RETURNING a.n, t.state::pg_catalog.text",
					 tracker_schema);
	return sql.data;
}

/* Tell who listens that a row has been settled. */
static void
tracker_tell(const char *task_id, const char *state)
{
	/* Neither an id nor a state has a character that JSON would escape. */
	Async_Notify(TRACKER_CHANNEL,
				 psprintf("{\"task_id\": \"%s\", \"state\": \"%s\"}",
						  task_id, state));
}

/* Run the statement that writes many changes. */
static int
tracker_write_many(TrackerChange **changes, int n)
{
	static TrackerPlan write = {.generic = true};
	Tuplestorestate *store = change_show(changes, n);
	SPIPlanPtr	plan;
	int			result;

	plan = tracker_plan(&write,
						tracker_has_plan(&write) ? NULL :
												   tracker_write_sql(false),
						0, NULL);
	result = SPI_execute_plan(plan, NULL, NULL, false, 0);
	tuplestore_end(store);
	return result;
}

/* The same for one, which is quicker without a table. */
static int
tracker_write_single(const TrackerChange *change)
{
	static TrackerPlan write = {.generic = true};
	ChangeRow	row;
	char		nulls[CHANGE_COLUMNS];
	Oid			types[CHANGE_COLUMNS];
	SPIPlanPtr	plan;

	change_fill(&row, change, 0);
	for (int i = 0; i < CHANGE_COLUMNS; i++)
	{
		types[i] = change_columns[i].type;
		nulls[i] = row.nulls[i] ? 'n' : ' ';
	}
	plan = tracker_plan(&write,
						tracker_has_plan(&write) ? NULL :
												   tracker_write_sql(true),
						CHANGE_COLUMNS, types);
	return SPI_execute_plan(plan, row.values, nulls, false, 0);
}

static void
tracker_write_body(void *arg)
{
	TrackerWriting *writing = arg;
	int			result = writing->n == 1 ?
		tracker_write_single(writing->changes[0]) :
		tracker_write_many(writing->changes, writing->n);

	if (result != SPI_OK_UPDATE_RETURNING)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not write tasks")));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int			n = DatumGetInt32(tracker_value(SPI_tuptable, i, 1,
													&isnull));
		TrackerChange *change = writing->changes[n];
		const char *state = tracker_string(SPI_tuptable, i, 2);

		/* What a user's trigger has made of it. */
		change->written = true;
		change->pending = strcmp(state, "pending") == 0;
		if (writing->notify && !change->pending)
			tracker_tell(change->task_id, state);
	}
}

/* Is there room in the NOTIFY queue?  A full one must not stop the writing. */
static bool
tracker_may_notify(void)
{
	static bool said = false;
	double		usage;

	if (!anyvod_notify)
		return false;
	usage = DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage,
											   (Datum) 0));
	if (usage < TRACKER_FULL_QUEUE)
	{
		said = false;
		return true;
	}
	if (!said)
		ereport(LOG,
				(errmsg("anyvod settles tasks without NOTIFY, whose queue is %d%% full",
						(int) (usage * 100)),
				 errhint("A session that listens has had a transaction open for long.")));
	said = true;
	return false;
}

/* One attempt at writing some changes. */
static TrackerOutcome
tracker_write_once(TrackerChange **changes, int n, int time_limit,
				   ErrorData **error)
{
	TrackerWriting writing = {changes, n, tracker_may_notify()};
	TrackerOutcome outcome;

	for (int i = 0; i < n; i++)
		changes[i]->written = false;
	outcome = tracker_run(RowExclusiveLock, time_limit, tracker_write_body,
						  &writing, error);
	if (outcome != TRACKER_DONE)
	{
		for (int i = 0; i < n; i++)
			changes[i]->written = false;
	}
	/* The table's lock was there: it is one row's trigger that waits. */
	if (outcome == TRACKER_BUSY && *error != NULL)
		outcome = TRACKER_FAILED;
	return outcome;
}

/*
 * Write changes into rows that are still pending with the server and owner
 * they were asked for, in one transaction of at most "time_limit" milliseconds,
 * and tell who listens.
 *
 * A row that is not "written" when this is done is gone, changed, or held by
 * somebody.  If it fails, the caller tries fewer; a single change that fails
 * counts as done, and has its "failure".  Failures are left to the caller to
 * log.  At most one change may concern a row.
 */
TrackerOutcome
tracker_write(TrackerChange **changes, int n, int time_limit)
{
	TrackerOutcome outcome;
	ErrorData  *error;

	changes[0]->failure = NULL;
	outcome = tracker_write_once(changes, n, time_limit, &error);
	if (n == 1 && outcome == TRACKER_FAILED && !changes[0]->drop_response &&
		error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
	{
		/* The result matters more than the answer's text. */
		changes[0]->drop_response = true;
		outcome = tracker_write_once(changes, n, time_limit, &error);
	}
	if (n > 1 || outcome != TRACKER_FAILED)
		return outcome;
	changes[0]->failure = error->message;
	changes[0]->failure_code = error->sqlerrcode;
	return TRACKER_DONE;
}
