/*-------------------------------------------------------------------------
 *
 * schedule.c
 *		What the learned schedule costs, beside the best there could be and
 *		beside schedules that learn nothing.
 *
 *		schedule full		the whole table with all goals
 *		schedule			fewer histories, no changes and no timing
 *
 * Links the extension's own schedule.c and plan.c.  Durations are drawn from
 * known distributions and taught in whole seconds, as an upstream tells them.
 * What a schedule then costs is not drawn but worked out from the
 * distribution itself, so that chance is only in what was learned; figures
 * are means over so many histories.  The same run prints the same table.
 *
 * The cost of a schedule is c requests + delay, where c is what makes the
 * optimum's mean delay the one aimed at.  Exits with 1 if a goal is missed.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <math.h>
#include <time.h>

#include "distribution.h"
#include "schedule/schedule.h"

#define SECOND INT64CONST(1000000)

/* Where next to no task is left a schedule is not followed any further. */
#define LEAST_SHARE 1e-9

/* The aim: see schedule.c. */
#define DETECTION_DELAY 2.5
#define DELAY_PART 12.0

/* The guards that are on by default, in seconds. */
#define POLL_FLOOR 0.5
#define POLL_CAP 60.0
#define GAP_PART 2.0
#define GAP_SECONDS 2.0

static int	goals_met;
static int	goals_missed;

/* Note whether a goal is met, and return how to say so. */
static const char *
verdict(bool met)
{
	if (met)
		goals_met++;
	else
		goals_missed++;
	return met ? "ok" : "MISSED";
}


/*
 * Changed distributions
 */

/* The same, but everything takes so many times as long. */
static Distribution
stretched(const Distribution *distribution, double times)
{
	Distribution result = *distribution;

	for (int i = 0; i < PARTS; i++)
	{
		result.parts[i].a *= times;
		if (result.parts[i].shape == UNIFORM)
			result.parts[i].b *= times;
	}
	return result;
}

/* The same, but this share ends after 2 to 8 seconds. */
static Distribution
failing(const Distribution *distribution, double share)
{
	Distribution result = *distribution;
	double		before = 0;
	Part	   *early = NULL;

	for (int i = 0; i < PARTS; i++)
	{
		if (result.parts[i].shape == UNIFORM)
			early = &result.parts[i];
		else
			before += result.parts[i].share;
	}
	for (int i = 0; i < PARTS; i++)
		result.parts[i].share *= (1 - share) / before;
	early->share = share;
	return result;
}


/*
 * The optimum: dynamic programming on a fine grid, the distribution known
 */

#define FINE 120000
#define FINE_LEAST 0.2

static double fine_at[FINE + 1];
static double fine_share[FINE + 1];
static double fine_cost[FINE + 1];
static int	fine_next[FINE + 1];
static int	fine_hull[FINE + 1];
static double fine_mean;		/* duration */

typedef struct Figures
{
	double		requests;
	double		mean_delay;
	double		p50;			/* of the delay */
	double		p95;
	double		cost;			/* above the optimum, in percent */
} Figures;

static void
fine_fill(const Distribution *distribution, int points)
{
	fine_at[0] = 0;
	for (int i = 1; i <= points; i++)
		fine_at[i] = FINE_LEAST *
			pow(HORIZON / FINE_LEAST, (i - 1) / (double) (points - 1));
	for (int i = 0; i <= points; i++)
		fine_share[i] = survival(distribution, fine_at[i]);
	fine_share[points] = 0;
	fine_mean = 0;
	for (int i = 0; i < points; i++)
		fine_mean += (fine_at[i + 1] - fine_at[i]) *
			(fine_share[i] + fine_share[i + 1]) / 2;
}

/* Are the lines of points p > k > j such that k is nowhere the lowest? */
static bool
fine_is_above(int p, int k, int j)
{
	return (fine_cost[j] - fine_cost[k]) * (fine_at[p] - fine_at[k]) <=
		(fine_cost[k] - fine_cost[p]) * (fine_at[k] - fine_at[j]);
}

