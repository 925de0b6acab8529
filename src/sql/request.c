/*-------------------------------------------------------------------------
 *
 * ask.c
 *		One question of a session, and what came of it.
 *
 * All functions that ask now go through here: one question is started, its
 * answer read, and where there is none that tells of the task, the error that
 * says why is described as data.  Who asked raises it, or returns it as a row.
 *
 * When to ask, how often and how many at once is not known here.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "clock.h"
#include "compat.h"
#include "sql/request.h"
#include "response/to_datum.h"
#include "server/settings.h"


/*
 * Asking
 */

/*
 * Start a question about a task whose id has been checked.  Raises what
 * server_settings_get() raises.
 */
void
request_start(TaskRequest *ask, HttpBatch *batch, const char *task_id, void *tag)
{
	const ServerSettings *settings;
	char		path[SERVER_PATH_SIZE];

	settings = server_settings_get(ask->server, ask->userid);
	ask->task_id = task_id;
	ask->serverid = settings->serverid;
	ask->settings_id = settings->id;
	ask->max_response_size = settings->max_response_size;
	snprintf(path, sizeof(path), SERVER_QUERY_PATH "%s", task_id);
	ask->request = http_start(batch, settings, path, tag);
}

/*
 * The request has finished: read its response, if there is one.  False if it
 * is in flight again, since the response is about another task.
 */
bool
request_read(TaskRequest *ask)
{
	HttpRequest *request = ask->request;

	if (request->result != HTTP_COMPLETE)
		return true;
	answer_read(&ask->answer, request->status, request->content_type,
				request->body, request->body_len);
	return ask->answer.task_id == NULL ||
		strcmp(ask->answer.task_id, ask->task_id) == 0 || !http_doubt(request);
}

/*
 * Was the key refused, and may there be another by now?  Then the request is
 * worth repeating.
 */
bool
request_has_other_key(const TaskRequest *ask)
{
	return ask->request->result == HTTP_COMPLETE &&
		ask->answer.verdict == ANSWER_AUTH &&
		server_settings_changed(ask->serverid, ask->userid, ask->settings_id);
}

/* TaskRequest and wait until "until"; false if that came first. */
static bool
ask_once(TaskRequest *ask, HttpBatch *batch, const char *task_id, int64 until)
{
	request_start(ask, batch, task_id, NULL);
	while (ask->request->result == HTTP_UNFINISHED ||
		   (http_take_finished(batch) != NULL && !request_read(ask)))
	{
		int64		left;

		if (until == REQUEST_NO_DEADLINE)
		{
			(void) http_run_once(-1);
			continue;
		}
		left = until - monotonic_us();
		if (left <= 0)
			return false;
		(void) http_run_once((long) Min((left + 999) / 1000, INT_MAX));
	}
	return true;
}

/*
 * TaskRequest about a task and wait for the answer, at most until that time of
 * monotonic_us(); false if none has come by then.  What was asked belongs to
 * the batch.
 */
bool
request_run(TaskRequest *ask, HttpBatch *batch, const char *task_id, int64 until)
{
	if (!ask_once(ask, batch, task_id, until))
		return false;
	return !request_has_other_key(ask) ||
		ask_once(ask, batch, task_id, until);
}


/*
 * Errors
 */

/* "The upstream answered ...": HTTP status, code, message, request id. */
static char *
ask_refusal_detail(const Answer *answer)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, _("The upstream answered HTTP status %d"),
					 answer->http_status);
	if (answer->error_code != NULL)
		appendStringInfo(&detail, _(", code \"%s\""),
						 result_cstring(answer->error_code,
										strlen(answer->error_code)));
	if (answer->error_message != NULL && answer->error_message[0] != '\0')
		appendStringInfo(&detail, _(", message \"%s\""),
						 result_cstring(answer->error_message,
										strlen(answer->error_message)));
	if (answer->request_id != NULL)
		appendStringInfo(&detail, _(", request id \"%s\""),
						 result_cstring(answer->request_id,
										strlen(answer->request_id)));
	appendStringInfoChar(&detail, '.');
	return detail.data;
}

/* Words of ours or of libcurl's, if any, as a sentence. */
static char *
ask_sentence(const char *words)
{
	char	   *sentence;

	if (words == NULL || words[0] == '\0')
		return NULL;
	sentence = psprintf("%s.", words);
	sentence[0] = pg_toupper((unsigned char) sentence[0]);
	return sentence;
}

/* What to do about a connection that did not come about. */
static const char *
ask_connection_hint(const HttpRequest *request)
{
	bool		at_proxy = request->phase == HTTP_PHASE_PROXY;

	switch (request->certificate)
	{
		case HTTP_CERTIFICATE_UNTRUSTED:
			return _("If the certificate is to be trusted, name its authority in the server's option \"ca_file\".");
		case HTTP_CERTIFICATE_OUTDATED:
			return _("The certificate must be renewed, if the clock of this machine is right.");
		case HTTP_CERTIFICATE_OF_OTHER:
			return psprintf(_("Use a host name that the certificate is for in the server's option \"%s\"."),
							at_proxy ? "proxy" : "base_url");
		default:
			break;
	}
	return at_proxy ?
		_("Check the server's option \"proxy\": it must let this machine through without a password.") :
		_("Check the server's options \"base_url\", \"proxy\" and \"ca_file\".");
}

