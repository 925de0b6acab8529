/*-------------------------------------------------------------------------
 *
 * answer.c
 *		Reading what the gateway answered.
 *
 * From an HTTP status and bytes to an Answer, in three steps:
 *
 * 1. Make the bytes fit for a JSON parser (answer_sanitize): what a jsonb
 *	  could not hold is replaced, since an echoed prompt with half a surrogate
 *	  pair in it must not cost the URL of the file beside it.  The same scan
 *	  measures the nesting.
 * 2. Run PostgreSQL's own parser over it once, with callbacks that know where
 *	  they are and note the fields that matter.  No tree is built.  Keys come
 *	  in any order (TaskType after the task objects, Output before Status), so
 *	  nothing is decided while parsing.
 * 3. Decide what the answer says, from the HTTP status and what was noted.
 *
 * Whatever arrives here may be hostile or broken, and none of it raises an
 * error: the nesting is bounded before the parser's stack check could object,
 * no \u escape beyond ASCII reaches a lexer that would have to convert it to
 * the server encoding, and each list and each kept string has a limit.  Time
 * is linear in the length of the body.  Memory is that of the sanitised copy
 * (if one is needed), of the parser's buffer for the longest string, and of
 * the kept fields.
 *
 * What does not live here: asking (http.c), what to do about an answer
 * (worker.c, schedule.c), making Datums or errors of it (result.c, query.c).
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

#include "answer.h"
#include "compat.h"

/*
 * The longest JSON text: palloc gives no more than 1 GB, and the parser
 * copies a string that fills the whole body into one piece of memory.
 */
#define MAX_TEXT ((size_t) 0x3ffffff0)

/*
 * Characters of a one-line field (status, codes, types, names).  The longest
 * known value is a task type or error code of about 50; nobody shall fill a
 * column with a megabyte.
 */
#define MAX_LINE 200

/*
 * Bytes of a URL.  Signed object-storage URLs take 1 to 2 kB, and HTTP servers
 * commonly refuse request lines beyond 8 kB.  Half a URL is worse than none.
 */
#define MAX_URL 8192

/*
 * Files of one list.  A task makes 9 images at most; a thousand leaves room
 * for what comes, and what lies beyond is not listed.
 */
#define MAX_FILES 1000

/*
 * Objects beside each other in Response.  Tencent names about 40 task types
 * and fills the object of one; with more objects than this it is no answer
 * about a task.
 */
#define MAX_TASKS 64

/* Objects and arrays between the top and a file's fields, with a reserve. */
#define MAX_FRAMES 10


/*-------------------------------------------------------------------------
 * Making a text fit for the parser
 *-------------------------------------------------------------------------
 */

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
	unsigned char lead = (unsigned char) *p;
	int			len;

	if (lead < 0x80)
		len = 1;
	else if (lead < 0xE0)
		len = 2;
	else if (lead < 0xF0)
		len = 3;
	else
		len = 4;

	if ((size_t) len > avail ||
		!pg_utf8_islegal((const unsigned char *) p, len))
		return 0;
	return len;
}

/* Bytes that a character takes in UTF-8. */
static int
utf8_width(pg_wchar c)
{
	if (c < 0x80)
		return 1;
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

/*
 * Look at the escape at p, inside a string.  True if it has to be replaced.
 *
 * ASCII stays escaped, since a quote or a newline must.  All else becomes
 * plain UTF-8: in a backend of another encoding the lexer would raise an error
 * for a character that the encoding lacks.
 */
static bool
scan_escape(Scan *scan, const char *p)
{
	int			value = escape_value(p, scan->end);

	if (value < 0 || (value > 0 && value < 0x80))
		return false;

	scan->spot = p;
	scan->spot_len = 6;
	scan->spot_char = value;

	if (value == 0)
		scan->spot_char = REPLACEMENT_CHARACTER;
	else if (value >= 0xD800 && value <= 0xDFFF)
	{
		int			low = escape_value(p + 6, scan->end);

		if (value < 0xDC00 && low >= 0xDC00 && low <= 0xDFFF)
		{
			scan->spot_len = 12;
			scan->spot_char = 0x10000 +
				((value - 0xD800) << 10) + (low - 0xDC00);
		}
		else
			scan->spot_char = REPLACEMENT_CHARACTER;
	}
	return true;
}

/* Look at a byte outside ASCII, or a NUL; step over a whole character. */
static bool
scan_byte(Scan *scan, const char *p)
{
	int			len = *p == '\0' ? 0 : utf8_length(p, scan->end - p);

	if (len > 0)
	{
		scan->next = p + len;
		return false;
	}
	scan->spot = p;
	scan->spot_len = 1;
	scan->spot_char = REPLACEMENT_CHARACTER;
	return true;
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

		scan->next = p + 1;
		if (c >= 0x80 || c == '\0')
		{
			if (scan_byte(scan, p))
			{
				scan->next = p + 1;
				return true;
			}
		}
		else if (c == '"')
			scan->in_string = !scan->in_string;
		else if (scan->in_string)
		{
			if (c == '\\')
			{
				if (scan_escape(scan, p))
				{
					scan->next = p + scan->spot_len;
					return true;
				}
				scan->next = (end - p > 1 && (unsigned char) p[1] < 0x80 &&
							  p[1] != '\0') ?
					p + 2 :
					p + 1;
			}
		}
		else if (c == '{' || c == '[')
		{
			if (++scan->depth > scan->max_depth)
				scan->max_depth = scan->depth;
		}
		else if (c != '\\' && scan->depth > 0)
			scan->depth--;
		p = scan->next;
	}
	scan->next = end;
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
is_plain(const char *text, size_t len)
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
	if (opened > ANSWER_MAX_DEPTH)
		return false;
	/* the higher half of a byte's values is not ASCII */
	return (bits & (ones * 0x80)) == 0 ||
		pg_encoding_verifymbstr(PG_UTF8, text, (int) len) == (int) len;
}

/*
 * The work of answer_sanitize; *max_depth is set to the deepest nesting, or
 * to 0 where that is known to be within the limit.
 */
static const char *
sane_text(const char *body, size_t len, size_t *sane_len, int *max_depth)
{
	static const char bom[3] = {'\xEF', '\xBB', '\xBF'};
	Scan		scan;
	size_t		need;
	const char *copied;
	char	   *sane;
	char	   *out;
	bool		changed = false;

	*sane_len = 0;
	*max_depth = 0;
	if (len > MAX_TEXT)
		return NULL;
	if (len == 0)
		return "";
	if (len >= sizeof(bom) && memcmp(body, bom, sizeof(bom)) == 0)
	{
		body += sizeof(bom);
		len -= sizeof(bom);
	}

	if (is_plain(body, len))
	{
		*sane_len = len;
		return body;
	}

	need = len;
	scan_init(&scan, body, len);
	while (scan_next(&scan))
	{
		need = need - scan.spot_len + utf8_width(scan.spot_char);
		changed = true;
	}
	*max_depth = scan.max_depth;
	if (need > MAX_TEXT)
		return NULL;
	*sane_len = need;
	if (!changed)
		return body;

	sane = out = palloc(need + 1);
	copied = body;
	scan_init(&scan, body, len);
	while (scan_next(&scan))
	{
		memcpy(out, copied, scan.spot - copied);
		out += scan.spot - copied;
		unicode_to_utf8(scan.spot_char, (unsigned char *) out);
		out += utf8_width(scan.spot_char);
		copied = scan.next;
	}
	memcpy(out, copied, scan.end - copied);
	sane[need] = '\0';
	return sane;
}

