/*-------------------------------------------------------------------------
 *
 * word.h
 *		Eight bytes of text at once.
 *
 * The functions that look for bytes set the high bit of each that is found
 * (ASCII ones only).  What a subtraction borrows may set it in a byte behind
 * one that is found, never in one before: the first is right.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_WORD_H
#define ANYVOD_WORD_H

#include "port/pg_bitutils.h"
#include "port/pg_bswap.h"

#define WORD_ONES UINT64CONST(0x0101010101010101)
#define WORD_HIGHS (WORD_ONES * 0x80)

/* The eight bytes at p, of which the first is the lowest. */
static inline uint64
word_load(const char *p)
{
	uint64		word;

	memcpy(&word, p, sizeof(word));
#ifdef WORDS_BIGENDIAN
	word = pg_bswap64(word);
#endif
	return word;
}

/* How many bytes stand before the first that was found. */
static inline int
word_first(uint64 found)
{
	return pg_rightmost_one_pos64(found) / 8;
}

/* Bytes that end a string of JSON or must not be in one, and backslashes. */
static inline uint64
word_string_stops(uint64 word)
{
	uint64		quotes = (word ^ (WORD_ONES * '"')) - WORD_ONES;
	uint64		backslashes = (word ^ (WORD_ONES * '\\')) - WORD_ONES;
	uint64		controls = word - WORD_ONES * ' ';

	return (quotes | backslashes | controls) & ~word & WORD_HIGHS;
}

/* Control characters, and all bytes beyond ASCII. */
static inline uint64
word_unprintable(uint64 word)
{
	uint64		dels = (word ^ (WORD_ONES * 0x7F)) - WORD_ONES;
	uint64		controls = word - WORD_ONES * ' ';

	return (((dels | controls) & ~word) | word) & WORD_HIGHS;
}

#endif							/* ANYVOD_WORD_H */
