/*-------------------------------------------------------------------------
 *
 * test_schedule.c
 *		Properties of the learned schedule: schedule.c and plan.c.
 *
 * What it costs beside other schedules is in bench/schedule.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <math.h>

#include "check.h"
#include "schedule/plan.h"
#include "schedule/schedule.h"

#define SECOND INT64CONST(1000000)
#define KEYS 4

/* What the settings are by default. */
static const ScheduleSettings defaults = {
	.detection_delay = 5 * SECOND / 2,
	.poll_floor = SECOND / 2,
	.poll_cap = 60 * SECOND,
};

static PlanWork work;
static Schedule *schedule;
static bool slow;

/* A number below n; the same ones in every run. */
static uint32
some(uint32 n)
{
	static uint64 state = 42;

	state = state * UINT64CONST(6364136223846793005) + 1442695040888963407;
	return (uint32) ((state >> 33) % n);
}

static double
some_share(void)
{
	return some(1000000) / 1e6;
}

static double
some_lognormal(double median, double sigma)
{
	double		normal = -6;

	for (int i = 0; i < 12; i++)
		normal += some_share();
	return median * exp(sigma * normal);
}

static ScheduleKey
fresh(const char *task_type)
{
	free(schedule);
	schedule = schedule_init(malloc(schedule_size(KEYS)), KEYS);
	return schedule_key(schedule, "anyapi", task_type, "model 1");
}

static void
teach(ScheduleKey key, int tasks, double median, double sigma)
{
	for (int i = 0; i < tasks; i++)
		schedule_record_end(schedule, key,
							llrint(some_lognormal(median, sigma)) * SECOND,
							SECOND);
}

/* A key's summary, which is given only if something is new. */
static const ScheduleSummary *
sum_up(ScheduleKey key)
{
	static ScheduleSummary summaries[KEYS];
	int			n = key % SCHEDULE_MOST_KEYS;

	schedule_summarize(schedule, n, &summaries[n]);
	return &summaries[n];
}

static double
forecast(ScheduleKey key, double elapsed)
{
	ScheduleForecast forecast;

	schedule_forecast(sum_up(key), elapsed * SECOND, &forecast);
	CHECK(forecast.p90 >= forecast.median && forecast.median >= 0);
	return forecast.median / (double) SECOND;
}

/* So many tasks are given up that were seen running after "elapsed". */
static void
give_up(ScheduleKey key, int tasks, int64 elapsed)
{
	for (int i = 0; i < tasks; i++)
	{
		ScheduleRunning running = {0};

		schedule_record_running(schedule, &running, key, elapsed);
		schedule_record_lost(schedule, &running);
	}
}

/* The wait in seconds, without jitter. */
static double
wait_at(ScheduleKey key, double elapsed, double now)
{
	return schedule_next(schedule, &defaults, key, elapsed * SECOND,
						 now * SECOND, 0.5) /
		(double) SECOND;
}

static bool
near(double a, double b, double share)
{
	return fabs(a - b) <= share * fabs(b);
}


/*
 * The life table
 */

static float no_prior[PLAN_BUCKETS];

/* So many tasks that what is put in for the unknown does not matter. */
static void
shares_are_those_of_a_life_table(void)
{
	PlanTable	table = {.ended = {[10] = 250e6, [20] = 250e6, [30] = 100e6},
						 .censored = {[20] = 250e6, [30] = 150e6}};
	float		survival[PLAN_BUCKETS + 1];

	plan_survival(&table, no_prior, survival);
	CHECK(near(survival[10], 1, 1e-4));
	CHECK(near(survival[11], 0.75, 1e-4));
	CHECK(near(survival[20], 0.75, 1e-4));
	/* 250 of 750, of whom 250 were at risk for half of the bucket */
	CHECK(near(survival[21], 0.75 * (1 - 250.0 / 625), 1e-4));
	/* 100 of 250, 150 for half of it */
	CHECK(near(survival[31], 0.45 * (1 - 100.0 / 175), 1e-4));
}

static void
nothing_known_is_the_prior(void)
{
	PlanTable	table = {{0}, {0}};
	float		prior[PLAN_BUCKETS];
	float		survival[PLAN_BUCKETS + 1];

	plan_prior(64, prior);
	plan_survival(&table, prior, survival);
	/* of a lognormal of width 1, at its median and one width to both sides */
	CHECK(near(plan_survival_at(survival, 64), 0.5, 0.01));
	CHECK(near(plan_survival_at(survival, 64 * exp(1)), 0.1587, 0.02));
	CHECK(near(plan_survival_at(survival, 64 / exp(1)), 0.8413, 0.01));
	CHECK(near(plan_quantile(survival, 0.5), 64, 0.02));
}

