/*-------------------------------------------------------------------------
 *
 * question.c
 *		A worker's question about a task, and what follows from its answer for
 *		the row, the schedule and the statistics.
 *
 * A question that is over becomes a change that is to be written, or puts its
 * task back into the queue.  Who asks, and when, is not known here.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "response/answer.h"
#include "anyvod.h"
#include "http/client.h"
#include "worker/durations.h"
#include "worker/question.h"
#include "worker/queue.h"
#include "schedule/retry.h"
#include "control/counters.h"
#include "table/tracker.h"
#include "worker/writer.h"

#define SECOND INT64CONST(1000000)

static struct
{
	MemoryContext asks;			/* questions on their way */
	uint32		changes;		/* of servers or mappings, that are known */
} questions;


static double
question_random(void)
{
	return pg_prng_double(&pg_global_prng_state);
}

/* How long to wait after a failure of this kind. */
static int64
question_retry(RetryKind why, int failures)
{
	return retry_delay(why, failures, question_random());
}

static bool
question_same(const char *a, const char *b)
{
	return a == NULL ? b == NULL : (b != NULL && strcmp(a, b) == 0);
}

/* Questions are to be made in that memory context. */
void
question_init(MemoryContext context)
{
	questions.asks = context;
}

/* So many changes of servers or mappings are known from now on. */
void
question_note_changes(uint32 changes)
{
	questions.changes = changes;
}

