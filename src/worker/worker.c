/*-------------------------------------------------------------------------
 *
 * worker.c
 *		One process per database with pending tasks: the loop that polls them
 *		and writes what was learned.
 *
 * An iteration reads the responses that have come; writes what they change in
 * one transaction; takes the tasks that are due, and those of which it has been
 * told, and reads their rows in one short read-only transaction; sends a
 * request for each that is still pending; and waits, with no transaction open,
 * until something happens.  A response that changes nothing is not written.
 *
 * What is kept in memory is in queue.c, and may be lost at any time: the table
 * is the truth, and polling twice is as good as once.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "anyvod.h"
#include "clock.h"
#include "compat.h"
#include "control/counters.h"
#include "control/slot.h"
#include "http/client.h"
#include "launcher/launcher.h"
#include "server/validate.h"
#include "table/select.h"
#include "worker/durations.h"
#include "worker/give_up.h"
#include "worker/poll.h"
#include "worker/queue.h"
#include "worker/retention.h"
#include "worker/scan.h"
#include "worker/write.h"

#define SECOND INT64CONST(1000000)

/* Tasks whose rows are read in one transaction. */
#define WORKER_ROUND 1000

/* Bytes of ids that wait to be read, as while the table is locked. */
#define WORKER_MAX_NEW_IDS (64 * 1024)

/*
 * Look again at a locked table after this, and at one that could not be read
 * at all after twice as long each time.
 */
#define WORKER_LOCKED_WAIT (SECOND / 4)
#define WORKER_LONGEST_WAIT (60 * SECOND)

static struct
{
	MemoryContext round;		/* one iteration's scratch */
	SlotSignals signals;		/* what was acted upon */
	StringInfoData new_ids;		/* handed over, null-terminated, not read yet */
	uint32		alterations;	/* of the table, that were acted upon */
	int64		idle_since;
	int			table_failures; /* in a row, of reading or writing it */
	int			round_size;		/* tasks that a round takes, 1 after failure */
	int			surplus;		/* ... beyond what may be sent: queue_take() */
	int64		poll_at;		/* no round before this */
	bool		absent;			/* the table is not there */
} worker;


/* Is the extension there? */
static bool
worker_has_extension(void)
{
	bool		has;

	StartTransactionCommand();
	has = OidIsValid(get_extension_oid("anyvod", true));
	CommitTransactionCommand();
	return has;
}

/*
 * A transaction on the table ended so: say how long to wait before the next if
 * it was not carried out.
 */
static int64
worker_after(TableResult result)
{
	int64		wait = WORKER_LOCKED_WAIT;

	if (result == TABLE_ABSENT)
		worker.absent = true;
	if (result == TABLE_FAILED)
		worker.table_failures++;
	else
		worker.table_failures = 0;
	if (result == TABLE_LOCKED)
		counters_set_condition(COUNTERS_TABLE_LOCKED);
	else if (result == TABLE_ABSENT)
		counters_set_condition(worker_has_extension() ?
								   COUNTERS_TABLE_MISSING :
								   COUNTERS_WELL);
	else if (result == TABLE_DONE)
		counters_set_condition(COUNTERS_WELL);
	for (int i = 1; i < worker.table_failures && wait < WORKER_LONGEST_WAIT;
		 i++)
		wait *= 2;
	return Min(wait, WORKER_LONGEST_WAIT);
}


/*
 * Taking rows in
 */