/*
 * answer_sanitize
 *		Make a body fit for PostgreSQL's JSON parser and for jsonb.
 *
 * Takes bytes, returns valid UTF-8 without NUL, *sane_len bytes of it: the
 * body itself (or its part after a byte order mark) if nothing had to be
 * changed, else a palloc'd copy.  Replaced by U+FFFD are bytes that are not
 * UTF-8, NUL, the escape of NUL, and halves of surrogate pairs; escapes of
 * characters beyond ASCII become those characters.  What is not JSON remains
 * not JSON.
 *
 * Returns NULL, with *sane_len 0, if the text would exceed 1 GB.
 */
const char *
answer_sanitize(const char *body, size_t len, size_t *sane_len)
{
	int			max_depth;

	return sane_text(body, len, sane_len, &max_depth);
}


/*-------------------------------------------------------------------------
 * Values: text, codes, numbers, dates
 *-------------------------------------------------------------------------
 */

typedef struct Time
{
	bool		known;
	TimestampTz value;
} Time;

/* Bytes of the first max_chars characters of s, which is len bytes long. */
static size_t
clip_length(const char *s, size_t len, int max_chars)
{
	size_t		n = 0;

	if (len <= (size_t) max_chars)
		return len;
	while (n < len && max_chars-- > 0)
		n += utf8_length(s + n, len - n);
	return n;
}

/*
 * If a control character (C0, DEL, C1) begins at s, its length, else 0.  C1 is
 * U+0080 to U+009F, which UTF-8 writes as C2 80 to C2 9F: U+009B begins an
 * escape sequence on some terminals, as ESC does.
 */
static int
control_length(const char *s)
{
	unsigned char c = (unsigned char) s[0];

	if (c < 0x20 || c == 0x7F)
		return 1;
	if (c == 0xC2 && (unsigned char) s[1] < 0xA0)
		return 2;
	return 0;
}

/*
 * Cut a palloc'd text at max_chars characters and put spaces for control
 * characters, but for those in "except".  Takes over token; the result is no
 * larger than it must be.
 */
static char *
tidy_text(char *token, int max_chars, const char *except)
{
	size_t		full = strlen(token);
	size_t		len = clip_length(token, full, max_chars);
	const char *in = token;
	char	   *out;

	token[len] = '\0';
	/* most have nothing to replace: move on to what may be (C1 begins so) */
	while ((unsigned char) *in >= 0x20 && *in != 0x7F && *in != '\xC2')
		in++;
	out = token + (in - token);
	while (*in != '\0')
	{
		int			control = control_length(in);

		if (control > 0 && strchr(except, *in) == NULL)
		{
			*out++ = ' ';
			in += control;
		}
		else
			*out++ = *in++;
	}
	*out = '\0';

	if (len < full)
	{
		char	   *copy = pstrdup(token);

		pfree(token);
		return copy;
	}
	return token;
}

static char *
concat(const char *a, const char *b, const char *c)
{
	size_t		a_len = strlen(a);
	size_t		b_len = strlen(b);
	size_t		c_size = strlen(c) + 1;
	char	   *result = palloc(a_len + b_len + c_size);

	memcpy(result, a, a_len);
	memcpy(result + a_len, b, b_len);
	memcpy(result + a_len + b_len, c, c_size);
	return result;
}

/* A one-line field: trimmed, NULL if nothing is left.  Takes over token. */
static char *
tidy_line(char *token)
{
	char	   *line = tidy_text(token, MAX_LINE, "");
	char	   *start = line;
	size_t		len;

	while (*start == ' ')
		start++;
	len = strlen(start);
	while (len > 0 && start[len - 1] == ' ')
		len--;
	if (len == 0)
	{
		pfree(line);
		return NULL;
	}
	memmove(line, start, len);
	line[len] = '\0';
	return line;
}

/* A URL, or NULL if it is none that could be fetched.  Takes over token. */
static char *
tidy_url(char *token)
{
	size_t		len = strlen(token);
	bool		good = len > 0 && len <= MAX_URL;

	for (const char *p = token; good && *p != '\0'; p++)
		good = control_length(p) == 0;
	if (good)
		return token;
	pfree(token);
	return NULL;
}

/*
 * Does a code say that nothing is wrong?  0, "0", 0.0, -0 and 0e3 do, as does
 * a text without a visible character.
 */
static bool
code_is_zero(const char *s)
{
	bool		digit = false;

	s += strspn(s, " \t\r\n");
	if (*s == '\0')
		return true;
	if (*s == '-' || *s == '+')
		s++;
	for (; *s == '0' || *s == '.'; s++)
		digit |= *s == '0';
	if (digit && (*s == 'e' || *s == 'E'))
	{
		s++;
		if (*s == '-' || *s == '+')
			s++;
		s += strspn(s, "0123456789");
	}
	s += strspn(s, " \t\r\n");
	return digit && *s == '\0';
}

/*
 * Percent from 47, 47.6, "47" or "47%", cut to a whole number; -1 if it is
 * none or lies outside 0 to 100.
 */
static int
read_progress(const char *s)
{
	size_t		len = strspn(s, "+-.0123456789eE");
	char	   *end;
	double		value;

	/* no percentage is longer, and strtod need not chew on megabytes */
	if (len == 0 || len > 32)
		return -1;
	value = strtod(s, &end);
	if (end != s + len)
		return -1;
	end += strspn(end, " ");
	if (*end == '%')
		end++;
	if (*end != '\0' || !(value >= 0 && value <= 100))
		return -1;
	return (int) value;
}

/* Read exactly n digits; false if they are not there. */
static bool
read_digits(const char **s, int n, int *value)
{
	*value = 0;
	for (int i = 0; i < n; i++, (*s)++)
	{
		if (**s < '0' || **s > '9')
			return false;
		*value = *value * 10 + (**s - '0');
	}
	return true;
}

/* Read one given character. */
static bool
read_char(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

/* Days from 2000-01-01 in the Gregorian calendar; false if no such day. */
static bool
days_since_epoch(int year, int month, int day, int *days)
{
	static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273,
								 304, 334, 365};
	bool		leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
	int			past = year - 1;

	if (year < 1 || month < 1 || month > 12 || day < 1 ||
		day > before[month] - before[month - 1] + (leap && month == 2))
		return false;

	/* 730119 is the same sum for 2000-01-01 */
	*days = past * 365 + past / 4 - past / 100 + past / 400 +
		before[month - 1] + (leap && month > 2) + day - 1 - 730119;
	return true;
}

