/*-------------------------------------------------------------------------
 *
 * answer.c
 *		Reading what the gateway answered.
 *
 * From an HTTP status and bytes to an Answer, in three steps, of which the
 * last lives here:
 *
 * 1. Make the bytes fit for a JSON parser, and measure the nesting
 *	  (sanitize.c).
 * 2. Run the parser over them once and note the fields that matter
 *	  (document.c; value.c for single values).
 * 3. Decide what the answer says, from the HTTP status and what was noted.
 *
 * Whatever arrives here may be hostile or broken, and none of it raises an
 * error.  Time is linear in the length of the body.  Memory is that of the
 * sanitised copy (if one is needed), of the parser's buffer for the longest
 * string, and of the kept fields.
 *
 * What does not live here: asking (http.c), what to do about an answer
 * (worker.c, schedule.c), making Datums or errors of it (result.c, query.c).
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "response/answer.h"
#include "response/document.h"
#include "response/value.h"

static bool
word_is(const char *word, const char *other)
{
	return word != NULL && pg_strcasecmp(word, other) == 0;
}

static bool
word_begins(const char *word, const char *prefix)
{
	return word != NULL && pg_strncasecmp(word, prefix, strlen(prefix)) == 0;
}

/* What a code says by itself, whichever of the shapes it came in. */
static AnswerVerdict
verdict_of_code(const char *code)
{
	if (word_begins(code, "RequestLimitExceeded") ||
		word_is(code, "LimitExceeded"))
		return ANSWER_RATE_LIMITED;
	if (word_is(code, "task_not_exist") ||
		word_is(code, "ResourceNotFound") ||
		word_is(code, "InvalidParameterValue.TaskId"))
		return ANSWER_UNKNOWN_TASK;
	return ANSWER_TRANSIENT;
}

/* The Response to read: at the top, or in a new-api wrapper. */
static Response *
find_response(Document *document)
{
	if (document->response.present)
		return &document->response;
	if (document->data.raw.response.present)
		return &document->data.raw.response;
	if (document->data.response.present)
		return &document->data.response;
	return NULL;
}

static bool
code_is_failure(const char *code)
{
	return code != NULL && !word_is(code, "success") && !word_is(code, "200");
}

/*
 * Does the document refuse, and with which words?  Looks at a top-level error,
 * at "code" and "success", and at Response.Error, in that order.
 */
static bool
find_refusal(Document *document, Refusal *refusal)
{
	Response   *response = find_response(document);

	memset(refusal, 0, sizeof(*refusal));
	if (document->error.present)
	{
		*refusal = document->error;
		if (refusal->message == NULL)
			refusal->message = document->message;
		return true;
	}
	if (code_is_failure(document->code) || document->unsuccessful)
	{
		if (code_is_failure(document->code))
			refusal->code = document->code;
		refusal->message = document->message;
		return true;
	}
	if (response != NULL && response->error.present)
	{
		*refusal = response->error;
		return true;
	}
	refusal->message = document->message;
	return false;
}

/* error_code and error_message of a refusal */
static void
set_refusal(Answer *answer, AnswerVerdict verdict, const Refusal *refusal)
{
	answer->verdict = verdict;
	answer->error_code = refusal->code != NULL ? refusal->code : refusal->type;
	answer->error_message = refusal->message;
}

/*
 * The verdict of an HTTP status other than 2xx.  The status decides, except
 * that a gateway says "no such task" and "too often" in several 4xx.
 */
static AnswerVerdict
verdict_of_status(int http_status, const char *code)
{
	AnswerVerdict by_code = verdict_of_code(code);

	if (http_status == 401 || http_status == 403)
		return ANSWER_AUTH;
	if (http_status == 429)
		return ANSWER_RATE_LIMITED;
	if (http_status >= 400 && http_status < 500)
		return by_code == ANSWER_TRANSIENT ? ANSWER_REJECTED : by_code;
	if (http_status >= 300 && http_status < 400)
		return ANSWER_REJECTED;
	return ANSWER_TRANSIENT;
}

/* The verdict of a refusal that came with a 2xx. */
static AnswerVerdict
verdict_of_refusal(const Refusal *refusal)
{
	AnswerVerdict by_code = verdict_of_code(refusal->code);

	if (by_code == ANSWER_TRANSIENT &&
		(word_is(refusal->type, "one_api_error") ||
		 word_is(refusal->type, "new_api_error")))
		return ANSWER_AUTH;
	return by_code;
}

/*
 * The task object: the one that TaskType names, else the only one.
 *
 * Without a TaskType an object must have something of a task, so that one of
 * another product's answer is not taken for it.  NULL if there is none.
 */
