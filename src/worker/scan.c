/*-------------------------------------------------------------------------
 *
 * scan.c
 *		Taking pending rows in that the worker was not told of.
 *
 * Whoever commits pending rows hands their ids over.  A scan finds the others:
 * when the worker starts, when there were too many ids, when anyvod_wake() says
 * so, and when there is room in memory again for rows that were left in the
 * table.
 *
 * A pass goes through all pending rows, the newest first.  Since that may take
 * long, what has just come is looked for by a short pass of its own, which ends
 * where no row is new.  So the time in which a new row is found does not
 * depend on how many wait.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "server/validate.h"
#include "worker/queue.h"
#include "worker/scan.h"

#define SECOND INT64CONST(1000000)

/* Rows of a page, fewer if one takes longer than this. */
#define SCAN_PAGE 1000
#define SCAN_LEAST_PAGE 100
#define SCAN_PAGE_TIME (SECOND / 20)

/*
 * The pause after a page is so many times as long as it took: none when the
 * worker starts.
 */
#define SCAN_NEW_SHARE 1
#define SCAN_ALL_SHARE 9

/* Rows left in the table are looked for when so much is free again. */
#define SCAN_ROOM_SHARE 8

/* A pass over the pending rows. */
typedef struct ScanPass
{
	bool		running;
	TableCursor cursor;
	int64		at;				/* no page before this */
} ScanPass;

static struct
{
	ScanPass	all;
	ScanPass	new;			/* down to a page of which none is taken in */
	bool		starting;		/* "all" is the worker's first */
	bool		again;			/* another pass over all is to follow */
	bool		left;			/* rows were left in the table for room */
	uint64		left_size;		/* ... when so many tasks were in memory */
	int			taken_in;		/* rows of this page that were */
	int			page_size;
	int64		hold_until;		/* the table is locked, most likely */
} scan;


static void
scan_start(ScanPass *pass)
{
	memset(pass, 0, sizeof(ScanPass));
	pass->running = true;
}

/* The worker starts: look for all rows. */
void
scan_begin(void)
{
	memset(&scan, 0, sizeof(scan));
	scan.page_size = SCAN_PAGE;
	scan.starting = true;
	scan_start(&scan.all);
}

/* Rows may have come whose ids are not known. */
void
scan_request(void)
{
	scan_start(&scan.new);
	scan.again = true;
}

/* Read nothing before then. */
void
scan_hold(int64 until)
{
	scan.hold_until = until;
}

/* Is the worker's first pass over all rows under way? */
bool
scan_is_starting(void)
{
	return scan.starting;
}

/* Start a pass if one is wanted. */
static void
scan_update(void)
{
	if (scan.left &&
		queue_size() <= scan.left_size - scan.left_size / SCAN_ROOM_SHARE)
	{
		scan.left = false;
		scan.again = true;
	}
	if (scan.again && !scan.all.running)
	{
		scan.again = false;
		scan_start(&scan.all);
	}
}

/* Is there nothing to be looked for? */
bool
scan_is_done(void)
{
	scan_update();
	return !scan.all.running && !scan.new.running;
}

/* When to call scan_page(), QUEUE_NEVER if nothing is to be looked for. */
int64
scan_next(void)
{
	int64		next = QUEUE_NEVER;

	scan_update();
	if (scan.new.running)
		next = scan.new.at;
	if (scan.all.running)
		next = Min(next, scan.all.at);
	return next == QUEUE_NEVER ? next : Max(next, scan.hold_until);
}

/*
 * Take a pending row in that has been read.  If its role has as many tasks in
 * memory as it may, the row is left for later.
 */
void
scan_take_row(const TableRow *row, int64 now)
{
	QueueTask  *task = queue_find(row->task_id);

	if (!validate_task_id(row->task_id, strlen(row->task_id)))
		return;					/* the table's owner has dropped its check */
	if (task != NULL)
	{
		task->created_at = row->created_at;
		if (task->state == TASK_WAITING && !queue_is_of(task, row))
			queue_move(task, row, now);
		return;
	}
	if (queue_add(row, now) != NULL)
	{
		scan.taken_in++;
		return;
	}
	scan.left = true;
	scan.left_size = queue_size();
}

/* Make the next page shorter, or longer, if this one took so long. */
static void
scan_fit_page(int64 took)
{
	if (took > SCAN_PAGE_TIME)
		scan.page_size = Max(scan.page_size / 2, SCAN_LEAST_PAGE);
	else if (took < SCAN_PAGE_TIME / 2)
		scan.page_size = Min(scan.page_size * 2, SCAN_PAGE);
}

/*
 * scan_page
 *		Read a page of rows, in a short transaction, and take them in.
 */
TableResult
scan_page(void)
{
	int64		begin = monotonic_us();
	ScanPass   *pass = &scan.all;
	int			max = scan.page_size;
	int			share = SCAN_ALL_SHARE;
	TableRows	rows;
	TableResult result;
	int64		now;

	if (scan.new.running && begin >= scan.new.at)
		pass = &scan.new;
	if (!pass->running)
		return TABLE_DONE;
	result = table_scan_pending(&pass->cursor, max, &rows);
	now = monotonic_us();
	if (result != TABLE_DONE)
		return result;
	scan.taken_in = 0;
	for (int i = 0; i < rows.n; i++)
		scan_take_row(&rows.rows[i], now);
	scan_fit_page(now - begin);

	if (pass == &scan.new)
		share = SCAN_NEW_SHARE;
	else if (scan.starting)
		share = 0;
	pass->at = now + share * (now - begin);
	if (rows.n < max || (scan.taken_in == 0 && pass == &scan.new))
	{
		pass->running = false;
		scan.starting = scan.starting && pass == &scan.new;
	}
	return TABLE_DONE;
}
