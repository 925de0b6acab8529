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

/* For the library's load, in the postmaster. */
extern void launcher_init(void);

/* For sessions. */
extern bool launcher_present(void);
extern void launcher_note_work(void);

/* For the worker. */
extern void launcher_attach(void);
extern void launcher_serve(void);
extern uint32 launcher_wakes(uint32 *changes);
extern bool launcher_leave(uint32 wakes);

/* Entry points of the processes. */
extern PGDLLEXPORT void launcher_main(Datum arg);
extern PGDLLEXPORT void worker_main(Datum database);

#endif							/* ANYVOD_LAUNCHER_H */
