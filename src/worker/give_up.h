/*-------------------------------------------------------------------------
 *
 * give_up.h
 *		Giving up rows that are too old and are not polled.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_GIVE_UP_H
#define ANYVOD_GIVE_UP_H

#include "table/access.h"

extern int64 give_up_next(void);
extern void give_up_page(void);

#endif							/* ANYVOD_GIVE_UP_H */
