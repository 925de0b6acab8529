/*-------------------------------------------------------------------------
 *
 * memory.h
 *		palloc for programs that test the pure rooms.
 *
 * In a backend, what answer_read leaves behind goes with its memory context.
 * Here memory_reset() stands for that.  memory.c takes the place of
 * fe_memutils.o of libpgcommon; each piece is malloc'd by itself, so that
 * valgrind and AddressSanitizer see every byte beyond it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TEST_MEMORY_H
#define ANYVOD_TEST_MEMORY_H

extern void memory_reset(void);
extern size_t memory_used(void);	/* bytes */
extern size_t memory_peak(void);	/* bytes at most since the last reset */

#endif							/* ANYVOD_TEST_MEMORY_H */
