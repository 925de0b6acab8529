/*-------------------------------------------------------------------------
 *
 * expire.h
 *		Retention: removing rows that were settled long ago.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_EXPIRE_H
#define ANYVOD_EXPIRE_H

extern int64 expire_next(void);
extern void expire_slice(void);

#endif							/* ANYVOD_EXPIRE_H */
