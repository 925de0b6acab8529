/*-------------------------------------------------------------------------
 *
 * errors.c
 *		What is wrong with a request or its response, as data.
 *
 * The same tables serve functions that raise an error and those that return
 * it as a row.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "response/to_datum.h"
#include "sql/errors.h"
#include "sql/request.h"

#define HINT_BASE_URL "Check the server's option \"base_url\"."

/* What a case amounts to; %s is the name of the server. */
typedef struct ErrorKind
{
	int			sqlstate;
	const char *message;
	const char *hint;			/* NULL: none, or one that depends */
} ErrorKind;

/* No response arrived whole. */
static const ErrorKind result_errors[] = {
	[HTTP_UNREACHABLE] = {ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
						  "could not connect to server \"%s\"", NULL},
	[HTTP_BROKEN] = {ERRCODE_FDW_ERROR,
					 "the connection to server \"%s\" broke off", NULL},
	[HTTP_TIMED_OUT] = {ERRCODE_FDW_ERROR,
						"server \"%s\" did not respond in time",
						"Consider the server's options \"timeout\" and \"connect_timeout\"."},
	[HTTP_TOO_LARGE] = {ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						"the response of server \"%s\" is too large",
						"Consider raising the server's option \"max_response_size\"."},
	[HTTP_NO_DESCRIPTOR] = {ERRCODE_INSUFFICIENT_RESOURCES,
							"no file descriptor is left for a request to server \"%s\"",
							"Consider raising \"max_files_per_process\"."},
	[HTTP_NO_MEMORY] = {ERRCODE_OUT_OF_MEMORY,
						"out of memory during a request to server \"%s\"", NULL},
	[HTTP_NO_ROOM] = {ERRCODE_OUT_OF_MEMORY,
					  "no memory is left for the response of server \"%s\"",
					  "Close cursors over \"anyvod_query_many\" that are open: their responses take it up."},
};

/* The response arrived, and holds no task. */
static const ErrorKind flaw_errors[] = {
	[ANSWER_FLAW_EMPTY] = {ERRCODE_INVALID_TEXT_REPRESENTATION,
						   "the response of server \"%s\" is not valid JSON",
						   HINT_BASE_URL},
	[ANSWER_FLAW_NOT_JSON] = {ERRCODE_INVALID_TEXT_REPRESENTATION,
							  "the response of server \"%s\" is not valid JSON",
							  HINT_BASE_URL},
	[ANSWER_FLAW_TOO_DEEP] = {ERRCODE_STATEMENT_TOO_COMPLEX,
							  "the response of server \"%s\" is nested too deep",
							  NULL},
	[ANSWER_FLAW_NO_TASK] = {ERRCODE_INVALID_TEXT_REPRESENTATION,
							 "the response of server \"%s\" holds no task",
							 HINT_BASE_URL},
	[ANSWER_FLAW_HTML] = {ERRCODE_INVALID_TEXT_REPRESENTATION,
						  "server \"%s\" responded with a web page",
						  "Check the server's option \"base_url\": the gateway has no task queries there."},
	[ANSWER_FLAW_TOO_LARGE] = {ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							   "the response of server \"%s\" is too large",
							   NULL},
};

/* The response is a refusal. */
static const ErrorKind refusal_errors[] = {
	[ANSWER_AUTH] = {ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
					 "server \"%s\" refused the API key", NULL},
	[ANSWER_RATE_LIMITED] = {ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
							 "server \"%s\" refused: too many requests",
							 "Try again later."},
	[ANSWER_UNKNOWN_TASK] = {ERRCODE_NO_DATA_FOUND,
							 "server \"%s\" does not know the task",
							 "Tasks are known for three days after they were submitted."},
	[ANSWER_TRANSIENT] = {ERRCODE_IO_ERROR,
						  "server \"%s\" could not process the request", NULL},
	[ANSWER_REJECTED] = {ERRCODE_IO_ERROR,
						 "server \"%s\" refused the request", HINT_BASE_URL},
};

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

/* A line without capital letter and period as a sentence, NULL of none. */
static char *
error_sentence(const char *line)
{
	char	   *sentence;

	if (line == NULL || line[0] == '\0')
		return NULL;
	sentence = psprintf("%s.", line);
	sentence[0] = pg_toupper((unsigned char) sentence[0]);
	return sentence;
}

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