/* Read 'HH:MM:SS' and an optional fraction, as microseconds. */
static bool
read_time_of_day(const char **s, int64 *usecs)
{
	int			hour;
	int			minute;
	int			second;

	if (!read_digits(s, 2, &hour) || !read_char(s, ':') ||
		!read_digits(s, 2, &minute) || !read_char(s, ':') ||
		!read_digits(s, 2, &second) ||
		hour > 23 || minute > 59 || second > 59)
		return false;
	*usecs = hour * USECS_PER_HOUR + minute * USECS_PER_MINUTE +
		second * USECS_PER_SEC;

	if (read_char(s, '.'))
	{
		int64		unit = USECS_PER_SEC;

		if (**s < '0' || **s > '9')
			return false;
		for (; **s >= '0' && **s <= '9'; (*s)++)
		{
			unit /= 10;
			*usecs += (**s - '0') * unit;
		}
	}
	return true;
}

/* Read 'Z' or an offset such as '+08:00', as microseconds east. */
static bool
read_zone(const char **s, int64 *usecs)
{
	bool		west = **s == '-';
	int			hour;
	int			minute;

	*usecs = 0;
	if (read_char(s, 'Z'))
		return true;
	if (!read_char(s, west ? '-' : '+') ||
		!read_digits(s, 2, &hour) || !read_char(s, ':') ||
		!read_digits(s, 2, &minute) || hour > 15 || minute > 59)
		return false;
	*usecs = hour * USECS_PER_HOUR + minute * USECS_PER_MINUTE;
	if (west)
		*usecs = -*usecs;
	return true;
}

/*
 * A date as the upstream writes it, 'YYYY-MM-DDTHH:MM:SSZ'.  Two of them mean
 * "not set" and one "never"; all that is no date is unknown.
 */
static Time
read_time(const char *s)
{
	Time		unknown = {false, 0};
	Time		result = {true, DT_NOEND};
	int			year;
	int			month;
	int			day;
	int			days;
	int64		time;
	int64		zone;

	if (strncmp(s, "0000-00-00", 10) == 0 || strncmp(s, "0001-01-01", 10) == 0)
		return unknown;
	if (strncmp(s, "9999-12-31", 10) == 0)
		return result;

	if (!read_digits(&s, 4, &year) || !read_char(&s, '-') ||
		!read_digits(&s, 2, &month) || !read_char(&s, '-') ||
		!read_digits(&s, 2, &day) || !read_char(&s, 'T') ||
		!read_time_of_day(&s, &time) || !read_zone(&s, &zone) ||
		*s != '\0' || !days_since_epoch(year, month, day, &days))
		return unknown;

	result.value = days * USECS_PER_DAY + time - zone;
	if (!IS_VALID_TIMESTAMP(result.value))
		return unknown;
	return result;
}


/*-------------------------------------------------------------------------
 * What is noted while parsing
 *
 * One struct for each kind of object that has a field that matters.  Each
 * begins with "present": there was such an object, and not null, a string or
 * an array in its place.
 *-------------------------------------------------------------------------
 */

typedef struct Refusal
{
	bool		present;
	char	   *code;			/* NULL if "" or 0 */
	char	   *type;
	char	   *message;
} Refusal;

/* A file: an entry of a list, or fields lying about in Output or the task */
typedef struct FoundFile
{
	bool		present;
	char	   *url;
	Time		expire;
	char	   *type;
	char	   *storage_mode;
	char	   *id;
	char	   *media_name;
	char	   *usage;
} FoundFile;

typedef struct FileList
{
	int			count;
	int			room;			/* allocated */
	FoundFile  *files;
} FileList;

/* In the order in which the main file is looked for. */
#define OUTPUT_LISTS 4

typedef struct Output
{
	bool		present;
	FileList	lists[OUTPUT_LISTS];	/* FileInfos, AudioInfos, VideoInfos,
										 * FileInfo */
	FoundFile	file;			/* Output.FileUrl */
} Output;

typedef struct Input
{
	bool		present;
	char	   *model_name;
	char	   *model_version;
} Input;

typedef struct Task
{
	bool		present;
	char	   *key;			/* its key in Response */
	char	   *id;
	char	   *status;
	char	   *task_status;	/* some types name it so */
	char	   *err_code;		/* NULL if 0 */
	char	   *err_code_ext;	/* NULL if "" or "0" */
	char	   *message;
	int			progress;		/* percent plus one, 0 if unknown: a struct
								 * of zeroes has nothing noted */
	Input		input;
	Output		output;
	FoundFile	file;			/* the task's own FileUrl */
} Task;

typedef struct Response
{
	bool		present;
	char	   *status;
	char	   *task_type;
	char	   *request_id;
	Time		created;
	Time		finished;
	Refusal		error;
	bool		flattened;		/* has an Output of its own */
	bool		crowded;		/* more than MAX_TASKS objects */
	int			ntasks;
	Task	   *tasks[MAX_TASKS];
} Response;

/* "data" in the "data" of a wrapper */
typedef struct Raw
{
	bool		present;
	bool		filled;			/* has a key */
	Response	response;
} Raw;

/* "data" of a new-api wrapper */
typedef struct Wrapper
{
	bool		present;
	char	   *status;
	int			progress;		/* as in Task */
	Response	response;
	Raw			raw;
} Wrapper;

typedef struct Document
{
	bool		present;
	Refusal		error;
	char	   *code;			/* NULL if "" or 0 */
	char	   *message;
	bool		unsuccessful;	/* "success": false */
	Wrapper		data;
	Response	response;
} Document;

/* Which of these an object of the text is. */
typedef enum Place
{
	PLACE_DOCUMENT,
	PLACE_GATEWAY_ERROR,
	PLACE_WRAPPER,
	PLACE_RAW,
	PLACE_RESPONSE,
	PLACE_RESPONSE_ERROR,
	PLACE_TASK,
	PLACE_INPUT,
	PLACE_OUTPUT,
	PLACE_FILE,
	PLACE_FILE_LIST,			/* an array */
} Place;

typedef enum FieldKind
{
	FIELD_WORD,					/* a string, one line */
	FIELD_TEXT,					/* a string or number, one line */
	FIELD_CODE,					/* the same, 0 being none */
	FIELD_MESSAGE,				/* a string of several lines */
	FIELD_URL,
	FIELD_TIME,
	FIELD_PROGRESS,
	FIELD_FALSE,				/* notes that it is false */
	FIELD_ERROR,				/* an object, or a string */
	FIELD_OBJECT,
	FIELD_FILES,				/* an array of objects, or one of them */
	FIELD_TASK,					/* any other key of Response */
} FieldKind;

typedef struct Field
{
	const char *name;
	FieldKind	kind;
	size_t		offset;			/* in the struct of its place */
	Place		child;			/* what an object there is */
	size_t		child_size;
} Field;

#define SCALAR(key, kind, holder, member) \
	{key, kind, offsetof(holder, member), PLACE_DOCUMENT, 0}
#define OBJECT(key, kind, holder, member, place, child_type) \
	{key, kind, offsetof(holder, member), place, sizeof(child_type)}