/* What a row says when its question is asked. */
Question *
question_make(QueueTask *task, const TrackerRow *row)
{
	MemoryContext context = AllocSetContextCreate(questions.asks,
												  "anyvod question",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Question   *ask = palloc0(sizeof(Question));

	ask->context = context;
	ask->task = task;
	ask->changes = questions.changes;
	namestrcpy(&ask->server, row->server);
	namestrcpy(&ask->owner, row->owner);
	ask->status = row->status ? pstrdup(row->status) : NULL;
	ask->progress = row->progress;
	ask->task_type = row->task_type ? pstrdup(row->task_type) : NULL;
	ask->model = row->model ? pstrdup(row->model) : NULL;
	ask->error_code = row->error_code ? pstrdup(row->error_code) : NULL;
	ask->has_started_at = row->has_started_at;
	ask->started_at = row->started_at;
	MemoryContextSwitchTo(old);
	return ask;
}

/* Forget a question and its answer; its task has been seen to. */
void
question_free(Question *ask)
{
	if (ask->request != NULL)
		http_release(ask->request);
	MemoryContextDelete(ask->context);
}

/*
 * A question is over: ask again when it is due, or at once if it met trouble
 * of a server or key that has been changed since it was asked.
 */
void
question_put_back(Question *ask)
{
	QueueTask  *task = ask->task;

	if (task->held && ask->changes != questions.changes)
	{
		task->held = false;
		task->failures = 0;
		ask->due = monotonic_us();
	}
	queue_put(task, ask->due);
}

/* A question changes nothing. */
static void
question_drop(Question *ask)
{
	if (ask->request != NULL)
		counters_unchanged();
	question_put_back(ask);
	question_free(ask);
}

/* A change of a row, to be written with others once the caller is done. */
TrackerChange *
question_add_change(Question *ask, const char *state)
{
	WriterItem *item = &ask->item;
	TrackerChange *change = &item->change;

	item->tag = ask;
	item->task = ask->task;
	item->row_code = ask->error_code;
	item->answered = ask->status != NULL;
	item->due = ask->due;
	change->task_id = ask->task->task_id;
	change->server = NameStr(ask->server);
	change->owner = NameStr(ask->owner);
	change->state = state;
	change->polls = ask->task->polls;
	writer_add(item);
	return change;
}

/* Is a row so old that the upstream does not know its task any more? */
bool
question_is_too_old(const QueueTask *task)
{
	return task->created_at <
		GetCurrentTimestamp() - anyvod_give_up_after * SECOND;
}

/*
 * A row's own trouble: written into the row while it is new there, and the
 * reason it is abandoned for when it is too old.  Takes the question over;
 * returns the change if there is one.
 */
TrackerChange *
question_note_trouble(Question *ask, const Answer *answer, const char *code,
					  const char *message)
{
	bool		old = question_is_too_old(ask->task);
	TrackerChange *change;

	if (!old && question_same(ask->error_code, code))
	{
		question_drop(ask);
		return NULL;
	}
	change = question_add_change(ask, old ? "abandoned" : "pending");
	change->answer = answer;
	change->error_code = code;
	change->error_message = message;
	return change;
}


/*
 * Answers
 */

/* The code of what an answer complains of, or of what it amounts to. */
static const char *
question_code(const Answer *answer)
{
	return answer->error_code ?
		answer->error_code :
		answer_verdict_name(answer->verdict);
}

/* Does a running task's answer say anything that its row does not? */
static bool
question_is_news(const Question *ask, const Answer *answer)
{
	if (ask->error_code != NULL)
		return true;
	if (answer->status && !question_same(answer->status, ask->status))
		return true;
	if (answer->progress >= 0 && answer->progress != ask->progress)
		return true;
	if (answer->task_type && !question_same(answer->task_type, ask->task_type))
		return true;
	if (answer->model && !question_same(answer->model, ask->model))
		return true;
	return answer->has_started_at &&
		!(ask->has_started_at && ask->started_at == answer->started_at);
}

/* The task runs on. */
static void
question_on_running(Question *ask, const Answer *answer, int64 now)
{
	QueueTask  *task = ask->task;

	task->troubles = 0;
	task->held = false;
	queue_note_answer(task, ask->request->started);
	/* the wait counts from when the answer came, not from when it is read */
	ask->due = durations_record_running(task, answer,
										ask->request->started +
											ask->request->elapsed);
	if (question_is_too_old(task))
		question_add_change(ask, "abandoned")->answer = answer;
	else if (question_is_news(ask, answer))
		question_add_change(ask, "pending")->answer = answer;
	else
		question_drop(ask);
}

/* The task has ended. */
static void
question_on_ended(Question *ask, const Answer *answer, const char *state,
				  int64 now)
{
	queue_note_answer(ask->task, ask->request->started);
	ask->due = now;				/* if it cannot be written now */
	question_add_change(ask, state)->answer = answer;
}

/* A trouble of the task itself that is borne for a while. */
static void
question_on_trouble(Question *ask, const Answer *answer, RetryKind why,
					int64 now)
{
	QueueTask  *task = ask->task;
	const char *code = question_code(answer);
	uint32		now_ms = (uint32) (now / 1000);
	int64		since;

	queue_note_answer(task, ask->request->started);
	if (task->troubles == 0 || task->trouble != why)
	{
		task->trouble = why;
		task->troubles = 0;
		task->trouble_since = now_ms;
	}
	(void) queue_count(&task->troubles);
	since = (now_ms - task->trouble_since) * INT64CONST(1000);
	if (retry_is_final(why, task->troubles, since))
	{
		TrackerChange *change;

		ask->due = now;			/* if it cannot be written now */
		change = question_add_change(ask, "failed");
		change->answer = answer;
		change->error_code = code;
		change->error_message = answer->error_message;
		return;
	}
	ask->due = now + question_retry(why, task->troubles);
	question_note_trouble(ask, answer, code, answer->error_message);
}

/*
 * The server is in trouble.  That is not written into the row, unless it is
 * to be abandoned.  One that wants fewer questions is asked again as soon as
 * its pause is over; but a task that alone meets that has a clock of its own.
 */
static void
question_on_server_trouble(Question *ask, RetryKind why, const char *code,
						   const char *message, int64 now)
{
	QueueTask  *task = ask->task;
	QueueServer *server = task->account->server;

	/* It would have refused the key, if that were no good. */
	if (ask->request->result == HTTP_COMPLETE &&
		ask->request->status < 500 && why != RETRY_RATE_LIMITED)
		queue_note_accepted(task->account, ask->request->started);

	/* What is said under 200 is about the task; the server does answer. */
	if (why == RETRY_TRANSIENT && ask->request->status == 200)
		queue_note_success(server, ask->request->started);
	else
	{
		queue_note_failure(task, why, ask->request->retry_after,
						   ask->request->started, now, question_random());
		queue_note_trouble(&server->trouble, code, message, now);
	}
	if (why == RETRY_RATE_LIMITED)
		durations_throttle(task, now);
	task->held = true;
	(void) queue_count(&task->failures);
	ask->due = now;
	if (now >= server->health.paused_until)
		ask->due += Max(question_retry(why, task->failures),
						ask->request->retry_after * SECOND);
	else if (why != RETRY_RATE_LIMITED)
		ask->due += question_retry(why, task->failures);
	if (question_is_too_old(task))
	{
		TrackerChange *change = question_add_change(ask, "abandoned");

		change->error_code = code;
		change->error_message = message;
	}
	else
		question_drop(ask);
}

/*
 * The server refuses the key: this role asks it nothing for a while, unless
 * the key is accepted for its other tasks.
 */
static void
question_on_auth(Question *ask, const Answer *answer, int64 now)
{
	QueueTask  *task = ask->task;
	QueueAccount *account = task->account;
	int64		until = now + question_retry(RETRY_AUTH, 1);

	queue_note_success(account->server, ask->request->started);
	task->held = task->barred = true;
	ask->due = until;
	if (queue_note_refusal(task, ask->request->started))
	{
		queue_note_trouble(&account->trouble, question_code(answer),
						   answer->error_message, now);
		account->serverid = ask->serverid;
		account->userid = ask->userid;
		queue_pause_account(account, ask->settings_id, until);
		counters_key_refused(ask->serverid, ask->umid, until);
	}
	(void) queue_count(&task->failures);
	if (question_is_too_old(task))
	{
		TrackerChange *change = question_add_change(ask, "abandoned");

		change->error_code = answer->error_code;
		change->error_message = answer->error_message;
	}
	else
		question_drop(ask);
}

/* How often a request was sent after the first time. */
static int
question_retries(const Question *ask)
{
	return Max(ask->request->attempts - 1, 0);
}

/* What is counted of a request that has ended. */
static void
question_count(const Question *ask, CountedRequest *counted)
{
	const HttpRequest *request = ask->request;

	*counted = (CountedRequest){
		.serverid = ask->serverid,
		.umid = ask->umid,
		.result = request->result,
		.phase = request->phase,
		.http_status = request->status,
		.elapsed = request->elapsed,
		.retries = question_retries(ask),
		.connected = request->connected,
	};
}

/* An answer has come and has been read. */
static void
question_on_answer(Question *ask, const Answer *answer, int64 now)
{
	const char *code = question_code(answer);
	const char *message = answer->error_message ?
		answer->error_message :
		answer->flaw_detail;
	CountedRequest counted;

	question_count(ask, &counted);
	counters_response(&counted, answer->verdict);
	switch (answer->verdict)
	{
		case ANSWER_RUNNING:
			question_on_running(ask, answer, now);
			break;
		case ANSWER_SUCCEEDED:
			question_on_ended(ask, answer, "succeeded", now);
			break;
		case ANSWER_FAILED:
			question_on_ended(ask, answer, "failed", now);
			break;
		case ANSWER_NO_OUTPUT:
			question_on_trouble(ask, answer, RETRY_NO_OUTPUT, now);
			break;
		case ANSWER_UNKNOWN_TASK:
			question_on_trouble(ask, answer,
								retry_unknown_task(ask->status != NULL), now);
			break;
		case ANSWER_AUTH:
			question_on_auth(ask, answer, now);
			break;
		case ANSWER_RATE_LIMITED:
			question_on_server_trouble(ask, RETRY_RATE_LIMITED, code,
									   message, now);
			break;
		case ANSWER_TRANSIENT:
			question_on_server_trouble(ask, RETRY_TRANSIENT, code, message,
									   now);
			break;
		case ANSWER_REJECTED:
			question_on_server_trouble(ask, RETRY_REJECTED, code, message,
									   now);
			break;
		case ANSWER_UNREADABLE:
			question_on_server_trouble(ask, RETRY_UNREADABLE, code, message,
									   now);
			break;
	}
}

/*
 * Our own trouble says nothing of the server or the task, but one whose answer
 * there is no room for is asked for again ever more seldom.
 */
static void
question_on_own_trouble(Question *ask, int64 now)
{
	(void) queue_count(&ask->task->failures);
	ask->due = now + question_retry(RETRY_TRANSIENT, ask->task->failures);
	question_drop(ask);
}

/* No answer has come. */
static void
question_on_no_answer(Question *ask, int64 now)
{
	HttpRequest *request = ask->request;
	const char *code = "broken_off";
	CountedRequest counted;

	question_count(ask, &counted);
	counters_no_response(&counted);
	switch (request->result)
	{
		case HTTP_NO_DESCRIPTOR:
		case HTTP_NO_ROOM:
		case HTTP_NO_MEMORY:
			question_on_own_trouble(ask, now);
			return;
		case HTTP_TOO_LARGE:
			question_on_server_trouble(ask, RETRY_UNREADABLE, "too_large",
									   "the answer is too large", now);
			return;
		case HTTP_TIMED_OUT:
			code = "timed_out";
			break;
		case HTTP_UNREACHABLE:
			code = "unreachable";
			break;
		default:
			break;
	}
	question_on_server_trouble(ask, RETRY_TRANSIENT, code, request->error,
							   now);
}

/*
 * Read an answer into its question's context; false if there is no memory for
 * that, which must not stop the others.
 */
static bool
question_read_answer(Question *ask, Answer *answer)
{
	MemoryContext old = MemoryContextSwitchTo(ask->context);
	HttpRequest *request = ask->request;
	volatile bool done = false;

	PG_TRY();
	{
		answer_read(answer, request->status, request->content_type,
					request->body, request->body_len);
		done = true;
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		FlushErrorState();
		counters_error(unpack_sql_state(ERRCODE_OUT_OF_MEMORY));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return done;
}

/*
 * A question is over: read its answer, if any, and see to what follows.  It is
 * not over if its answer is about another task and is doubted.
 */
void
question_end(Question *ask)
{
	QueueServer *server = ask->task->account->server;
	const QueueHealth *health;
	Oid			serverid = ask->serverid;
	Answer	   *answer = MemoryContextAlloc(ask->context, sizeof(Answer));
	bool		complete = ask->request->result == HTTP_COMPLETE;
	bool		read = complete && question_read_answer(ask, answer);
	int64		now = monotonic_us();

	if (read && answer->task_id != NULL &&
		strcmp(answer->task_id, ask->task->task_id) != 0 &&
		http_doubt(ask->request))
		return;
	queue_note_end(ask->task, question_retries(ask));
	if (!complete)
		question_on_no_answer(ask, now);
	else if (read)
		question_on_answer(ask, answer, now);
	else
		question_on_own_trouble(ask, now);
	health = queue_resting(server);
	counters_server_paused(serverid, health->paused_until, health->paused_why);
}