static double
fine_line(int j, int i)
{
	return fine_at[j] * fine_share[i] + fine_cost[j];
}

static void
fine_go(int i, int to, double c)
{
	fine_next[i] = to;
	fine_cost[i] = (c + fine_at[to] - fine_at[i]) * fine_share[i] +
		fine_cost[to];
}

static Figures
fine_follow(void)
{
	Figures		figures = {0};

	for (int i = 0; fine_share[i] > 0; i = fine_next[i])
	{
		figures.requests += fine_share[i];
		figures.mean_delay += fine_share[i] *
			(fine_at[fine_next[i]] - fine_at[i]);
	}
	figures.mean_delay -= fine_mean;
	return figures;
}

static Figures
fine_solve(double c)
{
	int			head = 0;
	int			tail = 0;

	fine_cost[FINE] = 0;
	for (int i = FINE - 1; i >= 0; i--)
	{
		while (tail - head >= 2 && fine_is_above(fine_hull[tail - 2],
												 fine_hull[tail - 1], i + 1))
			tail--;
		fine_hull[tail++] = i + 1;
		while (tail - head >= 2 &&
			   fine_line(fine_hull[head + 1], i) <=
				   fine_line(fine_hull[head], i))
			head++;
		fine_go(i, fine_hull[head], c);
	}
	return fine_follow();
}

/* The c at which the optimum's mean delay is this. */
static double
fine_aim(double delay, Figures *figures)
{
	double		low = 1e-4;
	double		high = 1e3;

	for (int i = 0; i < 40; i++)
	{
		double		c = sqrt(low * high);

		*figures = fine_solve(c);
		if (figures->mean_delay < delay)
			low = c;
		else
			high = c;
	}
	return low;
}

/*
 * The optimum under the guards, by trying all on a coarser grid: no schedule
 * that keeps the bounds costs less.
 */
static Figures
coarse_solve(const Distribution *distribution, double c)
{
	const int	points = FINE / 10;
	double		most = Min(Max(median(distribution) / GAP_PART, GAP_SECONDS),
						   POLL_CAP);

	fine_fill(distribution, points);
	fine_cost[points] = 0;
	for (int i = points - 1; i >= 0; i--)
	{
		int			best = i + 1;

		if (fine_share[i] < LEAST_SHARE)
		{
			fine_next[i] = points;
			fine_cost[i] = 0;
			continue;
		}
		for (int j = i + 1;
			 j <= points && fine_at[j] - fine_at[i] <= most; j++)
			if (fine_at[best] - fine_at[i] < POLL_FLOOR ||
				fine_line(j, i) < fine_line(best, i))
				best = j;
		fine_go(i, best, c);
	}
	return fine_follow();
}


/*
 * What a schedule costs
 */

/* How long to wait at this time; the first call of a task is at 0. */
typedef double (*Gap) (void *schedule, double elapsed);

#define MOST_POLLS 1000000

static double poll_at[MOST_POLLS + 1];
static int	polls;

/* The share of ends that the schedule just followed sees later than this. */
static double
later_than(const Distribution *distribution, double delay)
{
	double		share = 0;

	for (int i = 0; i < polls; i++)
	{
		if (poll_at[i + 1] - delay > poll_at[i])
			share += survival(distribution, poll_at[i]) -
				survival(distribution, poll_at[i + 1] - delay);
	}
	return share;
}

static double
delay_quantile(const Distribution *distribution, double share)
{
	double		low = 0;
	double		high = 100;

	for (int i = 0; i < 20; i++)
	{
		double		middle = (low + high) / 2;

		if (later_than(distribution, middle) > 1 - share)
			low = middle;
		else
			high = middle;
	}
	return high;
}

