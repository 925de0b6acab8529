/*-------------------------------------------------------------------------
 *
 * stat.h
 *		Counting what the workers do, and showing it in views.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_STAT_H
#define ANYVOD_STAT_H

#include "response/answer.h"
#include "http/result.h"
#include "schedule/retry.h"

/* For the library's load, in the postmaster. */
extern void stat_init(void);

/* For the launcher. */
extern void stat_note_restart(Oid database);
extern void stat_forget(Oid database);

/* A request that has ended, as far as it is counted. */
typedef struct StatRequest
{
	Oid			serverid;
	Oid			umid;
	HttpResult	result;
	HttpPhase	phase;
	int			http_status;
	int64		elapsed;		/* microseconds */
	int			retries;		/* times that it was sent after the first */
	bool		connected;		/* a connection was made for it */
} StatRequest;

/*
 * For the worker.  An account is a server and the user mapping with whose key
 * it is asked, InvalidOid for none.  "until" is microseconds of monotonic_us().
 */
extern void stat_attach(void);
extern void stat_note_request(Oid serverid, Oid umid);
extern void stat_note_answer(const StatRequest *request,
							 AnswerVerdict verdict);
extern void stat_note_no_answer(const StatRequest *request);
extern void stat_note_unchanged(void);
extern void stat_note_written(const Answer *answer, bool watched);
extern void stat_note_error(const char *sqlstate);
extern void stat_note_pause(Oid serverid, int64 until, RetryKind why);
extern void stat_note_refused_key(Oid serverid, Oid umid, int64 until);
extern void stat_forget_pauses(void);
extern void stat_before_wait(long timeout);

#endif							/* ANYVOD_STAT_H */
