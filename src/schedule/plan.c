/*-------------------------------------------------------------------------
 *
 * plan.c
 *		From how long tasks took to the times at which to poll the next one:
 *		the arithmetic of schedule.c.
 *
 * A life table turns counts of ended and of still running tasks into the
 * share S(t) of tasks that run for longer than t.  Polling at x1 < x2 < ...
 * then costs, a task,
 *
 *		sum over k of [c + (x(k+1) - x(k))] S(x(k))  -  mean duration
 *
 * where c is what a poll is worth in seconds of delay.  The times that
 * cost least are found exactly, among 32 in each bucket, from the far end:
 * dynamic programming over a lower envelope (Barlow, Hunter and Proschan
 * 1963 and Keller 1974 have the problem).
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <math.h>

#include "schedule/plan.h"

/*
 * Behind the table's end, and where next to no task of the table is left,
 * durations are taken to have a tail like t^-a with this a.  Its hazard is
 * a/t, at which Keller's rule polls every sqrt(2 c t / a).
 */
#define PLAN_TAIL_SHAPE 1.3
#define PLAN_TAIL_SHARE 1e-7

/* But not more seldom than so, as a part of the time run. */
#define PLAN_TAIL_GAP 0.1

/* Width of what is thought of a type of task before any has ended. */
#define PLAN_PRIOR_SIGMA 1.0

/*
 * The hazard of a bucket is shrunk towards that of as many buckets around it
 * as it takes for so many tasks to have ended there, as if the latter had
 * been seen on so many tasks.  It in turn is mixed with the prior's, as if so
 * many had ended by that, and counts half for each so many buckets that it
 * reaches out to both sides.  (Found by bench/schedule; twice or half as much
 * makes little difference.)
 */
#define PLAN_AROUND_ENDED 8.0
#define PLAN_AROUND_TASKS 6.0
#define PLAN_PRIOR_ENDED 1.0
#define PLAN_AROUND_FADE 10.0

/* Bounds of the prior's hazard in a bucket. */
#define PLAN_LEAST_HAZARD 1e-7
#define PLAN_MOST_HAZARD 0.5


/*
 * Buckets and points
 */

/* Where a bucket starts; there may be a fraction in it. */
static double
plan_bucket_start(double bucket)
{
	return PLAN_LEAST * exp2(bucket / PLAN_OCTAVE);
}

/* The last point that is not after this time. */
int
plan_point(double seconds)
{
	double		point;

	if (!(seconds >= PLAN_LEAST))
		return 0;
	point = log2(seconds / PLAN_LEAST) * (PLAN_OCTAVE * PLAN_STEPS);
	return 1 + (point < PLAN_POINTS - 2 ? (int) point : PLAN_POINTS - 2);
}

/* The bucket that a duration falls into. */
int
plan_bucket(double seconds)
{
	return Max(plan_point(seconds) - 1, 0) / PLAN_STEPS;
}

/* Point 0 is time 0; the others lie in the buckets. */
void
plan_init(PlanWork *work)
{
	work->at[0] = 0;
	for (int i = 1; i < PLAN_POINTS; i++)
		work->at[i] = plan_bucket_start((double) (i - 1) / PLAN_STEPS);
	work->last = PLAN_POINTS - 1;
}


/*
 * The life table
 */

/* The hazard in each bucket of a lognormal about "median". */
void
plan_prior(double median, float *prior)
{
	double		before = 1;

	for (int i = 0; i < PLAN_BUCKETS; i++)
	{
		double		sigmas = log(plan_bucket_start(i + 1) / median) /
			PLAN_PRIOR_SIGMA;
		double		after = 0.5 * erfc(sigmas / M_SQRT2);
		double		hazard = before > 0 ? 1 - after / before : 1;

		prior[i] = Min(Max(hazard, PLAN_LEAST_HAZARD), PLAN_MOST_HAZARD);
		before = after;
	}
}

/*
 * Smooth the counts of ended tasks: a sixth of each goes into either bucket
 * beside its own.
 */
void
plan_smooth(double *ended)
{
	double		before = ended[0];

	for (int i = 0; i < PLAN_BUCKETS; i++)
	{
		double		here = ended[i];
		double		after = i + 1 < PLAN_BUCKETS ? ended[i + 1] : here;

		ended[i] = (before + 4 * here + after) / 6;
		before = here;
	}
}

