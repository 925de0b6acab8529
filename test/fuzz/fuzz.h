/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *		What every fuzz target has in common.
 *
 * A target is a function of some bytes that must end, must not crash, and
 * finds by REQUIRE that what it read keeps its promises.  libFuzzer calls it,
 * or replay.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_FUZZ_H
#define ANYVOD_FUZZ_H

#define REQUIRE(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, \
					#condition); \
			abort(); \
		} \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

#endif							/* ANYVOD_FUZZ_H */