/* The request failed. */
static const ErrorKind *
error_of_result(const TaskRequest *task, RequestError *error)
{
	const HttpRequest *request = task->request;

	switch (request->result)
	{
		case HTTP_UNREACHABLE:
		case HTTP_BROKEN:
			error->detail = psprintf(phase_details[request->phase].failed,
									 request->error);
			if (request->result == HTTP_UNREACHABLE)
				error->hint = error_connection_hint(request);
			break;
		case HTTP_TIMED_OUT:
			error->detail = psprintf(phase_details[request->phase].timed_out,
									 (long long) request->elapsed / 1000);
			break;
		case HTTP_TOO_LARGE:
			error->detail = psprintf("It has more than %d bytes.",
									 task->max_response_size);
			break;
		case HTTP_NO_ROOM:
			error->detail = psprintf("The responses that a process holds have at most %d MB together.",
									 (int) (HTTP_MAX_BODIES / (1024 * 1024)));
			break;
		default:
			break;
	}
	return &result_errors[request->result];
}

/* The response cannot be read as one about a task. */
static const ErrorKind *
error_of_flaw(const TaskRequest *task, RequestError *error)
{
	const Answer *answer = &task->answer;

	switch (answer->flaw)
	{
		case ANSWER_FLAW_TOO_DEEP:
			error->detail = psprintf("A response may be nested %d levels deep.",
									 ANSWER_MAX_DEPTH);
			break;
		case ANSWER_FLAW_HTML:
			error->detail = psprintf("It has HTTP status %d and content type \"%s\".",
									 answer->http_status,
									 task->request->content_type);
			break;
		case ANSWER_FLAW_TOO_LARGE:
			break;
		default:
			error->detail = error_sentence(answer->flaw_detail);
			break;
	}
	return &flaw_errors[answer->flaw];
}

/* Add a sentence about a string of the response, if it has that. */
static void
error_add(StringInfo detail, const char *sentence, const char *utf8)
{
	if (utf8 != NULL && utf8[0] != '\0')
		appendStringInfo(detail, sentence,
						 result_cstring(utf8, strlen(utf8)));
}

/* The gateway refused the request. */
static const ErrorKind *
error_of_refusal(const TaskRequest *task, RequestError *error)
{
	const Answer *answer = &task->answer;
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, "The gateway responded with HTTP status %d.",
					 answer->http_status);
	error_add(&detail, " The error code is \"%s\".", answer->error_code);
	error_add(&detail, " The error message is \"%s\".", answer->error_message);
	error_add(&detail, " The request id is \"%s\".", answer->request_id);
	error->detail = detail.data;
	if (answer->verdict == ANSWER_AUTH)
	{
		char	   *role = GetUserNameFromId(task->userid, true);

		error->hint = role != NULL ?
			psprintf("Check the user mapping of role \"%s\", or of PUBLIC, for server \"%s\".",
					 role, task->server) :
			psprintf("Check the user mapping of PUBLIC for server \"%s\".",
					 task->server);
	}
	else if (task->request->retry_after >= 0 &&
			 (answer->verdict == ANSWER_RATE_LIMITED ||
			  answer->verdict == ANSWER_TRANSIENT))
		error->hint = psprintf("Try again in %d s.",
							   task->request->retry_after);
	return &refusal_errors[answer->verdict];
}

/*
 * errors_describe
 *		Why does a request, which has finished and been read, tell nothing of
 *		its task?
 *
 * Returns false if it does.  Strings are made in the current memory context.
 * Raises nothing.
 */
bool
errors_describe(const TaskRequest *task, RequestError *error)
{
	const ErrorKind *kind;

	memset(error, 0, sizeof(RequestError));
	if (task->request == NULL)
	{
		*error = task->settings_error;
		return true;
	}
	if (task->request->result != HTTP_COMPLETE)
		kind = error_of_result(task, error);
	else
	{
		switch (task->answer.verdict)
		{
			case ANSWER_RUNNING:
			case ANSWER_SUCCEEDED:
			case ANSWER_FAILED:
			case ANSWER_NO_OUTPUT:
				return false;
			default:
				break;
		}
		kind = task->answer.flaw != ANSWER_FLAW_NONE ?
			error_of_flaw(task, error) :
			error_of_refusal(task, error);
	}
	error->sqlstate = kind->sqlstate;
	error->message = psprintf(kind->message, task->server);
	if (error->hint == NULL)
		error->hint = kind->hint;
	return true;
}

/* Raise an error that was described. */
void
errors_raise(const RequestError *error)
{
	ereport(ERROR,
			(errcode(error->sqlstate),
			 errmsg_internal("%s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}
