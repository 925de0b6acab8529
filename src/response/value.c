/*-------------------------------------------------------------------------
 *
 * value.c
 *		Single values of an answer: text, codes, numbers, dates.
 *
 * Each takes valid UTF-8, and makes of it what the answer's fields promise
 * (answer.h).
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

/* Bytes of a percentage. */
#define MAX_PERCENTAGE 32

#define DIGITS "0123456789"
#define WHITE_SPACE " \t\r\n"


/*
 * Text
 */

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
 * The first max_chars characters of a text, palloc'd, with spaces for control
 * characters but for those in "except".
 */
static char *
tidy_copy(const char *s, int max_chars, const char *except)
{
	const char *end = s;
	char	   *copy;
	char	   *in;
	char	   *out;

	while (*end != '\0' && max_chars-- > 0)
		end += pg_encoding_mblen(PG_UTF8, end);
	in = out = copy = pnstrdup(s, end - s);
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
	return copy;
}

/*
 * value_line
 *		A field of one line: trimmed, NULL if nothing is left.
 */
char *
value_line(const char *s)
{
	char	   *line = tidy_copy(s, MAX_LINE, "");
	size_t		begin = strspn(line, " ");
	size_t		end = strlen(line);

	while (end > begin && line[end - 1] == ' ')
		end--;
	if (begin == end)
	{
		pfree(line);
		return NULL;
	}
	memmove(line, line + begin, end - begin);
	line[end - begin] = '\0';
	return line;
}

/*
 * value_message
 *		A text of several lines; never NULL.
 */
char *
value_message(const char *s)
{
	return tidy_copy(s, ANSWER_MAX_MESSAGE, "\n\r\t");
}

/*
 * value_url
 *		A URL, NULL if it is none that could be fetched.
 */
char *
value_url(const char *s)
{
	size_t		len = strlen(s);

	if (len == 0 || len > MAX_URL)
		return NULL;
	for (const char *p = s; *p != '\0'; p++)
	{
		if (control_length(p) > 0)
			return NULL;
	}
	return pstrdup(s);
}


/*
 * Numbers
 */

/*
 * value_is_zero
 *		Does a code say that nothing is wrong?
 *
 * 0, "0", 0.0, -0 and 0e3 do, as does a text without a visible character.
 */
bool
value_is_zero(const char *s)
{
	size_t		digits;

	s += strspn(s, WHITE_SPACE);
	if (*s == '\0')
		return true;
	if (*s == '-' || *s == '+')
		s++;
	digits = strspn(s, "0.");
	if (memchr(s, '0', digits) == NULL)
		return false;
	s += digits;
	if (*s == 'e' || *s == 'E')
	{
		s++;
		if (*s == '-' || *s == '+')
			s++;
		s += strspn(s, DIGITS);
	}
	return s[strspn(s, WHITE_SPACE)] == '\0';
}

/*
 * value_progress
 *		Percent from 47, 47.6, "47" or "47%", cut to a whole number.
 *
 * -1 if it is none or lies outside 0 to 100.
 */
int
value_progress(const char *s)
{
	size_t		digits = strspn(s, "+-.eE" DIGITS);
	char	   *rest;
	double		value;

	/* no percentage is longer, and strtod need not chew on megabytes */
	if (digits == 0 || digits > MAX_PERCENTAGE)
		return -1;
	value = strtod(s, &rest);
	/* neither less than that, nor more, as of 0x10 */
	if (rest != s + digits)
		return -1;
	rest += strspn(rest, " ");
	if (*rest == '%')
		rest++;
	if (*rest != '\0' || !(value >= 0 && value <= 100))
		return -1;
	return (int) value;
}


/*
 * Dates
 */

/*
 * Read a text of this pattern, in which a 9 is any digit; each run of them is
 * one of the values, which are zero before.
 */
static bool
read_pattern(const char **s, const char *pattern, int *values)
{
	for (; *pattern != '\0'; pattern++, (*s)++)
	{
		if (*pattern != '9')
		{
			if (**s != *pattern)
				return false;
			values++;
		}
		else if (**s < '0' || **s > '9')
			return false;
		else
			*values = *values * 10 + (**s - '0');
	}
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

/* Read an optional fraction of a second, as microseconds. */
static bool
read_fraction(const char **s, int64 *usecs)
{
	int64		unit = USECS_PER_SEC;

	*usecs = 0;
	if (**s != '.')
		return true;
	for ((*s)++; **s >= '0' && **s <= '9'; (*s)++)
	{
		unit /= 10;
		*usecs += (**s - '0') * unit;
	}
	return unit < USECS_PER_SEC;
}

/* Read 'Z' or an offset such as '+08:00', as microseconds east. */
static bool
read_zone(const char **s, int64 *usecs)
{
	char		sign = *(*s)++;
	int			zone[2] = {0};	/* hour, minute */

	*usecs = 0;
	if (sign == 'Z')
		return true;
	if ((sign != '+' && sign != '-') || !read_pattern(s, "99:99", zone) ||
		zone[0] > 15 || zone[1] > 59)
		return false;
	*usecs = zone[0] * USECS_PER_HOUR + zone[1] * USECS_PER_MINUTE;
	if (sign == '-')
		*usecs = -*usecs;
	return true;
}

/*
 * value_time
 *		A date as the upstream writes it, 'YYYY-MM-DDTHH:MM:SSZ'.
 *
 * Two of them mean "not set" and one "never"; all that is no date is unknown.
 */
Time
value_time(const char *s)
{
	Time		unknown = {false, 0};
	Time		result = {true, DT_NOEND};
	int			date[6] = {0};	/* year to second */
	int			days;
	int64		fraction;
	int64		zone;

	if (strncmp(s, "0000-00-00", 10) == 0 || strncmp(s, "0001-01-01", 10) == 0)
		return unknown;
	if (strncmp(s, "9999-12-31", 10) == 0)
		return result;

	if (!read_pattern(&s, "9999-99-99T99:99:99", date) ||
		!days_since_epoch(date[0], date[1], date[2], &days) ||
		date[3] > 23 || date[4] > 59 || date[5] > 59 ||
		!read_fraction(&s, &fraction) || !read_zone(&s, &zone) || *s != '\0')
		return unknown;

	/* four digits of a year are well within what a timestamp holds */
	result.value = days * USECS_PER_DAY + date[3] * USECS_PER_HOUR +
		date[4] * USECS_PER_MINUTE + date[5] * USECS_PER_SEC + fraction - zone;
	return result;
}