/* Whatever is censored, no share of running tasks gets less by it. */
static void
censored_tasks_never_count_as_ended(void)
{
	float		prior[PLAN_BUCKETS];

	plan_prior(60, prior);
	for (int round = 0; round < 200; round++)
	{
		PlanTable	table = {{0}, {0}};
		float		before[PLAN_BUCKETS + 1];
		float		after[PLAN_BUCKETS + 1];

		note("round %d", round);
		for (int i = 0; i < 20; i++)
			table.ended[some(PLAN_BUCKETS)] += some(50);
		plan_survival(&table, prior, before);
		table.censored[PLAN_BUCKETS] += 1 + some(100);
		plan_survival(&table, prior, after);
		for (int i = 0; i <= PLAN_BUCKETS; i++)
			if (!CHECK(after[i] >= before[i] - 1e-6))
				break;
	}
}

static void
given_up_tasks_lengthen_the_forecast(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	double		before;

	teach(key, 50, 100, 0.2);
	before = forecast(key, 0);
	give_up(key, 100, 110 * SECOND);
	CHECK(forecast(key, 0) > before * 1.05);
	/* given up early they tell nothing */
	before = forecast(key, 0);
	give_up(key, 100, 20 * SECOND);
	CHECK(forecast(key, 0) >= before * 0.95);
}

/* The same of tasks that were counted as running: each counts once. */
static void
lost_tasks_count_where_they_were_last_seen(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	ScheduleRunning running[100] = {{0}};
	double		before;

	teach(key, 50, 100, 0.2);
	for (int i = 0; i < 100; i++)
		schedule_record_running(schedule, &running[i], key, 110 * SECOND);
	before = forecast(key, 0);
	for (int i = 0; i < 100; i++)
		schedule_record_lost(schedule, &running[i]);
	CHECK(sum_up(key)->running == 0 && sum_up(key)->ended == 50);
	CHECK(fabs(forecast(key, 0) - before) < before * 0.1);
	before = forecast(key, 0);
	schedule_record_lost(schedule, &running[0]);
	CHECK(sum_up(key)->running == 0);
	CHECK(forecast(key, 0) == before);
}

/*
 * A delay that the points are too coarse for is not bought with a question at
 * each of them.
 */
static void
a_delay_out_of_reach_costs_no_flood(void)
{
	static const ScheduleSettings eager = {SECOND / 20, 1, 3600 * SECOND, true};
	ScheduleKey key = fresh("AigcVideoTask");

	teach(key, 1000, 120, 0.5);
	CHECK(schedule_next(schedule, &eager, key, 24 * SECOND, 0, 0.5) >
		  SECOND / 5);
}

static void
running_tasks_count_while_they_run(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	ScheduleRunning running[100] = {{0}};
	double		before = forecast(key, 0);

	for (int elapsed = 10; elapsed <= 300; elapsed += 10)
	{
		note("%d s", elapsed);
		for (int i = 0; i < 100; i++)
			schedule_record_running(schedule, &running[i], key,
									elapsed * SECOND);
		CHECK(forecast(key, 0) >= before);
		CHECK(forecast(key, 0) > elapsed);
	}
	CHECK(sum_up(key)->running == 100);
	CHECK(forecast(key, 0) > 2 * before);
	for (int i = 0; i < 100; i++)
	{
		schedule_record_gone(schedule, &running[i]);
		schedule_record_gone(schedule, &running[i]);
	}
	CHECK(sum_up(key)->running == 0);
	CHECK(forecast(key, 0) == before);
}

static void
each_type_has_its_prior(void)
{
	static const struct
	{
		const char *task_type;
		double		median;
	} types[] = {
		{"AigcImageTask", 15},
		{"ProcessImageAsync", 15},
		{"AigcAudioTask", 20},
		{"aigcVIDEOtask", 120},
		{"SceneAigcVideoTask", 120},
		{"Procedure", 60},
		{"", 60},
		{NULL, 60},
	};

	for (int i = 0; i < (int) lengthof(types); i++)
	{
		note("%s", types[i].task_type ? types[i].task_type : "NULL");
		CHECK(near(forecast(fresh(types[i].task_type), 0), types[i].median,
				   0.02));
	}
}

/* A task of 5 s by whole seconds may have taken from 4.5 s to 5.5 s. */
static void
whole_seconds_are_spread(void)
{
	ScheduleKey key = fresh("AigcImageTask");

	for (int i = 0; i < 2000; i++)
		schedule_record_end(schedule, key, 5 * SECOND, SECOND);
	CHECK(near(forecast(key, 0), 5, 0.03));
	CHECK(near(forecast(key, 4.7), 0.4, 0.3));
	CHECK(near(forecast(key, 5.2), 0.15, 0.7));
}

