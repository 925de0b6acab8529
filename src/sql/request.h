/*-------------------------------------------------------------------------
 *
 * request.h
 *		One request of a session about a task, and what is wrong with it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_REQUEST_H
#define ANYVOD_REQUEST_H

#include "response/answer.h"
#include "http/client.h"
#include "lib/ilist.h"
#include "utils/array.h"

/* A time of monotonic_us() that never comes. */
#define REQUEST_NO_DEADLINE PG_INT64_MAX

/* The caller sets the first three fields, request.c the rest. */
typedef struct TaskRequest
{
	const char *server;			/* name of the foreign server */
	Oid			userid;			/* the role whose user mapping is used */
	const char *task_id;		/* has been checked */

	int			max_response_size;	/* bytes */
	HttpRequest *request;		/* NULL: not started */
	ErrorData  *settings_error; /* why; good if request is NULL */
	Answer		answer;			/* good if request->result is HTTP_COMPLETE;
								 * may point into the request's body */
	slist_node	node;			/* the caller's */
} TaskRequest;

extern bool request_start(TaskRequest *task, HttpBatch *batch, void *tag,
						  bool keep_error);
extern bool request_read(TaskRequest *task);
extern bool request_run(TaskRequest *task, HttpBatch *batch, int64 until);
extern long request_milliseconds(int64 until);

extern char *request_task_id(const text *argument);
extern int	request_task_ids(ArrayType *array, char ***ids);

extern ErrorData *errors_describe(const TaskRequest *task);

#endif							/* ANYVOD_REQUEST_H */
