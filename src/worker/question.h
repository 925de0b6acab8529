/*-------------------------------------------------------------------------
 *
 * question.h
 *		A worker's question about a task, and what follows from its answer.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_QUESTION_H
#define ANYVOD_QUESTION_H

#include "response/answer.h"
#include "http/client.h"
#include "worker/queue.h"
#include "table/tracker.h"
#include "worker/writer.h"

/* A question that is on its way: what its row said when it was asked. */
typedef struct Question
{
	MemoryContext context;		/* holds this, the row's strings, the answer */
	QueueTask  *task;			/* not queued until the question is over */
	HttpRequest *request;		/* NULL: it could not be asked */
	WriterItem	item;			/* what is to be written */
	pairingheap_node node;		/* among those that wait to be asked */
	int64		due;			/* when to ask again */
	uint64		settings_id;
	Oid			serverid;
	Oid			userid;
	uint32		changes;		/* of servers or mappings, as of then */
	Oid			umid;			/* the user mapping, InvalidOid: none */
	NameData	server;
	NameData	owner;
	char	   *status;			/* the row's, NULL for null */
	int			progress;
	char	   *task_type;
	char	   *model;
	char	   *error_code;
	bool		has_started_at;
	TimestampTz started_at;
} Question;

extern void question_init(MemoryContext context);
extern void question_note_changes(uint32 changes);
extern Question *question_make(QueueTask *task, const TrackerRow *row);
extern void question_free(Question *ask);
extern void question_put_back(Question *ask);
extern bool question_is_too_old(const QueueTask *task);
extern TrackerChange *question_add_change(Question *ask, const char *state);
extern TrackerChange *question_note_trouble(Question *ask,
											const Answer *answer,
											const char *code,
											const char *message);
extern void question_end(Question *ask);

#endif							/* ANYVOD_QUESTION_H */
