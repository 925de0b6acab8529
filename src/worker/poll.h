/*-------------------------------------------------------------------------
 *
 * poll.h
 *		One poll of a task: its request, and what follows from the response.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_POLL_H
#define ANYVOD_POLL_H

#include "http/client.h"
#include "response/answer.h"
#include "table/select.h"
#include "worker/queue.h"
#include "worker/write.h"

/* A poll: what the task's row said when it began. */
typedef struct Poll
{
	MemoryContext context;		/* holds this, the row's strings, the answer */
	QueueTask  *task;			/* not WAITING until this has ended */
	HttpRequest *request;		/* NULL: none was sent */
	WriteItem	item;			/* what is to be written */
	int64		due;			/* when to poll again */
	int64		blocked;		/* write_blocked() when it began */
	HealthSettings settings;
	bool		has_files;		/* they name some */
	Oid			umid;			/* the user mapping, InvalidOid: none */
	NameData	server;
	NameData	owner;
	const char *status;			/* the row's, NULL for null */
	int			progress;
	const char *task_type;
	const char *model;
	const char *error_code;
	bool		has_started_at;
	TimestampTz started_at;
} Poll;

extern void poll_init(void);
extern HttpBatch *poll_batch(void);
extern void poll_start(QueueTask *task, const ServerSettings *settings);
extern void poll_no_settings(QueueTask *task, const HealthSettings *settings,
							 const char *code, const char *message);
extern void poll_read_responses(void);
extern bool poll_found_running(const QueueTask *task, int64 now);

#endif							/* ANYVOD_POLL_H */
