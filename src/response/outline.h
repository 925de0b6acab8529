/*-------------------------------------------------------------------------
 *
 * outline.h
 *		A JSON text without what its strings say.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_OUTLINE_H
#define ANYVOD_OUTLINE_H

/*
 * Bytes of an outline.  An answer about a task takes some hundreds, one with
 * the metadata of nine files 3,000.
 */
#define OUTLINE_ROOM 8192

/* A string of the text, without its quotes. */
typedef struct OutlineString
{
	uint32		start;
	uint32		len;
} OutlineString;

typedef struct Outline
{
	const char *source;			/* the text */
	bool		escapes;		/* a string with backslashes is in it */
	size_t		len;
	char		text[OUTLINE_ROOM]; /* terminated */

	/*
	 * A string takes two bytes here, its quotes: so half the place of the
	 * first is a number of its own.  Those of strings only are set.
	 */
	OutlineString strings[OUTLINE_ROOM / 2];
} Outline;

extern bool outline_make(Outline *outline, const char *text, size_t len,
						 int max_depth, bool sane);

/*
 * What the string says whose first quote is at "quote" in the outline; *len
 * bytes, followed by a quote.
 */
static inline const char *
outline_string(const Outline *outline, const char *quote, size_t *len)
{
	const OutlineString *string =
		&outline->strings[(size_t) (quote - outline->text) / 2];

	*len = string->len;
	return outline->source + string->start;
}

#endif							/* ANYVOD_OUTLINE_H */
