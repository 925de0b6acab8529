/*-------------------------------------------------------------------------
 *
 * give_up.c
 *		Giving up rows that are too old and are not polled.
 *
 * A row older than anyvod.give_up_after is given up when it is polled, see
 * poll.c.  While its server or key fails for long it is not; so the rows older
 * than that are gone through, a page at a time, as a scan does.  They may be in
 * memory or not.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "anyvod.h"
#include "clock.h"
#include "control/slot.h"
#include "table/select.h"
#include "table/update.h"
#include "worker/durations.h"
#include "worker/give_up.h"
#include "worker/poll.h"
#include "worker/queue.h"
#include "worker/write.h"

#define SECOND INT64CONST(1000000)

/* Rows of a page, and the least pause between two passes over the rows. */
#define GIVE_UP_PAGE 1000
#define GIVE_UP_EVERY (10 * SECOND)

/* The pause is also so many times as long as the last page took. */
#define GIVE_UP_SHARE 9

/*
 * A row that was written so recently, or set back to pending, waits for so long
 * (seconds); less if give_up_after is.
 */
#define GIVE_UP_GRACE 3600

static struct
{
	int64		next;			/* no page before this */
	TableCursor cursor;			/* not begun: the pass begins with the newest */
} give_up;


/* When to call give_up_page(): only while something fails for long. */
int64
give_up_next(void)
{
	return Max(queue_error_lasts_at(), give_up.next);
}

/* The error that an old row is to be given up for; NULL: it is not. */
static const HealthError *
give_up_error(const TableRow *row, int64 now)
{
	const QueueRole *role = queue_find_role(row);
	const QueueTask *task = queue_find(row->task_id);
	const HealthError *error;
	int			grace = Min(anyvod_give_up_after, GIVE_UP_GRACE);

	if (role == NULL ||
		row->written_at >= GetCurrentTimestamp() - grace * SECOND)
		return NULL;
	if (task != NULL &&
		(task->state != TASK_WAITING || poll_found_running(task, now)))
		return NULL;
	error = queue_lasting_error(role);
	return health_error_lasts_at(error) <= now ? error : NULL;
}

/* Abandon rows, and forget the tasks of those that are. */
static void
give_up_rows(TableUpdate **updates, int n)
{
	if (n == 0)
		return;
	(void) write_at_once(updates, n);
	for (int i = 0; i < n; i++)
	{
		QueueTask  *task = queue_find(updates[i]->task_id);

		if (task == NULL || !updates[i]->written || updates[i]->pending)
			continue;
		durations_record_over(task, NULL);
		queue_remove(task);
	}
	slot_wake_waiters();
}

/*
 * give_up_page
 *		Go through a page of old rows, and abandon those that are not polled
 *		because of an error that lasts.
 */
void
give_up_page(void)
{
	int64		begin = monotonic_us();
	TableUpdate **updates = palloc(GIVE_UP_PAGE * sizeof(TableUpdate *));
	int			n = 0;
	TableRows	rows;

	if (!give_up.cursor.begun)
	{
		memset(&give_up.cursor, 0, sizeof(give_up.cursor));
		give_up.cursor.begun = true;
		give_up.cursor.created_at = GetCurrentTimestamp() -
			anyvod_give_up_after * SECOND;
	}
	if (table_scan_pending(&give_up.cursor, GIVE_UP_PAGE, &rows) != TABLE_DONE)
		rows.n = 0;				/* another pass is made in a while */
	for (int i = 0; i < rows.n; i++)
	{
		const TableRow *row = &rows.rows[i];
		const HealthError *error = give_up_error(row, begin);

		if (error == NULL)
			continue;
		updates[n] = palloc0(sizeof(TableUpdate));
		updates[n]->task_id = row->task_id;
		updates[n]->server = row->server;
		updates[n]->owner = row->owner;
		updates[n]->state = "abandoned";
		updates[n]->error_code = error->code;
		updates[n++]->error_message = error->message;
	}
	give_up_rows(updates, n);
	if (rows.n < GIVE_UP_PAGE)
		give_up.cursor.begun = false;
	give_up.next = monotonic_us() +
		Max(give_up.cursor.begun ? 0 : GIVE_UP_EVERY,
			GIVE_UP_SHARE * (monotonic_us() - begin));
}
