/*-------------------------------------------------------------------------
 *
 * test_retry.c
 *		How long to wait after trouble, and when it is final: retry_delay()
 *		and retry_is_final() of retry.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <limits.h>

#include "check.h"
#include "schedule/retry.h"

#define SECOND INT64CONST(1000000)

/* More failures than any wait takes to grow. */
#define MANY 1000

/* What is promised of each kind, in seconds: 0 for ever. */
static const struct
{
	RetryKind	why;
	const char *name;
	int			first;
	int			longest;
	int			borne;
} kinds[] = {
	{RETRY_TRANSIENT, "transient", 1, 60, 0},
	{RETRY_RATE_LIMITED, "rate limited", 1, 60, 0},
	{RETRY_UNREADABLE, "unreadable", 5, 300, 0},
	{RETRY_REJECTED, "rejected", 10, 300, 0},
	{RETRY_AUTH, "auth", 60, 60, 0},
	{RETRY_UNKNOWN_TASK, "unknown task", 20, 20, 60},
	{RETRY_LOST_TASK, "lost task", 20, 600, 6 * 3600},
	{RETRY_NO_OUTPUT, "no output", 10, 10, 30},
	{RETRY_ROW, "row", 1, 600, 0},
};

/* Without jitter: what is in the middle of it, or for trouble that may become
 * final the least. */
static int64
plain(int i, int failures)
{
	return retry_delay(kinds[i].why, failures, kinds[i].borne > 0 ? 0 : 0.5);
}

static void
waits_double_from_the_first_to_the_longest(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		int64		wait = kinds[i].first * SECOND;

		for (int failures = 1; failures <= 20; failures++)
		{
			note("%s, failure %d", kinds[i].name, failures);
			CHECK(plain(i, failures) == wait);
			wait = Min(wait * 2, kinds[i].longest * SECOND);
		}
		note("%s, after very many", kinds[i].name);
		CHECK(plain(i, MANY) == kinds[i].longest * SECOND);
		CHECK(plain(i, INT_MAX) == kinds[i].longest * SECOND);
	}
}

static void
jitter_spreads_a_wait_by_a_quarter_both_ways(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		int64		wait = plain(i, 3);

		if (kinds[i].borne > 0)
			continue;
		note("%s", kinds[i].name);
		CHECK(retry_delay(kinds[i].why, 3, 0) == wait * 3 / 4);
		CHECK(retry_delay(kinds[i].why, 3, 1) == wait * 5 / 4);
	}
}

static void
what_may_become_final_is_never_asked_about_too_early(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (kinds[i].borne == 0)
			continue;
		for (int random = 0; random <= 10; random++)
		{
			int64		wait = retry_delay(kinds[i].why, 1, random / 10.0);

			note("%s, random %d/10", kinds[i].name, random);
			CHECK(wait >= kinds[i].first * SECOND);
			CHECK(wait <= kinds[i].first * SECOND * 11 / 10);
		}
	}
}

static void
trouble_of_others_is_never_final(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (kinds[i].borne > 0)
			continue;
		note("%s", kinds[i].name);
		CHECK(!retry_is_final(kinds[i].why, 1, 0));
		CHECK(!retry_is_final(kinds[i].why, INT_MAX, PG_INT64_MAX));
	}
}

static void
trouble_of_a_task_is_final_by_time_and_count(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		int64		borne = kinds[i].borne * SECOND;

		if (borne == 0)
			continue;
		note("%s", kinds[i].name);
		CHECK(retry_is_final(kinds[i].why, 4, borne));
		CHECK(!retry_is_final(kinds[i].why, 3, borne));
		CHECK(!retry_is_final(kinds[i].why, 3, PG_INT64_MAX));
		CHECK(!retry_is_final(kinds[i].why, 4, borne - 1));
		CHECK(!retry_is_final(kinds[i].why, INT_MAX, borne - 1));
		CHECK(retry_is_final(kinds[i].why, INT_MAX, PG_INT64_MAX));
	}
}

/* The first response counts, and three more polls, which may take longer. */
static void
trouble_of_a_task_is_final_when_it_was_borne(void)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		int64		since = 0;
		int			failures = 1;

		if (kinds[i].borne == 0)
			continue;
		for (; !retry_is_final(kinds[i].why, failures, since); failures++)
			since += retry_delay(kinds[i].why, failures, 0);
		note("%s", kinds[i].name);
		CHECK(failures >= 4);
		CHECK(since >= kinds[i].borne * SECOND);
		CHECK(since <= (kinds[i].borne + kinds[i].longest) * SECOND);
		CHECK(failures == 4 || kinds[i].longest > kinds[i].first);
	}
}

static void
a_task_that_was_seen_running_is_lost_not_unknown(void)
{
	CHECK(retry_unknown_task(false) == RETRY_UNKNOWN_TASK);
	CHECK(retry_unknown_task(true) == RETRY_LOST_TASK);
	CHECK(retry_is_final(RETRY_UNKNOWN_TASK, 10, 600 * SECOND));
	CHECK(!retry_is_final(RETRY_LOST_TASK, 1000, 3600 * SECOND));
}

int
main(void)
{
	RUN(waits_double_from_the_first_to_the_longest);
	RUN(jitter_spreads_a_wait_by_a_quarter_both_ways);
	RUN(what_may_become_final_is_never_asked_about_too_early);
	RUN(trouble_of_others_is_never_final);
	RUN(trouble_of_a_task_is_final_by_time_and_count);
	RUN(trouble_of_a_task_is_final_when_it_was_borne);
	RUN(a_task_that_was_seen_running_is_lost_not_unknown);
	return check_summary();
}
