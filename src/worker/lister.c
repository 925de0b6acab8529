/*-------------------------------------------------------------------------
 *
 * lister.c
 *		Finding pending rows that a worker does not know yet.
 *
 * A listing is not repeated at once, so that many pending rows cannot make
 * listing all that is done.  Rows that were never answered are listed apart,
 * since they are what is new; a listing of all finds rows that came with an
 * answer, from a dump for one.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "worker/lister.h"
#include "worker/queue.h"
#include "server/validate.h"

#define SECOND INT64CONST(1000000)

/*
 * A listing is not repeated before this many times what the last one took;
 * a short one may soon be, so that those that come one after the
 * other are filled as fast as the first.
 */
#define LISTER_SHARE 10
#define LISTER_SHORT_SHARE 1
#define LISTER_FULL_SHARE 100
#define LISTER_SHORT (SECOND / 1000)

/* Rows of a page of a listing, fewer if that takes longer than this. */
#define LISTER_PAGE 10000
#define LISTER_LEAST_PAGE 100
#define LISTER_PAGE_TIME (SECOND / 20)

static struct
{
	bool		all;			/* rows of any kind may have come */
	bool		new;			/* rows without an answer may have come */
	int64		all_at;			/* not before this */
	int64		at;				/* no listing at all before this */
	bool		listing;		/* one is under way */
	bool		listing_all;	/* ... of rows of any kind */
	int64		time;			/* ... that has taken so long */
	int			page_size;		/* rows of its next page */
} lister;


/* List all rows, from the first one. */
void
lister_restart(void)
{
	memset(&lister, 0, sizeof(lister));
	lister.all = true;
	lister.page_size = LISTER_LEAST_PAGE;
}

/* Rows may have come. */
void
lister_note_news(void)
{
	lister.all = lister.new = true;
}

/* List nothing before then. */
void
lister_hold(int64 until)
{
	lister.at = until;
}

/* Is there nothing to be looked for? */
bool
lister_is_done(void)
{
	return !lister.all && !lister.new && !lister.listing;
}

/* Is a listing under way, and may go on at once? */
bool
lister_is_listing(void)
{
	return lister.listing && lister.at == 0;
}

/* When to list, QUEUE_NEVER if there is nothing to be looked for. */
int64
lister_next(void)
{
	if (lister.new || lister.listing)
		return lister.at;
	if (lister.all)
		return Max(lister.at, lister.all_at);
	return QUEUE_NEVER;
}

/* A page of a listing. */
typedef struct ListerPage
{
	int64		now;
	ListerVisit visit;
} ListerPage;

/* A task is known already; its row may be another than before. */
static void
lister_note_row(QueueTask *task, const TrackerListed *row, int64 now)
{
	task->created_at = row->created_at;
	if (task->queued && !queue_is_of(task, row->server, row->owner))
		queue_move(task, row->server, row->owner, now);
	else if (!row->answered)
		queue_note_change(task, now);
}

static void
lister_on_row(const TrackerListed *row, void *arg)
{
	ListerPage *page = arg;
	QueueTask  *task = queue_find(row->task_id);

	if (!validate_task_id(row->task_id, strlen(row->task_id)))
		return;					/* the table's owner has dropped its check */
	if (task != NULL)
		lister_note_row(task, row, page->now);
	else
		task = queue_add(row->task_id, row->server, row->owner,
						 row->created_at, page->now);
	if (row->blank && task->queued && task->due <= page->now)
		page->visit(task);
}

/*
 * Begin to list.  What is announced from now on may be missed, and leads to
 * another listing.
 */
static void
lister_begin(int64 now)
{
	bool		all = lister.all && now >= lister.all_at;

	tracker_list_begin(all);
	lister.listing = true;
	lister.listing_all = all;
	lister.time = 0;
	lister.new = false;
	if (all)
		lister.all = false;
}

/* A listing is over: not again for a while. */
static void
lister_end(int64 now)
{
	int64		share = lister.time < LISTER_SHORT ?
		LISTER_SHORT_SHARE :
		LISTER_SHARE;

	lister.listing = false;
	lister.at = now + share * lister.time;
	if (lister.listing_all)
		lister.all_at = now + LISTER_FULL_SHARE * lister.time;
}

/* A page of a listing took so long: make the next one shorter, or longer. */
static void
lister_fit_page(int64 took)
{
	if (took > LISTER_PAGE_TIME)
		lister.page_size = Max(lister.page_size / 2, LISTER_LEAST_PAGE);
	else if (took < LISTER_PAGE_TIME / 2)
		lister.page_size = Min(lister.page_size * 2, LISTER_PAGE);
}

/*
 * Look for rows that are not known yet: one page, so that no turn is long and
 * no lock or snapshot is held for as long as a listing takes.  To be called
 * when lister_next() says so.
 */
TrackerOutcome
lister_list(ListerVisit visit)
{
	int64		begin = monotonic_us();
	ListerPage	page = {begin, visit};
	int64		now;
	TrackerOutcome outcome;
	bool		more;

	if (!lister.listing)
		lister_begin(begin);
	outcome = tracker_list_page(lister.page_size, lister_on_row, &page,
								&more);
	now = monotonic_us();
	lister.time += now - begin;
	if (outcome != TRACKER_BUSY)
		lister_fit_page(now - begin);
	if (outcome == TRACKER_DONE && !more)
		lister_end(now);
	return outcome;
}
