/*-------------------------------------------------------------------------
 *
 * document.h
 *		What a body holds of the fields that matter.
 *
 * One struct for each kind of object that has a field that matters.  Each
 * begins with "present": there was such an object, and not null, a string or
 * an array in its place.  A struct of zeroes has nothing noted.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_DOCUMENT_H
#define ANYVOD_DOCUMENT_H

#include "response/answer.h"

/*
 * Objects beside each other in Response.  Tencent names about 40 task types
 * and fills the object of one; with more objects than this it is no answer
 * about a task.
 */
#define DOCUMENT_MAX_TASKS 64

typedef struct Refusal
{
	bool		present;
	char	   *code;			/* NULL if "" or 0 */
	char	   *type;
	char	   *message;
} Refusal;

typedef struct FileList
{
	bool		present;
	int			count;
	int			room;			/* allocated */
	AnswerFile *files;
} FileList;

/* In the order in which the main file is looked for. */
#define OUTPUT_LISTS 4

typedef struct Output
{
	bool		present;
	FileList	lists[OUTPUT_LISTS];	/* FileInfos, AudioInfos, VideoInfos,
										 * FileInfo */
	AnswerFile	file;			/* Output.FileUrl */
} Output;

typedef struct Input
{
	bool		present;
	char	   *model_name;
	char	   *model_version;
} Input;

typedef struct Task
{
	bool		present;
	char	   *key;			/* its key in Response */
	char	   *id;
	char	   *status;
	char	   *task_status;	/* some types name it so */
	char	   *err_code;		/* NULL if 0 */
	char	   *err_code_ext;	/* NULL if "" or "0" */
	char	   *message;
	int			progress;		/* percent plus one, 0 if unknown */
	Input		input;
	Output		output;
	AnswerFile	file;			/* the task's own FileUrl */
} Task;

typedef struct Response
{
	bool		present;
	char	   *status;
	char	   *task_type;
	char	   *request_id;
	Time		created;
	Time		finished;
	Refusal		error;
	bool		flattened;		/* has an Output of its own */
	bool		crowded;		/* more than DOCUMENT_MAX_TASKS objects */
	int			ntasks;
	Task	   *tasks[DOCUMENT_MAX_TASKS];
} Response;

/* "data" in the "data" of a wrapper */
typedef struct Raw
{
	bool		present;
	bool		filled;			/* has a key */
	Response	response;
} Raw;

/* "data" of a new-api wrapper */
typedef struct Wrapper
{
	bool		present;
	char	   *status;
	int			progress;		/* as in Task */
	Response	response;
	Raw			raw;
} Wrapper;

typedef struct Document
{
	bool		present;
	Refusal		error;
	char	   *code;			/* NULL if "" or 0 */
	char	   *message;
	bool		unsuccessful;	/* "success": false */
	Wrapper		data;
	Response	response;

	const char *text;			/* the body made fit for a parser */
	size_t		text_len;
	AnswerFlaw	flaw;			/* what keeps it from being one document */
	const char *flaw_detail;	/* one line in English */
	bool		complete;		/* the first document was read to its end */
} Document;

extern void document_read(Document *document, const char *content_type,
						  const char *body, size_t len);
extern Task **document_task(Response *response, const char *key);

#endif							/* ANYVOD_DOCUMENT_H */