static void
a_forecast_shrinks_as_time_passes(void)
{
	ScheduleKey key = fresh("AigcVideoTask");

	teach(key, 1000, 100, 0.2);
	CHECK(near(forecast(key, 0), 100, 0.05));
	CHECK(near(forecast(key, 50), 50, 0.1));
	CHECK(forecast(key, 100) < 20);
	/* long overdue: nobody knows, but not never and not at once */
	CHECK(forecast(key, 3600) > 60);
	CHECK(forecast(key, 3600) < 7200);
	CHECK(forecast(key, 200000) > 3600);
}

static void
tasks_beyond_the_table_count_as_long(void)
{
	ScheduleKey key = fresh("AigcVideoTask");

	for (int i = 0; i < 1000; i++)
		schedule_record_end(schedule, key, (20000 + 20 * i) * SECOND, SECOND);
	CHECK(forecast(key, 0) > 16000);
}


/*
 * Memory
 */

static void
old_tasks_count_half_after_a_half_life(void)
{
	ScheduleKey key = fresh("AigcVideoTask");

	for (int i = 0; i < 350; i++)
		schedule_record_end(schedule, key, 100 * SECOND, SECOND);
	/* the sum of 2^(-i/350) for 350 tasks */
	CHECK(near(sum_up(key)->learned, 0.5 / (1 - exp2(-1 / 350.0)), 0.001));
	CHECK(sum_up(key)->ended == 350);
}

static void
a_change_is_learned(void)
{
	ScheduleKey key = fresh("AigcVideoTask");

	teach(key, 3000, 50, 0.2);
	CHECK(near(forecast(key, 0), 50, 0.05));
	for (int i = 0; i < 1000; i++)
	{
		teach(key, 1, 100, 0.2);
		(void) wait_at(key, 0, 10 * i);
	}
	CHECK(near(forecast(key, 0), 100, 0.1));
}

/* Latest first, by record_past, or oldest first as they ended: the same. */
static void
past_tasks_count_as_if_recorded_in_order(void)
{
	ScheduleSummary in_order;
	ScheduleSummary reversed;
	ScheduleKey key = fresh("AigcVideoTask");

	for (int i = 999; i >= 0; i--)
		schedule_record_end(schedule, key, (50 + i / 5) * SECOND, SECOND);
	in_order = *sum_up(key);
	key = fresh("AigcVideoTask");
	for (int i = 0; i < 1000; i++)
		schedule_record_past(schedule, "anyapi", "AigcVideoTask", "model 1",
							 (50 + i / 5) * SECOND, SECOND);
	reversed = *sum_up(key);
	CHECK(reversed.ended == 1000);
	CHECK(near(reversed.learned, in_order.learned, 0.001));
	CHECK(near(reversed.median, in_order.median, 0.001));
	CHECK(near(reversed.p95, in_order.p95, 0.001));
}

static void
nothing_new_is_summed_up_again(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	ScheduleRunning running = {0};
	ScheduleSummary summary;

	CHECK(schedule_summarize(schedule, 0, &summary));
	CHECK(!schedule_summarize(schedule, 0, &summary));
	schedule_record_running(schedule, &running, key, 10 * SECOND);
	CHECK(schedule_summarize(schedule, 0, &summary));
	schedule_record_running(schedule, &running, key, 10 * SECOND);
	(void) wait_at(key, 10, 0);
	CHECK(!schedule_summarize(schedule, 0, &summary));
	schedule_record_gone(schedule, &running);
	CHECK(schedule_summarize(schedule, 0, &summary));
	teach(key, 1, 100, 0.2);
	CHECK(schedule_summarize(schedule, 0, &summary));
	CHECK(summary.ended == 1);
	CHECK(!schedule_summarize(schedule, 1, &summary));
}

/* A wait says which plan it is from, as none is like another. */
static void
plans_are_made_anew_but_not_too_often(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	double		wait;

	teach(key, 1000, 100, 0.2);
	wait = wait_at(key, 0, 100);
	teach(key, 2, 300, 0.2);
	CHECK(wait_at(key, 0, 200) == wait);
	teach(key, 100, 300, 0.2);
	CHECK(wait_at(key, 0, 101) == wait);
	CHECK(wait_at(key, 0, 300) != wait);
}


/*
 * The plan
 */

