/*-------------------------------------------------------------------------
 *
 * bytes.h
 *		Bytes to read, where reading too far is seen, and what they must be.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TEST_BYTES_H
#define ANYVOD_TEST_BYTES_H

/* The same sequence in every run. */
extern uint64 random_number(void);

/* Bytes as they come, with those that matter to JSON more often. */
extern size_t random_bytes(char *out, size_t room);

/* A copy that ends where readable memory does; 1 MB at most, one at a time. */
extern const char *at_the_edge(const char *bytes, size_t len);

/* Valid UTF-8 without NUL? */
extern bool is_utf8(const char *s, size_t len);

/*
 * Under valgrind or a sanitizer, ANYVOD_SLOW makes fewer rounds of what is
 * repeated, and times nothing.
 */
extern bool is_slow(void);
extern int	rounds(int n);

#endif							/* ANYVOD_TEST_BYTES_H */