static Task *
choose_task(Response *response)
{
	const char *type = response->task_type;
	Task	  **task = NULL;
	Task	   *only = response->tasks[0];

	if (type != NULL)
	{
		task = document_task(response, type);
		if (task == NULL)
			task = document_task(response, psprintf("%sTask", type));
	}
	if (task != NULL)
		return *task;
	if (response->ntasks == 1 &&
		(type != NULL || only->id != NULL || only->status != NULL ||
		 only->task_status != NULL || only->err_code != NULL ||
		 only->err_code_ext != NULL || only->progress > 0))
		return only;
	return NULL;
}

/* Add a file to the list if it has a URL, and note the first main one. */
static void
list_file(Answer *answer, const AnswerFile *file, const AnswerFile **main_file)
{
	if (file->file_url == NULL)
		return;
	if (*main_file == NULL && !word_is(file->usage, "last_frame_url") &&
		!word_is(file->usage, "position_info"))
		*main_file = file;
	answer->files[answer->nfiles++] = *file;
}

/*
 * List the files of a task in the order of the places where they may be;
 * returns the main one, or NULL.  The task's own FileUrl comes last, and is
 * not a result but the source where a procedure is run on a medium.
 */
static const AnswerFile *
list_files(Answer *answer, const Response *response, const Task *task)
{
	const Output *output = &task->output;
	const AnswerFile *main_file = NULL;
	bool		own = task->file.file_url != NULL &&
		strcmp(task->key, "ProcedureTask") != 0 &&
		!word_is(response->task_type, "Procedure");
	int			room = 2;

	if (!output->present && !own)
		return NULL;

	for (int i = 0; i < OUTPUT_LISTS; i++)
		room += output->lists[i].count;
	answer->files = palloc0(room * sizeof(AnswerFile));
	answer->nfiles = 0;

	for (int i = 0; i < OUTPUT_LISTS; i++)
	{
		for (int j = 0; j < output->lists[i].count; j++)
			list_file(answer, &output->lists[i].files[j], &main_file);
	}
	list_file(answer, &output->file, &main_file);
	if (own)
		list_file(answer, &task->file, &main_file);
	return main_file;
}

/* 'Kling 2.1' from the task's Input */
static char *
model_of(const Input *input)
{
	if (input->model_name == NULL)
		return input->model_version;
	if (input->model_version == NULL)
		return input->model_name;
	return value_line(psprintf("%s %s", input->model_name,
							   input->model_version));
}

/*
 * What Status and ErrCode say.  FINISH means ended, not succeeded; the
 * message means nothing, as it may be "SUCCESS" or "" either way.
 */
static void
judge_task(Answer *answer, const Response *response, const Task *task,
		   const AnswerFile *main_file)
{
	const char *type = response->task_type != NULL ?
		response->task_type :
		task->key;
	char	   *code = task->err_code_ext != NULL ?
		task->err_code_ext :
		task->err_code;
	bool		finished = word_is(answer->status, "FINISH");

	if (word_is(answer->status, "ABORTED") || (finished && code != NULL))
	{
		answer->verdict = ANSWER_FAILED;
		answer->error_code = code;
		answer->error_message = task->message;
	}
	else if (!finished)
		answer->verdict = ANSWER_RUNNING;
	else if (word_is(task->status, "PROCESSING"))
	{
		answer->verdict = ANSWER_RUNNING;
		answer->status = task->status;
	}
	else if (word_is(task->task_status, "PROCESSING"))
	{
		answer->verdict = ANSWER_RUNNING;
		answer->status = task->task_status;
	}
	else if (main_file != NULL)
	{
		answer->verdict = ANSWER_SUCCEEDED;
		answer->file_url = main_file->file_url;
		answer->has_expire_time = main_file->expire_time.known;
		answer->expire_time = main_file->expire_time.value;
	}
	else if (word_begins(type, "Aigc") || word_begins(type, "SceneAigc"))
	{
		/* generations make a file; other tasks may */
		answer->verdict = ANSWER_NO_OUTPUT;
		answer->error_code = pstrdup("NoOutput");
	}
	else
		answer->verdict = ANSWER_SUCCEEDED;
}

/* A date of the past; the sentinel for "never" is none. */
static bool
set_moment(const Time *time, TimestampTz *moment)
{
	*moment = time->value;
	return time->known && !TIMESTAMP_NOT_FINITE(time->value);
}

/* Read a Response as a task; false if there is none in it. */
static bool
read_task(Answer *answer, Response *response)
{
	static const Task no_task = {0};
	const Task *task;

	if (response->crowded)
		return false;
	task = choose_task(response);
	if (task == NULL && (response->task_type == NULL || response->flattened))
		return false;
	if (task == NULL)
		task = &no_task;
	answer->status = response->status != NULL ? response->status :
		task->status != NULL                  ? task->status :
												task->task_status;
	if (answer->status == NULL)
		return false;

	answer->task_id = task->id;
	answer->task_type = response->task_type;
	answer->has_started_at = set_moment(&response->created,
										&answer->started_at);
	answer->has_ended_at = set_moment(&response->finished, &answer->ended_at);
	answer->progress = task->progress - 1;
	answer->model = model_of(&task->input);
	judge_task(answer, response, task, list_files(answer, response, task));
	return true;
}