/* The least cost by trying every point from every point. */
static double
brute_force(double c, const PlanBounds *bounds)
{
	static double cost[PLAN_POINTS];

	cost[work.last] = work.cost[work.last];
	for (int i = work.last - 1; i >= 0; i--)
	{
		cost[i] = HUGE_VAL;
		for (int j = i + 1; j <= work.last; j++)
		{
			double		gap = work.at[j] - work.at[i];

			if (gap <= bounds->most && (gap >= bounds->least || j == work.last))
				cost[i] = Min(cost[i],
							  (c + gap) * work.survival[i] + cost[j]);
		}
	}
	return cost[0];
}

/* Random times and shares, with stretches in which no task ends. */
static void
fill_randomly(int last)
{
	double		end_share = some_share() < 0.5 ? 0.05 : 0.3;
	bool		quiet = false;

	work.last = last;
	work.at[0] = 0;
	work.survival[0] = 1;
	for (int i = 1; i <= last; i++)
	{
		if (some(10) == 0)
			quiet = !quiet;
		work.at[i] = work.at[i - 1] + 0.2 + some_share();
		work.survival[i] = work.survival[i - 1] *
			(quiet ? 1 : 1 - end_share * some_share());
	}
}

static void
a_plan_is_as_good_as_the_best_of_all(void)
{
	static uint16 next[PLAN_POINTS];

	for (int round = 0; round < (slow ? 100 : 3000); round++)
	{
		/* with at most 1.2 s between points all bounds can be kept */
		PlanBounds	bounds = {some(3) == 0 ? 0 : 2 * some_share(),
							  some(3) == 0 ? 1e9 : 4 + 20 * some_share()};
		double		c = 0.01 * exp(8 * some_share());
		double		cost;
		double		total = 0;

		note("round %d, c %g, bounds %g %g", round, c, bounds.least,
			 bounds.most);
		fill_randomly(1 + some(round % 2 ? 12 : 150));
		plan_solve(&work, c, &bounds, next);
		cost = brute_force(c, &bounds);
		if (!CHECK(near(work.cost[0], cost, 1e-9)))
			return;
		/* and it keeps the bounds */
		for (int i = 0; i < work.last; i = next[i])
		{
			double		gap = work.at[next[i]] - work.at[i];

			total += (c + gap) * work.survival[i];
			CHECK(next[i] > i && gap <= bounds.most);
			CHECK(gap >= bounds.least || next[i] == work.last);
		}
		CHECK(near(total + work.cost[work.last], cost, 1e-9));
	}
}

/* Nothing ends at all; all in one bucket; all at once at the very start. */
static void
lumps_are_planned_for(void)
{
	static const struct
	{
		int			bucket;
		double		tasks;
	} lumps[] = {{0, 0}, {PLAN_BUCKETS, 1e4}, {50, 1e4}, {50, 1}, {0, 1e4}
};
	static uint16 next[PLAN_POINTS];

	plan_init(&work);
	for (int i = 0; i < (int) lengthof(lumps); i++)
	{
		PlanTable	table = {{0}, {0}};
		PlanBounds	bounds = {0, 1e12};
		float		prior[PLAN_BUCKETS];
		float		survival[PLAN_BUCKETS + 1];
		double		delay;

		note("lump %d", i);
		plan_prior(60, prior);
		table.ended[lumps[i].bucket] = lumps[i].tasks;
		plan_survival(&table, prior, survival);
		plan_spread(&work, survival);
		plan_solve(&work, 1, &bounds, next);
		delay = plan_mean_delay(&work, 1, next);
		CHECK(isfinite(delay) && delay > 0);
	}
	/* of all tasks in one bucket, few questions find nearly all */
	CHECK(work.survival[1 + PLAN_STEPS] < 0.01);
}

/*
 * Poll tasks when the schedule says; their mean delay in seconds.  Of one
 * history it differs from the plan's by chance, of ten hardly.
 */
static double
mean_delay(const char *task_type, const ScheduleSettings *settings,
		   double median, double sigma)
{
	double		delay = 0;

	for (int history = 0; history < 10; history++)
	{
		ScheduleKey key = fresh(task_type);

		teach(key, 1000, median, sigma);
		for (int i = 0; i < 500; i++)
		{
			double		end = some_lognormal(median, sigma);
			int64		elapsed = 0;

			while (elapsed < end * SECOND)
				elapsed += schedule_next(schedule, settings, key, elapsed, 0,
										 some_share());
			delay += (elapsed / (double) SECOND - end) / 5000;
		}
	}
	return delay;
}