/* Follow a schedule to its end; fine_mean is of this distribution. */
static Figures
follow(const Distribution *distribution, Gap gap, void *schedule)
{
	Figures		figures = {0};
	double		time = 0;

	for (polls = 0; time < HORIZON && polls < MOST_POLLS; polls++)
	{
		double		share = survival(distribution, time);
		double		wait = gap(schedule, time);

		wait = Min(wait, HORIZON - time);
		poll_at[polls] = time;
		if (share < LEAST_SHARE)
			break;
		figures.requests += share;
		figures.mean_delay += wait * share;
		time += wait;
	}
	poll_at[polls] = time;
	figures.mean_delay -= fine_mean;
	return figures;
}

static void
add_quantiles(const Distribution *distribution, Figures *figures)
{
	/* the few polls of a long tail change no quantile */
	while (polls > 1 && survival(distribution, poll_at[polls]) < 1e-5)
		polls--;
	figures->p50 = delay_quantile(distribution, 0.50);
	figures->p95 = delay_quantile(distribution, 0.95);
}

/*
 * Schedules that learn nothing, each with one number to be tuned
 */

static double
gap_fixed(void *number, double elapsed)
{
	return *(double *) number;
}

/* Half a second, and half as much more each time, up to the number. */
static double
gap_exponential(void *number, double elapsed)
{
	static double gap;

	gap = elapsed == 0 ? 0.5 : gap * 1.5;
	return Min(gap, *(double *) number);
}

/* The number times the time run, but at least a second. */
static double
gap_geometric(void *number, double elapsed)
{
	return Max(*(double *) number * elapsed, 1);
}

/* Tune a schedule to this mean delay. */
static Figures
tune(const Distribution *distribution, Gap gap, double delay)
{
	double		low = 1e-3;
	double		high = 1e3;
	Figures		figures = {0};

	for (int i = 0; i < 30; i++)
	{
		double		number = sqrt(low * high);

		/* one that asks far too often takes long to follow */
		if (gap == gap_fixed && number < delay)
		{
			low = number;
			continue;
		}
		figures = follow(distribution, gap, &number);
		if (figures.mean_delay < delay)
			low = number;
		else
			high = number;
	}
	return figures;
}

/*
 * The learned schedule
 */

typedef struct Learned
{
	Schedule   *schedule;
	ScheduleSettings settings;
	ScheduleKey key;
	int64		now;
	bool		guarded;
} Learned;

static Learned
learned_begin(const Distribution *distribution, bool guarded)
{
	static void *memory;
	Learned		learned = {0};

	if (memory == NULL)
		memory = malloc(schedule_size(4));
	learned.schedule = schedule_init(memory, 4);
	learned.settings.detection_delay = DETECTION_DELAY * SECOND;
	learned.settings.poll_cap = PG_INT64_MAX;
	if (guarded)
	{
		learned.settings.poll_floor = POLL_FLOOR * SECOND;
		learned.settings.poll_cap = POLL_CAP * SECOND;
	}
	learned.settings.unguarded = !guarded;
	learned.guarded = guarded;
	learned.key = schedule_key(learned.schedule, "anyapi",
							   distribution->task_type, "model 1.0");
	return learned;
}

/* Teach it so many tasks; a plan is asked for now and then, as in use. */
static void
learned_teach(Learned *learned, const Distribution *distribution, int tasks)
{
	for (int i = 0; i < tasks; i++)
	{
		double		created = random_share();
		double		finished = created + draw(distribution);

		schedule_record_end(learned->schedule, learned->key,
						  (int64) finished * SECOND, SECOND);
		learned->now += SECOND;
		if (i % 50 == 49)
			schedule_next(learned->schedule, &learned->settings,
						  learned->key, 0, learned->now, 0.5);
	}
	learned->now += 10 * SECOND;
}

static double
gap_learned(void *schedule, double elapsed)
{
	Learned    *learned = schedule;

	return schedule_next(learned->schedule, &learned->settings, learned->key,
						 llrint(elapsed * SECOND), learned->now,
						 learned->guarded ? random_share() : 0.5) /
		(double) SECOND;
}

