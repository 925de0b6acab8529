/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The clock of all intervals and deadlines.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_CLOCK_H
#define ANYVOD_CLOCK_H

#include "portability/instr_time.h"

/*
 * Microseconds of a clock that nobody sets, the same in all processes of a
 * machine.  Never 0.
 */
static inline int64
monotonic_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

#endif							/* ANYVOD_CLOCK_H */