static void
the_mean_delay_is_the_one_aimed_at(void)
{
	static const double delays[] = {0.5, 1, 2.5, 6};

	for (int i = 0; i < (int) lengthof(delays); i++)
	{
		ScheduleSettings settings = defaults;

		note("%g s", delays[i]);
		settings.detection_delay = delays[i] * SECOND;
		settings.poll_floor = SECOND / 10;
		CHECK(near(mean_delay("AigcVideoTask", &settings, 100, 0.3),
				   delays[i], 0.06));
	}
}

static void
quantiles_are_those_of_the_tasks(void)
{
	ScheduleKey key = fresh("AigcVideoTask");

	teach(key, 1000, 100, 0.3);
	CHECK(near(sum_up(key)->median, 100 * SECOND, 0.05));
	CHECK(near(sum_up(key)->p95, 164 * SECOND, 0.1));
}

/* An image of 12 s is to be seen within a second, whatever the setting. */
static void
short_tasks_are_seen_sooner(void)
{
	CHECK(near(mean_delay("AigcImageTask", &defaults, 12, 0.4), 1, 0.1));
}

/* A new setting counts at once. */
static void
settings_count_at_once(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	ScheduleSettings settings = defaults;
	double		before;

	teach(key, 1000, 100, 0.3);
	before = wait_at(key, 100, 0);
	settings.detection_delay /= 4;
	CHECK(schedule_next(schedule, &settings, key, 100 * SECOND, 0, 0.5) <
		  before * SECOND / 2);
}

/* However sure a table is, a task that behaves otherwise is found out. */
static void
guards_hold_whatever_was_learned(void)
{
	for (int round = 0; round < (slow ? 10 : 200); round++)
	{
		ScheduleKey key = fresh("AigcVideoTask");
		double		median = 1 + exp(8 * some_share());

		teach(key, some(400), median, 0.05 + some_share() / 2);
		for (int i = 0; i < 200; i++)
		{
			int64		elapsed = exp(13 * some_share()) * SECOND;
			int64		wait = schedule_next(schedule, &defaults, key, elapsed,
											 0, some_share());

			note("median %g, elapsed %g", median, elapsed / 1e6);
			CHECK(wait >= defaults.poll_floor);
			CHECK(wait <= defaults.poll_cap);
			CHECK(wait <= Max(2 * SECOND, sum_up(key)->median / 2 + 10));
			if (check_complaints > 0)
				return;
		}
	}
}

static void
polls_are_spread(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	int64		middle;

	teach(key, 1000, 100, 0.3);
	middle = schedule_next(schedule, &defaults, key, 0, 0, 0.5);
	CHECK(near(schedule_next(schedule, &defaults, key, 0, 0, 0),
			   0.95 * middle, 0.001));
	/* unless that is beyond what is allowed */
	middle = schedule_next(schedule, &defaults, key, 100 * SECOND, 0, 0.5);
	CHECK(near(schedule_next(schedule, &defaults, key, 100 * SECOND, 0,
							 0.999999),
			   1.05 * middle, 0.001));
}

static void
throttled_servers_are_spared(void)
{
	ScheduleKey key = fresh("AigcVideoTask");
	ScheduleKey other = schedule_key(schedule, "other", "AigcVideoTask", "");
	double		before;
	double		of_other;

	teach(key, 1000, 100, 0.3);
	before = wait_at(key, 100, 0);
	of_other = wait_at(other, 100, 0);
	for (int i = 0; i < 10; i++)
	{
		schedule_throttle(schedule, "anyapi", (10 + i) * SECOND);
		/* once in a second at most */
		schedule_throttle(schedule, "anyapi", (10 + i) * SECOND + 1);
	}
	schedule_throttle(schedule, "unknown", 10 * SECOND);
	schedule_throttle(schedule, "others", 10 * SECOND);
	/* requests fall as the root of c */
	CHECK(near(wait_at(key, 100, 20), sqrt(pow(1.5, 10)) * before, 0.3));
	CHECK(wait_at(other, 100, 20) == of_other);
	/* and in time it is as before */
	CHECK(near(wait_at(key, 100, 2000), before, 0.05));
	for (int i = 0; i < 10000; i++)
		schedule_throttle(schedule, "anyapi", (3000 + i) * SECOND);
	CHECK(wait_at(key, 100, 13000) <= 60);
	/* however much it was throttled, an hour later it is not */
	CHECK(near(wait_at(key, 100, 17000), before, 0.05));
}


/*
 * Keys
 */

static bool
is_known(ScheduleKey key)
{
	return schedule_next(schedule, &defaults, key, 0, 0, 0.5) !=
		schedule_fixed(&defaults, 0.5);
}

