/*-------------------------------------------------------------------------
 *
 * tracker.h
 *		The worker's reads and writes of anyvod_tasks.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TRACKER_H
#define ANYVOD_TRACKER_H

#include "response/answer.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "storage/lock.h"

/* Longest that reading may take, in milliseconds. */
#define TRACKER_TIME_LIMIT 5000

/* An answer larger than this is not kept in "response". */
#define TRACKER_MAX_RESPONSE (1024 * 1024)

/* How a transaction on the table went. */
typedef enum TrackerOutcome
{
	TRACKER_DONE,
	TRACKER_ABSENT,				/* there is no such table */
	TRACKER_BUSY,				/* somebody has locked the table */
	TRACKER_FAILED,				/* an error, which is in the log */
} TrackerOutcome;

/* A pending row, as a listing gives it. */
typedef struct TrackerListed
{
	const char *task_id;
	const char *server;
	const char *owner;
	TimestampTz created_at;
	bool		answered;		/* there has been an answer about it */
	bool		blank;			/* nothing is known of its task */
} TrackerListed;

/* A pending row that is about to be asked for.  Strings are null if SQL's. */
typedef struct TrackerRow
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
} TrackerRow;

/* What is to be written into a row, should it still be as it was asked for. */
typedef struct TrackerChange
{
	const char *task_id;
	const char *server;
	const char *owner;
	const char *state;			/* a label of anyvod_state */
	const Answer *answer;		/* NULL: nothing was learned of the task */
	const char *error_code;		/* instead of the answer's */
	const char *error_message;
	bool		native;			/* they are PostgreSQL's, in the database's
								 * encoding; else UTF-8 */
	int			polls;			/* to be added */
	bool		drop_response;	/* jsonb cannot hold it */
	bool		written;		/* out: it was */
	bool		pending;		/* out: and the row is pending now */
	const char *failure;		/* out: why it cannot be, NULL if it can, in
								 * the database's encoding */
	int			failure_code;	/* out: its SQLSTATE */
} TrackerChange;

/* A prepared statement, made when it is first used: static, hence zero. */
typedef struct TrackerPlan
{
	bool		generic;		/* one plan suits all parameters */
	SPIPlanPtr	prepared;		/* NULL: it is not */
	BlockNumber most_blocks;	/* a larger table wants another */
	uint32		schema;			/* which of the schemas it names */
} TrackerPlan;

/* The inside of a transaction on the table. */
typedef void (*TrackerBody)(void *arg);

typedef void (*TrackerListedVisit)(const TrackerListed *row, void *arg);
typedef void (*TrackerRowVisit)(const TrackerRow *row, void *arg);

extern void tracker_pin_settings(void);
extern bool tracker_find_table(Oid *table, const char **schema);
extern void tracker_list_begin(bool all);
extern TrackerOutcome tracker_list_page(int max, TrackerListedVisit visit,
										void	   *arg, bool *more);
extern TrackerOutcome tracker_confirm(const char **task_ids, int n,
									  TrackerRowVisit visit, void *arg);
extern TrackerOutcome tracker_visit(const TrackerRow *rows, int n,
									TrackerRowVisit visit, void *arg);
extern bool tracker_settles(const TrackerChange *change);
extern TrackerOutcome tracker_write(TrackerChange **changes, int n,
									int time_limit);

/* For the rooms that write, or read settled rows. */
extern TrackerOutcome tracker_run(LOCKMODE lock, int time_limit,
								  TrackerBody body, void *arg,
								  ErrorData **error);
extern TrackerOutcome tracker_read(const char *doing, TrackerBody body,
								   void *arg);
extern void tracker_log(const char *doing, const ErrorData *error);
extern bool tracker_is_systems(int sqlstate);
extern const char *tracker_get_schema(void);
extern SPIPlanPtr tracker_plan(TrackerPlan *plan, const char *sql, int nargs,
							   Oid *types);
extern char *tracker_string(SPITupleTable *rows, uint64 row, int column);
extern const char *tracker_name(SPITupleTable *rows, uint64 row, int column);
extern Datum tracker_value(SPITupleTable *rows, uint64 row, int column,
						   bool *isnull);

#endif							/* ANYVOD_TRACKER_H */
