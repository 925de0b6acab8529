/*-------------------------------------------------------------------------
 *
 * worker.c
 *		One process per database with pending tasks: the loop that asks for
 *		them and writes what was learned.
 *
 * A turn of the loop takes the tasks that are due, or will be in a moment, and
 * confirms in one short read-only transaction that their rows are still pending
 * (unless it has just found them); starts a request for each when it is due,
 * unless what was read may not hold any more; waits, with no transaction open,
 * until something happens; reads the answers that have come; and writes what
 * they change in one transaction.  An answer that changes nothing is not
 * written.
 *
 * What is kept in memory between turns is in queue.c, and may be lost at any
 * time: the table is the truth, and asking twice is as good as asking once.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "common/pg_prng.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "response/answer.h"
#include "anyvod.h"
#include "worker/expire.h"
#include "http/client.h"
#include "launcher/launcher.h"
#include "worker/lister.h"
#include "worker/pace.h"
#include "worker/question.h"
#include "worker/queue.h"
#include "schedule/schedule.h"
#include "control/stat.h"
#include "table/tracker.h"
#include "server/settings.h"
#include "worker/writer.h"

#define SECOND INT64CONST(1000000)

/*
 * Tasks that one round takes at most.  It takes those as well that fall due
 * within this time, and leaves what else turns up in it to the next: reading
 * rows costs much the same for one as for some.  But each is asked for when it
 * is due itself.  Tasks that are asked for at once are due at once from then
 * on, and become more each time.
 */
#define WORKER_ROUND 1000
#define WORKER_ROUND_PAUSE (SECOND / 250)

/*
 * Rows that are found in a turn and asked for in it without being read again:
 * few, since it is their delay that this is for.
 */
#define WORKER_FOUND 32

/*
 * Look again at a locked table after this, and at one that could not be read
 * at all after twice as long each time.
 */
#define WORKER_BUSY_WAIT (SECOND / 4)
#define WORKER_LONGEST_WAIT (60 * SECOND)

/*
 * A role or server that a row names may come back, and so may its key's file.
 * That is noticed sooner if a command or the file itself shows it.
 */
#define WORKER_ACCOUNT_WAIT (60 * SECOND)

/*
 * Memory that is kept for the next transaction, in bytes; what is as large as
 * the second is given back at once, though.
 */
#define WORKER_SPARE_MEMORY (2 * 1024 * 1024)
#define WORKER_LARGE_MEMORY (256 * 1024)

/*
 * Rows that are too old and are not asked for, because of some lasting
 * trouble, are looked for so often.  One that was too old from the beginning
 * is given a chance to be asked for this long.
 */
#define WORKER_GIVE_UP_WAIT (10 * SECOND)
#define WORKER_GRACE (3600 * SECOND)

static struct
{
	MemoryContext asks;			/* questions on their way */
	MemoryContext round;		/* one round's scratch */
	HttpBatch  *batch;
	pairingheap *ahead;			/* questions whose tasks are not due yet */
	LauncherNews news;			/* what was acted upon */
	int64		give_up_at;		/* when to look for rows that are too old */
	int64		idle_since;
	int			table_failures; /* in a row, of reading or writing it */
	int			round_size;		/* tasks that a round takes, 1 after failure */
	int64		ask_at;			/* no round before this */
	int64		round_at;		/* nor this, unless there is something new */
	int			in_flight;		/* when the last round was over */
	bool		full;			/* then only answers make more due so soon */
	bool		absent;			/* the table is not there */
	int			nfound;			/* tasks whose rows this turn has found */
	const QueueTask *found[WORKER_FOUND];
} worker;


/*
 * Small things
 */

/*
 * A transaction on the table has come to this outcome: note it, and say how
 * long to wait before the next if it was not carried out.
 */
static int64
worker_note_outcome(TrackerOutcome outcome)
{
	int64		wait = WORKER_BUSY_WAIT;

	if (outcome == TRACKER_ABSENT)
		worker.absent = true;
	if (outcome == TRACKER_FAILED)
		worker.table_failures++;
	else
		worker.table_failures = 0;
	for (int i = 1; i < worker.table_failures && wait < WORKER_LONGEST_WAIT;
		 i++)
		wait *= 2;
	return Min(wait, WORKER_LONGEST_WAIT);
}

/* A task is pending no more, as far as an answer (NULL: none) says why. */
static void
worker_forget_task(QueueTask *task, const Answer *answer)
{
	pace_note_over(task, answer);
	queue_remove(task);
}


