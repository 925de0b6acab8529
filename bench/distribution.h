/*-------------------------------------------------------------------------
 *
 * distribution.h
 *		How long tasks take in the benchmarks.  Times are seconds.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_DISTRIBUTION_H
#define ANYVOD_DISTRIBUTION_H

/* Tasks end after three days at the latest: the upstream forgets them. */
#define HORIZON 259200.0

typedef enum Shape
{
	LOGNORMAL,					/* median, sigma */
	PARETO,						/* least, shape */
	UNIFORM,					/* from, to */
} Shape;

typedef struct Part
{
	double		share;			/* 0: no such part */
	Shape		shape;
	double		a;
	double		b;
} Part;

#define PARTS 3

typedef struct Distribution
{
	const char *name;
	const char *task_type;
	Part		parts[PARTS];
} Distribution;

#define DISTRIBUTIONS 5

extern const Distribution distributions[DISTRIBUTIONS];

/* What the next random number follows from. */
extern uint64 random_state;

extern double random_share(void);
extern double survival(const Distribution *distribution, double time);
extern double median(const Distribution *distribution);
extern double draw(const Distribution *distribution);

#endif							/* ANYVOD_DISTRIBUTION_H */
