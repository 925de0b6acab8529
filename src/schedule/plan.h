/*-------------------------------------------------------------------------
 *
 * plan.h
 *		From how long tasks took to the times at which to poll the next one:
 *		the arithmetic of schedule.c.
 *
 * Pure: no state, no SPI, no clock, no memory of its own.  Times are seconds
 * since the upstream started a task.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_PLAN_H
#define ANYVOD_PLAN_H

/*
 * Durations are counted in buckets of equal width in log time, from 0.5 s to
 * 4.5 h.  What is shorter is in the first one; what is longer is in one more
 * behind the last, which has no end.
 */
#define PLAN_OCTAVE 8
#define PLAN_BUCKETS (15 * PLAN_OCTAVE)
#define PLAN_LEAST 0.5

/* A task may be polled at 0 and at so many times in each bucket. */
#define PLAN_STEPS 32
#define PLAN_POINTS (PLAN_BUCKETS * PLAN_STEPS + 2)

/* Tasks by bucket: those that ended in it, and those last seen running. */
typedef struct PlanTable
{
	double		ended[PLAN_BUCKETS + 1];
	double		censored[PLAN_BUCKETS + 1];
} PlanTable;

/* Bounds of the time between two polls. */
typedef struct PlanBounds
{
	double		least;
	double		most;
} PlanBounds;

/*
 * Room to work in, 170 kB.  "at" is set by plan_init and stays; "survival" is
 * what plan_spread leaves for those after it.
 */
typedef struct PlanWork
{
	double		at[PLAN_POINTS];	/* when one may poll */
	double		survival[PLAN_POINTS];	/* share of tasks that run then */
	double		cost[PLAN_POINTS];	/* of going on from there */
	double		yields[PLAN_POINTS];	/* see plan_solve */
	double		expires[PLAN_POINTS];	/* likewise */
	uint16		candidates[PLAN_POINTS];	/* likewise */
	double		mean;			/* duration up to the last point */
	int			last;			/* point from which the tail is a formula */
} PlanWork;

extern void plan_init(PlanWork *work);
extern int	plan_bucket(double seconds);
extern int	plan_point(double seconds);
extern void plan_prior(double median, float *prior);
extern void plan_smooth(double *ended);
extern void plan_survival(const PlanTable *table, const float *prior,
						  float *survival);
extern double plan_survival_at(const float *survival, double seconds);
extern double plan_quantile(const float *survival, double share);
extern void plan_spread(PlanWork *work, const float *survival);
extern void plan_solve(PlanWork *work, double c, const PlanBounds *bounds,
					   uint16 *next);
extern double plan_tail_gap(double c, double seconds);
extern double plan_mean_delay(const PlanWork *work, double c,
							  const uint16 *next);

#endif							/* ANYVOD_PLAN_H */
