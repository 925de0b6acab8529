/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		Starting a worker where there is work, and waking it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_LAUNCHER_H
#define ANYVOD_LAUNCHER_H

/* What a worker is told. */
typedef struct LauncherNews
{
	uint32		wakes;			/* how often work was announced */
	uint32		changes;		/* how often servers or mappings changed */
	bool		banned;			/* a command wants the database for itself */
	bool		own_work;		/* writing has made work since the last time */
} LauncherNews;

/* A database that has, or may have, work, for who looks from outside. */
typedef struct LauncherView
{
	Oid			database;
	pid_t		worker;			/* 0 if there is none */
	bool		serving;		/* the worker has looked, and stays */
	bool		banned;			/* a command wants it without a worker */
	bool		slotless;		/* no process slot was free for a worker */
	bool		failing;		/* workers fail, the next is yet to start */
} LauncherView;

/* For the library's load, in the postmaster. */
extern void launcher_init(void);

/* For sessions. */
extern bool launcher_present(void);
extern void launcher_note_work(void);
extern void launcher_ban(Oid database);
extern int	launcher_view(LauncherView *views);
extern void launcher_sleep(long timeout);
extern void launcher_end_sleep(void);

/* For the worker. */
extern void launcher_attach(void);
extern bool launcher_is_worker(void);
extern void launcher_serve(void);
extern LauncherNews launcher_news(void);
extern void launcher_tell_sleepers(void);
extern bool launcher_leave(uint32 wakes);
extern void launcher_step_aside(void);

/* Entry points of the processes. */
extern PGDLLEXPORT void launcher_main(Datum arg);
extern PGDLLEXPORT void worker_main(Datum database);

#endif							/* ANYVOD_LAUNCHER_H */
