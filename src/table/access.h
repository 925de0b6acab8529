/*-------------------------------------------------------------------------
 *
 * access.h
 *		Short transactions on anyvod_tasks.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ACCESS_H
#define ANYVOD_ACCESS_H

#include "executor/spi.h"
#include "storage/block.h"
#include "storage/lock.h"

/* Longest that reading may take, in milliseconds. */
#define TABLE_TIME_LIMIT 5000

/* How a transaction on the table ended. */
typedef enum TableResult
{
	TABLE_DONE,
	TABLE_ABSENT,				/* there is no such table */
	TABLE_LOCKED,				/* somebody has locked the table */
	TABLE_FAILED,				/* an error */
} TableResult;

#define TABLE_MAX_ARGS 17

/*
 * A prepared statement, static.  In "sql", a format, %1$s is the schema; the
 * table's owner can have altered the table, so its types are made ours.
 */
typedef struct TablePlan
{
	const char *sql;
	int			nargs;
	Oid			types[TABLE_MAX_ARGS];
	bool		generic;		/* one plan suits all parameters */

	/* used by table_plan() */
	SPIPlanPtr	prepared;		/* NULL: it is not */
	BlockNumber most_blocks;	/* a larger table wants another */
	uint32		schema;			/* which of the schemas it names */
} TablePlan;

/* The inside of a transaction on the table. */
typedef void (*TableBody)(void *arg);

/* Takes a row of a SELECT; its values are gone afterwards. */
typedef void (*TableTakeRow)(const Datum *values, const bool *nulls,
							 void *arg);

extern void table_pin_settings(void);
extern bool table_find(Oid *table, const char **schema);
extern uint32 table_alterations(void);

extern TableResult table_run(LOCKMODE lock, int time_limit, TableBody body,
							 void *arg, ErrorData **error);
extern TableResult table_read(const char *doing, TableBody body, void *arg);
extern void table_log(const char *doing, const ErrorData *error);
extern bool table_may_log(void);
extern bool table_is_system_error(int sqlstate);

/* Inside of a transaction on the table. */
extern void table_arm_limit(int time_limit);
extern void table_disarm_limit(void);
extern SPIPlanPtr table_plan(TablePlan *plan);
extern void table_select(const char *doing, SPIPlanPtr plan,
						 const Datum *arguments, TableTakeRow take, void *arg,
						 MemoryContext memory);
extern Datum table_value(SPITupleTable *rows, uint64 row, int column,
						 bool *isnull);
extern char *table_string(SPITupleTable *rows, uint64 row, int column);
extern const char *table_name(SPITupleTable *rows, uint64 row, int column);

#endif							/* ANYVOD_ACCESS_H */
