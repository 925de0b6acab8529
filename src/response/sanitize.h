/*-------------------------------------------------------------------------
 *
 * sanitize.h
 *		Making bytes fit for a JSON parser.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SANITIZE_H
#define ANYVOD_SANITIZE_H

/*
 * The longest JSON text: palloc gives no more than 1 GB, and the parser
 * copies a string that fills the whole text into one piece of memory.
 */
#define SANITIZE_MAX_TEXT ((size_t) 0x3ffffff0)

extern const char *sanitize_text(const char *body, size_t len, int max_depth,
								 size_t *sane_len, bool *too_deep);

#endif							/* ANYVOD_SANITIZE_H */
