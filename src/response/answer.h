/*-------------------------------------------------------------------------
 *
 * answer.h
 *		Reading what the gateway answered.
 *
 * From an HTTP status and bytes to an Answer.  Pure: no SPI, no libcurl, no
 * clock, no backend; it compiles in a backend and, with FRONTEND defined, in
 * the unit tests and fuzz targets.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ANSWER_H
#define ANYVOD_ANSWER_H

#include "datatype/timestamp.h"

/*
 * What an answer says.  The order is that of the counters in shared memory:
 * append only.
 */
typedef enum AnswerVerdict
{
	ANSWER_RUNNING,
	ANSWER_SUCCEEDED,
	ANSWER_FAILED,
	ANSWER_NO_OUTPUT,			/* finished, yet without a file */
	ANSWER_AUTH,				/* refused: the key, or what it may do */
	ANSWER_RATE_LIMITED,		/* refused: too many questions */
	ANSWER_UNKNOWN_TASK,		/* refused: no such task (yet, or any more) */
	ANSWER_TRANSIENT,			/* refused: trouble that may pass */
	ANSWER_REJECTED,			/* refused: most likely a wrong base URL */
	ANSWER_UNREADABLE,			/* a 200 that holds no answer */
} AnswerVerdict;

#define ANSWER_VERDICTS (ANSWER_UNREADABLE + 1)

/* Why an answer could not be read as a task; NONE for all other verdicts. */
typedef enum AnswerFlaw
{
	ANSWER_FLAW_NONE,
	ANSWER_FLAW_EMPTY,			/* no byte but white space */
	ANSWER_FLAW_NOT_JSON,		/* flaw_detail says what the parser met */
	ANSWER_FLAW_TOO_DEEP,		/* nested deeper than ANSWER_MAX_DEPTH */
	ANSWER_FLAW_NO_TASK,		/* JSON, but no task in it */
	ANSWER_FLAW_HTML,			/* a web page (verdict ANSWER_REJECTED) */
	ANSWER_FLAW_TOO_LARGE,		/* larger than a JSON text may be (1 GB) */
} AnswerFlaw;

/* Deepest nesting of objects and arrays that is read. */
#define ANSWER_MAX_DEPTH 128

/* Messages are cut at this many characters. */
#define ANSWER_MAX_MESSAGE 2000

typedef struct Time
{
	bool		known;
	TimestampTz value;			/* DT_NOEND: never */
} Time;

/* One file of a task.  Strings are UTF-8, NULL when absent or "". */
typedef struct AnswerFile
{
	bool		present;		/* see document.h */
	char	   *file_url;		/* never NULL in an Answer */
	Time		expire_time;
	char	   *file_type;
	char	   *storage_mode;
	char	   *file_id;
	char	   *media_name;
	char	   *usage;			/* UsageType */
} AnswerFile;

/*
 * An answer that has been read.  Everything it points to is palloc'd in the
 * memory context that was current, except that "json" may point into the
 * body that was passed in.  Strings are UTF-8 whatever the database's
 * encoding is, and hold neither NUL nor invalid bytes.
 */
typedef struct Answer
{
	AnswerVerdict verdict;
	AnswerFlaw	flaw;
	const char *flaw_detail;	/* one line in English, or NULL */

	int			http_status;
	char	   *task_id;		/* what the answer calls its task, or NULL */
	char	   *status;			/* the upstream's word, NULL if none */
	int			progress;		/* 0 to 100, or -1 */
	char	   *file_url;		/* of the main file, or NULL */
	bool		has_expire_time;
	TimestampTz expire_time;	/* of file_url; DT_NOEND: never */
	char	   *task_type;		/* 'AigcVideoTask', or NULL */
	char	   *model;			/* 'Kling 2.1', 'Kling', or NULL */
	char	   *error_code;		/* of the task, or of the refusal */
	char	   *error_message;
	char	   *request_id;		/* Response.RequestId, or NULL */

	bool		has_started_at;
	TimestampTz started_at;		/* CreateTime */
	bool		has_ended_at;
	TimestampTz ended_at;		/* FinishTime */

	int			nfiles;			/* entries with a URL, -1 without a task's
								 * Output to look into */
	AnswerFile *files;

	const char *json;			/* the body made fit for jsonb (see
								 * sanitize_text), NULL if not JSON */
	size_t		json_len;
} Answer;

extern void answer_read(Answer *answer, int http_status,
						const char *content_type,
						const char *body, size_t len);
extern const char *answer_verdict_name(AnswerVerdict verdict);

#endif							/* ANYVOD_ANSWER_H */
