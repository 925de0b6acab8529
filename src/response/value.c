/*-------------------------------------------------------------------------
 *
 * value.c
 *		Single values of an answer: text, codes, numbers, dates.
 *
 * Each takes len bytes of valid UTF-8 without NUL, and makes of them what the
 * answer's fields promise (answer.h).
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

#include "response/answer.h"
#include "response/value.h"

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
 * Text
 */

/* Bytes of the first max_chars characters of s, which is len bytes long. */
static size_t
clip_length(const char *s, size_t len, int max_chars)
{
	size_t		n = 0;

	if (len <= (size_t) max_chars)
		return len;
	while (n < len && max_chars-- > 0)
		n += pg_encoding_mblen(PG_UTF8, s + n);
	return n;
}

/*
 * If a control character (C0, DEL, C1) begins at s, its length, else 0.  C1 is
 * U+0080 to U+009F, which UTF-8 writes as C2 80 to C2 9F: U+009B begins an
 * escape sequence on some terminals, as ESC does.
 */
static inline int
control_length(const char *s)
{
	unsigned char c = (unsigned char) s[0];

	if (c < 0x20 || c == 0x7F)
		return 1;
	if (c == 0xC2 && (unsigned char) s[1] < 0xA0)
		return 2;
	return 0;
}

/* Where the first control character of a text is, "end" if there is none. */
static const char *
find_control(const char *s, const char *end)
{
	while (s < end && control_length(s) == 0)
		s++;
	return s;
}

/*
 * value_copy
 *		A palloc'd copy, terminated.
 */
char *
value_copy(const char *s, size_t len)
{
	char	   *copy = palloc(len + 1);

	memcpy(copy, s, len);
	copy[len] = '\0';
	return copy;
}

/*
 * Copy a text, with spaces for control characters but for those in "except";
 * *len becomes that of the copy.
 */
static char *
tidy_copy(const char *s, size_t *len, const char *except)
{
	char	   *copy = value_copy(s, *len);
	const char *end = copy + *len;
	const char *in = find_control(copy, end);
	char	   *out = copy + (in - copy);

	if (in == end)
		return copy;
	while (in < end)
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
	*len = out - copy;
	return copy;
}

/*
 * value_line
 *		A field of one line: trimmed, NULL if nothing is left.
 */
char *
value_line(const char *s, size_t len)
{
	char	   *line;
	char	   *start;

	len = clip_length(s, len, MAX_LINE);
	if (len == 0)
		return NULL;
	start = line = tidy_copy(s, &len, "");
	while (len > 0 && start[len - 1] == ' ')
		len--;
	if (len == 0)
	{
		pfree(line);
		return NULL;
	}
	while (*start == ' ')
	{
		start++;
		len--;
	}
	if (start > line)
		memmove(line, start, len);
	line[len] = '\0';
	return line;
}

/*
 * value_message
 *		A text of several lines; never NULL.
 */
char *
value_message(const char *s, size_t len)
{
	len = clip_length(s, len, ANSWER_MAX_MESSAGE);
	return tidy_copy(s, &len, "\n\r\t");
}

/*
 * value_url
 *		A URL, NULL if it is none that could be fetched.
 */
char *
value_url(const char *s, size_t len)
{
	if (len == 0 || len > MAX_URL || find_control(s, s + len) < s + len)
		return NULL;
	return value_copy(s, len);
}


/*
 * Numbers
 */

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

/* How many of the bytes from s on are among these. */
static size_t
span(const char *s, const char *end, const char *among)
{
	const char *p = s;

	while (p < end && strchr(among, *p) != NULL)
		p++;
	return p - s;
}

/*
 * value_is_zero
 *		Does a code say that nothing is wrong?
 *
 * 0, "0", 0.0, -0 and 0e3 do, as does a text without a visible character.
 */
bool
value_is_zero(const char *s, size_t len)
{
	const char *end = s + len;
	bool		digit = false;

	s += span(s, end, " \t\r\n");
	if (s == end)
		return true;
	if (*s == '-' || *s == '+')
		s++;
	for (; s < end && (*s == '0' || *s == '.'); s++)
		digit |= *s == '0';
	if (digit && s < end && (*s == 'e' || *s == 'E'))
	{
		s++;
		if (s < end && (*s == '-' || *s == '+'))
			s++;
		s += span(s, end, "0123456789");
	}
	s += span(s, end, " \t\r\n");
	return digit && s == end;
}

/*
 * value_progress
 *		Percent from 47, 47.6, "47" or "47%", cut to a whole number.
 *
 * -1 if it is none or lies outside 0 to 100.
 */
int
value_progress(const char *s, size_t len)
{
	const char *end = s + len;
	const char *whole = s;
	int			percent;
	size_t		digits;
	char		number[33];
	char	   *rest;
	double		value;

	/* it nearly always comes as a whole number */
	if (len <= 3 && read_digits(&whole, (int) len, &percent) && len > 0)
		return percent <= 100 ? percent : -1;

	digits = span(s, end, "+-.0123456789eE");
	/* no percentage is longer, and strtod need not chew on megabytes */
	if (digits == 0 || digits >= sizeof(number))
		return -1;
	memcpy(number, s, digits);
	number[digits] = '\0';
	value = strtod(number, &rest);
	if (*rest != '\0')
		return -1;
	s += digits;
	s += span(s, end, " ");
	if (s < end && *s == '%')
		s++;
	if (s < end || !(value >= 0 && value <= 100))
		return -1;
	return (int) value;
}


/*
 * Dates
 */

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
 * value_time
 *		A date as the upstream writes it, 'YYYY-MM-DDTHH:MM:SSZ'.
 *
 * Two of them mean "not set" and one "never"; all that is no date is unknown.
 * What follows the text must be a NUL or a quote.
 */
Time
value_time(const char *s, size_t len)
{
	const char *end = s + len;
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
		s != end || !days_since_epoch(year, month, day, &days))
		return unknown;

	/* four digits of a year are well within what a timestamp holds */
	result.value = days * USECS_PER_DAY + time - zone;
	return result;
}
