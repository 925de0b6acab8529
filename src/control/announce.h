/*-------------------------------------------------------------------------
 *
 * announce.h
 *		Telling workers, at commit, what a session has done.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ANNOUNCE_H
#define ANYVOD_ANNOUNCE_H

extern void announce_init(void);
extern void announce_work(void);
extern void announce_ban(Oid database);

#endif							/* ANYVOD_ANNOUNCE_H */
