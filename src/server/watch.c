/*-------------------------------------------------------------------------
 *
 * watch.c
 *		Files that have to change before their owner can go on.
 *
 * A file that cannot be read, or whose key the gateway has refused, is looked
 * at from outside now and then, by whoever waits for it: that is cheaper than
 * trying again, and sooner than waiting for its age.  What is kept here is
 * private to the process.  Nothing here reads a file, or knows what it is for.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "utils/timestamp.h"

#include "compat.h"
#include "server/watch.h"

/* Most files that are watched; trouble with others is waited out. */
#define WATCH_FILES 64

/*
 * A file is watched for so long (milliseconds) after trouble with it: longer
 * than it takes until somebody who still wants it meets it again.
 */
#define WATCH_FOR (150 * 1000)

typedef struct WatchFile
{
	char		path[MAXPGPATH];
	WatchLook	look;			/* as of the trouble */
	bool		refused;		/* it can be read, but its content is no good */
	TimestampTz since;			/* when there was trouble last */
} WatchFile;

static WatchFile *files = NULL; /* WATCH_FILES of them */
static int	nfiles = 0;

/* See what a file looks like. */
void
watch_look(const char *path, WatchLook *look)
{
	struct stat status;

	memset(look, 0, sizeof(WatchLook));
	if (stat(path, &status) != 0)
	{
		look->error = errno;
		return;
	}
	look->device = status.st_dev;
	look->inode = status.st_ino;
	look->size = status.st_size;
	look->changed = compat_stat_changed(&status);
}

static bool
watch_same(const WatchLook *a, const WatchLook *b)
{
	return a->error == b->error && a->device == b->device &&
		a->inode == b->inode && a->size == b->size &&
		a->changed.tv_sec == b->changed.tv_sec &&
		a->changed.tv_nsec == b->changed.tv_nsec;
}

static WatchFile *
watch_find(const char *path)
{
	for (int i = 0; i < nfiles; i++)
	{
		if (strcmp(files[i].path, path) == 0)
			return &files[i];
	}
	return NULL;
}

static void
watch_remove(WatchFile *file)
{
	*file = files[--nfiles];
}

/*
 * There is trouble with a file, or there will be unless watch_end() is called:
 * watch it from now on for being other than it looked before the trouble.
 */
void
watch_begin(const char *path, const WatchLook *look, bool refused)
{
	WatchFile  *file = watch_find(path);

	if (file == NULL)
	{
		if (nfiles == WATCH_FILES || strlen(path) >= MAXPGPATH)
			return;
		if (files == NULL)
			files = MemoryContextAlloc(TopMemoryContext,
									   WATCH_FILES * sizeof(WatchFile));
		file = &files[nfiles++];
		strlcpy(file->path, path, MAXPGPATH);
		file->refused = refused;
		file->look = *look;
	}
	/* That it is read again does not make what was refused any better. */
	if (refused || !file->refused)
		file->look = *look;
	file->refused |= refused;
	file->since = GetCurrentTimestamp();
}

/* A file could be read; watch it no more, unless its content was refused. */
void
watch_end(const char *path)
{
	WatchFile  *file = watch_find(path);

	if (file != NULL && !file->refused)
		watch_remove(file);
}

/* Is any file watched? */
bool
watch_any(void)
{
	return nfiles > 0;
}

/* Has a file changed since there was trouble with it?  Says so once. */
bool
watch_changed(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		changed = false;

	for (int i = nfiles - 1; i >= 0; i--)
	{
		WatchLook	look;

		watch_look(files[i].path, &look);
		if (!watch_same(&look, &files[i].look))
			changed = true;
		else if (!TimestampDifferenceExceeds(files[i].since, now, WATCH_FOR))
			continue;
		watch_remove(&files[i]);
	}
	return changed;
}
