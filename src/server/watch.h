/*-------------------------------------------------------------------------
 *
 * watch.h
 *		Files that have to change before their owner can go on.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_WATCH_H
#define ANYVOD_WATCH_H

#include <sys/types.h>
#include <time.h>

/* What a file looks like from outside. */
typedef struct WatchLook
{
	int			error;			/* errno of stat(), then the rest is 0 */
	dev_t		device;
	ino_t		inode;
	off_t		size;
	struct timespec changed;	/* its content, or its rights */
} WatchLook;

extern void watch_look(const char *path, WatchLook *look);
extern void watch_begin(const char *path, const WatchLook *look, bool refused);
extern void watch_end(const char *path);
extern bool watch_any(void);
extern bool watch_changed(void);

#endif							/* ANYVOD_WATCH_H */
