/*-------------------------------------------------------------------------
 *
 * errors.h
 *		What is wrong with a request or its response, as data.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ERRORS_H
#define ANYVOD_ERRORS_H

/* An error that is raised, or becomes a row. */
typedef struct RequestError
{
	int			sqlstate;
	const char *message;		/* primary message */
	const char *detail;			/* NULL: none */
	const char *hint;			/* NULL: none */
} RequestError;

struct		TaskRequest;

extern bool errors_describe(const struct TaskRequest *task,
							RequestError *error);
extern void errors_raise(const RequestError *error);

#endif							/* ANYVOD_ERRORS_H */