#define FILES(key, i) \
	{key, FIELD_FILES, offsetof(Output, lists) + (i) * sizeof(FileList), \
	 PLACE_FILE_LIST, sizeof(FileList)}
#define END_OF_FIELDS {NULL, FIELD_WORD, 0, PLACE_DOCUMENT, 0}

static const Field document_fields[] = {
	OBJECT("error", FIELD_ERROR, Document, error, PLACE_GATEWAY_ERROR,
		   Refusal),
	SCALAR("code", FIELD_CODE, Document, code),
	SCALAR("message", FIELD_MESSAGE, Document, message),
	SCALAR("success", FIELD_FALSE, Document, unsuccessful),
	OBJECT("data", FIELD_OBJECT, Document, data, PLACE_WRAPPER, Wrapper),
	OBJECT("Response", FIELD_OBJECT, Document, response, PLACE_RESPONSE,
		   Response),
	END_OF_FIELDS
};

static const Field gateway_error_fields[] = {
	SCALAR("code", FIELD_CODE, Refusal, code),
	SCALAR("type", FIELD_WORD, Refusal, type),
	SCALAR("message", FIELD_MESSAGE, Refusal, message),
	END_OF_FIELDS
};

static const Field wrapper_fields[] = {
	SCALAR("status", FIELD_WORD, Wrapper, status),
	SCALAR("progress", FIELD_PROGRESS, Wrapper, progress),
	OBJECT("data", FIELD_OBJECT, Wrapper, raw, PLACE_RAW, Raw),
	OBJECT("Response", FIELD_OBJECT, Wrapper, response, PLACE_RESPONSE,
		   Response),
	END_OF_FIELDS
};

static const Field raw_fields[] = {
	OBJECT("Response", FIELD_OBJECT, Raw, response, PLACE_RESPONSE, Response),
	END_OF_FIELDS
};

static const Field response_fields[] = {
	SCALAR("Status", FIELD_WORD, Response, status),
	SCALAR("TaskType", FIELD_WORD, Response, task_type),
	SCALAR("RequestId", FIELD_WORD, Response, request_id),
	SCALAR("CreateTime", FIELD_TIME, Response, created),
	SCALAR("FinishTime", FIELD_TIME, Response, finished),
	OBJECT("Error", FIELD_OBJECT, Response, error, PLACE_RESPONSE_ERROR,
		   Refusal),
	END_OF_FIELDS
};

static const Field response_error_fields[] = {
	SCALAR("Code", FIELD_CODE, Refusal, code),
	SCALAR("Message", FIELD_MESSAGE, Refusal, message),
	END_OF_FIELDS
};

#define FILE_FIELDS(holder, prefix) \
	SCALAR("FileUrl", FIELD_URL, holder, prefix url), \
	SCALAR("ExpireTime", FIELD_TIME, holder, prefix expire), \
	SCALAR("FileType", FIELD_WORD, holder, prefix type), \
	SCALAR("StorageMode", FIELD_WORD, holder, prefix storage_mode), \
	SCALAR("FileId", FIELD_TEXT, holder, prefix id), \
	SCALAR("MediaName", FIELD_TEXT, holder, prefix media_name)

static const Field task_fields[] = {
	SCALAR("TaskId", FIELD_WORD, Task, id),
	SCALAR("Status", FIELD_WORD, Task, status),
	SCALAR("TaskStatus", FIELD_WORD, Task, task_status),
	SCALAR("ErrCode", FIELD_CODE, Task, err_code),
	SCALAR("ErrCodeExt", FIELD_CODE, Task, err_code_ext),
	SCALAR("Message", FIELD_MESSAGE, Task, message),
	SCALAR("Progress", FIELD_PROGRESS, Task, progress),
	OBJECT("Input", FIELD_OBJECT, Task, input, PLACE_INPUT, Input),
	OBJECT("Output", FIELD_OBJECT, Task, output, PLACE_OUTPUT, Output),
	FILE_FIELDS(Task, file.),
	END_OF_FIELDS
};

static const Field input_fields[] = {
	SCALAR("ModelName", FIELD_TEXT, Input, model_name),
	SCALAR("ModelVersion", FIELD_TEXT, Input, model_version),
	END_OF_FIELDS
};

static const Field output_fields[] = {
	FILES("FileInfos", 0),
	FILES("AudioInfos", 1),
	FILES("VideoInfos", 2),
	FILES("FileInfo", 3),
	FILE_FIELDS(Output, file.),
	END_OF_FIELDS
};

static const Field file_fields[] = {
	FILE_FIELDS(FoundFile, ),
	SCALAR("UsageType", FIELD_WORD, FoundFile, usage),
	END_OF_FIELDS
};

static const Field *const fields_of[] = {
	[PLACE_DOCUMENT] = document_fields,
	[PLACE_GATEWAY_ERROR] = gateway_error_fields,
	[PLACE_WRAPPER] = wrapper_fields,
	[PLACE_RAW] = raw_fields,
	[PLACE_RESPONSE] = response_fields,
	[PLACE_RESPONSE_ERROR] = response_error_fields,
	[PLACE_TASK] = task_fields,
	[PLACE_INPUT] = input_fields,
	[PLACE_OUTPUT] = output_fields,
	[PLACE_FILE] = file_fields,
};

static const Field task_field = {
	NULL, FIELD_TASK, 0, PLACE_TASK, sizeof(Task)
};


/*-------------------------------------------------------------------------
 * The parser's callbacks
 *-------------------------------------------------------------------------
 */

/* An object or array that is being read, from the document inwards. */
typedef struct Frame
{
	Place		place;
	void	   *noted;			/* the struct of that place */
	const Field *field;			/* whose value comes next; NULL: none that
								 * matters */
	const char *key;			/* its key, while the value is read */
} Frame;

typedef struct Reader
{
	JsonSemAction actions;
	Document   *document;
	Frame		frames[MAX_FRAMES];
	int			nframes;
	int			skipping;		/* depth inside a value that does not matter,
								 * 0: not in one */
	bool		complete;		/* the first document has ended */
} Reader;

static CompatJsonResult reader_field_start(void *state, char *name,
										   bool isnull);
static CompatJsonResult reader_field_end(void *state, char *name, bool isnull);
static CompatJsonResult reader_scalar(void *state, char *token,
									  JsonTokenType type);

/*
 * Have the parser hand out field names, or not.
 *
 * The parser copies each name and each value for which there is a callback.
 * Only those of fields that matter are worth it: an echoed image is megabytes
 * of Base64.  So callbacks are taken away while such a value is read; those
 * for the beginning and end of objects and arrays, which are handed nothing,
 * stay and tell when it is over.
 */
static void
reader_listen(Reader *reader, bool names)
{
	reader->actions.object_field_start = names ? reader_field_start : NULL;
	reader->actions.object_field_end = names ? reader_field_end : NULL;
	reader->actions.scalar = NULL;
}

static void forget_object(Place place, void *noted, size_t size);

static void
forget_files(FileList *list)
{
	for (int i = 0; i < list->count; i++)
		forget_object(PLACE_FILE, &list->files[i], sizeof(FoundFile));
	if (list->files != NULL)
		pfree(list->files);
	memset(list, 0, sizeof(*list));
}