/* An optimum to compare with. */
typedef struct Optimum
{
	double		c;
	Figures		figures;
	double		total;			/* its cost */
} Optimum;

static Optimum
find_optimum(const Distribution *distribution)
{
	Optimum		optimum;

	fine_fill(distribution, FINE);
	optimum.c = fine_aim(Min(DETECTION_DELAY,
							 median(distribution) / DELAY_PART),
						 &optimum.figures);
	optimum.total = optimum.c * optimum.figures.requests +
		optimum.figures.mean_delay;
	return optimum;
}

static void
add_cost(const Optimum *optimum, Figures *figures)
{
	figures->cost = 100 * ((optimum->c * figures->requests +
							figures->mean_delay) /
							   optimum->total -
						   1);
}

static void
add_figures(Figures *sum, const Figures *figures, int of)
{
	sum->requests += figures->requests / of;
	sum->mean_delay += figures->mean_delay / of;
	sum->p50 += figures->p50 / of;
	sum->p95 += figures->p95 / of;
	sum->cost += figures->cost / of;
}


/*
 * The table
 */

#define SIZES 5

static const int sizes[SIZES] = {0, 100, 300, 1000, 10000};

/* The goals, in percent: at most so much above the optimum, but for one. */
static const double goals[SIZES] = {HUGE_VAL, HUGE_VAL, 6, 3, 2};
static const double last_goals[SIZES] = {HUGE_VAL, HUGE_VAL, 10, 5, 2};

/* A fixed interval asks at least so many times as much at equal mean delay. */
static const double equal_delay_goals[DISTRIBUTIONS] = {0, 1.5, 0, 1.5, 3};

static void
print_header(void)
{
	printf("%-22s %8s %7s %7s %7s %8s | %8s %7s %7s %7s %8s\n", "",
		   "requests", "mean", "p50", "p95", "cost",
		   "requests", "mean", "p50", "p95", "cost");
}

static void
print_figures(const Figures *figures)
{
	printf(" %8.2f %7.2f %7.2f %7.2f %+7.2f%%", figures->requests,
		   figures->mean_delay, figures->p50, figures->p95, figures->cost);
}

static void
print_unlearned(const Distribution *distribution, const Optimum *optimum,
				const char *name, Gap gap)
{
	Figures		figures = tune(distribution, gap,
							   optimum->figures.mean_delay);

	add_quantiles(distribution, &figures);
	add_cost(optimum, &figures);
	printf("%-22s", name);
	print_figures(&figures);
	printf(" |\n");
}

static double
gap_optimum(void *unused, double elapsed)
{
	static int	point;

	if (elapsed == 0)
		point = 0;
	point = fine_next[point];
	return fine_at[point] - elapsed;
}

static void
print_optimum(const Distribution *distribution, Optimum *optimum)
{
	Figures		guarded;

	fine_solve(optimum->c);
	optimum->figures = follow(distribution, gap_optimum, NULL);
	add_quantiles(distribution, &optimum->figures);
	optimum->total = optimum->c * optimum->figures.requests +
		optimum->figures.mean_delay;
	guarded = coarse_solve(distribution, optimum->c);
	guarded = follow(distribution, gap_optimum, NULL);
	add_quantiles(distribution, &guarded);
	add_cost(optimum, &guarded);
	add_cost(optimum, &optimum->figures);
	printf("%-22s", "optimum, F known");
	print_figures(&optimum->figures);
	printf(" |");
	print_figures(&guarded);
	printf("\n");
	fine_fill(distribution, FINE);
}