static void
the_least_recently_used_key_goes(void)
{
	static const char *const models[] = {"a", "b", "c", "d", "e"};
	ScheduleKey keys[lengthof(models)];
	ScheduleRunning running = {0};
	ScheduleSummary summary;

	(void) fresh("AigcVideoTask");
	free(schedule);
	schedule = schedule_init(malloc(schedule_size(KEYS)), KEYS);
	for (int i = 0; i < KEYS; i++)
	{
		keys[i] = schedule_key(schedule, "s", "t", models[i]);
		for (int k = 0; k < i; k++)
			CHECK(keys[i] != keys[k]);
	}
	schedule_record_running(schedule, &running, keys[1], SECOND);
	/* all but "b" are used again */
	for (int i = 0; i < KEYS; i++)
		if (i != 1)
			CHECK(schedule_key(schedule, "s", "t", models[i]) == keys[i]);
	keys[4] = schedule_key(schedule, "s", "t", "e");
	CHECK(!is_known(keys[1]));
	CHECK(is_known(keys[0]) && is_known(keys[4]));

	/* what is recorded for the one that went hits none that came */
	schedule_record_end(schedule, keys[1], SECOND, SECOND);
	schedule_record_lost(schedule, &running);
	schedule_record_gone(schedule, &running);
	schedule_record_running(schedule, &running, keys[1], SECOND);
	CHECK(!is_known(keys[1]));
	for (int i = 0; i < KEYS; i++)
	{
		CHECK(schedule_summarize(schedule, i, &summary));
		CHECK(summary.ended == 0 && summary.running == 0);
	}
	CHECK(!schedule_summarize(schedule, KEYS, &summary));
	CHECK(!schedule_summarize(schedule, -1, &summary));
	/* it comes back as a new one */
	CHECK(schedule_key(schedule, "s", "t", "b") != keys[1]);
}

/* What ended before a start takes room from nothing that is in use. */
static void
past_tasks_drive_out_no_key(void)
{
	char		model[2] = "a";
	ScheduleKey key = fresh("AigcVideoTask");

	for (; model[0] <= 'f'; model[0]++)
		schedule_record_past(schedule, "s", "t", model, SECOND, SECOND);
	CHECK(is_known(key));
	/* a, b, c: the latest are kept, and the oldest of them goes first */
	CHECK(strcmp(sum_up(1)->model, "a") == 0);
	CHECK(strcmp(sum_up(3)->model, "c") == 0);
	key = schedule_key(schedule, "s", "t", "g");
	CHECK(strcmp(sum_up(3)->model, "g") == 0 && is_known(key));
	key = schedule_key(schedule, "s", "t", "h");
	CHECK(strcmp(sum_up(2)->model, "h") == 0 && is_known(key));
	CHECK(schedule_key(schedule, "s", "t", "a") % SCHEDULE_MOST_KEYS == 1);
}

static void
keys_are_apart_and_bounded(void)
{
	char		name[1000];
	ScheduleKey key = fresh("AigcVideoTask");
	ScheduleSummary summary;

	CHECK(schedule_key(schedule, "anyapi", "AigcVideoTask", "model 1") == key);
	CHECK(schedule_key(schedule, "anyapi", "AigcVideoTask", "model 2") != key);
	CHECK(schedule_key(schedule, "anyapiA", "igcVideoTask", "model 1") != key);
	CHECK(schedule_key(schedule, "", NULL, NULL) ==
		  schedule_key(schedule, "", "", ""));

	/* names that differ where they are cut are two keys all the same */
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	key = schedule_key(schedule, "s", "t", name);
	CHECK(schedule_key(schedule, "s", "t", name) == key);
	for (char letter = 'a'; letter < 'x'; letter++)
	{
		name[500] = letter;
		CHECK(schedule_key(schedule, "s", "t", name) != key);
	}
	for (int i = 0; i < 10000; i++)
	{
		snprintf(name, sizeof(name), "%d", i);
		(void) schedule_key(schedule, name, name, name);
	}
	CHECK(schedule_summarize(schedule, 0, &summary));
	CHECK(schedule_size(1001) - schedule_size(1000) < 16 * 1024);

	/* cut names hold whole characters */
	for (int i = 0; i + 3 < (int) sizeof(name); i += 3)
		memcpy(name + i, "\xe4\xb8\xad", 4);
	(void) schedule_key(schedule, "s", "t", name);
	for (int i = 0; i < KEYS; i++)
	{
		schedule_summarize(schedule, i, &summary);
		if (summary.model[0] == '\xe4')
			CHECK(strlen(summary.model) % 3 == 0);
	}
}


