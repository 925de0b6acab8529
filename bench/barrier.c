/*-------------------------------------------------------------------------
 *
 * barrier.c
 *		How long other processes go without an interrupt check.
 *
 *		longest_barrier(seconds float8) returns float8
 *
 * For so many seconds, has all processes of the server take notice of a
 * barrier, one barrier after the other, and returns how long the slowest took,
 * in milliseconds.  DROP DATABASE waits for the same.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/procsignal.h"

/* Between two barriers, in microseconds. */
#define PAUSE 1000

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(longest_barrier);

/* Milliseconds since a time. */
static double
since(instr_time begin)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, begin);
	return INSTR_TIME_GET_MILLISEC(now);
}

Datum
longest_barrier(PG_FUNCTION_ARGS)
{
	double		limit = PG_GETARG_FLOAT8(0) * 1000;
	double		longest = 0;
	instr_time	begin;

	INSTR_TIME_SET_CURRENT(begin);
	do
	{
		instr_time	emitted;

		INSTR_TIME_SET_CURRENT(emitted);
		WaitForProcSignalBarrier(EmitProcSignalBarrier(PROCSIGNAL_BARRIER_SMGRRELEASE));
		longest = Max(longest, since(emitted));
		CHECK_FOR_INTERRUPTS();
		pg_usleep(PAUSE);
	} while (since(begin) < limit);
	PG_RETURN_FLOAT8(longest);
}
