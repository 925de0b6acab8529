/*-------------------------------------------------------------------------
 *
 * sanitize.c
 *		Making bytes fit for a JSON parser.
 *
 * What a jsonb could not hold is replaced, since an echoed prompt with half a
 * surrogate pair in it must not cost the URL of the file beside it.  The same
 * scan measures the nesting, so that nobody has to recurse to find out.
 *
 * Nothing here knows what an answer is; all of it is pure and linear in time.
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

#include "response/sanitize.h"

#define REPLACEMENT_CHARACTER 0xFFFD

/* What a pass over a text found. */
typedef struct Findings
{
	size_t		len;			/* of the text made fit */
	bool		changed;		/* it is not the text as it came */
	int			max_depth;		/* of nested objects and arrays */
} Findings;

/* The number in a \uXXXX escape at p, -1 if there is none. */
static int
escape_value(const char *p, const char *end)
{
	int			value = 0;

	if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
		return -1;
	for (int i = 2; i < 6; i++)
	{
		char		c = p[i];

		if (c >= '0' && c <= '9')
			value = value * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			value = value * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return value;
}

/*
 * The character that replaces the escape at p, inside a string; 0 if it stays.
 * *len is how many bytes that are.
 *
 * ASCII stays escaped, since a quote or a newline must.  All else becomes
 * plain UTF-8: in a backend of another encoding the lexer would raise an error
 * for a character that the encoding lacks.
 */
static pg_wchar
replace_escape(const char *p, const char *end, int *len)
{
	int			value = escape_value(p, end);
	int			low = -1;

	if (value < 0 || (value > 0 && value < 0x80))
	{
		/* the escaped byte is no quote that ends the string */
		if (end - p > 1 && (unsigned char) p[1] < 0x80 && p[1] != '\0')
			*len = 2;
		return 0;
	}

	*len = 6;
	if (value >= 0xD800 && value <= 0xDBFF)
		low = escape_value(p + 6, end);
	if (low >= 0xDC00 && low <= 0xDFFF)
	{
		*len = 12;
		return 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
	}
	if (value == 0 || (value >= 0xD800 && value <= 0xDFFF))
		return REPLACEMENT_CHARACTER;
	return value;
}

/* The same of a NUL, or of the character outside ASCII that begins at p. */
static pg_wchar
replace_character(const char *p, const char *end, int *len)
{
	int			width = pg_encoding_mblen(PG_UTF8, p);

	if (*p == '\0' || width > end - p ||
		!pg_utf8_islegal((const unsigned char *) p, width))
		return REPLACEMENT_CHARACTER;
	*len = width;
	return 0;
}

/* The bytes that pass_over() has to look at: one in thirty, as a rule. */
static const bool special[256] = {
	['\0'] = true,
	['"'] = true,
	['\\'] = true,
	['['] = true,
	[']'] = true,
	['{'] = true,
	['}'] = true,
	[0x80 ... 0xff] = true,
};

/*
 * Write a text made fit to "out", or only measure it if that is NULL.
 *
 * What is a string and how deep it is are right up to the first error of
 * syntax, and the parser reads no further than that.
 */
static Findings
pass_over(const char *text, const char *end, char *out)
{
	Findings	found = {0};
	const char *kept = text;	/* from here on as it is */
	bool		in_string = false;
	int			depth = 0;
	int			len;

	for (const char *p = text; p < end; p += len)
	{
		unsigned char c = (unsigned char) *p;
		unsigned char utf8[4];
		pg_wchar	by = 0;

		len = 1;
		if (!special[c])
			continue;
		if (c >= 0x80 || c == '\0')
			by = replace_character(p, end, &len);
		else if (c == '"')
			in_string = !in_string;
		else if (in_string)
			by = c == '\\' ? replace_escape(p, end, &len) : 0;
		else if (c == '{' || c == '[')
		{
			depth++;
			found.max_depth = Max(found.max_depth, depth);
		}
		else if ((c == '}' || c == ']') && depth > 0)
			depth--;
		if (by == 0)
			continue;

		unicode_to_utf8(by, utf8);
		if (out != NULL)
		{
			memcpy(out + found.len, kept, p - kept);
			memcpy(out + found.len + (p - kept), utf8,
				   pg_encoding_mblen(PG_UTF8, (char *) utf8));
		}
		found.len += p - kept + pg_encoding_mblen(PG_UTF8, (char *) utf8);
		found.changed = true;
		kept = p + len;
	}
	if (out != NULL)
		memcpy(out + found.len, kept, end - kept);
	found.len += end - kept;
	return found;
}

/*
 * sanitize_text
 *		Make a text fit for PostgreSQL's JSON parser and for jsonb.
 *
 * Takes bytes, returns valid UTF-8 without NUL, *sane_len bytes of it: the
 * body itself (or its part after a byte order mark) if nothing had to be
 * changed, else a palloc'd copy.  Replaced by U+FFFD are bytes that are not
 * UTF-8, NUL, the escape of NUL, and halves of surrogate pairs; escapes of
 * characters beyond ASCII become those characters.  What is not JSON remains
 * not JSON.  *too_deep tells whether objects and arrays are nested deeper than
 * max_depth.
 *
 * Returns NULL, with *sane_len 0, if the text would exceed SANITIZE_MAX_TEXT.
 */
const char *
sanitize_text(const char *body, size_t len, int max_depth, size_t *sane_len,
			  bool *too_deep)
{
	static const char bom[3] = {'\xEF', '\xBB', '\xBF'};
	const char *end;
	char	   *copy;
	Findings	found;

	*sane_len = 0;
	*too_deep = false;
	if (len > SANITIZE_MAX_TEXT)
		return NULL;
	if (len == 0)
		return "";
	end = body + len;
	if (len >= sizeof(bom) && memcmp(body, bom, sizeof(bom)) == 0)
		body += sizeof(bom);

	found = pass_over(body, end, NULL);
	*too_deep = found.max_depth > max_depth;
	if (found.len > SANITIZE_MAX_TEXT)
		return NULL;
	*sane_len = found.len;
	if (!found.changed)
		return body;
	copy = palloc(found.len + 1);
	pass_over(body, end, copy);
	copy[found.len] = '\0';
	return copy;
}
