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

/* What is announced to workers: bits. */
#define LAUNCHER_WORK 1			/* there may be rows to ask for */
#define LAUNCHER_CHANGE 2		/* servers or mappings have changed */
#define LAUNCHER_MEND 4			/* roles, rights, schema or table have */
#define LAUNCHER_SETTINGS 8		/* what settings start from has */

/* Databases that are known to wait for a place. */
#define LAUNCHER_CROWD 64

/* What a worker is told. */
typedef struct LauncherNews
{
	uint32		wakes;			/* how often work was announced */
	uint32		changes;		/* how often servers or mappings changed */
	uint32		mends;			/* how often roles, rights or the table did */
	bool		go;				/* a command wants the database for itself, or
								 * the settings have changed */
	bool		turn_over;		/* others wait for a worker or a place */
	uint32		own_work;		/* so often has writing made work */
} LauncherNews;

/* A database that has, or may have, work, for who looks from outside. */
typedef struct LauncherView
{
	Oid			database;
	pid_t		worker;			/* 0 if there is none */
	bool		serving;		/* the worker has looked, and stays */
	bool		banned;			/* a command wants it without a worker */
	bool		placeless;		/* it waits for a place */
	bool		slotless;		/* no process slot was free for a worker */
	bool		failing;		/* workers fail, the next is yet to start */
} LauncherView;

/* For the library's load, in the postmaster. */
extern void launcher_init(void);

/* For sessions. */
extern bool launcher_present(void);
extern void launcher_announce(Oid database, int news);
extern void launcher_note_prepared(void);
extern bool launcher_has_prepared(void);
extern bool launcher_ban(Oid database, pid_t *worker);
extern void launcher_set_latch(pid_t pid);
extern void launcher_unban(Oid database);
extern int	launcher_view(LauncherView *views);
extern int	launcher_most_views(void);
extern void launcher_sleep(long timeout);
extern void launcher_end_sleep(void);

/* For the worker. */
extern void launcher_attach(void);
extern bool launcher_is_worker(void);
extern void launcher_serve(void);
extern void launcher_note_own_work(void);
extern LauncherNews launcher_news(void);
extern void launcher_note_rest(int64 until);
extern void launcher_tell_sleepers(void);
extern bool launcher_leave(uint32 wakes);
extern void launcher_step_aside(void);
extern void launcher_end_turn(void);

/* Entry points of the processes. */
extern PGDLLEXPORT void launcher_main(Datum arg);
extern PGDLLEXPORT void worker_main(Datum database);

#endif							/* ANYVOD_LAUNCHER_H */