/*
 * Forget what an earlier field of the same name said: the last one counts, as
 * in jsonb.  Its memory is freed, so that a body that says the same a million
 * times takes no more of it than one that says it once.
 */
static void
forget_field(const Field *field, void *noted)
{
	char	   *where = (char *) noted + field->offset;

	switch (field->kind)
	{
		case FIELD_WORD:
		case FIELD_TEXT:
		case FIELD_CODE:
		case FIELD_MESSAGE:
		case FIELD_URL:
			if (*(char **) where != NULL)
				pfree(*(char **) where);
			*(char **) where = NULL;
			break;
		case FIELD_TIME:
			((Time *) where)->known = false;
			break;
		case FIELD_PROGRESS:
			*(int *) where = 0;
			break;
		case FIELD_FALSE:
			*(bool *) where = false;
			break;
		case FIELD_FILES:
			forget_files((FileList *) where);
			break;
		case FIELD_ERROR:
		case FIELD_OBJECT:
			forget_object(field->child, where, field->child_size);
			break;
		case FIELD_TASK:
			break;
	}
}

/* Forget one of the task objects of a Response. */
static void
forget_task(Response *response, int i)
{
	Task	   *task = response->tasks[i];

	response->tasks[i] = response->tasks[--response->ntasks];
	forget_object(PLACE_TASK, task, sizeof(Task));
	pfree(task->key);
	pfree(task);
}

/* Forget all that was noted in a struct, size bytes of it. */
static void
forget_object(Place place, void *noted, size_t size)
{
	if (!*(bool *) noted)
		return;
	for (const Field *field = fields_of[place]; field->name != NULL; field++)
		forget_field(field, noted);
	if (place == PLACE_RESPONSE)
	{
		Response   *response = noted;

		while (response->ntasks > 0)
			forget_task(response, response->ntasks - 1);
	}
	if (place != PLACE_TASK)
		memset(noted, 0, size);
}

/* Where the task object of that key is in a Response, -1 if it is not. */
static int
task_index(const Response *response, const char *key)
{
	for (int i = 0; i < response->ntasks; i++)
	{
		if (strcmp(response->tasks[i]->key, key) == 0)
			return i;
	}
	return -1;
}

/* A new task object under that key, NULL if there are too many already. */
static Task *
add_task(Response *response, const char *key)
{
	Task	   *task;

	/* the variant that lacks the task object has its parts instead */
	if (strcmp(key, "Output") == 0)
	{
		response->flattened = true;
		return NULL;
	}
	if (response->ntasks == MAX_TASKS)
	{
		response->crowded = true;
		return NULL;
	}
	task = palloc0(sizeof(Task));
	task->key = pstrdup(key);
	response->tasks[response->ntasks++] = task;
	return task;
}

/* A new file in a list, NULL if the list is full. */
static FoundFile *
add_file(FileList *list)
{
	FoundFile  *file;

	if (list->count == MAX_FILES)
		return NULL;
	if (list->count == list->room)
	{
		int			room = list->room == 0 ? 4 : list->room * 2;

		if (list->files == NULL)
			list->files = palloc(room * sizeof(FoundFile));
		else
			list->files = repalloc(list->files, room * sizeof(FoundFile));
		list->room = room;
	}
	file = &list->files[list->count++];
	memset(file, 0, sizeof(FoundFile));
	return file;
}

static void
reader_push(Reader *reader, Place place, void *noted)
{
	Frame	   *frame;

	Assert(reader->nframes < MAX_FRAMES);
	frame = &reader->frames[reader->nframes++];
	frame->place = place;
	frame->noted = noted;
	frame->field = NULL;
	frame->key = NULL;
	reader_listen(reader, true);
}

/*
 * An object begins: which struct is it noted in, if any?
 */
static void *
object_target(Reader *reader, Place *place)
{
	Frame	   *frame;
	const Field *field;

	if (reader->nframes == 0)
	{
		*place = PLACE_DOCUMENT;
		return reader->document;
	}

	frame = &reader->frames[reader->nframes - 1];
	if (frame->place == PLACE_FILE_LIST)
	{
		*place = PLACE_FILE;
		return add_file(frame->noted);
	}

	field = frame->field;
	if (field == NULL)
		return NULL;
	*place = field->child;
	switch (field->kind)
	{
		case FIELD_ERROR:
		case FIELD_OBJECT:
			return (char *) frame->noted + field->offset;
		case FIELD_TASK:
			return add_task(frame->noted, frame->key);
		case FIELD_FILES:
			/* one object where a list belongs is a list of one */
			*place = PLACE_FILE;
			return add_file((FileList *) ((char *) frame->noted +
										  field->offset));
		default:
			return NULL;
	}
}

static CompatJsonResult
reader_object_start(void *state)
{
	Reader	   *reader = state;
	Place		place = PLACE_DOCUMENT;
	void	   *noted;

	noted = reader->skipping > 0 ? NULL : object_target(reader, &place);
	if (noted == NULL)
	{
		reader->skipping++;
		reader_listen(reader, false);
	}
	else
	{
		*(bool *) noted = true; /* each struct begins with "present" */
		reader_push(reader, place, noted);
	}
	COMPAT_JSON_DONE;
}

static CompatJsonResult
reader_array_start(void *state)
{
	Reader	   *reader = state;
	Frame	   *frame = NULL;

	if (reader->nframes > 0)
		frame = &reader->frames[reader->nframes - 1];

	if (reader->skipping == 0 && frame != NULL && frame->field != NULL &&
		frame->field->kind == FIELD_FILES)
		reader_push(reader, PLACE_FILE_LIST,
					(char *) frame->noted + frame->field->offset);
	else
	{
		reader->skipping++;
		reader_listen(reader, false);
	}
	COMPAT_JSON_DONE;
}

/* The end of an object or array */
static CompatJsonResult
reader_end(void *state)
{
	Reader	   *reader = state;

	if (reader->skipping > 0)
		reader->skipping--;
	else
		reader->nframes--;
	reader_listen(reader, reader->skipping == 0);
	if (reader->nframes == 0 && reader->skipping == 0)
		reader->complete = true;
	COMPAT_JSON_DONE;
}

static CompatJsonResult
reader_field_start(void *state, char *name, bool isnull)
{
	Reader	   *reader = state;
	Frame	   *frame = &reader->frames[reader->nframes - 1];
	const Field *field = fields_of[frame->place];

	while (field->name != NULL && strcmp(field->name, name) != 0)
		field++;

	if (field->name != NULL)
	{
		forget_field(field, frame->noted);
		reader->actions.scalar = reader_scalar;
	}
	else if (frame->place == PLACE_RESPONSE)
	{
		int			i = task_index(frame->noted, name);

		if (i >= 0)
			forget_task(frame->noted, i);
		field = &task_field;
	}
	else
		field = NULL;

	if (frame->place == PLACE_RAW)
		((Raw *) frame->noted)->filled = true;
	frame->field = field;
	frame->key = name;
	COMPAT_JSON_DONE;
}

