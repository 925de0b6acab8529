/*-------------------------------------------------------------------------
 *
 * test_fields.c
 *		Properties of reading single fields of an answer.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <time.h>

#include "response/answer.h"
#include "bytes.h"
#include "check.h"
#include "memory.h"
#include "sound.h"

static Answer
read_progress_of(const char *value)
{
	static char body[256];

	snprintf(body, sizeof(body),
			 "{\"Response\":{\"Status\":\"PROCESSING\",\"TaskType\":\"A\","
			 "\"A\":{\"Progress\":%s}}}",
			 value);
	note("%s", value);
	return read_string(body);
}

static void
progress_is_a_whole_percentage(void)
{
	static const struct
	{
		const char *value;
		int			progress;
	} cases[] = {
		{"0", 0},
		{"47", 47},
		{"100", 100},
		{"47.6", 47},
		{"99.99", 99},
		{"100.0", 100},
		{"4.7e1", 47},
		{"\"47\"", 47},
		{"\"47%\"", 47},
		{"\"47 %\"", 47},
		{"\"47.6%\"", 47},
		{"\"0%\"", 0},
		{"100.1", -1},
		{"101", -1},
		{"-1", -1},
		{"-0.5", -1},
		{"1e400", -1},
		{"null", -1},
		{"true", -1},
		{"\"\"", -1},
		{"\"%\"", -1},
		{"\"0x10\"", -1},
		{"\"nan\"", -1},
		{"\"47%%\"", -1},
		{"\"4 7\"", -1},
		{"[47]", -1},
		{"{\"Progress\":47}", -1},
		{"0.000000000000000000000000000000000000000001", -1},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		Answer		answer = read_progress_of(cases[i].value);

		CHECK(answer.verdict == ANSWER_RUNNING);
		CHECK(answer.progress == cases[i].progress);
	}
}

/* What is wrong in one field leaves the others as they are. */
static void
a_value_of_another_type_is_none(void)
{
	static const char *const values[] = {"5", "true", "null", "[]", "{}"};

	for (int i = 0; i < (int) lengthof(values); i++)
	{
		char		body[512];
		Answer		answer;

		snprintf(body, sizeof(body),
				 "{\"error\":%s,\"Response\":{\"Status\":\"FINISH\","
				 "\"TaskType\":\"A\",\"RequestId\":%s,\"CreateTime\":%s,"
				 "\"A\":{\"Message\":%s,\"ErrCode\":7,\"Output\":"
				 "{\"FileUrl\":\"u\",\"FileInfos\":[{\"FileUrl\":%s}]}}}}",
				 i < 4 ? values[i] : "\"\"", values[i], values[i], values[i],
				 values[i]);
		answer = read_string(body);
		note("%s", body);
		CHECK(answer.verdict == ANSWER_FAILED);
		CHECK(same(answer.error_code, "7"));
		CHECK(answer.error_message == NULL && answer.request_id == NULL);
		CHECK(!answer.has_started_at);
		CHECK(answer.nfiles == 1 && same(answer.files[0].file_url, "u"));
		CHECK(is_sound(&answer));
		memory_reset();
	}
}

static void
only_zero_and_nothing_are_no_code(void)
{
	static const struct
	{
		const char *value;
		const char *code;
	} cases[] = {
		{"0", NULL},
		{"0.0", NULL},
		{"-0", NULL},
		{"0e9", NULL},
		{"0.00E-3", NULL},
		{"\"0\"", NULL},
		{"\"\"", NULL},
		{"\" \"", NULL},
		{"\" 0 \"", NULL},
		{"null", NULL},
		{"false", NULL},
		{"[]", NULL},
		{"{}", NULL},
		{"1", "1"},
		{"-1", "-1"},
		{"0.1", "0.1"},
		{"1e3", "1e3"},
		{"\"70000\"", "70000"},
		{"\"ok\"", "ok"},
		{"\"0x\"", "0x"},
		{"\".\"", "."},
		{"\"0e\"", NULL},
		{"\"Internal\\nError\"", "Internal Error"},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		for (int ext = 0; ext < 2; ext++)
		{
			char		body[256];
			Answer		answer;

			snprintf(body, sizeof(body),
					 "{\"Response\":{\"Status\":\"FINISH\","
					 "\"TaskType\":\"A\",\"A\":{\"%s\":%s}}}",
					 ext ? "ErrCodeExt" : "ErrCode", cases[i].value);
			answer = read_string(body);
			note("%s", body);
			CHECK(same(answer.error_code, cases[i].code));
			if (cases[i].code != NULL)
				CHECK(answer.verdict == ANSWER_FAILED);
			else
				CHECK(answer.verdict == ANSWER_SUCCEEDED);
		}
	}
}

