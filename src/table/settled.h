/*-------------------------------------------------------------------------
 *
 * settled.h
 *		Reading settled rows, the latest first.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SETTLED_H
#define ANYVOD_SETTLED_H

#include "datatype/timestamp.h"
#include "table/access.h"

/* A settled row whose task's course is known.  Strings are UTF-8. */
typedef struct SettledRow
{
	const char *server;			/* in the database's encoding */
	const char *task_type;		/* NULL: null */
	const char *model;			/* likewise */
	TimestampTz started_at;
	TimestampTz ended_at;
} SettledRow;

typedef void (*SettledTakeRow)(const SettledRow *row, void *arg);

extern TableResult settled_read(int max, TimestampTz *before,
								SettledTakeRow take, void *arg, int *n);

#endif							/* ANYVOD_SETTLED_H */
