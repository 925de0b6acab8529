/*-------------------------------------------------------------------------
 *
 * ask.h
 *		One question of a session, and what came of it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ASK_H
#define ANYVOD_ASK_H

#include "response/answer.h"
#include "http/client.h"
#include "utils/array.h"

/* "until" of request_run(): however long it takes. */
#define REQUEST_NO_DEADLINE PG_INT64_MAX

/*
 * A question.  The caller sets "server" and "userid"; request_start() and
 * request_read() fill in the rest.
 */
typedef struct TaskRequest
{
	const char *server;			/* name of the foreign server */
	Oid			userid;			/* the role that asks */
	const char *task_id;
	Oid			serverid;
	uint64		settings_id;	/* what it was asked with */
	int			max_response_size;	/* bytes */
	HttpRequest *request;
	Answer		answer;			/* good if request->result is HTTP_COMPLETE;
								 * may point into the request's body */
} TaskRequest;

/* An error that is to be raised, or to be a row. */
typedef struct RequestError
{
	int			sqlstate;
	const char *message;		/* primary message */
	const char *detail;			/* NULL: none */
	const char *hint;			/* NULL: none */
} RequestError;

/* The task ids of an array. */
typedef struct TaskIds
{
	int			n;
	char	  **ids;			/* each once, in the array's order */
} TaskIds;

extern void request_start(TaskRequest *ask, HttpBatch *batch, const char *task_id,
						  void *tag);
extern bool request_read(TaskRequest *ask);
extern bool request_has_other_key(const TaskRequest *ask);
extern bool request_run(TaskRequest *ask, HttpBatch *batch, const char *task_id,
						int64 until);

extern bool request_describe_error(const TaskRequest *ask, RequestError *trouble);
extern void request_raise(const RequestError *trouble);

extern char *request_task_id(const text *argument);
extern void request_task_ids(TaskIds *ids, ArrayType *array);

#endif							/* ANYVOD_ASK_H */