/* Look for rows that are not known yet. */
static void
worker_scan(void)
{
	TableResult result;
	int64		wait;

	if (scan_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "scanning pending tasks");
	result = scan_page();
	wait = worker_after(result);
	scan_hold(result == TABLE_DONE ? 0 : monotonic_us() + wait);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Take the ids that were handed over. */
static void
worker_take_new_ids(void)
{
	bool		more = slot_take_new_ids(&worker.new_ids);

	if (worker.new_ids.len > WORKER_MAX_NEW_IDS)
	{
		resetStringInfo(&worker.new_ids);
		more = true;
	}
	if (more)
		scan_request();
}

/*
 * A row whose id was handed over has been inserted, or was changed so that it
 * is to be polled at once.
 */
static void
worker_on_new_row(const TableRow *row, int64 now)
{
	QueueTask  *task = queue_find(row->task_id);

	if (task != NULL && task->state == TASK_WAITING && queue_is_of(task, row) &&
		!task->blocked && task->due > now)
		queue_put(task, now);
	scan_take_row(row, now);
}


/*
 * Polling
 */

/* What the tasks of a role on a server are polled with. */
typedef struct WorkerSettings
{
	const ServerSettings *settings; /* NULL: not to be had */
	HealthSettings which;
	char		error_code[6];	/* then why, an SQLSTATE */
	char	   *error_message;
} WorkerSettings;

/*
 * Look up what the tasks of a role are polled with, in a transaction of its
 * own; an error stays with its rows.
 */
static void
worker_find_settings(const QueueRole *role, WorkerSettings *found)
{
	const char *server = NameStr(role->server_name);

	memset(found, 0, sizeof(WorkerSettings));
	PG_TRY();
	{
		StartTransactionCommand();
		found->which.serverid = get_foreign_server_oid(server, true);
		found->which.userid = get_role_oid(NameStr(role->owner), false);
		found->settings = server_settings_get(server, found->which.userid);
		found->which.id = found->settings->id;
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(worker.round);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		found->settings = NULL;
		found->error_message = error->message;
		strlcpy(found->error_code, unpack_sql_state(error->sqlerrcode),
				sizeof(found->error_code));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker.round);
}

/* Poll a task that was taken, whose row has been read. */
static void
worker_start(QueueTask *task, const WorkerSettings *found)
{
	QueueRole  *role = task->role;
	int64		now = monotonic_us();

	if (!queue_is_of(task, task->row))
		queue_move(task, task->row, now);
	else if (found->settings == NULL)
		poll_no_settings(task, &found->which, found->error_code,
						 found->error_message);
	else if (queue_set_limits(role->server, found->settings),
			 health_key_paused(&role->key, found->settings, now) ||
				 !queue_has_slot(role->server, now))
		queue_put(task, task->due);
	else
		poll_start(task, found->settings);
}

/* Tasks of a role come together, so that its settings are looked up once. */
static int
worker_by_role(const void *a, const void *b)
{
	const QueueRole *role_a = (*(QueueTask *const *) a)->role;
	const QueueRole *role_b = (*(QueueTask *const *) b)->role;

	return (role_a > role_b) - (role_a < role_b);
}

/* Poll tasks that were taken and whose rows have been read. */
static void
worker_start_all(QueueTask **tasks, int n)
{
	const QueueRole *role = NULL;
	WorkerSettings found;

	qsort(tasks, n, sizeof(QueueTask *), worker_by_role);
	for (int i = 0; i < n; i++)
	{
		/* nobody's statement is cancelled here: see worker_iterate() */
		HOLD_CANCEL_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		RESUME_CANCEL_INTERRUPTS();
		if (tasks[i]->role != role)
			worker_find_settings(tasks[i]->role, &found);
		role = tasks[i]->role;
		worker_start(tasks[i], &found);
	}
}

/*
 * The rows of tasks that were taken have been read: put those back that have
 * none, forget those whose rows are gone, or were settled by others.  Returns
 * how many remain.
 */
static int
worker_match(QueueTask **tasks, int n, TableResult result)
{
	int64		now = monotonic_us();
	int			remain = 0;
	int			gone = 0;

	for (int i = 0; i < n; i++)
	{
		QueueTask  *task = tasks[i];

		if (task->row != NULL)
			tasks[remain++] = task;
		else if (result == TABLE_DONE)
		{
			durations_record_over(task, NULL);
			queue_remove(task);
			gone++;
		}
		else if (result == TABLE_FAILED && n == 1)
		{
			int			failures = queue_count(&task->read_failures);

			queue_put(task, now + retry_delay(RETRY_ROW, failures, 0.5));
		}
		else
			queue_put(task, Max(task->due, now));
	}

	/* Where rows are gone there may be many: reading them sends nothing. */
	worker.surplus = gone > 0 ? Min(2 * worker.surplus + gone, WORKER_ROUND) :
								0;
	return remain;
}

/* Read rows by their ids; a row is then that of its task. */
static TableResult
worker_read(const char **ids, int n, TableRows *rows)
{
	TableResult result = table_select_pending(ids, n, rows);

	if (result != TABLE_DONE)
		rows->n = 0;
	return result;
}

/* Rows have been read in this round, or are valid no longer. */
static void
worker_set_rows(const TableRows *rows, bool valid)
{
	for (int i = 0; i < rows->n; i++)
	{
		QueueTask  *task = queue_find(rows->rows[i].task_id);

		if (task != NULL)
			task->row = valid ? &rows->rows[i] : NULL;
		if (task != NULL && valid)
		{
			task->created_at = task->row->created_at;
			task->read_failures = 0;
		}
	}
}

/* Read rows whose ids were handed over, some at a time, and take them in. */
static TableResult
worker_read_new(TableRows *rows)
{
	const char *ids[WORKER_ROUND];
	const char *begin = worker.new_ids.data;
	const char *id = begin;
	int			n = 0;
	TableResult result;
	int64		now;

	for (; id < begin + worker.new_ids.len && n < WORKER_ROUND;
		 id += strlen(id) + 1)
		ids[n++] = id;
	result = worker_read(ids, n, rows);
	now = monotonic_us();
	for (int i = 0; i < rows->n; i++)
		worker_on_new_row(&rows->rows[i], now);
	worker_set_rows(rows, true);
	if (result == TABLE_FAILED)
		scan_request();			/* one of them may have failed it */
	if (result != TABLE_LOCKED)
	{
		worker.new_ids.len -= (int) (id - begin);
		memmove(worker.new_ids.data, id, worker.new_ids.len);
	}
	return result;
}

/* Read the rows of tasks that were taken, but for those just read. */
static TableResult
worker_read_due(QueueTask **tasks, int n, TableRows *rows)
{
	const char *ids[WORKER_ROUND];
	int			nids = 0;
	TableResult result;

	for (int i = 0; i < n; i++)
	{
		if (tasks[i]->row == NULL)
			ids[nids++] = tasks[i]->task_id;
	}
	if (nids == 0)
		return TABLE_DONE;
	result = worker_read(ids, nids, rows);
	worker_set_rows(rows, true);
	return result;
}

/* When to poll again after a round that ended so. */
static void
worker_plan_round(TableResult result, int n)
{
	int64		wait = worker_after(result);

	worker.poll_at = 0;
	if (result == TABLE_DONE)
		worker.round_size = Min(worker.round_size * 2, WORKER_ROUND);
	else if (result == TABLE_FAILED && n > 1)
		worker.round_size = 1;	/* one row may have failed it: find that */
	else
		worker.poll_at = monotonic_us() + wait;
}

/*
 * Poll the tasks that are due, and those whose ids were handed over.  Returns
 * whether there may be more.
 */
static bool
worker_poll(void)
{
	QueueTask  *tasks[WORKER_ROUND];
	TableRows	new_rows = {0};
	TableRows	rows = {0};
	TableResult result = TABLE_DONE;
	int64		now = monotonic_us();
	int			n = 0;

	if (!write_has_room() || now < worker.poll_at)
		return false;
	if (worker.new_ids.len == 0 && now < queue_next(now))
		return false;
	pgstat_report_activity(STATE_RUNNING, "polling tasks that are due");
	if (worker.new_ids.len > 0)
		result = worker_read_new(&new_rows);
	if (result == TABLE_DONE)
	{
		n = queue_take(tasks, Min(worker.round_size, http_room(poll_batch())),
					   worker.surplus, monotonic_us());
		result = worker_read_due(tasks, n, &rows);
	}
	worker_start_all(tasks, worker_match(tasks, n, result));
	worker_set_rows(&new_rows, false);
	worker_set_rows(&rows, false);
	worker_plan_round(result, n);
	pgstat_report_activity(STATE_IDLE, NULL);
	return worker.new_ids.len > 0 || worker.surplus > 0 ||
		worker.round_size < WORKER_ROUND;
}


/*
 * Writing
 */

/* Write what has been learned. */
static void
worker_write(void)
{
	TableResult result;
	int64		wait;

	if (write_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "writing tasks");
	counters_publish();
	result = write_backlog() > 0 ? write_updates() : write_retries();
	wait = worker_after(result);
	write_hold(result == TABLE_DONE ? 0 : monotonic_us() + wait);
	counters_publish();
	slot_wake_waiters();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Learn durations from rows that were settled before this process began. */
static void
worker_learn(void)
{
	if (durations_next_read() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "reading settled tasks");
	durations_read();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Give up some of the rows that are too old and are not polled. */
static void
worker_give_up(void)
{
	if (give_up_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "giving up old tasks");
	give_up_page();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Remove some of the rows that have been kept for long enough. */
static void
worker_remove(void)
{
	if (retention_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "removing settled tasks");
	retention_remove();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}


/*
 * The loop
 */

/*
 * Check whether settings have changed that something waits for, and whether the
 * table is still there.
 */
static void
worker_check_settings(void)
{
	volatile bool absent = false;
	const char *schema;
	Oid			table;

	pgstat_report_activity(STATE_RUNNING, "looking for changed settings");
	PG_TRY();
	{
		StartTransactionCommand();
		queue_check_settings(monotonic_us());
		absent = !table_find(&table, &schema);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		/* a role or server is just being dropped, most likely */
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker.round);
	if (absent)
		(void) worker_after(TABLE_ABSENT);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* The table has been altered: what stood in the way of rows may be gone. */
static void
worker_on_alteration(void)
{
	worker.alterations = table_alterations();
	worker.table_failures = 0;
	worker.round_size = WORKER_ROUND;
	worker.poll_at = 0;
	scan_hold(0);
	write_retry_all(monotonic_us());
}

/* Act upon what this worker was told. */
static void
worker_on_signals(void)
{
	SlotSignals signals = slot_signals();

	if (signals.leave)
	{
		slot_yield();
		proc_exit(0);
	}
	worker_take_new_ids();
	if (signals.commands != worker.signals.commands ||
		monotonic_us() >= queue_next_check())
		worker_check_settings();
	if (table_alterations() != worker.alterations)
		worker_on_alteration();
	worker.signals = signals;
}

/* Has it been told of anything since, or has a setting changed? */
static bool
worker_is_signalled(void)
{
	SlotSignals signals = slot_signals();

	return ConfigReloadPending || signals.work != worker.signals.work ||
		signals.commands != worker.signals.commands || signals.leave ||
		signals.finish != worker.signals.finish;
}

/* End the process, unless work has been announced meanwhile. */
static void
worker_leave(void)
{
	if (slot_leave(worker.signals.work))
		proc_exit(0);
}

/* Is there nothing to do, and nothing to be looked for? */
static bool
worker_is_idle(void)
{
	return queue_size() == 0 && worker.new_ids.len == 0 && scan_is_done();
}

/*
 * Others wait for a worker, and nothing more is polled.  Ends the process when
 * what is in flight has ended, which the servers' timeouts limit, and has been
 * written; if the table is locked that is lost, and polled again.
 */
static void
worker_finish(void)
{
	if (worker_is_idle())
		worker_leave();
	if (write_backlog() > 0 ? write_next() > monotonic_us() :
							  (http_in_flight(poll_batch()) == 0 &&
							   !http_has_finished(poll_batch())))
	{
		slot_yield();
		proc_exit(0);
	}
}

/* How long until then, in milliseconds; -1: until something happens. */
static long
worker_milliseconds_to(int64 until, int64 now)
{
	if (until == QUEUE_NEVER)
		return -1;
	return until <= now ? 0 : (long) ((until - now + 999) / 1000);
}

/* When to leave if nothing is to be done until then. */
static int64
worker_idle_end(int64 now)
{
	if (!worker_is_idle())
	{
		worker.idle_since = 0;
		return QUEUE_NEVER;
	}
	if (worker.idle_since == 0)
		worker.idle_since = now;
	return worker.idle_since + anyvod_idle_timeout * INT64CONST(1000);
}

/*
 * How long to wait at most, in milliseconds; -1: until something happens.
 * Leaves when there has been nothing to do for idle_timeout.
 */
static long
worker_time_to_wait(void)
{
	int64		now = monotonic_us();
	int64		idle_end = worker_idle_end(now);
	int64		until = Min(write_next(), scan_next());

	if (worker.signals.finish)
		return worker_milliseconds_to(write_next(), now);
	if (idle_end <= now)
		worker_leave();
	until = Min(until, idle_end);
	until = Min(until, durations_next_read());
	until = Min(until, retention_next());
	until = Min(until, queue_next_check());
	until = Min(until, give_up_next());
	if (write_has_room() && http_room(poll_batch()) > 0)
		until = Min(until,
					Max(worker.new_ids.len > 0 ? 0 : queue_next(now),
						worker.poll_at));
	return worker_milliseconds_to(until, now);
}

/*
 * End the process if workers are off.  The launcher may not know of that yet,
 * or may never learn of it if they are on again soon: the slot is kept.
 */
static void
worker_obey_setting(void)
{
	if (anyvod_worker)
		return;
	slot_yield();
	proc_exit(0);
}

/* Settings have changed. */
static void
worker_reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	worker_obey_setting();
}

/* A start that finds nothing to do ends before libcurl is even started. */
static void
worker_start_up(void)
{
	for (;;)
	{
		worker.signals = slot_signals();
		worker_take_new_ids();
		scan_begin();
		while (scan_is_starting() && !worker.absent && queue_size() == 0 &&
			   scan_next() <= monotonic_us())
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(worker.round);
			worker_scan();
		}
		if (!worker.absent && !worker_is_idle())
			return;
		worker_leave();
		worker.absent = false;	/* work has come meanwhile */
	}
}

/* One iteration. */
static void
worker_iterate(void)
{
	long		timeout = -1;

	counters_publish();			/* what follows counts after a reset */
	worker_on_signals();
	poll_read_responses();
	worker_write();
	worker_remove();
	worker_give_up();
	if (worker.signals.finish)
		worker_finish();
	else if (worker_poll())
		timeout = 0;
	worker_scan();
	if (worker.absent)
	{
		/* The extension was dropped, and all polls are void. */
		worker.signals = slot_signals();
		worker_leave();
		proc_exit(1);			/* it has been made again: start afresh */
	}
	if (timeout != 0)
	{
		worker_learn();
		timeout = worker_time_to_wait();
	}
	if (write_has_room() && http_has_finished(poll_batch()))
		timeout = 0;
	slot_set_blocked(queue_has_blocked(monotonic_us()) ||
					 write_next() != QUEUE_NEVER || worker.table_failures > 0);
	/* Waiting for a lock, or in a trigger, may have reset the latch. */
	if (timeout != 0 && worker_is_signalled())
		timeout = 0;
	counters_before_wait(timeout, queue_size(), queue_oldest_due());
	durations_publish(timeout);

	/* Nobody's statement is cancelled here; what is meant is to terminate. */
	HOLD_CANCEL_INTERRUPTS();
	(void) http_run_once(timeout);
	RESUME_CANCEL_INTERRUPTS();
	QueryCancelPending = false;
	if (ConfigReloadPending)
		worker_reload();
}

void
worker_main(Datum database)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database),
											  InvalidOid, 0);
	slot_attach();
	worker_obey_setting();
	table_pin_settings();
	worker.round = AllocSetContextCreate(TopMemoryContext, "anyvod round",
										 ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&worker.new_ids);
	worker.round_size = WORKER_ROUND;
	queue_init();
	durations_init();
	poll_init();
	MemoryContextSwitchTo(worker.round);
	pgstat_report_activity(STATE_IDLE, NULL);

	worker_start_up();
	slot_set_serving();
	counters_attach();
	for (;;)
	{
		MemoryContextReset(worker.round);
		MemoryContextSwitchTo(worker.round);
		worker_iterate();
	}
}
