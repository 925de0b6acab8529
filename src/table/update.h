/*-------------------------------------------------------------------------
 *
 * update.h
 *		Writing what was learned of tasks into anyvod_tasks.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_UPDATE_H
#define ANYVOD_UPDATE_H

#include "response/answer.h"
#include "table/access.h"

/* A response larger than this is not kept in "response". */
#define TABLE_MAX_RESPONSE (1024 * 1024)

/* What is to be written into a row, should it still be as it was polled. */
typedef struct TableUpdate
{
	const char *task_id;
	const char *server;
	const char *owner;
	const char *state;			/* a label of anyvod_state */
	const Answer *answer;		/* NULL: nothing was learned of the task */
	const char *error_code;		/* instead of the response's */
	const char *error_message;
	bool		native;			/* they are PostgreSQL's, in the database's
								 * encoding; else UTF-8 */
	int			polls;			/* to be added */

	/* out */
	bool		tried;			/* it was, by the last call */
	bool		written;
	char		state_now[16];	/* what its row's state is then */
	bool		pending;		/* ... and that is pending */
	const char *failure;		/* why it could not be written, NULL: it could,
								 * or the row is gone, changed or locked */
	int			failure_code;	/* an SQLSTATE */
} TableUpdate;

extern bool table_update_settles(const TableUpdate *update);
extern TableResult table_update(TableUpdate **updates, int n, int time_limit,
								ErrorData **error);
extern TableResult table_update_singly(TableUpdate **updates, int n,
									   int row_limit, int time_limit);
extern void table_notify(TableUpdate **updates, int n);

#endif							/* ANYVOD_UPDATE_H */