/*
 * Listing
 */

/* The row of a task that is due has been found. */
static void
worker_on_found(const QueueTask *task)
{
	if (worker.nfound < WORKER_FOUND)
		worker.found[worker.nfound++] = task;
}

/* Look for rows that are not known yet. */
static void
worker_list(void)
{
	TrackerOutcome outcome;
	uint64		known = queue_size();
	int64		wait;

	if (lister_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "listing pending tasks");
	outcome = lister_list(worker_on_found);
	if (queue_size() > known)
		worker.round_at = 0;
	wait = worker_note_outcome(outcome);
	if (outcome != TRACKER_DONE)
		lister_hold(monotonic_us() + wait);
	launcher_serve();
	pgstat_report_activity(STATE_IDLE, NULL);
}


/*
 * Asking
 */

/* The server and role of the rows that are being confirmed. */
typedef struct WorkerAccount
{
	NameData	server;
	NameData	owner;
	bool		known;			/* it has been looked up */
	Oid			serverid;		/* InvalidOid: there is none */
	Oid			userid;			/* the same */
	const ServerSettings *settings; /* NULL: not to be had */
	char		error_code[6];	/* then why, an SQLSTATE */
	char	   *error_message;
} WorkerAccount;

/* Look the account of a row up; an error stays with its rows. */
static void
worker_find_account(WorkerAccount *account, const TrackerRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	if (account->known &&
		strcmp(NameStr(account->server), row->server) == 0 &&
		strcmp(NameStr(account->owner), row->owner) == 0)
		return;
	namestrcpy(&account->server, row->server);
	namestrcpy(&account->owner, row->owner);
	account->known = true;
	account->settings = NULL;
	account->serverid = get_foreign_server_oid(row->server, true);
	account->userid = InvalidOid;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		account->userid = get_role_oid(row->owner, false);
		account->settings = server_settings_get(row->server, account->userid);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* That the time is up is no trouble of the account. */
		if (geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		MemoryContextSwitchTo(worker.round);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		account->settings = NULL;
		account->error_message = error->message;
		strlcpy(account->error_code, unpack_sql_state(error->sqlerrcode),
				sizeof(account->error_code));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

/* The row of a task has no server or role that could ask for it. */
static void
worker_note_no_account(QueueTask *task, const TrackerRow *row,
					   const WorkerAccount *account)
{
	Question   *ask = question_make(task, row);
	MemoryContext context = ask->context;
	TrackerChange *change;

	stat_note_error(account->error_code);
	task->held = task->barred = true;
	ask->due = monotonic_us() + WORKER_ACCOUNT_WAIT;
	task->account->serverid = account->serverid;
	task->account->userid = account->userid;
	task->account->settings_id = 0;
	queue_check_account(task->account, ask->due);
	change = question_note_trouble(ask, NULL, account->error_code,
								   account->error_message);
	if (change == NULL)
		return;
	change->error_code = MemoryContextStrdup(context, account->error_code);
	change->error_message = MemoryContextStrdup(context,
												account->error_message);
	change->native = true;
}

/* The earlier is the greater, as the heap gives the greatest first. */
static int
worker_compare(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Question *ask_a = pairingheap_const_container(Question, node, a);
	const Question *ask_b = pairingheap_const_container(Question, node, b);

	return (ask_a->task->due < ask_b->task->due) -
		(ask_a->task->due > ask_b->task->due);
}

/* The first of the questions that wait for their time; NULL if none does. */
static Question *
worker_first_ahead(void)
{
	if (pairingheap_is_empty(worker.ahead))
		return NULL;
	return pairingheap_container(Question, node,
								 pairingheap_first(worker.ahead));
}

/* A question that has been made goes out. */
static void
worker_send(Question *ask, int64 now)
{
	ask->task->polls++;
	pace_note_start(ask->task, now);
	stat_note_request(ask->serverid, ask->umid);
}

/* It does not, after all: its row is to be read again. */
static void
worker_take_back(Question *ask)
{
	queue_take_back(ask->task);
	question_free(ask);
}

/* None of those that wait does. */
static void
worker_take_all_back(void)
{
	while (!pairingheap_is_empty(worker.ahead))
	{
		Question   *ask = worker_first_ahead();

		(void) pairingheap_remove_first(worker.ahead);
		worker_take_back(ask);
	}
}

/*
 * Those whose time has come do, unless there has been trouble meanwhile, or it
 * has been so long that their rows may have changed: a lock may be waited for.
 */
static void
worker_send_due(void)
{
	int64		now = monotonic_us();
	Question   *ask;

	while ((ask = worker_first_ahead()) != NULL && ask->task->due <= now)
	{
		QueueTask  *task = ask->task;

		(void) pairingheap_remove_first(worker.ahead);
		if (queue_is_well(task->account, now) &&
			now - task->due <= WORKER_ROUND_PAUSE)
			worker_send(ask, now);
		else
			worker_take_back(ask);
	}
}

/* Poll a task, if its server may be asked for its row. */
static void
worker_start(QueueTask *task, const TrackerRow *row, WorkerAccount *account)
{
	char		path[SERVER_PATH_SIZE];
	int64		now = monotonic_us();
	Question   *ask;

	task->created_at = row->created_at;
	if (!queue_is_of(task, row->server, row->owner))
	{
		queue_move(task, row->server, row->owner, now);
		return;
	}
	worker_find_account(account, row);
	if (account->settings == NULL)
	{
		worker_note_no_account(task, row, account);
		return;
	}
	queue_note_limits(task->account->server, account->settings);
	if (queue_account_paused(task->account, account->settings, now))
	{
		queue_put(task, task->due);
		return;
	}
	task->barred = false;

	ask = question_make(task, row);
	ask->settings_id = account->settings->id;
	ask->serverid = account->settings->serverid;
	ask->userid = account->settings->userid;
	ask->umid = account->settings->umid;
	snprintf(path, sizeof(path), SERVER_QUERY_PATH "%s", task->task_id);
	ask->request = http_start(worker.batch, account->settings, path, ask);
	queue_note_start(task, now);
	worker_send(ask, now);
}

/* The row of a task that is due is still pending. */
static void
worker_on_confirmed(const TrackerRow *row, void *arg)
{
	QueueTask  *task = queue_find(row->task_id);

	if (task == NULL || task->confirmed)
		return;
	worker_start(task, row, arg);
	task->confirmed = true;		/* if that failed, it is tried again */
}

/* After a round: what has become of the tasks that were taken. */
static void
worker_settle_round(QueueTask **tasks, int n, TrackerOutcome outcome)
{
	int64		wait = worker_note_outcome(outcome);
	int64		now = monotonic_us();

	for (int i = 0; i < n; i++)
	{
		QueueTask  *task = tasks[i];

		if (task->confirmed)
			continue;
		if (outcome == TRACKER_DONE)
			worker_forget_task(task, NULL); /* deleted, or settled by others */
		else if (outcome == TRACKER_FAILED && n == 1)
		{
			int64		retry;

			(void) queue_count(&task->row_failures);
			retry = schedule_retry(SCHEDULE_ROW, task->row_failures,
								   pg_prng_double(&pg_global_prng_state));
			queue_put(task, now + retry);
		}
		else
			queue_put(task, Max(task->due, now));
	}

	/* One row may have failed the round: find it by asking for them singly. */
	worker.ask_at = 0;
	if (outcome == TRACKER_DONE)
		worker.round_size = Min(worker.round_size * 2, WORKER_ROUND);
	else if (outcome == TRACKER_FAILED && n > 1)
		worker.round_size = 1;
	else
		worker.ask_at = now + wait;
}

/* Tasks of one account come together, so that it is looked up once. */
static int
worker_by_account(const void *a, const void *b)
{
	const QueueAccount *account_a = (*(QueueTask *const *) a)->account;
	const QueueAccount *account_b = (*(QueueTask *const *) b)->account;

	return (account_a > account_b) - (account_a < account_b);
}

/* Have the rows of all these tasks been found in this turn? */
static bool
worker_has_found(QueueTask **tasks, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			j = 0;

		while (j < worker.nfound && worker.found[j] != tasks[i])
			j++;
		if (j == worker.nfound)
			return false;
	}
	return true;
}

/* See to tasks whose rows have just been found: nothing else is in them. */
static TrackerOutcome
worker_visit_found(QueueTask **tasks, int n, TrackerRowVisit visit, void *arg)
{
	TrackerRow	rows[WORKER_FOUND];

	for (int i = 0; i < n; i++)
		rows[i] = (TrackerRow){
			.task_id = tasks[i]->task_id,
			.server = NameStr(tasks[i]->account->server_name),
			.owner = NameStr(tasks[i]->account->owner),
			.progress = -1,
			.created_at = tasks[i]->created_at,
		};
	return tracker_visit(rows, n, visit, arg);
}

/* Read the rows of tasks, and see to them. */
static TrackerOutcome
worker_confirm(QueueTask **tasks, int n, TrackerRowVisit visit, void *arg)
{
	const char *task_ids[WORKER_ROUND];

	for (int i = 0; i < n; i++)
		task_ids[i] = tasks[i]->task_id;
	return tracker_confirm(task_ids, n, visit, arg);
}

/* Read the rows of the tasks that were taken, and see to them. */
static void
worker_read_rows(QueueTask **tasks, int n, TrackerRowVisit visit, void *arg)
{
	TrackerOutcome outcome;

	qsort(tasks, n, sizeof(QueueTask *), worker_by_account);
	pgstat_report_activity(STATE_RUNNING, "reading tasks that are due");
	if (n <= worker.nfound && worker_has_found(tasks, n))
		outcome = worker_visit_found(tasks, n, visit, arg);
	else
		outcome = worker_confirm(tasks, n, visit, arg);
	pgstat_report_activity(STATE_IDLE, NULL);
	worker_settle_round(tasks, n, outcome);
}

/*
 * No round before this.  Where nothing that waits falls due before the pause is
 * over, since it has been taken or servers take no more questions at once, the
 * next ones may be due as soon as half of these are answered.
 */
static int64
worker_next_round(void)
{
	if (worker.full && http_in_flight(worker.batch) <= worker.in_flight / 2)
		return worker.ask_at;
	return Max(worker.ask_at, worker.round_at);
}

/* Poll the tasks that are due.  Returns whether there may be more. */
static bool
worker_ask(void)
{
	QueueTask  *tasks[WORKER_ROUND];
	WorkerAccount account;
	int64		now = monotonic_us();
	int			n;

	if (writer_backlog() >= WRITER_BACKLOG || now < worker_next_round() ||
		now < queue_next(now))
		return false;
	n = queue_take(tasks, Min(worker.round_size, http_room(worker.batch)), now,
				   now);
	if (n == 0)
		return false;
	memset(&account, 0, sizeof(account));
	worker_read_rows(tasks, n, worker_on_confirmed, &account);
	if (n == WORKER_ROUND || worker.round_size < WORKER_ROUND)
		return true;
	worker.round_at = now + WORKER_ROUND_PAUSE;
	worker.in_flight = http_in_flight(worker.batch);
	worker.full = queue_next(now) >= worker.round_at;
	return false;
}


/*
 * Giving up
 */

/* A task that is not asked for and seemed too old: is its row? */
static void
worker_on_stuck(const TrackerRow *row, void *arg)
{
	QueueTask  *task = queue_find(row->task_id);
	int64		now = monotonic_us();
	const QueueTrouble *trouble;
	TrackerChange *change;
	Question   *ask;

	if (task == NULL || task->confirmed)
		return;
	task->created_at = row->created_at;
	trouble = queue_trouble(task, now);
	if (!queue_is_of(task, row->server, row->owner))
		queue_move(task, row->server, row->owner, now);
	else if (trouble == NULL || !question_is_too_old(task))
		queue_put(task, task->due);
	else
	{
		ask = question_make(task, row);
		ask->due = Max(task->due, now);
		change = question_add_change(ask, "abandoned");
		change->error_code = MemoryContextStrdup(ask->context, trouble->code);
		change->error_message = MemoryContextStrdup(ask->context,
													trouble->message);
	}
	task->confirmed = true;
}

/*
 * Give up rows that are too old and whose server or account is in trouble for
 * long, so that no answer comes to do it.
 */
static void
worker_give_up(void)
{
	QueueTask  *tasks[WORKER_ROUND];
	int64		now = monotonic_us();
	int64		age = anyvod_give_up_after * SECOND;
	int			max = Min(worker.round_size, WRITER_BACKLOG - writer_backlog());
	bool		more;
	int			n;

	if (max <= 0 || now < Max(worker.give_up_at, worker.ask_at) ||
		!queue_is_stuck(now))
		return;
	n = queue_take_stuck(tasks, max, GetCurrentTimestamp() - age,
						 Min(age, WORKER_GRACE), now, &more);
	worker.give_up_at = more ? now : now + WORKER_GIVE_UP_WAIT;
	if (n > 0)
		worker_read_rows(tasks, n, worker_on_stuck, NULL);
}


/* Read the answers that have come, and see to what follows from each. */
static void
worker_read(void)
{
	HttpRequest *request;

	while (writer_backlog() < WRITER_BACKLOG &&
		   (request = http_take_finished(worker.batch)) != NULL)
		question_end(request->tag);
}


/*
 * Writing
 */

/* A change has been written, or cannot be now. */
static void
worker_on_written(WriterItem *item, bool over)
{
	Question   *ask = item->tag;

	if (over)
		worker_forget_task(ask->task, item->change.answer);
	else
	{
		ask->due = item->due;
		question_put_back(ask);
	}
	question_free(ask);
}

/* Write what has been learned. */
static void
worker_write(void)
{
	int64		wait;
	TrackerOutcome outcome;

	if (writer_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "writing tasks");
	outcome = writer_write();
	wait = worker_note_outcome(outcome);
	writer_hold(outcome == TRACKER_DONE ? 0 : monotonic_us() + wait);
	launcher_tell_sleepers();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}


/*
 * Retention
 */

/* Remove some of the rows that have been kept for long enough. */
static void
worker_expire(void)
{
	if (expire_next() > monotonic_us())
		return;
	pgstat_report_activity(STATE_RUNNING, "removing settled tasks");
	expire_slice();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}


/*
 * The loop
 */

/* What stood in the way of tasks may be gone: try them at once. */
static void
worker_retry_tasks(void)
{
	queue_retry(NULL, monotonic_us());
	worker.table_failures = 0;
	worker.round_size = WORKER_ROUND;
	worker.ask_at = 0;
	lister_hold(0);
	writer_hold(0);
}

/* What has been announced? */
static void
worker_note_news(void)
{
	LauncherNews news = launcher_news();

	if (news.go)
	{
		launcher_step_aside();
		proc_exit(0);
	}
	if (news.wakes != worker.news.wakes ||
		news.own_work != worker.news.own_work)
		lister_note_news();
	if (news.changes != worker.news.changes ||
		news.mends != worker.news.mends || news.turn_over)
		worker_take_all_back();
	if (news.changes != worker.news.changes)
	{
		queue_forget_trouble(monotonic_us());
		stat_forget_pauses();
	}
	if (news.changes != worker.news.changes ||
		news.mends != worker.news.mends)
		worker_retry_tasks();
	worker.news = news;
	question_note_changes(news.changes);
}

/* Has anything been announced since, or a setting been changed? */
static bool
worker_has_news(void)
{
	LauncherNews news = launcher_news();

	return ConfigReloadPending || news.wakes != worker.news.wakes ||
		news.changes != worker.news.changes ||
		news.mends != worker.news.mends ||
		news.own_work != worker.news.own_work || news.go ||
		news.turn_over != worker.news.turn_over;
}

/* End the process, unless work has been announced meanwhile. */
static void
worker_leave(void)
{
	if (launcher_leave(worker.news.wakes))
		proc_exit(0);
}

/* Is there nothing to do, and nothing to be looked for? */
static bool
worker_is_idle(void)
{
	return queue_size() == 0 && lister_is_done();
}

/*
 * Others wait for a worker or a place, and this one has had its turn: nothing
 * more is asked.  Ends the process when what is under way has come to its end,
 * which the servers' timeouts limit, unless the table is locked; the answers
 * to be written are lost then, and asked for again.
 */
static void
worker_end_turn(void)
{
	if (worker_is_idle())
		worker_leave();
	if (writer_backlog() > 0 ? writer_next() > monotonic_us() :
							   (http_in_flight(worker.batch) == 0 &&
								!http_has_finished(worker.batch)))
	{
		launcher_end_turn();
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

/*
 * How long to wait at most, in milliseconds; -1: until something happens.
 * Leaves when there is nothing to do, and has not been for idle_timeout.
 */
static long
worker_time_to_wait(void)
{
	int64		now = monotonic_us();
	int64		until = Min(Min(lister_next(), writer_next()),
							pace_next_lesson());
	const Question *ahead = worker_first_ahead();
	bool		idle = worker_is_idle();

	if (worker.news.turn_over)
		return worker_milliseconds_to(writer_next(), now);

	if (ahead != NULL)
		until = Min(until, ahead->task->due);
	if (writer_backlog() < WRITER_BACKLOG && http_room(worker.batch) > 0)
		until = Min(until, Max(queue_next(now), worker_next_round()));
	launcher_note_rest(http_in_flight(worker.batch) > 0 ? now : until);
	until = Min(until, expire_next());
	if (writer_backlog() < WRITER_BACKLOG && queue_is_stuck(now))
		until = Min(until, Max(worker.give_up_at, worker.ask_at));
	if (queue_size() > 0)
		until = Min(until, queue_next_check());

	if (!idle)
		worker.idle_since = 0;
	else
	{
		int64		end;

		if (worker.idle_since == 0)
			worker.idle_since = now;
		end = worker.idle_since + anyvod_idle_timeout * INT64CONST(1000);
		if (end <= now)
			worker_leave();
		until = Min(until, end);
	}
	return worker_milliseconds_to(until, now);
}

/*
 * End the process if workers are off.  The launcher may not know of that yet,
 * or may never learn of it if they are on again soon: the place is kept.
 */
static void
worker_heed_setting(void)
{
	if (anyvod_worker)
		return;
	launcher_step_aside();
	proc_exit(0);
}

/* Settings have changed. */
static void
worker_reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	worker_heed_setting();
}

/*
 * Each transaction uses about as much memory as the one before: give it back
 * to the system only when there is much of it.
 */
static void
worker_keep_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_TRIM_THRESHOLD, WORKER_SPARE_MEMORY);
	(void) mallopt(M_MMAP_THRESHOLD, WORKER_LARGE_MEMORY);
#endif
}

