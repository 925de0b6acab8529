/*-------------------------------------------------------------------------
 *
 * select.h
 *		Reading pending rows of anyvod_tasks.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SELECT_H
#define ANYVOD_SELECT_H

#include "datatype/timestamp.h"
#include "table/access.h"

/* A pending row.  Strings are NULL for null, in the database's encoding. */
typedef struct TableRow
{
	const char *task_id;
	const char *server;
	const char *owner;
	const char *status;
	int			progress;		/* -1: null */
	const char *task_type;
	const char *model;
	const char *error_code;
	bool		has_started_at;
	TimestampTz started_at;
	TimestampTz created_at;
	TimestampTz written_at;		/* updated_at, created_at if that is null */
} TableRow;

/* Rows, in the memory context that was current when they were read. */
typedef struct TableRows
{
	TableRow   *rows;
	int			n;
	int			room;
} TableRows;

/*
 * How far a scan of the pending rows has come: from the newest to the oldest,
 * by created_at and task_id.  All zeroes: before the newest.
 */
typedef struct TableCursor
{
	bool		begun;
	TimestampTz created_at;		/* of the last row that was read */
	char		task_id[257];
} TableCursor;

extern TableResult table_select_pending(const char **task_ids, int n,
										TableRows *rows);
extern TableResult table_scan_pending(TableCursor *cursor, int max,
									  TableRows *rows);

#endif							/* ANYVOD_SELECT_H */