/*
 * The share of tasks that run at the start of each bucket: a life table.  A
 * censored task is at risk for half of its bucket; it never ends.
 *
 * The hazard of a bucket that few tasks reached is uncertain: that none of
 * five ended there does not mean that none will, which in a long tail would
 * leave tasks unpolled for very long.  So it is shrunk towards that of the
 * buckets around it.  Where many tasks were at risk they outweigh that.  What
 * lies far from all that has ended, as in a burst of which the first tasks
 * end now, is left to the prior: that none ended for long does not mean that
 * none will.
 */
void
plan_survival(const PlanTable *table, const float *prior, float *survival)
{
	double		ended[PLAN_BUCKETS + 1];	/* before each bucket */
	double		exposed[PLAN_BUCKETS + 1];	/* likewise */
	double		at_risk = 0;
	double		share = 1;
	int			around = 0;

	for (int i = 0; i <= PLAN_BUCKETS; i++)
		at_risk += table->ended[i] + table->censored[i];
	ended[0] = exposed[0] = 0;
	for (int i = 0; i < PLAN_BUCKETS; i++)
	{
		ended[i + 1] = ended[i] + table->ended[i];
		exposed[i + 1] = exposed[i] +
			Max(at_risk - table->censored[i] / 2, table->ended[i]);
		at_risk = Max(at_risk - table->ended[i] - table->censored[i], 0);
	}

	for (int i = 0; i < PLAN_BUCKETS; i++)
	{
		double		here = exposed[i + 1] - exposed[i];
		double		hazard;
		double		trust;
		int			from;
		int			upto;

		/* what reached far enough one bucket before does so but for one */
		for (around = Max(around - 1, 0);; around++)
		{
			from = Max(i - around, 0);
			upto = Min(i + around + 1, PLAN_BUCKETS);
			if (ended[upto] - ended[from] >= PLAN_AROUND_ENDED ||
				around == PLAN_BUCKETS)
				break;
		}
		hazard = (ended[upto] - ended[from] + PLAN_PRIOR_ENDED) /
			(exposed[upto] - exposed[from] + PLAN_PRIOR_ENDED / prior[i]);
		trust = exp2(-around / PLAN_AROUND_FADE);
		hazard = prior[i] * pow(hazard / prior[i], trust);
		hazard = (table->ended[i] + PLAN_AROUND_TASKS * hazard) /
			(here + PLAN_AROUND_TASKS);
		survival[i] = share;
		share *= 1 - Min(hazard, 1);
	}
	survival[PLAN_BUCKETS] = share;
}

/*
 * Slope at the start of a bucket, in shares a bucket, of a curve through the
 * survival shares that is smooth and never rises (Fritsch and Carlson 1980).
 */
static double
plan_slope(const float *survival, int bucket)
{
	double		before;
	double		after;

	if (bucket == 0 || bucket == PLAN_BUCKETS)
		return 0;
	before = survival[bucket] - survival[bucket - 1];
	after = survival[bucket + 1] - survival[bucket];
	return Max((before + after) / 2, 3 * Max(before, after));
}

/* The share in a bucket, "part" of it after its start. */
static double
plan_between(const float *survival, int bucket, double slope,
			 double next_slope, double part)
{
	double		fall = survival[bucket + 1] - survival[bucket];
	double		square = 3 * fall - 2 * slope - next_slope;
	double		cube = slope + next_slope - 2 * fall;

	return survival[bucket] + part * (slope + part * (square + part * cube));
}

/* The share of tasks that run for longer than this. */
double
plan_survival_at(const float *survival, double seconds)
{
	int			bucket = plan_bucket(seconds);
	double		part;

	if (!(seconds > PLAN_LEAST))
		return 1;
	if (bucket == PLAN_BUCKETS)
		return survival[PLAN_BUCKETS] *
			pow(seconds / plan_bucket_start(PLAN_BUCKETS), -PLAN_TAIL_SHAPE);
	part = log2(seconds / PLAN_LEAST) * PLAN_OCTAVE - bucket;
	return plan_between(survival, bucket, plan_slope(survival, bucket),
						plan_slope(survival, bucket + 1), part);
}

/* The time at which this share of the tasks, more than 0, still runs. */
double
plan_quantile(const float *survival, double share)
{
	double		low = 0;		/* in buckets */
	double		high = PLAN_BUCKETS;

	if (share < survival[PLAN_BUCKETS])
		return plan_bucket_start(PLAN_BUCKETS) *
			pow(survival[PLAN_BUCKETS] / share, 1 / PLAN_TAIL_SHAPE);
	for (int i = 0; i < 24; i++)
	{
		double		middle = (low + high) / 2;

		if (plan_survival_at(survival, plan_bucket_start(middle)) > share)
			low = middle;
		else
			high = middle;
	}
	return plan_bucket_start(high);
}