/* Make what the loop works with. */
static void
worker_init(void)
{
	MemoryContext old;

	worker.asks = AllocSetContextCreate(TopMemoryContext, "anyvod questions",
										ALLOCSET_DEFAULT_SIZES);
	worker.round = AllocSetContextCreate(TopMemoryContext, "anyvod round",
										 ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(worker.asks);
	worker.ahead = pairingheap_allocate(worker_compare, NULL);
	MemoryContextSwitchTo(old);
	question_init(worker.asks);
	worker_keep_memory();
	queue_init();
	pace_init();
	writer_init(worker_on_written);
	worker.round_size = WORKER_ROUND;
}

/* A visit that found nothing to do ends before libcurl is even started. */
static void
worker_first_look(void)
{
	for (;;)
	{
		worker.news = launcher_news();
		question_note_changes(worker.news.changes);
		lister_restart();
		do
			worker_list();
		while (lister_is_listing() && queue_size() == 0);
		if (worker.absent || worker_is_idle())
		{
			worker_leave();
			worker.absent = false;
			continue;			/* work has come meanwhile */
		}
		break;
	}
}

static void
worker_check_body(void *arg)
{
	queue_check_accounts(monotonic_us());
}

/*
 * Do accounts that wait for other settings have them?  If that cannot be told,
 * it is tried again in a while.
 */
static void
worker_check_accounts(void)
{
	ErrorData  *error = NULL;

	if (monotonic_us() >= queue_next_check())
		(void) tracker_run(AccessShareLock, TRACKER_TIME_LIMIT,
						   worker_check_body, NULL, &error);
	if (error != NULL)
		FreeErrorData(error);
}

/* One turn. */
static void
worker_turn(void)
{
	long		timeout = -1;

	worker.nfound = 0;			/* they may have changed during the wait */
	worker_note_news();
	worker_check_accounts();
	worker_read();
	worker_write();
	worker_expire();
	worker_give_up();
	worker_list();				/* its rows are asked for before they change */
	if (worker.news.turn_over)
		worker_end_turn();
	else if (worker_ask())
		timeout = 0;
	else
		pace_learn();
	worker_send_due();
	MemoryContextReset(worker.round);
	if (worker.absent)
	{
		/* The extension was dropped, and all questions are void. */
		worker_note_news();
		worker_leave();
		proc_exit(1);			/* it has been made again: start afresh */
	}
	if (timeout != 0)
		timeout = worker_time_to_wait();
	if (writer_backlog() < WRITER_BACKLOG && http_has_finished(worker.batch))
		timeout = 0;
	/* Waiting for a lock, or in a trigger, may have reset the latch. */
	if (timeout != 0 && worker_has_news())
		timeout = 0;

	stat_before_wait(timeout);
	pace_publish(timeout);

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
	launcher_attach();
	worker_heed_setting();
	tracker_pin_settings();
	worker_init();
	MemoryContextSwitchTo(worker.round);
	pgstat_report_activity(STATE_IDLE, NULL);

	worker_first_look();
	stat_attach();
	worker.batch = http_batch_create(worker.asks);
	for (;;)
	{
		MemoryContextSwitchTo(worker.round);
		worker_turn();
	}
}