/* Learn so many histories, and take the means at each size. */
static void
learn(const Distribution *distribution, const Optimum *optimum, bool guarded,
	  int histories, Figures *sums)
{
	memset(sums, 0, SIZES * sizeof(*sums));
	for (int history = 0; history < histories; history++)
	{
		Learned		learned = learned_begin(distribution, guarded);
		int			taught = 0;

		random_state = 1000 + history;
		for (int k = 0; k < SIZES; k++)
		{
			Figures		figures;

			learned_teach(&learned, distribution, sizes[k] - taught);
			taught = sizes[k];
			figures = follow(distribution, gap_learned, &learned);
			add_quantiles(distribution, &figures);
			add_cost(optimum, &figures);
			add_figures(&sums[k], &figures, histories);
		}
	}
}

/* The rows of one distribution; what "above" gets is checked at the end. */
static void
measure(int n, int histories, double above[SIZES][DISTRIBUTIONS])
{
	const Distribution *distribution = &distributions[n];
	Optimum		optimum = find_optimum(distribution);
	Figures		learned[2][SIZES];
	double		fixed;

	printf("\n%s: c = %.3f s\n", distribution->name, optimum.c);
	print_header();
	print_optimum(distribution, &optimum);
	print_unlearned(distribution, &optimum, "fixed", gap_fixed);
	print_unlearned(distribution, &optimum, "exponential", gap_exponential);
	print_unlearned(distribution, &optimum, "geometric", gap_geometric);
	for (int guarded = 0; guarded < 2; guarded++)
		learn(distribution, &optimum, guarded, histories, learned[guarded]);
	for (int k = 0; k < SIZES; k++)
	{
		printf("learned, %5d tasks   ", sizes[k]);
		print_figures(&learned[0][k]);
		printf(" |");
		print_figures(&learned[1][k]);
		printf("\n");
		above[k][n] = learned[0][k].cost;
	}
	for (int guarded = 0; guarded < 2; guarded++)
	{
		const Figures *figures = &learned[guarded][3];
		double		goal = equal_delay_goals[n];

		fixed = tune(distribution, gap_fixed, figures->mean_delay).requests;
		printf("at equal mean delay fixed asks %.2f times as much as learned "
			   "from 1000%s", fixed / figures->requests,
			   guarded ? ", guards on" : "");
		if (goal > 0)
			printf(": at least %.1f, %s", goal,
				   verdict(fixed / figures->requests >= goal));
		printf("\n");
	}
}

/* All but one distribution must meet the first goals, that one the others. */
static void
check_goals(double above[SIZES][DISTRIBUTIONS])
{
	printf("\ncost above the optimum, guards off\n");
	for (int k = 0; k < SIZES; k++)
	{
		int			worse = 0;
		double		worst = 0;

		if (goals[k] == HUGE_VAL)
			continue;
		for (int n = 0; n < DISTRIBUTIONS; n++)
		{
			worse += above[k][n] > goals[k];
			worst = Max(worst, above[k][n]);
		}
		printf("%5d tasks: %d of %d above %.0f %%, the worst %.2f %% of %.0f: "
			   "%s\n", sizes[k], worse, DISTRIBUTIONS, goals[k], worst, last_goals[k],
			   verdict(worse <= 1 && worst <= last_goals[k]));
	}
}


/*
 * Changes
 */

#define STEPS 5

static const int steps[STEPS] = {0, 50, 100, 300, 1000};

/*
 * Learn a thousand tasks, then so many of what comes after; print what the
 * schedule costs for the latter, guards on.
 */
static void
change(const char *name, const Distribution *before,
	   const Distribution *after, int histories)
{
	Optimum		optimum = find_optimum(after);
	double		cost[STEPS] = {0};
	Figures		fixed = tune(after, gap_fixed, optimum.figures.mean_delay);

	Figures		least;

	add_cost(&optimum, &fixed);
	least = coarse_solve(after, optimum.c);
	add_cost(&optimum, &least);
	fine_fill(after, FINE);
	for (int history = 0; history < histories; history++)
	{
		Learned		learned = learned_begin(before, true);
		int			taught = 0;

		random_state = 5000 + history;
		learned_teach(&learned, before, 1000);
		for (int k = 0; k < STEPS; k++)
		{
			Figures		figures;

			learned_teach(&learned, after, steps[k] - taught);
			taught = steps[k];
			figures = follow(after, gap_learned, &learned);
			add_cost(&optimum, &figures);
			cost[k] += figures.cost / histories;
		}
	}
	printf("%-10s %-14s", before->name, name);
	for (int k = 0; k < STEPS; k++)
		printf(" %+8.1f%%", cost[k]);
	printf(" %+8.1f%% %+8.1f%%\n", least.cost, fixed.cost);
}

