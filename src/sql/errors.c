/*-------------------------------------------------------------------------
 *
 * errors.c
 *		What is wrong with a request or its response, as data.
 *
 * It is PostgreSQL's own ErrorData, which some functions raise and others
 * return as a row.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "response/to_datum.h"
#include "sql/request.h"

#define HINT_BASE_URL "Check the server's option \"base_url\"."

/* DETAIL by phase: of a failure (%s is libcurl's message), of a timeout. */
static const struct
{
	const char *failed;
	const char *timed_out;
} phase_details[] = {
	[HTTP_PHASE_DNS] = {"The host name could not be resolved: %s.",
						"The host name was not resolved within %lld ms."},
	[HTTP_PHASE_CONNECT] = {"The connection could not be opened: %s.",
							"The connection was not opened within %lld ms."},
	[HTTP_PHASE_PROXY] = {"The proxy did not open a connection: %s.",
						  "The proxy did not open a connection within %lld ms."},
	[HTTP_PHASE_TLS] = {"TLS could not be negotiated: %s.",
						"TLS was not negotiated within %lld ms."},
	[HTTP_PHASE_RESPONSE] = {"The response did not arrive whole: %s.",
							 "The response did not arrive within %lld ms."},
};

/* What to do about a connection that was not made. */
static const char *
error_connection_hint(const HttpRequest *request)
{
	bool		at_proxy = request->phase == HTTP_PHASE_PROXY;

	switch (request->certificate)
	{
		case HTTP_CERTIFICATE_UNTRUSTED:
			return "If the certificate is to be trusted, name its authority in the server's option \"ca_file\".";
		case HTTP_CERTIFICATE_OUTDATED:
			return "The certificate must be renewed, if the clock of this machine is right.";
		case HTTP_CERTIFICATE_OF_OTHER:
			return psprintf("Use a host name that the certificate is for in the server's option \"%s\".",
							at_proxy ? "proxy" : "base_url");
		default:
			break;
	}
	return at_proxy ?
		"Check the server's option \"proxy\": it must let this machine through without a password." :
		"Check the server's options \"base_url\", \"proxy\" and \"ca_file\".";
}

/* An error; in its primary message %s is the name of the server. */
static ErrorData *
error_make(const TaskRequest *task, int sqlstate, const char *message,
		   const char *detail, const char *hint)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = sqlstate;
	error->message = psprintf(message, task->server);
	error->detail = unconstify(char *, detail);
	error->hint = unconstify(char *, hint);
	return error;
}

/* No response arrived whole. */
static ErrorData *
error_of_result(const TaskRequest *task)
{
	const HttpRequest *request = task->request;
	const char *failed = psprintf(phase_details[request->phase].failed,
								  request->error);
	const char *late = psprintf(phase_details[request->phase].timed_out,
								(long long) request->elapsed / 1000);

	switch (request->result)
	{
		case HTTP_UNREACHABLE:
			return error_make(task, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
							  "could not connect to server \"%s\"",
							  failed, error_connection_hint(request));
		case HTTP_BROKEN:
			return error_make(task, ERRCODE_FDW_ERROR,
							  "the connection to server \"%s\" broke off",
							  failed, NULL);
		case HTTP_TIMED_OUT:
			return error_make(task, ERRCODE_FDW_ERROR,
							  "server \"%s\" did not respond in time",
							  late, "Consider the server's options \"timeout\" and \"connect_timeout\".");
		case HTTP_TOO_LARGE:
			return error_make(task, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  "the response of server \"%s\" is too large",
							  psprintf("It has more than %d bytes.",
									   task->max_response_size),
							  "Consider raising the server's option \"max_response_size\".");
		case HTTP_NO_DESCRIPTOR:
			return error_make(task, ERRCODE_INSUFFICIENT_RESOURCES,
							  "no file descriptor is left for a request to server \"%s\"",
							  NULL, "Consider raising \"max_files_per_process\".");
		case HTTP_NO_ROOM:
			return error_make(task, ERRCODE_OUT_OF_MEMORY,
							  "no memory is left for the response of server \"%s\"",
							  psprintf("The responses that a process holds have at most %d MB together.",
									   (int) (HTTP_MAX_BODIES >> 20)),
							  "Close cursors over \"anyvod_query_many\" that are open: their responses take it up.");
		default:				/* HTTP_NO_MEMORY */
			return error_make(task, ERRCODE_OUT_OF_MEMORY,
							  "out of memory during a request to server \"%s\"",
							  NULL, NULL);
	}
}

