/*-------------------------------------------------------------------------
 *
 * poll.c
 *		One poll of a task: its request, and what follows from the response for
 *		the row, the schedule and the counters.
 *
 * A poll that has ended becomes an update that is to be written, or puts its
 * task back into the queue.  Which task is polled when is not known here.
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

#include "anyvod.h"
#include "clock.h"
#include "control/counters.h"
#include "worker/durations.h"
#include "worker/poll.h"

#define SECOND INT64CONST(1000000)

/* Settings of a role that cannot be had are looked for again after this. */
#define POLL_NO_SETTINGS_WAIT (60 * SECOND)

/* A task that was running so recently is not given up, however old its row. */
#define POLL_RUNNING (3600 * SECOND)

/*
 * A time-out is our own failure if the process was in transactions, and read no
 * sockets, for this part of the request's time.
 */
#define POLL_BLOCKED_SHARE 4

/* Responses that are kept with updates that could not be written, in bytes. */
#define POLL_MAX_KEPT (4 * 1024 * 1024)

static struct
{
	MemoryContext context;		/* of all polls */
	HttpBatch  *batch;
	size_t		kept;			/* bytes of responses with kept updates */
} polls;

static void poll_on_written(WriteItem *item, bool over);
static void poll_keep(WriteItem *item);


static double
poll_random(void)
{
	return pg_prng_double(&pg_global_prng_state);
}

/* How long to wait after so many failures of this kind. */
static int64
poll_backoff(RetryKind why, int failures)
{
	return retry_delay(why, failures, poll_random());
}

static bool
poll_same(const char *a, const char *b)
{
	return a == NULL ? b == NULL : (b != NULL && strcmp(a, b) == 0);
}

static const char *
poll_strdup(const char *string)
{
	return string ? pstrdup(string) : NULL;
}

void
poll_init(void)
{
	polls.context = AllocSetContextCreate(TopMemoryContext, "anyvod polls",
										  ALLOCSET_DEFAULT_SIZES);
	write_init(poll_on_written, poll_keep);
}

/* The requests of all polls; libcurl is started when it is first needed. */
HttpBatch *
poll_batch(void)
{
	if (polls.batch == NULL)
		polls.batch = http_batch_create(polls.context);
	return polls.batch;
}


/*
 * Begin and end
 */