static void
changes(int histories)
{
	printf("\ncost above the optimum after a change, guards on, by tasks "
		   "since; the least\nthat the guards allow, and a fixed interval\n");
	printf("%-25s", "");
	for (int k = 0; k < STEPS; k++)
		printf(" %9d", steps[k]);
	printf(" %9s %9s\n", "least", "fixed");
	for (int n = 0; n < DISTRIBUTIONS; n++)
	{
		Distribution twice = stretched(&distributions[n], 2);
		Distribution early = failing(&distributions[n], 0.3);

		change("twice as long", &distributions[n], &twice, histories);
		change("30 % fail early", &distributions[n], &early, histories);
	}
}


/*
 * A burst of tasks of which nothing is known, asked about as a worker does
 */

#define BURST 1000

typedef struct BurstTask
{
	double		begin;
	double		end;
	double		due;
	bool		over;
	ScheduleRunning running;
} BurstTask;

static BurstTask *
burst_next(BurstTask *tasks)
{
	BurstTask  *next = NULL;

	for (int i = 0; i < BURST; i++)
	{
		if (!tasks[i].over && (next == NULL || tasks[i].due < next->due))
			next = &tasks[i];
	}
	return next;
}

/* One question: the task has ended, or goes on. */
static void
burst_ask(Learned *learned, BurstTask *task, bool note, Figures *figures)
{
	int64		elapsed = llrint((task->due - task->begin) * SECOND);

	learned->now = llrint(task->due * SECOND);
	figures->requests += 1.0 / BURST;
	if (task->due >= task->end)
	{
		figures->mean_delay += (task->due - task->end) / BURST;
		task->over = true;
		schedule_record_gone(learned->schedule, &task->running);
		schedule_record_end(learned->schedule, learned->key,
						  llrint((floor(task->end) - floor(task->begin)) *
								 SECOND), SECOND);
		return;
	}
	if (note)
		schedule_record_running(learned->schedule, &task->running,
							  learned->key, elapsed);
	task->due += schedule_next(learned->schedule, &learned->settings,
							   learned->key, elapsed, learned->now,
							   random_share()) / (double) SECOND;
}

static Figures
burst_run(const Distribution *distribution, bool note, int histories)
{
	static BurstTask tasks[BURST];
	Figures		sum = {0};

	for (int history = 0; history < histories; history++)
	{
		Learned		learned = learned_begin(distribution, true);
		Figures		figures = {0};
		BurstTask  *task;

		random_state = 9000 + history;
		memset(tasks, 0, sizeof(tasks));
		for (int i = 0; i < BURST; i++)
		{
			double		time = draw(distribution);

			tasks[i].begin = random_share();
			tasks[i].end = tasks[i].begin + Min(time, 3600);
			tasks[i].due = tasks[i].begin;
		}
		while ((task = burst_next(tasks)) != NULL)
			burst_ask(&learned, task, note, &figures);
		add_figures(&sum, &figures, histories);
	}
	return sum;
}