/* The question could not be asked, or got no answer. */
static void
ask_describe_outcome(const TaskRequest *ask, RequestError *trouble)
{
	const HttpRequest *request = ask->request;
	const char *phase = http_phase_name(request->phase);
	const char *server = ask->server;

	switch (request->result)
	{
		case HTTP_UNREACHABLE:
			trouble->sqlstate = ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION;
			trouble->message = psprintf(_("could not connect to server \"%s\""),
										server);
			trouble->detail = psprintf(_("While %s: %s."), phase,
									   request->error);
			trouble->hint = ask_connection_hint(request);
			break;
		case HTTP_TIMED_OUT:
			trouble->sqlstate = ERRCODE_FDW_ERROR;
			trouble->message = psprintf(_("server \"%s\" did not answer in time"),
										server);
			trouble->detail = psprintf(_("Timed out after %lld ms while %s."),
									   (long long) request->elapsed / 1000,
									   phase);
			trouble->hint = _("Consider the server's options \"timeout\" and \"connect_timeout\".");
			break;
		case HTTP_TOO_LARGE:
			trouble->sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
			trouble->message = psprintf(_("the answer of server \"%s\" is too large"),
										server);
			trouble->detail = psprintf(_("It has more than %d bytes."),
									   ask->max_response_size);
			trouble->hint = _("Consider raising the server's option \"max_response_size\".");
			break;
		case HTTP_NO_DESCRIPTOR:
			trouble->sqlstate = ERRCODE_INSUFFICIENT_RESOURCES;
			trouble->message = psprintf(_("no file descriptor is left to ask server \"%s\""),
										server);
			trouble->hint = _("Consider raising \"max_files_per_process\".");
			break;
		case HTTP_NO_ROOM:
		case HTTP_NO_MEMORY:
			trouble->sqlstate = ERRCODE_OUT_OF_MEMORY;
			trouble->message = psprintf(_("out of memory while asking server \"%s\""),
										server);
			trouble->detail = ask_sentence(request->error);
			break;
		default:
			trouble->sqlstate = ERRCODE_FDW_ERROR;
			trouble->message = psprintf(_("the connection to server \"%s\" broke off"),
										server);
			trouble->detail = psprintf(_("While %s: %s."), phase,
									   request->error);
			break;
	}
}

/* An answer that holds no task. */
static void
ask_describe_unreadable(const TaskRequest *ask, RequestError *trouble)
{
	const Answer *answer = &ask->answer;
	const char *server = ask->server;

	trouble->sqlstate = ERRCODE_INVALID_TEXT_REPRESENTATION;
	switch (answer->flaw)
	{
		case ANSWER_FLAW_TOO_DEEP:
			trouble->sqlstate = ERRCODE_STATEMENT_TOO_COMPLEX;
			trouble->message = psprintf(_("the answer of server \"%s\" is nested too deep"),
										server);
			trouble->detail = psprintf(_("An answer may be nested %d levels deep."),
									   ANSWER_MAX_DEPTH);
			break;
		case ANSWER_FLAW_TOO_LARGE:
			trouble->sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
			trouble->message = psprintf(_("the answer of server \"%s\" is too large"),
										server);
			break;
		case ANSWER_FLAW_HTML:
			trouble->message = psprintf(_("server \"%s\" answered with a web page"),
										server);
			trouble->detail = psprintf(_("HTTP status %d, content type \"%s\"."),
									   answer->http_status,
									   ask->request->content_type);
			trouble->hint = _("Check the server's option \"base_url\": the gateway has no task queries there.");
			break;
		case ANSWER_FLAW_OTHER_TASK:
			trouble->message = psprintf(_("server \"%s\" answered about another task"),
										server);
			trouble->hint = _("Try again: the connection has been closed.");
			break;
		case ANSWER_FLAW_NO_TASK:
			trouble->message = psprintf(_("the answer of server \"%s\" holds no task"),
										server);
			trouble->detail = ask_sentence(answer->flaw_detail);
			trouble->hint = _("Check the server's option \"base_url\".");
			break;
		default:
			trouble->message = psprintf(_("the answer of server \"%s\" is not valid JSON"),
										server);
			trouble->detail = ask_sentence(answer->flaw_detail);
			trouble->hint = _("Check the server's option \"base_url\".");
			break;
	}
}

/* When to try again, if the gateway has said so. */
static const char *
ask_retry_hint(int retry_after)
{
	return retry_after < 0 ?
		NULL :
		psprintf(_("Try again in %d s."), retry_after);
}

