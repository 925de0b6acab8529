/*-------------------------------------------------------------------------
 *
 * test_sanitize.c
 *		Properties of making bytes fit for a JSON parser.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <sys/mman.h>

#include "bytes.h"
#include "check.h"
#include "memory.h"
#include "response/sanitize.h"

/* Where nesting does not matter. */
static const char *
sanitize(const char *in, size_t len, size_t *sane_len)
{
	bool		too_deep;

	return sanitize_text(in, len, 100, sane_len, &too_deep);
}

static void
sanitized(const char *in, size_t len, const char *out)
{
	size_t		sane_len;
	const char *sane = sanitize(in, len, &sane_len);

	note("%s", out);
	CHECK(sane_len == strlen(out) && memcmp(sane, out, sane_len) == 0);
	memory_reset();
}

#define SANITIZED(in, out) sanitized(in, sizeof(in) - 1, out)

static void
what_jsonb_cannot_hold_is_replaced(void)
{
	SANITIZED("\"a\\u0000b\"", "\"a\xEF\xBF\xBD"
							   "b\"");
	SANITIZED("\"a\0b\"", "\"a\xEF\xBF\xBD"
						  "b\"");
	SANITIZED("\"\\ud83d\"", "\"\xEF\xBF\xBD\"");
	SANITIZED("\"\\ude00\"", "\"\xEF\xBF\xBD\"");
	SANITIZED("\"\\ud83dx\"", "\"\xEF\xBF\xBDx\"");
	SANITIZED("\"\\ud83d\\u0041\"", "\"\xEF\xBF\xBD\\u0041\"");
	SANITIZED("\"\\ud83d\\ud83d\\ude00\"", "\"\xEF\xBF\xBD\xF0\x9F\x98\x80\"");
	SANITIZED("\"\xFF\"", "\"\xEF\xBF\xBD\"");
	SANITIZED("\"\xC3\"", "\"\xEF\xBF\xBD\"");
	SANITIZED("\"\xC0\x80\"", "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
	SANITIZED("\"\xED\xA0\x80\"",
			  "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
	SANITIZED("\xEF\xBB\xBF{}", "{}");
	SANITIZED("", "");
}

static void
escapes_beyond_ascii_become_characters(void)
{
	SANITIZED("\"\\u00e9\"", "\"\xC3\xA9\"");
	SANITIZED("\"\\u8BF4\"", "\"\xE8\xAF\xB4\"");
	SANITIZED("\"\\uD83D\\uDE00\"", "\"\xF0\x9F\x98\x80\"");
	SANITIZED("\"\\udbff\\udfff\"", "\"\xF4\x8F\xBF\xBF\"");
	SANITIZED("\"\\ud800\\udc00\"", "\"\xF0\x90\x80\x80\"");
	SANITIZED("\"\\\\\\u0080\"", "\"\\\\\xC2\x80\"");
	SANITIZED("\"\\uffff\"", "\"\xEF\xBF\xBF\"");
}

static void
what_is_fit_stays_where_it_is(void)
{
	static const char *const fit[] = {
		"{}", "\"\\u0041\\u0022\\u005c\\u001f\\n\\\"\"", "\"\\\\u0000\"",
		"\"\xE8\xAF\xB4\xF0\x9F\x98\x80\"", "\\u0000", "\"\\u00g0\"", "\"\\",
		"\"\\u", "\"\\u00"
	};

	for (int i = 0; i < (int) lengthof(fit); i++)
	{
		size_t		len;

		note("%s", fit[i]);
		CHECK(sanitize(fit[i], strlen(fit[i]), &len) == fit[i]);
		CHECK(len == strlen(fit[i]));
	}
}

static void
sanitized_text_is_utf8_and_stays_so(void)
{
	for (int round = 0; round < rounds(100000); round++)
	{
		char		bytes[64];
		size_t		len = random_bytes(bytes, sizeof(bytes));
		size_t		sane_len;
		size_t		again_len;
		const char *sane = sanitize(at_the_edge(bytes, len), len,
									&sane_len);
		bool		bom;

		note("round %d", round);
		CHECK(is_utf8(sane, sane_len));
		/* a second byte order mark is white space to nobody: it goes, too */
		bom = sane_len >= 3 && memcmp(sane, "\xEF\xBB\xBF", 3) == 0;
		CHECK(sanitize(sane, sane_len, &again_len) ==
				  (bom ? sane + 3 : sane) ||
			  sane_len == 0);
		CHECK(again_len == sane_len - (bom ? 3 : 0));
		memory_reset();
	}
}

static void
nesting_is_measured_outside_of_strings(void)
{
	static const struct
	{
		const char *text;
		int			depth;
	} cases[] = {
		{"", 0},
		{"1", 0},
		{"[]", 1},
		{"[{}]", 2},
		{"[{}][[[]]]", 3},
		{"\"[[[\"", 0},
		{"[\"\\\"[[[\"]", 1},
		{"[\"\\\\\",[[]]]", 3},
		{"[\"\\u0022[[\"]", 1},
		{"[\"\\u8bf4\",[]]", 2},
		{"]]][[", 2},
		{"\\[", 1},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		size_t		len = strlen(cases[i].text);
		size_t		sane_len;
		bool		too_deep;

		note("%s", cases[i].text);
		sanitize_text(cases[i].text, len, cases[i].depth, &sane_len, &too_deep);
		CHECK(!too_deep);
		if (cases[i].depth > 0)
		{
			sanitize_text(cases[i].text, len, cases[i].depth - 1, &sane_len,
						  &too_deep);
			CHECK(too_deep);
		}
		memory_reset();
	}
}

/*
 * Memory that was never written takes none, and is all NUL: each becomes three
 * bytes, so that a third of the limit is too much.
 */
static void
what_would_exceed_the_limit_is_refused(void)
{
	static const size_t area = SANITIZE_MAX_TEXT + 1;
	size_t		len;
	char	   *zeroes = mmap(NULL, area, PROT_READ,
							  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
							  0);

	if (!CHECK(zeroes != MAP_FAILED))
		return;
	CHECK(sanitize(zeroes, area, &len) == NULL && len == 0);
	if (!is_slow())
		CHECK(sanitize(zeroes, area / 3 + 1, &len) == NULL && len == 0);
	munmap(zeroes, area);
}

int
main(void)
{
	RUN(what_jsonb_cannot_hold_is_replaced);
	RUN(escapes_beyond_ascii_become_characters);
	RUN(what_is_fit_stays_where_it_is);
	RUN(sanitized_text_is_utf8_and_stays_so);
	RUN(nesting_is_measured_outside_of_strings);
	RUN(what_would_exceed_the_limit_is_refused);
	return check_summary();
}
