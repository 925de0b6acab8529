/*-------------------------------------------------------------------------
 *
 * write.h
 *		Writing what a worker has learned, whatever single rows make of it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_WRITE_H
#define ANYVOD_WRITE_H

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "table/update.h"

/* An update that is to be written; kept by whoever adds it until it is done. */
typedef struct WriteItem
{
	dlist_node	node;			/* among those that were not tried */
	pairingheap_node retry_node;	/* among those that could not be written */
	TableUpdate update;
	void	   *tag;			/* the caller's */
	const char *row_code;		/* the row's error_code, NULL for null */
	bool		watched;		/* the row has had a response before */
	size_t		kept;			/* bytes of its response, the caller's */
	int64		retry_at;		/* when to try again */
	uint16		attempts;		/* that wrote nothing */
	bool		timed_out;		/* the last needed more time */
	bool		logged;			/* it is in the log */
} WriteItem;

/* An update is done with.  "over": its row is pending no more, or gone. */
typedef void (*WriteDone)(WriteItem *item, bool over);

/* An update could not be written and will be kept for a while. */
typedef void (*WriteKeep)(WriteItem *item);

extern void write_init(WriteDone done, WriteKeep keep);
extern void write_add(WriteItem *item);
extern bool write_has_room(void);
extern int	write_backlog(void);
extern int64 write_next(void);
extern void write_hold(int64 until);
extern void write_retry_all(int64 now);
extern int64 write_blocked(void);
extern TableResult write_updates(void);
extern TableResult write_retries(void);
extern TableResult write_at_once(TableUpdate **updates, int n);

#endif							/* ANYVOD_WRITE_H */