/*
 * The upstream's clock
 */

/*
 * So many tasks, polled every 5 s, end while our clock is ahead of the
 * upstream's, which tells whole seconds, by "skew" (s).
 */
static void
end_with_skew(ScheduleKey key, int tasks, double skew)
{
	for (int i = 0; i < tasks; i++)
	{
		double		ended = 1e6 + 100 * i + some_share();
		double		received = ended + 5 * some_share();

		schedule_record_finish(schedule, key, received * SECOND,
							   floor(ended - skew) * SECOND);
	}
}

static void
the_least_difference_is_the_skew(void)
{
	static const double skews[] = {0, 0.4, -7.7, 3600.2, -8 * 3600, 86400};

	for (int i = 0; i < (int) lengthof(skews); i++)
	{
		ScheduleKey key = fresh("AigcVideoTask");
		double		found;

		note("%g s", skews[i]);
		CHECK(schedule_skew(schedule, key) == 0);
		/* the first end tells it to a poll's wait, more tell it better */
		for (int ends = 1; ends <= 100; ends += 33)
		{
			end_with_skew(key, ends, skews[i]);
			found = schedule_skew(schedule, key) / (double) SECOND;
			CHECK(found >= skews[i] - 0.001);
			CHECK(found <= skews[i] + (ends == 1 ? 6 : 1));
		}
		/* it is the server's: other keys have it, other servers have not */
		key = schedule_key(schedule, "anyapi", "AigcImageTask", "");
		CHECK(schedule_skew(schedule, key) / (double) SECOND == found);
		key = schedule_key(schedule, "other", "AigcImageTask", "");
		CHECK(schedule_skew(schedule, key) == 0);
	}
}

static void
a_strange_finish_time_is_forgotten(void)
{
	ScheduleKey key = fresh("AigcVideoTask");

	end_with_skew(key, 50, 0);
	/* too early by hours: nothing */
	end_with_skew(key, 1, 8 * 3600);
	CHECK(schedule_skew(schedule, key) < SECOND);
	/* too late by hours: for 64 ends */
	end_with_skew(key, 1, -8 * 3600);
	CHECK(schedule_skew(schedule, key) < -7 * 3600 * SECOND);
	end_with_skew(key, 64, 0);
	CHECK(llabs(schedule_skew(schedule, key)) < SECOND);
}

static void
a_clock_that_was_set_is_followed(void)
{
	static const double skews[] = {30, -30, 3600, 3601, 0};
	ScheduleKey key = fresh("AigcVideoTask");

	for (int i = 0; i < (int) lengthof(skews); i++)
	{
		note("%g s", skews[i]);
		end_with_skew(key, 64, skews[i]);
		CHECK(fabs(schedule_skew(schedule, key) / 1e6 - skews[i]) < 1);
	}
}


/*
 * Whatever comes
 */

static void
any_elapsed_time_has_an_answer(void)
{
	static const int64 times[] = {
		PG_INT64_MIN,
		-SECOND,
		-1,
		0,
		1,
		SECOND / 2,
		SECOND,
		INT64CONST(16384) * SECOND,
		INT64CONST(259200) * SECOND,
		PG_INT64_MAX,
	};

	for (int i = 0; i < (int) lengthof(times); i++)
	{
		ScheduleKey key = fresh("AigcVideoTask");
		ScheduleRunning running = {0};
		ScheduleForecast remaining;
		int64		wait;

		note("%lld", (long long) times[i]);
		schedule_record_end(schedule, key, times[i], SECOND);
		schedule_record_end(schedule, key, times[i], 0);
		schedule_record_end(schedule, key, times[i], PG_INT64_MAX);
		schedule_record_end(schedule, key, times[i], PG_INT64_MIN);
		give_up(key, 1, times[i]);
		schedule_record_past(schedule, "s", NULL, NULL, times[i], SECOND);
		schedule_record_running(schedule, &running, key, times[i]);
		wait = schedule_next(schedule, &defaults, key, times[i], times[i], 0.5);
		CHECK(wait >= defaults.poll_floor && wait <= defaults.poll_cap);
		schedule_forecast(sum_up(key), times[i], &remaining);
		CHECK(remaining.median >= 0 && remaining.p90 >= remaining.median);
	}
}

