/*-------------------------------------------------------------------------
 *
 * anyvod.h
 *		The settings, anyvod.*.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_H
#define ANYVOD_H

extern bool anyvod_worker;		/* tracked tasks are polled */
extern bool anyvod_notify;		/* NOTIFY when a row is settled */
extern int	anyvod_max_databases;	/* that are served at once */
extern int	anyvod_idle_timeout;	/* milliseconds */
extern int	anyvod_detection_delay; /* milliseconds */
extern int	anyvod_poll_floor;	/* milliseconds */
extern int	anyvod_poll_cap;	/* milliseconds */
extern int	anyvod_give_up_after;	/* seconds */
extern int	anyvod_retention;	/* seconds, 0: settled rows are kept */

#endif							/* ANYVOD_H */
