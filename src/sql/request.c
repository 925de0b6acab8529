/*-------------------------------------------------------------------------
 *
 * request.c
 *		One request of a session about a task.
 *
 * All SQL functions that go to the network send their requests from here.
 * When, how often and how many at once is not known here; what is wrong with
 * one that tells nothing of its task is described by errors.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/resowner.h"

#include "clock.h"
#include "compat.h"
#include "server/settings.h"
#include "server/validate.h"
#include "sql/request.h"

/*
 * Look the settings of a request up; if that raises an error, keep it in
 * settings_error and return NULL.
 *
 * The look-up reads catalogs and files, so whatever it holds when it fails
 * (references to catalog tuples, a file, a lock) is given back by a
 * subtransaction.  Before PostgreSQL 17 there can be none while a parallel
 * plan is executed: there the error is the statement's.
 */
static const ServerSettings *
request_try_settings(TaskRequest *task)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const ServerSettings *volatile settings = NULL;
	ErrorData *volatile raised = NULL;
	int			category;

	if (!compat_may_begin_subtransaction())
		return server_settings_get(task->server, task->userid);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		settings = server_settings_get(task->server, task->userid);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		raised = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (raised == NULL)
		return settings;
	/* not a cancelled statement, a shutdown, or what must never happen */
	category = ERRCODE_TO_CATEGORY(raised->sqlerrcode);
	if (category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR))
		ReThrowError(raised);
	task->settings_error = raised;
	return NULL;
}

/*
 * request_start
 *		Send a request, which is then in flight in the batch.
 *
 * If there are no settings for it (any more), raises what
 * server_settings_get() raises, or where "keep_error" is set returns false,
 * and the error is in settings_error, made in the current memory context.
 */
bool
request_start(TaskRequest *task, HttpBatch *batch, void *tag, bool keep_error)
{
	const ServerSettings *settings = keep_error ?
		request_try_settings(task) :
		server_settings_get(task->server, task->userid);
	char	   *path;

	task->request = NULL;
	if (settings == NULL)
		return false;
	task->max_response_size = settings->max_response_size;
	path = psprintf(SERVER_QUERY_PATH "%s", task->task_id);
	task->request = http_start(batch, settings, path, tag);
	pfree(path);
	return true;
}

/*
 * request_read
 *		Read the response of a request that has finished, if it has one.
 *
 * Returns false if the request is in flight again, since the response is about
 * another task.  What is read belongs to the current memory context.
 */
bool
request_read(TaskRequest *task)
{
	HttpRequest *request = task->request;

	if (request->result != HTTP_COMPLETE)
		return true;
	answer_read(&task->answer, request->status, request->content_type,
				request->body, request->body_len);
	return task->answer.task_id == NULL ||
		strcmp(task->answer.task_id, task->task_id) == 0 ||
		!http_doubt(request);
}

/* Milliseconds from now to a time of monotonic_us(), rounded up. */
long
request_milliseconds(int64 until)
{
	int64		left = until - monotonic_us();

	return left > 0 ? (long) Min((left + 999) / 1000, INT_MAX) : 0;
}

/*
 * request_run
 *		Send a request and wait for its response, up to a time of
 *		monotonic_us().
 *
 * Returns false if that came first.  The request belongs to the batch, which
 * has no other, and what was read to the current memory context.  Raises what
 * server_settings_get() raises.
 */
bool
request_run(TaskRequest *task, HttpBatch *batch, int64 until)
{
	(void) request_start(task, batch, NULL, false);
	while (http_take_finished(batch) == NULL || !request_read(task))
	{
		long		timeout = request_milliseconds(until);

		if (timeout == 0)
			return false;
		(void) http_run_once(timeout);
	}
	return true;
}


/*
 * Arguments
 */

/*
 * A task id from an argument.  Raises 22023 if it is none, and quotes it only
 * if that is short and cannot garble the log.
 */
char *
request_task_id(const text *argument)
{
	const char *id = VARDATA_ANY(argument);
	int			len = VARSIZE_ANY_EXHDR(argument);
	bool		quotable = len <= 64;

	if (validate_task_id(id, len))
		return pnstrdup(id, len);
	for (int i = 0; i < len && quotable; i++)
		quotable = id[i] >= ' ' && id[i] <= '~';
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 quotable ? errmsg("invalid task id \"%.*s\"", len, id) :
						errmsg("invalid task id"),
			 errdetail("A task id has 1 to %d characters of [0-9A-Za-z_.-] and is neither \".\" nor \"..\".",
					   MAX_TASK_ID_LENGTH)));
}

/*
 * The task ids of an array of any number of dimensions, each once, in their
 * own order.  Returns how many.  Raises 22004 if one is null and 22023 if one
 * is no task id.
 */
int
request_task_ids(ArrayType *array, char ***ids)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &n);
	*ids = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("task ids must not be null")));
		(*ids)[i] = request_task_id((text *) DatumGetPointer(elements[i]));
	}
	qsort(*ids, n, sizeof(char *), pg_qsort_strcmp);
	return (int) qunique(*ids, n, sizeof(char *), pg_qsort_strcmp);
}
