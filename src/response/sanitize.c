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

/* A walk over a body from one thing that must be replaced to the next. */
typedef struct Scan
{
	const char *next;			/* where to go on */
	const char *end;
	bool		in_string;
	int			depth;			/* open objects and arrays */
	int			max_depth;
	const char *spot;			/* the bytes to be replaced ... */
	size_t		spot_len;
	pg_wchar	spot_char;		/* ... and what by */
} Scan;

#define REPLACEMENT_CHARACTER 0xFFFD

/* ASCII bytes that a scan has to look at. */
static const bool scan_stops[128] = {
	['\0'] = true,
	['"'] = true,
	['\\'] = true,
	['{'] = true,
	['}'] = true,
	['['] = true,
	[']'] = true,
};

/*
 * Length of the UTF-8 character at p, which has avail bytes; 0 if these are
 * not UTF-8.
 */
static int
utf8_length(const char *p, size_t avail)
{
	int			len = pg_encoding_mblen(PG_UTF8, p);

	if ((size_t) len > avail ||
		!pg_utf8_islegal((const unsigned char *) p, len))
		return 0;
	return len;
}

/* Bytes that a character beyond ASCII takes in UTF-8. */
static int
utf8_width(pg_wchar c)
{
	if (c < 0x800)
		return 2;
	if (c < 0x10000)
		return 3;
	return 4;
}

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

/* Note that len bytes at p are to be replaced, and go on behind them. */
static void
scan_replace(Scan *scan, const char *p, int len, pg_wchar by)
{
	scan->spot = p;
	scan->spot_len = len;
	scan->spot_char = by;
	scan->next = p + len;
}

/*
 * Look at the escape at p, inside a string, and go on behind it.  True if it
 * has to be replaced.
 *
 * ASCII stays escaped, since a quote or a newline must.  All else becomes
 * plain UTF-8: in a backend of another encoding the lexer would raise an error
 * for a character that the encoding lacks.
 */
static bool
scan_escape(Scan *scan, const char *p)
{
	int			value = escape_value(p, scan->end);
	int			low = -1;

	if (value < 0 || (value > 0 && value < 0x80))
	{
		/* the escaped byte is no quote that ends the string */
		if (scan->next < scan->end && (unsigned char) *scan->next < 0x80 &&
			*scan->next != '\0')
			scan->next++;
		return false;
	}

	if (value >= 0xD800 && value <= 0xDBFF)
		low = escape_value(p + 6, scan->end);
	if (low >= 0xDC00 && low <= 0xDFFF)
		scan_replace(scan, p, 12,
					 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00));
	else if (value == 0 || (value >= 0xD800 && value <= 0xDFFF))
		scan_replace(scan, p, 6, REPLACEMENT_CHARACTER);
	else
		scan_replace(scan, p, 6, value);
	return true;
}

/*
 * Look at a byte outside ASCII, or a NUL, and go on behind the whole character.
 * True if it is none.
 */
static bool
scan_byte(Scan *scan, const char *p)
{
	int			len = *p == '\0' ? 0 : utf8_length(p, scan->end - p);

	if (len == 0)
		scan_replace(scan, p, 1, REPLACEMENT_CHARACTER);
	else
		scan->next = p + len;
	return len == 0;
}

/*
 * Look at the byte at p, one that scan_stops or is not ASCII, and go on behind
 * it.  True if something has to be replaced.
 */
static bool
scan_stop(Scan *scan, const char *p)
{
	unsigned char c = (unsigned char) *p;

	scan->next = p + 1;
	if (c >= 0x80 || c == '\0')
		return scan_byte(scan, p);
	if (c == '"')
		scan->in_string = !scan->in_string;
	else if (scan->in_string)
		return c == '\\' && scan_escape(scan, p);
	else if (c == '{' || c == '[')
	{
		if (++scan->depth > scan->max_depth)
			scan->max_depth = scan->depth;
	}
	else if (c != '\\' && scan->depth > 0)
		scan->depth--;
	return false;
}