/* One operation of any kind with any arguments; returns what it gave. */
static double
do_something(ScheduleKey key, ScheduleRunning *running, int64 now)
{
	int64		time = exp(30 * some_share()) * (some(20) == 0 ? -1 : 1);
	ScheduleSettings settings = {
		exp(25 * some_share()),
		exp(20 * some_share()),
		exp(30 * some_share()),
		some(2),
	};
	ScheduleForecast remaining = {0};
	double		wait;

	switch (some(8))
	{
		case 0:
			schedule_record_end(schedule, key, time, exp(20 * some_share()));
			break;
		case 1:
			give_up(key, 1, time);
			break;
		case 2:
			schedule_record_running(schedule, running, key, time);
			break;
		case 3:
			schedule_record_gone(schedule, running);
			break;
		case 4:
			schedule_throttle(schedule, "s", now);
			break;
		case 5:
			schedule_forecast(sum_up(key), time, &remaining);
			CHECK(remaining.p90 >= remaining.median && remaining.median >= 0);
			return remaining.median;
		case 6:
			CHECK(sum_up(key)->p95 >= sum_up(key)->median);
			CHECK(sum_up(key)->median > 0);
			schedule_record_finish(schedule, key, now, time);
			return sum_up(key)->learned;
		default:
			if (some(4) > 0)
				settings = defaults;
			wait = schedule_next(schedule, &settings, key, time, now,
								 some_share());
			CHECK(wait >= settings.poll_floor);
			CHECK(wait <= Max(settings.poll_cap, settings.poll_floor));
			return wait;
	}
	return 0;
}

static void
nothing_that_is_recorded_breaks_a_plan(void)
{
	for (int round = 0; round < (slow ? 2 : 10); round++)
	{
		ScheduleKey key = fresh(some(2) ? "AigcVideoTask" : "AigcImageTask");
		ScheduleRunning running[10] = {{0}};
		int64		now = 0;

		for (int i = 0; i < 1000; i++)
		{
			double		result;

			now += some(SECOND);
			note("round %d, step %d", round, i);
			result = do_something(key, &running[some(10)], now);
			CHECK(isfinite(result) && result >= 0);
			if (check_complaints > 0)
				return;
		}
	}
}

static void
the_same_history_gives_the_same_schedule(void)
{
	int64		waits[2][100];

	for (int k = 0; k < 2; k++)
	{
		ScheduleKey key = fresh("AigcVideoTask");

		for (int i = 0; i < 1000; i++)
			schedule_record_end(schedule, key, (50 + i * 37 % 100) * SECOND,
								SECOND);
		for (int i = 0; i < 100; i++)
			waits[k][i] = schedule_next(schedule, &defaults, key,
										i * 3 * SECOND, i * SECOND, 0.3);
	}
	CHECK(memcmp(waits[0], waits[1], sizeof(waits[0])) == 0);
}

int
main(void)
{
	slow = getenv("ANYVOD_SLOW") != NULL;
	for (int i = 0; i < PLAN_BUCKETS; i++)
		no_prior[i] = 1e-7;

	RUN(shares_are_those_of_a_life_table);
	RUN(nothing_known_is_the_prior);
	RUN(censored_tasks_never_count_as_ended);
	RUN(given_up_tasks_lengthen_the_forecast);
	RUN(lost_tasks_count_where_they_were_last_seen);
	RUN(a_delay_out_of_reach_costs_no_flood);
	RUN(running_tasks_count_while_they_run);
	RUN(each_type_has_its_prior);
	RUN(whole_seconds_are_spread);
	RUN(a_forecast_shrinks_as_time_passes);
	RUN(tasks_beyond_the_table_count_as_long);
	RUN(old_tasks_count_half_after_a_half_life);
	RUN(a_change_is_learned);
	RUN(past_tasks_count_as_if_recorded_in_order);
	RUN(nothing_new_is_summed_up_again);
	RUN(plans_are_made_anew_but_not_too_often);
	RUN(a_plan_is_as_good_as_the_best_of_all);
	RUN(lumps_are_planned_for);
	RUN(the_mean_delay_is_the_one_aimed_at);
	RUN(quantiles_are_those_of_the_tasks);
	RUN(short_tasks_are_seen_sooner);
	RUN(settings_count_at_once);
	RUN(guards_hold_whatever_was_learned);
	RUN(polls_are_spread);
	RUN(throttled_servers_are_spared);
	RUN(the_least_recently_used_key_goes);
	RUN(past_tasks_drive_out_no_key);
	RUN(keys_are_apart_and_bounded);
	RUN(the_least_difference_is_the_skew);
	RUN(a_strange_finish_time_is_forgotten);
	RUN(a_clock_that_was_set_is_followed);
	RUN(any_elapsed_time_has_an_answer);
	RUN(nothing_that_is_recorded_breaks_a_plan);
	RUN(the_same_history_gives_the_same_schedule);
	return check_summary();
}