static CompatJsonResult
reader_field_end(void *state, char *name, bool isnull)
{
	Reader	   *reader = state;
	Frame	   *frame = &reader->frames[reader->nframes - 1];

	frame->field = NULL;
	frame->key = NULL;
	reader->actions.scalar = NULL;
	pfree(name);
	COMPAT_JSON_DONE;
}

/*
 * Note a string or number.  Takes over token, or leaves it and returns false.
 */
static bool
note_text(const Field *field, char *where, char *token, bool is_string)
{
	switch (field->kind)
	{
		case FIELD_WORD:
			if (!is_string)
				return false;
			*(char **) where = tidy_line(token);
			return true;
		case FIELD_TEXT:
			*(char **) where = tidy_line(token);
			return true;
		case FIELD_CODE:
			if (code_is_zero(token))
				return false;
			*(char **) where = tidy_line(token);
			return true;
		case FIELD_MESSAGE:
			if (!is_string)
				return false;
			*(char **) where = tidy_text(token, ANSWER_MAX_MESSAGE, "\n\r\t");
			return true;
		case FIELD_URL:
			if (!is_string)
				return false;
			*(char **) where = tidy_url(token);
			return true;
		case FIELD_TIME:
			if (is_string)
				*(Time *) where = read_time(token);
			return false;
		case FIELD_PROGRESS:
			*(int *) where = read_progress(token) + 1;
			return false;
		case FIELD_ERROR:
			if (!is_string || token[0] == '\0')
				return false;
			((Refusal *) where)->present = true;
			((Refusal *) where)->message =
				tidy_text(token, ANSWER_MAX_MESSAGE, "\n\r\t");
			return true;
		default:
			return false;
	}
}

static CompatJsonResult
reader_scalar(void *state, char *token, JsonTokenType type)
{
	Reader	   *reader = state;
	Frame	   *frame = &reader->frames[reader->nframes - 1];
	const Field *field = frame->field;
	bool		taken = false;

	if (field != NULL)
	{
		char	   *where = (char *) frame->noted + field->offset;

		if (type == JSON_TOKEN_STRING || type == JSON_TOKEN_NUMBER)
			taken = note_text(field, where, token, type == JSON_TOKEN_STRING);
		else if (type == JSON_TOKEN_FALSE && field->kind == FIELD_FALSE)
			*(bool *) where = true;
	}
	if (!taken)
		pfree(token);
	COMPAT_JSON_DONE;
}

/* The first byte of a text that is not white space, NUL if there is none. */
static char
first_byte(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] != ' ' && text[i] != '\t' && text[i] != '\n' &&
			text[i] != '\r')
			return text[i];
	}
	return '\0';
}

/*
 * What the parser objected to, as a line of English.  The parser's own words
 * are translated, and quote tokens of any length.
 */
static char *
parse_complaint(const Reader *reader, const JsonLexContext *lex,
				const char *text, size_t len)
{
	size_t		where = len;
	char		first = first_byte(text, len);

	if (first != '{' && first != '[')
		return pstrdup("the answer does not begin like JSON");
	if (lex->token_start != NULL && lex->token_start >= text)
		where = lex->token_start - text;
	if (reader->complete)
		return psprintf("more text follows the JSON document at byte %zu",
						where + 1);
	if (lex->token_start == NULL || lex->token_terminator >= text + len)
		return psprintf("the JSON document is broken off after %zu bytes", len);
	return psprintf("the JSON document has an error at byte %zu", where + 1);
}

/*
 * Note what matters of a text.  False, with *complaint set, if it is not one
 * JSON document; *complete tells whether what was noted is at least all of
 * the first.
 */
static bool
read_document(Document *document, const char *text, size_t len,
			  bool *complete, char **complaint)
{
	Reader		reader;
	JsonLexContext *lex;
	bool		good;

	memset(&reader, 0, sizeof(reader));
	reader.document = document;
	reader.actions.semstate = &reader;
	reader.actions.object_start = reader_object_start;
	reader.actions.object_end = reader_end;
	reader.actions.array_start = reader_array_start;
	reader.actions.array_end = reader_end;

	lex = compat_json_lex(text, len, PG_UTF8);
	good = pg_parse_json(lex, &reader.actions) == JSON_SUCCESS;
	*complete = good || reader.complete;
	if (!good)
		*complaint = parse_complaint(&reader, lex, text, len);
	compat_json_lex_free(lex);
	return good;
}


/*-------------------------------------------------------------------------
 * Deciding
 *-------------------------------------------------------------------------
 */

static bool
word_is(const char *word, const char *other)
{
	return word != NULL && pg_strcasecmp(word, other) == 0;
}

static bool
word_begins(const char *word, const char *prefix)
{
	return word != NULL && pg_strncasecmp(word, prefix, strlen(prefix)) == 0;
}

static void
set_unreadable(Answer *answer, AnswerFlaw flaw, const char *detail)
{
	answer->verdict = ANSWER_UNREADABLE;
	answer->flaw = flaw;
	answer->flaw_detail = pstrdup(detail);
}

/* What a code says by itself, whichever of the shapes it came in. */
static AnswerVerdict
verdict_of_code(const char *code)
{
	if (word_begins(code, "RequestLimitExceeded") ||
		word_is(code, "LimitExceeded"))
		return ANSWER_RATE_LIMITED;
	if (word_is(code, "task_not_exist") ||
		word_is(code, "ResourceNotFound") ||
		word_is(code, "InvalidParameterValue.TaskId"))
		return ANSWER_UNKNOWN_TASK;
	return ANSWER_TRANSIENT;
}

/* The Response to read: at the top, or in a new-api wrapper. */
static Response *
find_response(Document *document)
{
	if (document->response.present)
		return &document->response;
	if (document->data.raw.response.present)
		return &document->data.raw.response;
	if (document->data.response.present)
		return &document->data.response;
	return NULL;
}

static bool
code_is_failure(const char *code)
{
	return code != NULL && !word_is(code, "success") && !word_is(code, "200");
}

/*
 * Does the document refuse, and with which words?  Looks at a top-level error,
 * at "code" and "success", and at Response.Error, in that order.
 */
static bool
find_refusal(Document *document, Refusal *refusal)
{
	Response   *response = find_response(document);

	memset(refusal, 0, sizeof(*refusal));
	if (document->error.present)
	{
		*refusal = document->error;
		if (refusal->message == NULL)
			refusal->message = document->message;
		return true;
	}
	if (code_is_failure(document->code) || document->unsuccessful)
	{
		if (code_is_failure(document->code))
			refusal->code = document->code;
		refusal->message = document->message;
		return true;
	}
	if (response != NULL && response->error.present)
	{
		*refusal = response->error;
		return true;
	}
	refusal->message = document->message;
	return false;
}

/* error_code and error_message of a refusal */
static void
set_refusal(Answer *answer, AnswerVerdict verdict, const Refusal *refusal)
{
	answer->verdict = verdict;
	answer->error_code = refusal->code != NULL ? refusal->code : refusal->type;
	answer->error_message = refusal->message;
}

