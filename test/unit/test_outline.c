/*-------------------------------------------------------------------------
 *
 * test_outline.c
 *		Properties of outlines of JSON texts.
 *
 * That answers read the same with and without is shown in test_answer.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "bytes.h"
#include "check.h"
#include "response/outline.h"

static Outline outline;

/* An outline of a string, which nothing can be read behind. */
static bool
make(const char *text, bool sane)
{
	size_t		len = strlen(text);

	return outline_make(&outline, at_the_edge(text, len), len, 8, sane);
}

static void
outlined(const char *text, const char *expected)
{
	note("%s", text);
	if (!CHECK(make(text, false)))
		return;
	note("%s: %s", text, outline.text);
	CHECK(strcmp(outline.text, expected) == 0);
	CHECK(outline.len == strlen(expected) && !outline.escapes);
}

static void
strings_are_empty_and_white_space_is_left_out(void)
{
	outlined("", "");
	outlined(" {\r\n\t} ", "{}");
	outlined("{\"a\":\"b\"}", "{\"\":\"\"}");
	outlined("{ \"a\" : \"{[,:]}\" , \"c\" : [ 1.5e+3 , true ] }",
			 "{\"\":\"\",\"\":[1.5e+3 ,true ]}");
	outlined("\"\xE4\xBD\xA0\xE5\xA5\xBD\x7F\"", "\"\"");
}

/* Or what is no JSON might become some. */
static void
words_remain_apart(void)
{
	outlined("1  2", "1 2");
	outlined("tr ue", "tr ue");
	outlined("- 1", "- 1");
	outlined("\"a\" \"b\"", "\"\"\"\"");
	outlined("}]", "}]");
}

/* The n-th string of the outline that was made. */
static bool
string_is(int n, const char *expected)
{
	const char *quote = strchr(outline.text, '"');
	const char *string;
	size_t		len;

	while (n-- > 0)
		quote = strchr(quote + 2, '"');
	string = outline_string(&outline, quote, &len);
	return len == strlen(expected) && memcmp(string, expected, len) == 0 &&
		string[len] == '"';
}

static void
each_string_is_found_again(void)
{
	CHECK(make("{\"\":\"a long string of some words\",\"b\":[\"1234567\","
			   "\"12345678\"],\"\xC3\xA4\":1,\"\":\"\"}",
			   false));
	CHECK(string_is(0, ""));
	CHECK(string_is(1, "a long string of some words"));
	CHECK(string_is(2, "b"));
	CHECK(string_is(3, "1234567"));
	CHECK(string_is(4, "12345678"));
	CHECK(string_is(5, "\xC3\xA4"));
	CHECK(string_is(6, "") && string_is(7, ""));
}

/* Wherever it stands in a string, and whatever length the string has. */
static void
no_byte_that_ends_a_string_is_missed(void)
{
	for (int len = 1; len <= 40; len++)
	{
		for (int at = 0; at < len; at++)
		{
			char		text[64] = "\"";

			memset(text + 1, 'a', len);
			text[1 + len] = '"';
			note("byte %d of %d", at, len);
			CHECK(make(text, false) && string_is(0, strndup(text + 1, len)));
			for (int c = 1; c < 256; c++)
			{
				bool		good = c >= ' ' && c < 0x80 && c != '"' &&
					c != '\\';

				text[1 + at] = c;
				note("byte %02X at %d of %d", c, at, len);
				CHECK(make(text, false) == good);
			}
			text[1 + at] = '"';
			CHECK(!make(text, true));
		}
	}
}

/* It is the parser that knows about escapes, and right ones from wrong. */
static void
strings_with_backslashes_stay_as_they_are(void)
{
	static const char *const texts[] = {
		"[\"\\\"\",\"\"]", "[\"\\\\\",\"\"]", "[\"abcdefghi\\q\\u12\",\"\"]",
		"{\"\\n\":\"a\\\\\\\"\"}"
	};

	for (int i = 0; i < (int) lengthof(texts); i++)
	{
		note("%s", texts[i]);
		CHECK(!make(texts[i], false));
		CHECK(make(texts[i], true) && outline.escapes);
		CHECK(strcmp(outline.text, texts[i]) == 0);
	}
	CHECK(!make("\"a\\", true));
	CHECK(!make("\"a\\\"", true));
	CHECK(!make("\"a\\n\n\"", true));
	CHECK(!make("\\", true));
}

static void
what_is_no_text_for_a_parser_has_none(void)
{
	CHECK(!outline_make(&outline, "\"a\0\"", 4, 8, true));
	CHECK(!outline_make(&outline, "[\0]", 3, 8, true));
	CHECK(!make("\"\xC3\"", false));
	CHECK(!make("\"\xED\xA0\x80\"", false));
	CHECK(!make("\xEF\xBB\xBF{}", false));
	CHECK(!make("[\x01]", false));
	CHECK(!make("<html>", false));
	CHECK(!make("\"a", false));
	CHECK(!make("[[[[[[[[[]]]]]]]]]", false));
	CHECK(make("[[[[[[[[[]]]]]]]],[[[[[[[]]]]]]]", false) == false);
	CHECK(make("[[[[[[[[]]]]]]],[[[[[[[]]]]]]]", false));
}

/* Up to the last byte, and no further. */
static void
there_is_room_for_so_much_and_no_more(void)
{
	static char text[OUTLINE_ROOM + 16];

	for (int len = OUTLINE_ROOM - 8; len < OUTLINE_ROOM + 8; len++)
	{
		memset(text, '1', len);
		text[len] = '\0';
		note("%d bytes", len);
		CHECK(make(text, false) == (len <= OUTLINE_ROOM - 2));
		memcpy(text + len - 4, "\"\\n\"", 4);
		CHECK(make(text, true) == (len <= OUTLINE_ROOM - 2));
		memcpy(text + len - 4, ",\"n\"", 4);
		CHECK(make(text, true) == (len <= OUTLINE_ROOM));
	}
}

int
main(void)
{
	RUN(strings_are_empty_and_white_space_is_left_out);
	RUN(words_remain_apart);
	RUN(each_string_is_found_again);
	RUN(no_byte_that_ends_a_string_is_missed);
	RUN(strings_with_backslashes_stay_as_they_are);
	RUN(what_is_no_text_for_a_parser_has_none);
	RUN(there_is_room_for_so_much_and_no_more);
	return check_summary();
}