/* The response cannot be read as one about a task. */
static ErrorData *
error_of_flaw(const TaskRequest *task)
{
	const Answer *answer = &task->answer;
	const char *why = answer->flaw_detail;
	char	   *detail = NULL;

	/* a line without capital letter and period */
	if (why != NULL && why[0] != '\0')
		detail = psprintf("%c%s.", pg_toupper((unsigned char) why[0]),
						  why + 1);
	switch (answer->flaw)
	{
		case ANSWER_FLAW_TOO_DEEP:
			return error_make(task, ERRCODE_STATEMENT_TOO_COMPLEX,
							  "the response of server \"%s\" is nested too deep",
							  psprintf("A response may be nested %d levels deep.",
									   ANSWER_MAX_DEPTH),
							  NULL);
		case ANSWER_FLAW_NO_TASK:
			return error_make(task, ERRCODE_INVALID_TEXT_REPRESENTATION,
							  "the response of server \"%s\" holds no task",
							  detail, HINT_BASE_URL);
		case ANSWER_FLAW_HTML:
			return error_make(task, ERRCODE_INVALID_TEXT_REPRESENTATION,
							  "server \"%s\" responded with a web page",
							  psprintf("It has HTTP status %d and content type \"%s\".",
									   answer->http_status,
									   task->request->content_type),
							  "Check the server's option \"base_url\": the gateway has no task queries there.");
		case ANSWER_FLAW_TOO_LARGE:
			return error_make(task, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  "the response of server \"%s\" is too large",
							  NULL, NULL);
		default:				/* ANSWER_FLAW_EMPTY, ANSWER_FLAW_NOT_JSON */
			return error_make(task, ERRCODE_INVALID_TEXT_REPRESENTATION,
							  "the response of server \"%s\" is not valid JSON",
							  detail, HINT_BASE_URL);
	}
}

/* Add a sentence about a string of the response, if it has that. */
static void
error_add(StringInfo detail, const char *sentence, const char *utf8)
{
	if (utf8 != NULL && utf8[0] != '\0')
		appendStringInfo(detail, sentence,
						 result_cstring(utf8, strlen(utf8)));
}

/* What to do about a refused key of a role, which may be gone by now. */
static const char *
error_key_hint(const TaskRequest *task)
{
	const char *role = GetUserNameFromId(task->userid, true);

	return role != NULL ?
		psprintf("Check the user mapping of role \"%s\", or of PUBLIC, for server \"%s\".",
				 role, task->server) :
		psprintf("Check the user mapping of PUBLIC for server \"%s\".",
				 task->server);
}

/* The gateway refused the request. */
static ErrorData *
error_of_refusal(const TaskRequest *task)
{
	const Answer *answer = &task->answer;
	const char *later = NULL;
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, "The gateway responded with HTTP status %d.",
					 answer->http_status);
	error_add(&detail, " The error code is \"%s\".", answer->error_code);
	error_add(&detail, " The error message is \"%s\".", answer->error_message);
	error_add(&detail, " The request id is \"%s\".", answer->request_id);
	if (task->request->retry_after >= 0)
		later = psprintf("Try again in %d s.", task->request->retry_after);
	switch (answer->verdict)
	{
		case ANSWER_AUTH:
			return error_make(task, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
							  "server \"%s\" refused the API key",
							  detail.data, error_key_hint(task));
		case ANSWER_RATE_LIMITED:
			return error_make(task, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
							  "server \"%s\" refused: too many requests",
							  detail.data, later != NULL ? later : "Try again later.");
		case ANSWER_UNKNOWN_TASK:
			return error_make(task, ERRCODE_NO_DATA_FOUND,
							  "server \"%s\" does not know the task", detail.data,
							  "Tasks are known for three days after they were submitted.");
		case ANSWER_TRANSIENT:
			return error_make(task, ERRCODE_IO_ERROR,
							  "server \"%s\" could not process the request",
							  detail.data, later);
		default:				/* ANSWER_REJECTED */
			return error_make(task, ERRCODE_IO_ERROR,
							  "server \"%s\" refused the request",
							  detail.data, HINT_BASE_URL);
	}
}

/*
 * errors_describe
 *		Why does a request, which has finished and been read, tell nothing of
 *		its task?
 *
 * Returns an error for ThrowErrorData(), made in the current memory context;
 * NULL if the request does tell of it.  Raises nothing.
 */
ErrorData *
errors_describe(const TaskRequest *task)
{
	if (task->request == NULL)
		return task->settings_error;
	if (task->request->result != HTTP_COMPLETE)
		return error_of_result(task);
	if (task->answer.flaw != ANSWER_FLAW_NONE)
		return error_of_flaw(task);
	/* refusals come last in AnswerVerdict */
	return task->answer.verdict >= ANSWER_AUTH ? error_of_refusal(task) : NULL;
}
