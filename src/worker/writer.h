/*-------------------------------------------------------------------------
 *
 * writer.h
 *		Writing what a worker has learned, whatever single rows make of it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_WRITER_H
#define ANYVOD_WRITER_H

#include "lib/ilist.h"
#include "worker/queue.h"
#include "table/tracker.h"

/* While so many changes wait to be written, nothing new should be asked. */
#define WRITER_BACKLOG 1000

/* A change that is to be written; kept by whoever adds it until it is done. */
typedef struct WriterItem
{
	dlist_node	node;
	TrackerChange change;
	void	   *tag;			/* the caller's */
	QueueTask  *task;			/* not queued meanwhile */
	const char *row_code;		/* the row's error_code, NULL for null */
	bool		answered;		/* the row has had an answer before */
	int64		due;			/* when to ask again; out: or later */
} WriterItem;

/* A change has been seen to.  "over" if its row is pending no more. */
typedef void (*WriterDone)(WriterItem *item, bool over);

extern void writer_init(WriterDone done);
extern void writer_add(WriterItem *item);
extern int	writer_backlog(void);
extern int64 writer_next(void);
extern void writer_hold(int64 until);
extern TrackerOutcome writer_write(void);

#endif							/* ANYVOD_WRITER_H */