/*
 * The verdict of an HTTP status other than 2xx.  The status decides, except
 * that a gateway says "no such task" and "too often" in several 4xx.
 */
static AnswerVerdict
verdict_of_status(int http_status, const char *code)
{
	AnswerVerdict by_code = verdict_of_code(code);

	if (http_status == 401 || http_status == 403)
		return ANSWER_AUTH;
	if (http_status == 429)
		return ANSWER_RATE_LIMITED;
	if (http_status >= 400 && http_status < 500)
		return by_code == ANSWER_TRANSIENT ? ANSWER_REJECTED : by_code;
	if (http_status >= 300 && http_status < 400)
		return ANSWER_REJECTED;
	return ANSWER_TRANSIENT;
}

/* The verdict of a refusal that came with a 2xx. */
static AnswerVerdict
verdict_of_refusal(const Refusal *refusal)
{
	AnswerVerdict by_code = verdict_of_code(refusal->code);

	if (by_code == ANSWER_TRANSIENT &&
		(word_is(refusal->type, "one_api_error") ||
		 word_is(refusal->type, "new_api_error")))
		return ANSWER_AUTH;
	return by_code;
}

static Task *
find_task(const Response *response, const char *key)
{
	int			i = task_index(response, key);

	return i >= 0 ? response->tasks[i] : NULL;
}

/*
 * The task object: the one that TaskType names, else the only one.
 *
 * Without a TaskType an object must have something of a task, so that one of
 * another product's answer is not taken for it.
 */
static Task *
choose_task(const Response *response)
{
	Task	   *task = NULL;

	if (response->task_type != NULL)
	{
		task = find_task(response, response->task_type);
		if (task == NULL)
			task = find_task(response, concat(response->task_type, "Task", ""));
	}
	if (task == NULL && response->ntasks == 1)
	{
		Task	   *only = response->tasks[0];

		if (response->task_type != NULL || only->id != NULL ||
			only->status != NULL || only->task_status != NULL ||
			only->err_code != NULL || only->err_code_ext != NULL ||
			only->progress > 0)
			task = only;
	}
	return task;
}

/* Add a file to the list if it has a URL, and note the first main one. */
static void
list_file(Answer *answer, const FoundFile *file, const FoundFile **main_file)
{
	AnswerFile *entry;

	if (file->url == NULL)
		return;
	if (*main_file == NULL && !word_is(file->usage, "last_frame_url") &&
		!word_is(file->usage, "position_info"))
		*main_file = file;

	entry = &answer->files[answer->nfiles++];
	entry->file_url = file->url;
	entry->has_expire_time = file->expire.known;
	entry->expire_time = file->expire.value;
	entry->file_type = file->type;
	entry->storage_mode = file->storage_mode;
	entry->file_id = file->id;
	entry->media_name = file->media_name;
}

/*
 * List the files of a task in the order of the places where they may be;
 * returns the main one, or NULL.  The task's own FileUrl comes last, and is
 * not a result but the source where a procedure is run on a medium.
 */
static const FoundFile *
list_files(Answer *answer, const Response *response, const Task *task)
{
	const Output *output = &task->output;
	const FoundFile *main_file = NULL;
	bool		own;
	int			room = 2;

	own = task->file.url != NULL && strcmp(task->key, "ProcedureTask") != 0 &&
		!word_is(response->task_type, "Procedure");
	if (!output->present && !own)
		return NULL;

	for (int i = 0; i < OUTPUT_LISTS; i++)
		room += output->lists[i].count;
	answer->files = palloc0(room * sizeof(AnswerFile));
	answer->nfiles = 0;

	for (int i = 0; i < OUTPUT_LISTS; i++)
	{
		for (int j = 0; j < output->lists[i].count; j++)
			list_file(answer, &output->lists[i].files[j], &main_file);
	}
	list_file(answer, &output->file, &main_file);
	if (own)
		list_file(answer, &task->file, &main_file);
	return main_file;
}

/* 'Kling 2.1' from the task's Input */
static char *
model_of(const Input *input)
{
	if (input->model_name == NULL || input->model_version == NULL)
		return input->model_name != NULL ?
			input->model_name :
			input->model_version;
	return tidy_line(concat(input->model_name, " ", input->model_version));
}

/* Generations of images, video, audio and models make a file; others may. */
static bool
makes_a_file(const char *type)
{
	return word_begins(type, "Aigc") || word_begins(type, "SceneAigc");
}

static void
set_failed(Answer *answer, const Task *task)
{
	answer->verdict = ANSWER_FAILED;
	if (task == NULL)
		return;
	answer->error_code = task->err_code_ext != NULL ?
		task->err_code_ext :
		task->err_code;
	answer->error_message = task->message;
}

/*
 * What Status and ErrCode say.  FINISH means ended, not succeeded; the
 * message means nothing, as it may be "SUCCESS" or "" either way.
 */
static void
judge_task(Answer *answer, const Response *response, const Task *task,
		   const FoundFile *main_file)
{
	const char *type = response->task_type;
	bool		has_code = false;
	bool		inside_runs = false;

	if (task != NULL)
	{
		has_code = task->err_code != NULL || task->err_code_ext != NULL;
		inside_runs = word_is(task->status, "PROCESSING") ||
			word_is(task->task_status, "PROCESSING");
		if (type == NULL)
			type = task->key;
	}

	if (word_is(answer->status, "ABORTED"))
		set_failed(answer, task);
	else if (!word_is(answer->status, "FINISH"))
		answer->verdict = ANSWER_RUNNING;
	else if (has_code)
		set_failed(answer, task);
	else if (inside_runs)
	{
		answer->verdict = ANSWER_RUNNING;
		answer->status = word_is(task->status, "PROCESSING") ?
			task->status :
			task->task_status;
	}
	else if (main_file != NULL)
	{
		answer->verdict = ANSWER_SUCCEEDED;
		answer->file_url = main_file->url;
		answer->has_expire_time = main_file->expire.known;
		answer->expire_time = main_file->expire.value;
	}
	else if (makes_a_file(type))
	{
		answer->verdict = ANSWER_NO_OUTPUT;
		answer->error_code = pstrdup("NoOutput");
	}
	else
		answer->verdict = ANSWER_SUCCEEDED;
}

/* A date of the past; the sentinel for "never" is none. */
static bool
set_moment(const Time *time, TimestampTz *moment)
{
	*moment = time->value;
	return time->known && !TIMESTAMP_NOT_FINITE(time->value);
}

/* Read a Response as a task; false if there is none in it. */
static bool
read_task(Answer *answer, const Response *response)
{
	const FoundFile *main_file = NULL;
	Task	   *task;
	char	   *status = response->status;

	if (response->crowded)
		return false;
	task = choose_task(response);
	if (task == NULL && (response->task_type == NULL || response->flattened))
		return false;
	if (status == NULL && task != NULL)
		status = task->status != NULL ? task->status : task->task_status;
	if (status == NULL)
		return false;

	answer->status = status;
	answer->task_type = response->task_type;
	answer->has_started_at = set_moment(&response->created,
										&answer->started_at);
	answer->has_ended_at = set_moment(&response->finished, &answer->ended_at);
	if (task != NULL)
	{
		answer->progress = task->progress - 1;
		answer->model = model_of(&task->input);
		main_file = list_files(answer, response, task);
	}
	judge_task(answer, response, task, main_file);
	return true;
}