/*
 * May the wrapper speak for itself?  It may while it holds no data, or only
 * the answer to the creation, which names the task and no status.
 */
static bool
wrapper_speaks(const Wrapper *wrapper, const Response *response)
{
	if (wrapper->status == NULL)
		return false;
	if (response != NULL)
		return response->status == NULL && response->task_type == NULL &&
			response->ntasks == 0 && !response->flattened;
	return !wrapper->raw.filled;
}

/* Read a whole JSON document that came with a 2xx. */
static void
read_accepted(Answer *answer, Document *document)
{
	Response   *response = find_response(document);
	Refusal		refusal;

	if (find_refusal(document, &refusal))
		set_refusal(answer, verdict_of_refusal(&refusal), &refusal);
	else if (response != NULL && read_task(answer, response))
		return;
	else if (!document->response.present &&
			 wrapper_speaks(&document->data, response))
	{
		answer->verdict = ANSWER_RUNNING;
		answer->status = document->data.status;
		answer->progress = document->data.progress - 1;
	}
	else
	{
		answer->verdict = ANSWER_UNREADABLE;
		answer->flaw = ANSWER_FLAW_NO_TASK;
		if (response == NULL)
			answer->flaw_detail = "the answer has no Response";
		else if (response->crowded)
			answer->flaw_detail = "the Response holds too many objects";
		else
			answer->flaw_detail = "the Response holds no task";
	}
}

/*
 * Read what came with another status.
 *
 * Of a body that is not one JSON document only a code is believed: a rate
 * limiter that forgets to stop sends its refusal and then the normal answer
 * behind it.
 */
static void
read_refused(Answer *answer, Document *document)
{
	Refusal		refusal = {0};

	if (document->complete)
		find_refusal(document, &refusal);
	if (document->flaw != ANSWER_FLAW_NONE)
		refusal.message = NULL;
	set_refusal(answer, verdict_of_status(answer->http_status, refusal.code),
				&refusal);
}

/*
 * answer_read
 *		Read an answer: what does it say about the task?
 *
 * Takes the HTTP status, the Content-Type header (or NULL) and len bytes of
 * body, which need no terminating NUL.  Fills in *answer, whatever it held.
 * Raises no error for any input, short of running out of memory.  Everything
 * is palloc'd in the current memory context, intermediate things too: call it
 * in one that is reset soon.
 *
 * file_url and expire_time are set for ANSWER_SUCCEEDED only, so that nobody
 * takes what a failed or running task happens to list for a result; "files"
 * lists it all the same.  An error_message may be "" if upstream says so.
 */
void
answer_read(Answer *answer, int http_status, const char *content_type,
			const char *body, size_t len)
{
	Document	document;
	Response   *response;

	memset(answer, 0, sizeof(*answer));
	answer->http_status = http_status;
	answer->progress = -1;
	answer->nfiles = -1;

	document_read(&document, content_type, body, len);
	if (document.flaw == ANSWER_FLAW_NONE)
	{
		answer->json = document.text;
		answer->json_len = document.text_len;
		response = find_response(&document);
		if (response != NULL)
			answer->request_id = response->request_id;
	}

	if (http_status < 200 || http_status > 299)
		read_refused(answer, &document);
	else if (document.flaw == ANSWER_FLAW_NONE)
		read_accepted(answer, &document);
	else
		answer->verdict = document.flaw == ANSWER_FLAW_HTML ?
			ANSWER_REJECTED :
			ANSWER_UNREADABLE;

	/* a verdict from the HTTP status needs no excuse, but a web page tells */
	if (document.flaw != ANSWER_FLAW_NONE &&
		(answer->verdict == ANSWER_UNREADABLE ||
		 (answer->verdict == ANSWER_REJECTED &&
		  document.flaw == ANSWER_FLAW_HTML)))
	{
		answer->flaw = document.flaw;
		answer->flaw_detail = document.flaw_detail;
	}
}

/*
 * answer_verdict_name
 *		A verdict's name, as in the views; a constant.
 */
const char *
answer_verdict_name(AnswerVerdict verdict)
{
	static const char *const names[ANSWER_VERDICTS] = {
		[ANSWER_RUNNING] = "running",
		[ANSWER_SUCCEEDED] = "succeeded",
		[ANSWER_FAILED] = "failed",
		[ANSWER_NO_OUTPUT] = "no_output",
		[ANSWER_AUTH] = "auth",
		[ANSWER_RATE_LIMITED] = "rate_limited",
		[ANSWER_UNKNOWN_TASK] = "unknown_task",
		[ANSWER_TRANSIENT] = "transient",
		[ANSWER_REJECTED] = "rejected",
		[ANSWER_UNREADABLE] = "unreadable",
	};

	return names[verdict];
}
