/*-------------------------------------------------------------------------
 *
 * outline.c
 *		A JSON text without what its strings say.
 *
 * PostgreSQL's parser takes some twenty instructions for a byte, and most of
 * an answer's bytes are in strings that nobody wants: an echoed prompt, an
 * image in Base64.  So the parser is given an outline, in which each string
 * is empty and white space is left out, and the few strings that matter are
 * looked up in the text.  The outline is valid JSON if and only if the text
 * is, and means the same but for the strings.  Strings with backslashes stay
 * as they are, since it is the parser that knows about escapes.
 *
 * Whatever an outline cannot be made of, the parser has to read itself: this
 * is a short cut, and none of the checks is here alone.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "mb/pg_wchar.h"

#include "response/outline.h"
#include "response/sanitize.h"
#include "response/word.h"

/* What a byte outside of strings is; all that are not here are BYTE_ALIEN. */
typedef enum ByteKind
{
	BYTE_ALIEN,					/* none of JSON's */
	BYTE_WORD,					/* of a number, true, false or null */
	BYTE_MARK,
	BYTE_SPACE,
	BYTE_QUOTE,
	BYTE_OPENS,
	BYTE_CLOSES,
} ByteKind;

static const uint8 byte_kinds[256] = {
	['0'] = BYTE_WORD,
	['1'] = BYTE_WORD,
	['2'] = BYTE_WORD,
	['3'] = BYTE_WORD,
	['4'] = BYTE_WORD,
	['5'] = BYTE_WORD,
	['6'] = BYTE_WORD,
	['7'] = BYTE_WORD,
	['8'] = BYTE_WORD,
	['9'] = BYTE_WORD,
	['+'] = BYTE_WORD,
	['-'] = BYTE_WORD,
	['.'] = BYTE_WORD,
	['E'] = BYTE_WORD,
	['a'] = BYTE_WORD,
	['e'] = BYTE_WORD,
	['f'] = BYTE_WORD,
	['l'] = BYTE_WORD,
	['n'] = BYTE_WORD,
	['r'] = BYTE_WORD,
	['s'] = BYTE_WORD,
	['t'] = BYTE_WORD,
	['u'] = BYTE_WORD,
	[','] = BYTE_MARK,
	[':'] = BYTE_MARK,
	[' '] = BYTE_SPACE,
	['\t'] = BYTE_SPACE,
	['\n'] = BYTE_SPACE,
	['\r'] = BYTE_SPACE,
	['"'] = BYTE_QUOTE,
	['{'] = BYTE_OPENS,
	['['] = BYTE_OPENS,
	['}'] = BYTE_CLOSES,
	[']'] = BYTE_CLOSES,
};

/*
 * The first byte from p on that ends a string, must not be in one, or is a
 * backslash; "end" if there is none.  Sets in *bits those of all bytes seen.
 * Before "words_end" there are eight bytes to read.
 */
static inline const char *
string_stop(const char *p, const char *end, const char *words_end,
			uint64 *bits)
{
	for (; p < words_end; p += sizeof(uint64))
	{
		uint64		word = word_load(p);
		uint64		stops = word_string_stops(word);

		*bits |= word;
		if (stops != 0)
			return p + word_first(stops);
	}
	for (; p < end; p++)
	{
		unsigned char c = (unsigned char) *p;

		*bits |= c;
		if (c == '"' || c == '\\' || c < ' ')
			break;
	}
	return p;
}

/*
 * The quote that ends a string, from its first backslash on; NULL if there is
 * none or something must not be in it.
 */
static const char *
escaped_end(const char *p, const char *end, const char *words_end)
{
	uint64		bits = 0;

	while (p < end && *p == '\\')
	{
		if (end - p < 2)
			return NULL;
		p = string_stop(p + 2, end, words_end, &bits);
	}
	return p < end && *p == '"' ? p : NULL;
}

/*
 * outline_make
 *		Make an outline of a text of len bytes, which must stay there.
 *
 * False if that cannot be done: the text is no UTF-8, holds a NUL or (unless
 * "sane") a backslash, is nested deeper than max_depth, or has too much
 * beside its strings.  "sane" says that the text comes from sanitize_text.
 */
bool
outline_make(Outline *outline, const char *text, size_t len, int max_depth,
			 bool sane)
{
	const char *p = text;
	const char *end = text + len;
	const char *words_end = len < sizeof(uint64) ?
		text :
		end - sizeof(uint64) + 1;
	char	   *out = outline->text;
	char	   *stop = outline->text + OUTLINE_ROOM - 2;
	bool		escapes = false;
	uint64		bits = 0;		/* of all bytes together */
	int			depth = 0;

	if (len > SANITIZE_MAX_TEXT)
		return false;
	while (p < end)
	{
		const char *first = p;
		unsigned char c = (unsigned char) *p++;

		/* room for two bytes, and for the one that terminates */
		if (out >= stop)
			return false;
		switch ((ByteKind) byte_kinds[c])
		{
			case BYTE_QUOTE:
				p = string_stop(p, end, words_end, &bits);
				if (p < end && *p == '"')
				{
					size_t		place = out - outline->text;

					outline->strings[place / 2].start = first + 1 - text;
					outline->strings[place / 2].len = p - (first + 1);
					*out++ = '"';
				}
				else
				{
					p = sane ? escaped_end(p, end, words_end) : NULL;
					if (p == NULL || p - first >= stop - out)
						return false;
					memcpy(out, first, p - first);
					out += p - first;
					escapes = true;
				}
				*out++ = '"';
				p++;
				break;
			case BYTE_OPENS:
				*out++ = c;
				if (++depth > max_depth)
					return false;
				break;
			case BYTE_CLOSES:
				*out++ = c;
				depth--;
				break;
			case BYTE_WORD:
			case BYTE_MARK:
				*out++ = c;
				break;
			case BYTE_SPACE:
				/* behind a word it keeps that from being one with the next */
				if (out > outline->text &&
					byte_kinds[(unsigned char) out[-1]] == BYTE_WORD)
					*out++ = ' ';
				break;
			case BYTE_ALIEN:
				return false;
		}
	}
	*out = '\0';
	outline->source = text;
	outline->len = out - outline->text;
	outline->escapes = escapes;
	return sane || (bits & WORD_HIGHS) == 0 ||
		pg_encoding_verifymbstr(PG_UTF8, text, (int) len) == (int) len;
}