/*
 * May the wrapper speak for itself?  It may while it holds no data, or only
 * the answer to the creation, which names the task and no status.
 */
static bool
wrapper_speaks(const Wrapper *wrapper, const Response *response)
{
	if (wrapper->status == NULL)
		return false;
	if (response != NULL)
		return response->status == NULL && response->task_type == NULL &&
			response->ntasks == 0 && !response->flattened;
	return !wrapper->raw.filled;
}

/* Read a whole JSON document that came with a 2xx. */
static void
read_accepted(Answer *answer, Document *document)
{
	Response   *response = find_response(document);
	Refusal		refusal;

	if (find_refusal(document, &refusal))
		set_refusal(answer, verdict_of_refusal(&refusal), &refusal);
	else if (response != NULL && read_task(answer, response))
		return;
	else if (!document->response.present &&
			 wrapper_speaks(&document->data, response))
	{
		answer->verdict = ANSWER_RUNNING;
		answer->status = document->data.status;
		answer->progress = document->data.progress - 1;
	}
	else if (response == NULL)
		set_unreadable(answer, ANSWER_FLAW_NO_TASK,
					   "the answer has no Response");
	else if (response->crowded)
		set_unreadable(answer, ANSWER_FLAW_NO_TASK,
					   "the Response holds too many objects");
	else
		set_unreadable(answer, ANSWER_FLAW_NO_TASK,
					   "the Response holds no task");
}

/*
 * Read what came with another status; document is NULL if nothing could be
 * read, "whole" tells whether it is all of the body.
 *
 * Of a body that is not one JSON document only a code is believed: a rate
 * limiter that forgets to stop sends its refusal and then the normal answer
 * behind it.
 */
static void
read_refused(Answer *answer, Document *document, bool whole)
{
	Refusal		refusal;

	memset(&refusal, 0, sizeof(refusal));
	if (document != NULL)
		find_refusal(document, &refusal);
	if (!whole)
		refusal.message = NULL;
	set_refusal(answer, verdict_of_status(answer->http_status, refusal.code),
				&refusal);
}

/* Does a Content-Type say that this is a web page? */
static bool
type_is_html(const char *content_type)
{
	if (content_type == NULL)
		return false;
	content_type += strspn(content_type, " \t");
	return word_begins(content_type, "text/html") ||
		word_begins(content_type, "application/xhtml");
}

/*
 * Parse a sane text.  Returns what kept it from being one JSON document, and
 * how so in *detail; *complete as in read_document.
 */
static AnswerFlaw
parse_text(Document *document, const char *text, size_t len, int depth,
		   const char *content_type, bool *complete, char **detail)
{
	char		first;

	*complete = false;
	*detail = NULL;

	if (text == NULL)
	{
		*detail = pstrdup("the answer is larger than 1 GB");
		return ANSWER_FLAW_TOO_LARGE;
	}
	first = first_byte(text, len);
	if (first == '\0')
	{
		*detail = pstrdup("the answer is empty");
		return ANSWER_FLAW_EMPTY;
	}
	if (first != '<' && depth > ANSWER_MAX_DEPTH)
	{
		*detail = psprintf("the answer is nested deeper than %d levels",
						   ANSWER_MAX_DEPTH);
		return ANSWER_FLAW_TOO_DEEP;
	}
	if (first != '<' && read_document(document, text, len, complete, detail))
		return ANSWER_FLAW_NONE;
	if (first == '<' || type_is_html(content_type))
	{
		*detail = pstrdup("the answer is a web page");
		return ANSWER_FLAW_HTML;
	}
	return ANSWER_FLAW_NOT_JSON;
}

/*
 * answer_read
 *		Read an answer: what does it say about the task?
 *
 * Takes the HTTP status, the Content-Type header (or NULL) and len bytes of
 * body, which need no terminating NUL.  Fills in *answer, whatever it held.
 * Raises no error for any input, short of running out of memory.  Everything
 * is palloc'd in the current memory context, intermediate things too: call it
 * in one that is reset soon.
 *
 * file_url and expire_time are set for ANSWER_SUCCEEDED only, so that nobody
 * takes what a failed or running task happens to list for a result; "files"
 * lists it all the same.  An error_message may be "" if upstream says so.
 */
void
answer_read(Answer *answer, int http_status, const char *content_type,
			const char *body, size_t len)
{
	Document	document;
	const char *text;
	size_t		text_len;
	int			depth;
	bool		complete;
	AnswerFlaw	flaw;
	char	   *detail;
	Response   *response;

	memset(answer, 0, sizeof(*answer));
	answer->http_status = http_status;
	answer->progress = -1;
	answer->nfiles = -1;

	memset(&document, 0, sizeof(document));
	text = sane_text(body, len, &text_len, &depth);
	flaw = parse_text(&document, text, text_len, depth, content_type,
					  &complete, &detail);
	if (flaw == ANSWER_FLAW_NONE)
	{
		answer->json = text;
		answer->json_len = text_len;
		response = find_response(&document);
		if (response != NULL)
			answer->request_id = response->request_id;
	}

	if (http_status < 200 || http_status > 299)
		read_refused(answer, complete ? &document : NULL,
					 flaw == ANSWER_FLAW_NONE);
	else if (flaw == ANSWER_FLAW_NONE)
		read_accepted(answer, &document);
	else
		answer->verdict = flaw == ANSWER_FLAW_HTML ?
			ANSWER_REJECTED :
			ANSWER_UNREADABLE;

	/* a verdict from the HTTP status needs no excuse, but a web page tells */
	if (answer->flaw == ANSWER_FLAW_NONE &&
		(answer->verdict == ANSWER_UNREADABLE ||
		 (answer->verdict == ANSWER_REJECTED && flaw == ANSWER_FLAW_HTML)))
	{
		answer->flaw = flaw;
		answer->flaw_detail = detail;
	}
}

/*
 * answer_verdict_name
 *		A verdict's name, as in the views; a constant.
 */
const char *
answer_verdict_name(AnswerVerdict verdict)
{
	switch (verdict)
	{
		case ANSWER_RUNNING:
			return "running";
		case ANSWER_SUCCEEDED:
			return "succeeded";
		case ANSWER_FAILED:
			return "failed";
		case ANSWER_NO_OUTPUT:
			return "no_output";
		case ANSWER_AUTH:
			return "auth";
		case ANSWER_RATE_LIMITED:
			return "rate_limited";
		case ANSWER_UNKNOWN_TASK:
			return "unknown_task";
		case ANSWER_TRANSIENT:
			return "transient";
		case ANSWER_REJECTED:
			return "rejected";
		case ANSWER_UNREADABLE:
			return "unreadable";
	}
	return "unknown";
}