/* A poll of a task whose row has just been read. */
static Poll *
poll_make(QueueTask *task)
{
	const TableRow *row = task->row;
	MemoryContext context = AllocSetContextCreate(polls.context, "anyvod poll",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Poll	   *poll = palloc0(sizeof(Poll));

	poll->context = context;
	poll->task = task;
	poll->blocked = write_blocked();
	namestrcpy(&poll->server, row->server);
	namestrcpy(&poll->owner, row->owner);
	poll->status = poll_strdup(row->status);
	poll->progress = row->progress;
	poll->task_type = poll_strdup(row->task_type);
	poll->model = poll_strdup(row->model);
	poll->error_code = poll_strdup(row->error_code);
	poll->has_started_at = row->has_started_at;
	poll->started_at = row->started_at;
	MemoryContextSwitchTo(old);
	return poll;
}

/*
 * poll_start
 *		Send a request for a task whose row has just been read.
 */
void
poll_start(QueueTask *task, const ServerSettings *settings)
{
	char		path[SERVER_PATH_SIZE];
	int64		now = monotonic_us();
	Poll	   *poll = poll_make(task);

	poll->settings = (HealthSettings){settings->serverid, settings->userid,
									  settings->id};
	poll->umid = settings->umid;
	poll->has_files = settings->api_key_file != NULL ||
		settings->ca_file != NULL;
	snprintf(path, sizeof(path), SERVER_QUERY_PATH "%s", task->task_id);
	durations_record_start(task, now);
	queue_start(task, now);
	poll->request = http_start(poll_batch(), settings, path, poll);
	counters_request(settings->serverid, settings->umid);
}

/* Forget a poll and its response; its task has been seen to. */
static void
poll_free(Poll *poll)
{
	if (poll->request != NULL)
		http_release(poll->request);
	MemoryContextDelete(poll->context);
}

/* A poll changes nothing: the task is polled again when it is due. */
static void
poll_drop(Poll *poll)
{
	if (poll->request != NULL)
		counters_unchanged();
	queue_put(poll->task, poll->due);
	poll_free(poll);
}

/* An update of the row, to be written with others once the caller is done. */
static TableUpdate *
poll_add_update(Poll *poll, const char *state)
{
	WriteItem  *item = &poll->item;
	TableUpdate *update = &item->update;

	item->tag = poll;
	item->row_code = poll->error_code;
	item->watched = poll->status != NULL;
	item->logged = poll->task->logged;
	update->task_id = poll->task->task_id;
	update->server = NameStr(poll->server);
	update->owner = NameStr(poll->owner);
	update->state = state;
	update->polls = poll->task->polls;
	poll->task->state = TASK_WRITING;
	write_add(item);
	return update;
}

/* Has the gateway just spoken of a task as running, whatever the clock says? */
bool
poll_found_running(const QueueTask *task, int64 now)
{
	uint32		since = (uint32) (now / 1000) - task->seen;

	return task->was_running && since < POLL_RUNNING / 1000;
}

/* Is a row so old that the upstream does not know its task any more? */
static bool
poll_is_too_old(const QueueTask *task, int64 now)
{
	return !poll_found_running(task, now) &&
		task->created_at <
		GetCurrentTimestamp() - anyvod_give_up_after * SECOND;
}

/*
 * An error that is the row's own: written into the row while it is new there,
 * and the reason that it is abandoned for when it is too old.
 */
static TableUpdate *
poll_on_own_error(Poll *poll, const Answer *answer, const char *code,
				  const char *message, int64 now)
{
	bool		old = poll_is_too_old(poll->task, now);
	TableUpdate *update;

	if (!old && poll_same(poll->error_code, code))
	{
		poll_drop(poll);
		return NULL;
	}
	update = poll_add_update(poll, old ? "abandoned" : "pending");
	update->answer = answer;
	update->error_code = code;
	update->error_message = message;
	return update;
}

/*
 * poll_no_settings
 *		A task whose row has just been read has no server or role with which it
 *		could be polled; the row tells why.
 *
 * "code" is an SQLSTATE; "message" is in the database's encoding.
 */
void
poll_no_settings(QueueTask *task, const HealthSettings *settings,
				 const char *code, const char *message)
{
	Poll	   *poll = poll_make(task);
	MemoryContext context = poll->context;
	int64		now = monotonic_us();
	TableUpdate *update;

	counters_error(code);
	task->blocked = true;
	poll->due = now + POLL_NO_SETTINGS_WAIT;
	health_key_block(&task->role->key, settings, true);
	queue_check_soon();
	update = poll_on_own_error(poll, NULL, code, message, now);
	if (update == NULL)
		return;
	update->error_code = MemoryContextStrdup(context, code);
	update->error_message = MemoryContextStrdup(context, message);
	update->native = true;
}


/*
 * Responses
 */

/* The code of what a response complains of, or of what it amounts to. */
static const char *
poll_code(const Answer *answer)
{
	return answer->error_code ? answer->error_code :
								answer_verdict_name(answer->verdict);
}

/* Does a running task's response say anything that its row does not? */
static bool
poll_differs(const Poll *poll, const Answer *answer)
{
	if (poll->error_code != NULL)
		return true;
	if (answer->status && !poll_same(answer->status, poll->status))
		return true;
	if (answer->progress >= 0 && answer->progress != poll->progress)
		return true;
	if (answer->task_type && !poll_same(answer->task_type, poll->task_type))
		return true;
	if (answer->model && !poll_same(answer->model, poll->model))
		return true;
	return answer->has_started_at &&
		!(poll->has_started_at && poll->started_at == answer->started_at);
}

/* The task runs on. */
static void
poll_on_running(Poll *poll, const Answer *answer)
{
	QueueTask  *task = poll->task;
	const HttpRequest *request = poll->request;

	task->doubts = 0;
	task->was_running = true;
	task->seen = (uint32) (request->started / 1000);
	queue_response(task, request->started);
	/* the wait counts from when the response came, not from when it is read */
	poll->due = durations_record_running(task, answer,
										 request->started + request->elapsed);
	if (poll_differs(poll, answer))
		poll_add_update(poll, "pending")->answer = answer;
	else
		poll_drop(poll);
}

/* The task has ended. */
static void
poll_on_ended(Poll *poll, const Answer *answer, const char *state, int64 now)
{
	queue_response(poll->task, poll->request->started);
	poll->due = now;
	poll_add_update(poll, state)->answer = answer;
}

/* The server says of the task what is not believed at once. */
static void
poll_on_doubt(Poll *poll, const Answer *answer, RetryKind why, int64 now)
{
	QueueTask  *task = poll->task;
	const char *code = poll_code(answer);
	uint32		now_ms = (uint32) (now / 1000);
	int64		since;

	queue_response(task, poll->request->started);
	if (task->doubts == 0 || task->doubted != why)
	{
		task->doubted = why;
		task->doubts = 0;
		task->doubted_since = now_ms;
	}
	(void) queue_count(&task->doubts);
	since = (now_ms - task->doubted_since) * INT64CONST(1000);
	if (retry_is_final(why, task->doubts, since))
	{
		TableUpdate *update = poll_add_update(poll, "failed");

		update->answer = answer;
		update->error_code = code;
		update->error_message = answer->error_message;
		return;
	}
	poll->due = now + poll_backoff(why, task->doubts);
	poll_on_own_error(poll, answer, code, answer->error_message, now);
}

/*
 * The poll told nothing of the task, which is given up if its row is too old.
 * The row is not written otherwise.
 */
static void
poll_on_nothing(Poll *poll, const char *code, const char *message, int64 now)
{
	TableUpdate *update;

	(void) queue_count(&poll->task->failures);
	if (!poll_is_too_old(poll->task, now))
	{
		poll_drop(poll);
		return;
	}
	update = poll_add_update(poll, "abandoned");
	update->error_code = code;
	update->error_message = message;
}

/*
 * The server has failed.  One that demands fewer requests is polled again as
 * soon as its pause is over; but a task that alone meets that has a backoff of
 * its own.
 */
static void
poll_on_server_failure(Poll *poll, RetryKind why, const char *code,
					   const char *message, int64 now)
{
	QueueTask  *task = poll->task;
	const HttpRequest *request = poll->request;
	ServerHealth *health = &task->role->server->health;
	int			failures = task->failures + 1;

	/* It would have refused the key, if that were no good. */
	if (request->result == HTTP_COMPLETE && request->status < 500 &&
		why != RETRY_RATE_LIMITED)
		health_key_accepted(&task->role->key, request->started);

	/* What is said under 200 is about the task; the server does respond. */
	if (why == RETRY_TRANSIENT && request->status == 200)
		health_success(health, request->started);
	else
	{
		health_failure(health, queue_is_retrying(task), task->failures, why,
					   request->retry_after, request->started, now,
					   poll_random());
		health_error(&health->error, code, message, now);
		health->settings = poll->settings;
		queue_check_soon();
	}
	if (why == RETRY_RATE_LIMITED)
		durations_throttle(task, now);
	task->blocked = true;
	poll->due = now;
	if (now >= health->all.paused_until)
		poll->due += Max(poll_backoff(why, failures),
						 request->retry_after * SECOND);
	else if (why != RETRY_RATE_LIMITED)
		poll->due += poll_backoff(why, failures);
	poll_on_nothing(poll, code, message, now);
}

/*
 * The server refuses the key: nothing is sent with it for a while, unless it is
 * accepted for the role's other tasks.
 */
static void
poll_on_auth(Poll *poll, const Answer *answer, int64 now)
{
	QueueTask  *task = poll->task;
	KeyHealth  *key = &task->role->key;
	bool		again = task->refused;

	health_success(&task->role->server->health, poll->request->started);
	task->blocked = task->refused = true;
	poll->due = now + poll_backoff(RETRY_AUTH, 1);
	if (health_key_refused(key, again, poll->request->started))
	{
		health_error(&key->error, poll_code(answer), answer->error_message,
					 now);
		health_key_block(key, &poll->settings, poll->has_files);
		queue_check_soon();
		key->paused_until = poll->due;
		counters_key_refused(poll->settings.serverid, poll->umid, poll->due);
	}
	poll_on_nothing(poll, poll_code(answer), answer->error_message, now);
}

/* A failure of our own says nothing of the server or the task. */
static void
poll_on_our_failure(Poll *poll, int64 now)
{
	QueueTask  *task = poll->task;

	(void) queue_count(&task->failures);
	poll->due = now + poll_backoff(RETRY_TRANSIENT, task->failures);
	poll_drop(poll);
}

/* A response has come and has been read. */
static void
poll_on_response(Poll *poll, const Answer *answer, int64 now)
{
	const char *code = poll_code(answer);
	const char *message = answer->error_message ? answer->error_message :
												  answer->flaw_detail;

	switch (answer->verdict)
	{
		case ANSWER_RUNNING:
			poll_on_running(poll, answer);
			break;
		case ANSWER_SUCCEEDED:
			poll_on_ended(poll, answer, "succeeded", now);
			break;
		case ANSWER_FAILED:
			poll_on_ended(poll, answer, "failed", now);
			break;
		case ANSWER_NO_OUTPUT:
			poll_on_doubt(poll, answer, RETRY_NO_OUTPUT, now);
			break;
		case ANSWER_UNKNOWN_TASK:
			poll_on_doubt(poll, answer,
						  retry_unknown_task(poll->status != NULL), now);
			break;
		case ANSWER_AUTH:
			poll_on_auth(poll, answer, now);
			break;
		case ANSWER_RATE_LIMITED:
			poll_on_server_failure(poll, RETRY_RATE_LIMITED, code, message,
								   now);
			break;
		case ANSWER_TRANSIENT:
			poll_on_server_failure(poll, RETRY_TRANSIENT, code, message,
								   now);
			break;
		case ANSWER_REJECTED:
			poll_on_server_failure(poll, RETRY_REJECTED, code, message, now);
			break;
		case ANSWER_UNREADABLE:
			poll_on_server_failure(poll, RETRY_UNREADABLE, code, message,
								   now);
			break;
	}
}

/*
 * Did a request fail by our own fault: for want of something, or since this
 * process was in a transaction and read no sockets?
 */
static bool
poll_is_our_failure(const Poll *poll)
{
	switch (poll->request->result)
	{
		case HTTP_NO_DESCRIPTOR:
		case HTTP_NO_ROOM:
		case HTTP_NO_MEMORY:
			return true;
		case HTTP_TIMED_OUT:
			return (write_blocked() - poll->blocked) * POLL_BLOCKED_SHARE >=
				poll->request->elapsed;
		default:
			return false;
	}
}

/* No response has come. */
static void
poll_on_no_response(Poll *poll, int64 now)
{
	HttpRequest *request = poll->request;
	const char *code = "broken_off";

	if (request->result == HTTP_TOO_LARGE)
	{
		poll_on_server_failure(poll, RETRY_UNREADABLE, "too_large",
							   "the response is too large", now);
		return;
	}
	if (request->result == HTTP_TIMED_OUT)
		code = "timed_out";
	else if (request->result == HTTP_UNREACHABLE)
		code = "unreachable";
	poll_on_server_failure(poll, RETRY_TRANSIENT, code, request->error, now);
}

/*
 * Read a response into its poll's context; false if there is no memory for
 * that, which must not stop the others.
 */
static bool
poll_read(Poll *poll, Answer *answer)
{
	MemoryContext old = MemoryContextSwitchTo(poll->context);
	HttpRequest *request = poll->request;
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
 * A request has ended: read its response, if any, and see to what follows.  It
 * goes on if the response is about another task and is doubted.
 */
static void
poll_end(Poll *poll)
{
	const QueueServer *server = poll->task->role->server;
	const Health *health;
	Oid			serverid = poll->settings.serverid;
	Answer	   *answer = MemoryContextAlloc(poll->context, sizeof(Answer));
	bool		complete = poll->request->result == HTTP_COMPLETE;
	bool		read = complete && poll_read(poll, answer);
	bool		ours = !read && (complete || poll_is_our_failure(poll));
	int64		now = monotonic_us();

	if (read && answer->task_id != NULL &&
		strcmp(answer->task_id, poll->task->task_id) != 0 &&
		http_doubt(poll->request))
		return;
	queue_end(poll->task, Max(poll->request->attempts - 1, 0));
	counters_response(serverid, poll->umid, poll->request,
					  read ? answer : NULL, ours);
	if (read)
		poll_on_response(poll, answer, now);
	else if (ours)
		poll_on_our_failure(poll, now);
	else
		poll_on_no_response(poll, now);
	health = health_paused(&server->health);
	counters_server_paused(serverid, health->paused_until, health->paused_why);
}

/* See to the requests that have ended, as many as can be written. */
void
poll_read_responses(void)
{
	HttpRequest *request;

	while (write_has_room() &&
		   (request = http_take_finished(poll_batch())) != NULL)
		poll_end(request->tag);
}


/*
 * Writing
 */

/* An update has been written, or is void: "over" if its row has settled. */
static void
poll_on_written(WriteItem *item, bool over)
{
	Poll	   *poll = item->tag;
	QueueTask  *task = poll->task;

	polls.kept -= item->kept;
	task->logged = item->logged && !item->update.written;
	if (item->update.written)
	{
		counters_written(item->update.answer, item->watched);
		task->polls -= item->update.polls;
	}
	if (over)
	{
		durations_record_over(task, item->update.answer);
		queue_remove(task);
	}
	else
		queue_put(task, poll->due);
	poll_free(poll);
}

/*
 * An update could not be written and waits: keep what it says, and the response
 * if there is room, but not the request.
 */
static void
poll_keep(WriteItem *item)
{
	Poll	   *poll = item->tag;
	const Answer *answer = item->update.answer;
	MemoryContext old;
	Answer	   *kept;

	if (poll->request == NULL)
		return;
	old = MemoryContextSwitchTo(poll->context);
	if (answer != NULL)
	{
		kept = palloc(sizeof(Answer));
		*kept = *answer;
		kept->json = NULL;
		if (answer->json != NULL && table_update_settles(&item->update) &&
			polls.kept + answer->json_len <= POLL_MAX_KEPT)
		{
			kept->json = pnstrdup(answer->json, answer->json_len);
			item->kept = answer->json_len;
			polls.kept += item->kept;
		}
		item->update.answer = kept;
	}
	item->update.error_message = poll_strdup(item->update.error_message);
	MemoryContextSwitchTo(old);
	http_release(poll->request);
	poll->request = NULL;
}