/* Tasks that run must count, or it looks as if all would end early. */
static void
bursts(int histories)
{
	printf("\n%d tasks at once, nothing learned before, guards on: "
		   "requests (the first at 0) and mean delay\n", BURST);
	for (int n = 0; n < DISTRIBUTIONS; n++)
	{
		const Distribution *distribution = &distributions[n];
		Optimum		optimum = find_optimum(distribution);
		Figures		noted = burst_run(distribution, true, histories);
		Figures		ignored = burst_run(distribution, false, histories);
		Figures		fixed = tune(distribution, gap_fixed, noted.mean_delay);

		printf("%-10s %6.2f %5.2f   running tasks ignored %6.2f %5.2f   "
			   "fixed %6.2f %5.2f   optimum %6.2f %5.2f\n",
			   distribution->name, noted.requests, noted.mean_delay,
			   ignored.requests, ignored.mean_delay,
			   fixed.requests + 1, fixed.mean_delay,
			   optimum.figures.requests + 1, optimum.figures.mean_delay);
	}
}


/*
 * Time and memory
 */

#define ROUNDS 30

static double
clock_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
print_micro(const char *what, double figure, double limit, const char *unit)
{
	printf("%-10s %8.1f %s, at most %.0f: %s\n", what, figure, unit, limit,
		   verdict(figure <= limit));
}

/*
 * The best of several rounds: what else the machine does only adds.  Plans
 * are made anew as in use, when a tenth is new.
 */
static void
micro(void)
{
	double		look_up = HUGE_VAL;
	double		update = HUGE_VAL;
	double		build = 0;
	static int64 durations[1000];
	int64		sum = 0;

	for (int n = 0; n < DISTRIBUTIONS; n++)
	{
		Learned		learned = learned_begin(&distributions[n], true);
		double		best_build = HUGE_VAL;

		learned_teach(&learned, &distributions[n], 1000);
		schedule_next(learned.schedule, &learned.settings, learned.key, 0,
					  learned.now, 0.5);
		for (int i = 0; i < 1000; i++)
			durations[i] = llrint(draw(&distributions[n]) * SECOND);
		for (int round = 0; round < ROUNDS; round++)
		{
			double		begin = clock_seconds();

			for (int i = 0; i < 1000; i++)
				sum += schedule_next(learned.schedule, &learned.settings,
									 learned.key, durations[i], learned.now,
									 0.5);
			look_up = Min(look_up, (clock_seconds() - begin) / 1000);
			begin = clock_seconds();
			for (int i = 0; i < 1000; i++)
				schedule_record_end(learned.schedule, learned.key,
								  durations[i], SECOND);
			update = Min(update, (clock_seconds() - begin) / 1000);
			learned.now += 10 * SECOND;
			begin = clock_seconds();
			sum += schedule_next(learned.schedule, &learned.settings,
								 learned.key, 0, learned.now, 0.5);
			best_build = Min(best_build, clock_seconds() - begin);
		}
		build = Max(build, best_build);
	}
	printf("\n");
	print_micro("look-up", look_up * 1e9, 100, "ns");
	print_micro("update", update * 1e9, 500, "ns");
	print_micro("rebuild", build * 1e6, 1000, "us");
	print_micro("memory", (schedule_size(101) - schedule_size(100)) / 1024.0,
				16, "kB a key");
	if (sum == 0)
		printf("no waits\n");
}

int
main(int argc, char **argv)
{
	bool		full = argc > 1 && strcmp(argv[1], "full") == 0;
	int			histories = full ? 40 : 5;
	double		above[SIZES][DISTRIBUTIONS];

	/* under valgrind or a sanitizer it would take very long */
	if (getenv("ANYVOD_SLOW") != NULL)
	{
		printf("0 passed, 0 failed\n");
		return 0;
	}
	printf("means over %d histories; delays in seconds; left of the bar guards "
		   "off, right on\n", histories);
	for (int n = 0; n < DISTRIBUTIONS; n++)
		measure(n, histories, above);
	check_goals(above);
	if (full)
	{
		changes(10);
		bursts(10);
		micro();
	}
	printf("%d passed, %d failed\n", goals_met, goals_missed);
	return goals_missed == 0 ? 0 : 1;
}