/* The answer is a refusal. */
static void
ask_describe_refusal(const TaskRequest *ask, RequestError *trouble)
{
	const char *server = ask->server;
	const char *again = ask_retry_hint(ask->request->retry_after);

	trouble->detail = ask_refusal_detail(&ask->answer);
	switch (ask->answer.verdict)
	{
		case ANSWER_AUTH:
			trouble->sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
			trouble->message = psprintf(_("server \"%s\" refused the API key"),
										server);
			trouble->hint = psprintf(_("Check the user mapping of role \"%s\", or of PUBLIC, for server \"%s\"."),
									 GetUserNameFromId(ask->userid, false),
									 server);
			break;
		case ANSWER_RATE_LIMITED:
			trouble->sqlstate = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
			trouble->message = psprintf(_("server \"%s\" refused: too many requests"),
										server);
			trouble->hint = again ? again : _("Try again later.");
			break;
		case ANSWER_UNKNOWN_TASK:
			trouble->sqlstate = ERRCODE_NO_DATA_FOUND;
			trouble->message = psprintf(_("server \"%s\" does not know the task"),
										server);
			trouble->hint = _("Tasks are known for three days after they were submitted.");
			break;
		case ANSWER_REJECTED:
			trouble->sqlstate = ERRCODE_IO_ERROR;
			trouble->message = psprintf(_("server \"%s\" refused the request"),
										server);
			trouble->hint = _("Check the server's option \"base_url\".");
			break;
		default:
			trouble->sqlstate = ERRCODE_IO_ERROR;
			trouble->message = psprintf(_("server \"%s\" could not answer"),
										server);
			trouble->hint = again;
			break;
	}
}

/*
 * Why does a question whose answer has been read tell nothing of its task?
 * Returns false if it does tell.
 */
bool
request_describe_error(const TaskRequest *ask, RequestError *trouble)
{
	memset(trouble, 0, sizeof(RequestError));
	if (ask->request->result != HTTP_COMPLETE)
	{
		ask_describe_outcome(ask, trouble);
		return true;
	}
	switch (ask->answer.verdict)
	{
		case ANSWER_RUNNING:
		case ANSWER_SUCCEEDED:
		case ANSWER_FAILED:
		case ANSWER_NO_OUTPUT:
			return false;
		case ANSWER_UNREADABLE:
			ask_describe_unreadable(ask, trouble);
			break;
		case ANSWER_REJECTED:
			if (ask->answer.flaw == ANSWER_FLAW_HTML)
				ask_describe_unreadable(ask, trouble);
			else
				ask_describe_refusal(ask, trouble);
			break;
		default:
			ask_describe_refusal(ask, trouble);
			break;
	}
	return true;
}

/* Raise an error that was described. */
void
request_raise(const RequestError *trouble)
{
	ereport(ERROR,
			(errcode(trouble->sqlstate),
			 errmsg_internal("%s", trouble->message),
			 trouble->detail ? errdetail_internal("%s", trouble->detail) : 0,
			 trouble->hint ? errhint("%s", trouble->hint) : 0));
}


/*
 * Arguments
 */

/* A task id from an argument.  Raises 22023 if it is none. */
char *
request_task_id(const text *argument)
{
	const char *id = VARDATA_ANY(argument);
	int			len = VARSIZE_ANY_EXHDR(argument);

	server_check_task_id(id, len);
	return pnstrdup(id, len);
}

/* An id and its place, to find those that come twice. */
typedef struct AskPlace
{
	char	   *id;
	int			place;
} AskPlace;

static int
ask_compare_ids(const void *a, const void *b)
{
	const AskPlace *left = a;
	const AskPlace *right = b;
	int			order = strcmp(left->id, right->id);

	return order != 0 ? order : left->place - right->place;
}

static int
ask_compare_places(const void *a, const void *b)
{
	return ((const AskPlace *) a)->place - ((const AskPlace *) b)->place;
}

/*
 * The task ids of an array of any number of dimensions, each once.  Raises
 * 22004 if one is null and 22023 if one is no task id.
 */
void
request_task_ids(TaskIds *ids, ArrayType *array)
{
	AskPlace   *places;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &n);
	places = palloc(Max(n, 1) * sizeof(AskPlace));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("task ids must not be null")));
		places[i].id = request_task_id((text *) DatumGetPointer(elements[i]));
		places[i].place = i;
	}
	pfree(elements);
	pfree(nulls);

	qsort(places, n, sizeof(AskPlace), ask_compare_ids);
	ids->n = 0;
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || strcmp(places[i].id, places[ids->n - 1].id) != 0)
			places[ids->n++] = places[i];
	}
	qsort(places, ids->n, sizeof(AskPlace), ask_compare_places);
	ids->ids = palloc(Max(ids->n, 1) * sizeof(char *));
	for (int i = 0; i < ids->n; i++)
		ids->ids[i] = places[i].id;
	pfree(places);
}
