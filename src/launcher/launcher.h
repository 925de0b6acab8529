/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The process that starts a worker where there is work.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_LAUNCHER_H
#define ANYVOD_LAUNCHER_H

extern void launcher_register(void);

/* Entry points of the processes. */
extern PGDLLEXPORT void launcher_main(Datum arg);
extern PGDLLEXPORT void worker_main(Datum database);

#endif							/* ANYVOD_LAUNCHER_H */