/* Work out the share of running tasks at each point, and their mean. */
void
plan_spread(PlanWork *work, const float *survival)
{
	double		slope = plan_slope(survival, 0);
	int			i = 1;

	work->survival[0] = 1;
	for (int bucket = 0; bucket < PLAN_BUCKETS; bucket++)
	{
		double		next_slope = plan_slope(survival, bucket + 1);

		for (int step = 0; step < PLAN_STEPS; step++)
			work->survival[i++] = plan_between(survival, bucket, slope,
											   next_slope,
											   (double) step / PLAN_STEPS);
		slope = next_slope;
		if (survival[bucket + 1] < PLAN_TAIL_SHARE)
			break;
	}
	work->last = i;
	work->survival[i] = survival[(i - 1) / PLAN_STEPS];

	work->mean = 0;
	for (i = 0; i < work->last; i++)
		work->mean += (work->at[i + 1] - work->at[i]) *
			(work->survival[i + 1] + work->survival[i]) / 2;
}


/*
 * The plan
 */

/* The time between two polls in the tail. */
double
plan_tail_gap(double c, double seconds)
{
	return Min(sqrt(2 * c * seconds / PLAN_TAIL_SHAPE),
			   PLAN_TAIL_GAP * seconds);
}

/* Polls of a task which reaches the tail, from there on. */
static double
plan_tail_polls(const PlanWork *work, double c)
{
	double		begin = work->at[work->last];

	return begin / plan_tail_gap(c, begin) / (PLAN_TAIL_SHAPE - 0.5);
}

/*
 * Find, for each point, the point to poll at next.
 *
 * Going on from point i to point j costs c S(i) - x(i) S(i) plus
 *
 *		x(j) S(i) + cost(j)
 *
 * which is a line in S(i).  Points are taken from the far end, that is with
 * falling x and rising S.  So a later line, once it is below an earlier one,
 * stays so, and the candidates are a queue: its head is the best for now, and
 * yields to the next one when S has risen to where the two cross, or when it
 * is too far away to be allowed.  A candidate that will not be best before the
 * one behind it is dropped.
 */
void
plan_solve(PlanWork *work, double c, const PlanBounds *bounds, uint16 *next)
{
	const double *at = work->at;
	const double *survival = work->survival;
	double	   *cost = work->cost;
	double	   *yields = work->yields;
	double	   *expires = work->expires;
	uint16	   *candidates = work->candidates;
	int			last = work->last;
	int			head = 0;
	int			tail = 0;		/* behind the last candidate */
	int			newest = last;	/* next point to become a candidate */
	int			nearest = last; /* first point that may go to "newest" */

	cost[last] = survival[last] * 2 * c * plan_tail_polls(work, c);
	next[last] = last;
	for (int i = last - 1; i >= 0; i--)
	{
		int			best;

		while (newest > i &&
			   (newest == last || at[newest] - at[i] >= bounds->least))
		{
			double		cross = HUGE_VAL;

			while (nearest > 0 &&
				   at[newest] - at[nearest - 1] <= bounds->most)
				nearest--;
			expires[newest] = nearest > 0 ? survival[nearest - 1] : HUGE_VAL;
			while (tail > head)
			{
				int			back = candidates[tail - 1];

				cross = (cost[newest] - cost[back]) / (at[back] - at[newest]);
				if (tail - 1 == head ||
					cross > Min(yields[tail - 2],
								expires[candidates[tail - 2]]))
					break;
				tail--;
			}
			if (tail > head)
				yields[tail - 1] = cross;
			candidates[tail++] = newest--;
		}
		while (tail - head > 1 &&
			   (yields[head] <= survival[i] ||
				at[candidates[head]] - at[i] > bounds->most))
			head++;
		best = candidates[head];
		next[i] = best;
		cost[i] = (c + at[best] - at[i]) * survival[i] + cost[best];
	}
}

/*
 * Follow a plan from its start: the mean time from a task's end to the poll
 * that sees it, if durations are as the table says.
 */
double
plan_mean_delay(const PlanWork *work, double c, const uint16 *next)
{
	double		polled = 0;		/* mean time of that poll */

	for (int i = 0; i < work->last; i = next[i])
		polled += (work->at[next[i]] - work->at[i]) * work->survival[i];
	/* in the tail the polls of a task cost as much as its delay */
	return polled - work->mean +
		c * work->survival[work->last] * plan_tail_polls(work, c);
}
