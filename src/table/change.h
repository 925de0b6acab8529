/*-------------------------------------------------------------------------
 *
 * change.h
 *		What is to be written into rows, as values of the database.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_CHANGE_H
#define ANYVOD_CHANGE_H

#include "table/tracker.h"
#include "utils/tuplestore.h"

/* What the table of changes is called in a statement. */
#define CHANGE_TABLE "anyvod_changes"

/* A column of a change. */
typedef struct ChangeType
{
	const char *name;
	Oid			type;
} ChangeType;

#define CHANGE_COLUMNS 17

extern const ChangeType change_columns[CHANGE_COLUMNS];

/* A change; its number, which comes first, is n. */
typedef struct ChangeRow
{
	Datum		values[CHANGE_COLUMNS];
	bool		nulls[CHANGE_COLUMNS];
} ChangeRow;

extern void change_fill(ChangeRow *row, const TrackerChange *change, int n);
extern Tuplestorestate *change_show(TrackerChange **changes, int n);

#endif							/* ANYVOD_CHANGE_H */