/* The reading of a date, by way of CreateTime. */
static const char *
read_date(const char *date)
{
	char		body[256];
	Answer		answer;

	snprintf(body, sizeof(body),
			 "{\"Response\":{\"Status\":\"WAITING\",\"TaskType\":\"A\","
			 "\"CreateTime\":\"%s\"}}",
			 date);
	answer = read_string(body);
	note("%s", date);
	CHECK(answer.verdict == ANSWER_RUNNING);
	return date_text(answer.has_started_at, answer.started_at);
}

static void
every_day_of_four_centuries_is_right(void)
{
	/* 1970-01-01 onwards by the C library, through a cycle of leap years */
	for (int day = 0; day < 146097 + 366; day += is_slow() ? 29 : 1)
	{
		time_t		unix_time = (time_t) day * 86400 + day % 86400;
		struct tm	tm;
		char		date[64];

		gmtime_r(&unix_time, &tm);
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
		CHECK(same(read_date(date), date));
		memory_reset();
	}
	CHECK(same(read_date("0001-01-02T00:00:00Z"), "1-01-02T00:00:00Z") ||
		  same(read_date("0001-01-02T00:00:00Z"), "0001-01-02T00:00:00Z"));
	CHECK(same(read_date("9998-12-31T23:59:59Z"), "9998-12-31T23:59:59Z"));
}

static void
what_is_no_date_is_unknown(void)
{
	static const char *const wrong[] = {
		"",
		"soon",
		"2026",
		"2026-03-04",
		"2026-03-04T08:00:00",
		"2026-03-04 08:00:00Z",
		"2026-3-4T08:00:00Z",
		"2026-03-04T08:00Z",
		"2026-13-04T08:00:00Z",
		"2026-00-04T08:00:00Z",
		"2026-02-29T08:00:00Z",
		"2100-02-29T08:00:00Z",
		"2026-04-31T08:00:00Z",
		"2026-03-00T08:00:00Z",
		"2026-03-04T24:00:00Z",
		"2026-03-04T08:60:00Z",
		"2026-03-04T08:00:60Z",
		"2026-03-04T08:00:00ZZ",
		"2026-03-04T08:00:00+08",
		"2026-03-04T08:00:00+0800",
		"2026-03-04T08:00:00.Z",
		"2026-03-04T08:00:00+99:00",
		"-026-03-04T08:00:00Z",
		"0000-01-01T00:00:00Z",
		"12026-03-04T08:00:00Z",
		" 2026-03-04T08:00:00Z",
		/* sentinels, and "never" as a date of the past */
		"0000-00-00T00:00:00Z",
		"0001-01-01T00:00:00Z",
		"9999-12-31T23:59:59Z",
	};

	for (int i = 0; i < (int) lengthof(wrong); i++)
		CHECK(read_date(wrong[i]) == NULL);
}

static void
offsets_and_fractions_count(void)
{
	CHECK(same(read_date("2026-03-04T08:00:00+08:00"),
			   "2026-03-04T00:00:00Z"));
	CHECK(same(read_date("2026-03-04T08:00:00-09:30"),
			   "2026-03-04T17:30:00Z"));
	CHECK(same(read_date("2026-03-04T08:00:00.5Z"),
			   "2026-03-04T08:00:00.500000Z"));
	CHECK(same(read_date("1999-12-31T23:59:59.123456789Z"),
			   "1999-12-31T23:59:59.123456Z"));
}

int
main(void)
{
	memory_reset();
	RUN(progress_is_a_whole_percentage);
	RUN(a_value_of_another_type_is_none);
	RUN(only_zero_and_nothing_are_no_code);
	RUN(every_day_of_four_centuries_is_right);
	RUN(what_is_no_date_is_unknown);
	RUN(offsets_and_fractions_count);
	memory_reset();
	return check_summary();
}
