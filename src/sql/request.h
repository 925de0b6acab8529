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

/* "until" of ask_now(): however long it takes. */
#define ASK_PATIENTLY PG_INT64_MAX

/*
 * A question.  The caller sets "server" and "userid"; ask_start() and
 * ask_read() fill in the rest.
 */
typedef struct Ask
{
	const char *server;			/* name of the foreign server */
	Oid			userid;			/* the role that asks */
	const char *task_id;
	Oid			serverid;
	uint64		upstream_id;	/* what it was asked with */
	int			max_response_size;	/* bytes */
	HttpRequest *request;
	Answer		answer;			/* good if request->outcome is HTTP_ANSWERED;
								 * may point into the request's body */
} Ask;

/* An error that is to be raised, or to be a row. */
typedef struct AskTrouble
{
	int			sqlstate;
	const char *message;		/* primary message */
	const char *detail;			/* NULL: none */
	const char *hint;			/* NULL: none */
} AskTrouble;

/* The task ids of an array. */
typedef struct AskIds
{
	int			n;
	char	  **ids;			/* each once, in the array's order */
} AskIds;

extern void ask_start(Ask *ask, HttpBatch *batch, const char *task_id,
					  void *tag);
extern void ask_read(Ask *ask);
extern bool ask_has_other_key(const Ask *ask);
extern bool ask_now(Ask *ask, HttpBatch *batch, const char *task_id,
					int64 until);

extern bool ask_describe(const Ask *ask, AskTrouble *trouble);
extern void ask_raise(const AskTrouble *trouble);

extern char *ask_id(const text *argument);
extern void ask_ids(AskIds *ids, ArrayType *array);

#endif							/* ANYVOD_ASK_H */
