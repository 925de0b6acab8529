/*-------------------------------------------------------------------------
 *
 * retention.h
 *		Removing rows that were settled long ago.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_RETENTION_H
#define ANYVOD_RETENTION_H

extern int64 retention_next(void);
extern void retention_remove(void);

#endif							/* ANYVOD_RETENTION_H */