/*
 * Go on to the next thing that must be replaced; false at the end.
 *
 * What is a string and how deep it is are right up to the first error of
 * syntax, and the parser reads no further than that.
 */
static bool
scan_next(Scan *scan)
{
	const char *p = scan->next;
	const char *end = scan->end;

	while (p < end)
	{
		unsigned char c = (unsigned char) *p;

		if (c < 0x80 && !scan_stops[c])
		{
			p++;
			continue;
		}
		if (scan_stop(scan, p))
			return true;
		p = scan->next;
	}
	return false;
}

static void
scan_init(Scan *scan, const char *text, size_t len)
{
	memset(scan, 0, sizeof(*scan));
	scan->next = text;
	scan->end = text + len;
}

/*
 * In each byte of word that is c (ASCII), the high bit; the others zero.
 *
 * A byte v of 7 bits is zero if v + 0x7F lacks the high bit, and one of 8 bits
 * is not zero; v is the byte XOR c, and 0x7F carries nothing into the next.
 */
static inline uint64
bytes_equal(uint64 word, char c)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 lows = ones * 0x7F;
	uint64		v = word ^ (ones * (unsigned char) c);

	return ~(((v & lows) + lows) | v | lows);
}

/*
 * Is this a text that plainly needs no further look: UTF-8 without NUL and
 * backslash, with too few brackets to be nested too deep?
 *
 * Eight bytes at a time, since most answers pass, and megabytes of Base64 do.
 */
static bool
is_plain(const char *text, size_t len, int max_depth)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	uint64		opened = 0;
	uint64		bits = 0;		/* of all bytes together */
	size_t		i;

	for (i = 0; i + sizeof(uint64) <= len; i += sizeof(uint64))
	{
		uint64		word;

		memcpy(&word, text + i, sizeof(word));
		bits |= word;
		if (bytes_equal(word, '\0') | bytes_equal(word, '\\'))
			return false;
		/* '{' is '[' with one bit more; the product adds up the bytes */
		opened += ((bytes_equal(word | (ones * 0x20), '{') >> 7) *
				   ones) >>
			56;
	}
	for (; i < len; i++)
	{
		if (text[i] == '\0' || text[i] == '\\')
			return false;
		opened += text[i] == '{' || text[i] == '[';
		bits |= (unsigned char) text[i];
	}
	if (opened > (uint64) max_depth)
		return false;
	/* the higher half of a byte's values is not ASCII */
	return (bits & (ones * 0x80)) == 0 ||
		pg_encoding_verifymbstr(PG_UTF8, text, (int) len) == (int) len;
}

/* Copy a text of len bytes with what must be replaced; size bytes come out. */
static char *
replaced_copy(const char *text, size_t len, size_t size)
{
	char	   *copy = palloc(size + 1);
	char	   *out = copy;
	const char *copied = text;
	Scan		scan;

	scan_init(&scan, text, len);
	while (scan_next(&scan))
	{
		memcpy(out, copied, scan.spot - copied);
		out += scan.spot - copied;
		unicode_to_utf8(scan.spot_char, (unsigned char *) out);
		out += utf8_width(scan.spot_char);
		copied = scan.next;
	}
	memcpy(out, copied, scan.end - copied);
	copy[size] = '\0';
	return copy;
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
	Scan		scan;
	size_t		need;
	bool		changed = false;

	*sane_len = 0;
	*too_deep = false;
	if (len > SANITIZE_MAX_TEXT)
		return NULL;
	if (len == 0)
		return "";
	if (len >= sizeof(bom) && memcmp(body, bom, sizeof(bom)) == 0)
	{
		body += sizeof(bom);
		len -= sizeof(bom);
	}

	need = len;
	if (!is_plain(body, len, max_depth))
	{
		scan_init(&scan, body, len);
		while (scan_next(&scan))
		{
			need = need - scan.spot_len + utf8_width(scan.spot_char);
			changed = true;
		}
		*too_deep = scan.max_depth > max_depth;
	}
	if (need > SANITIZE_MAX_TEXT)
		return NULL;
	*sane_len = need;
	return changed ? replaced_copy(body, len, need) : body;
}
