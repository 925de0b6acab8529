/*-------------------------------------------------------------------------
 *
 * distribution.c
 *		How long tasks take in the benchmarks: assumed, not measured.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <math.h>

#include "distribution.h"


/*
 * Random numbers: splitmix64, so that they are the same everywhere
 */

uint64		random_state;

double
random_share(void)
{
	uint64		z = (random_state += UINT64CONST(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return (((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

static double
random_normal(void)
{
	double		radius = sqrt(-2 * log(random_share()));

	return radius * cos(2 * M_PI * random_share());
}


/*
 * Distributions
 */

const Distribution distributions[DISTRIBUTIONS] = {
	{"image12", "AigcImageTask", {
		{0.94, LOGNORMAL, 12, 0.40},
		{0.03, LOGNORMAL, 40, 0.6},
		{0.03, UNIFORM, 1, 4},
	}},
	{"video90", "AigcVideoTask", {
		{0.87, LOGNORMAL, 90, 0.30},
		{0.10, PARETO, 120, 1.5},
		{0.03, UNIFORM, 2, 8},
	}},
	{"video240", "AigcVideoTask", {
		{0.87, LOGNORMAL, 240, 0.35},
		{0.10, PARETO, 300, 1.3},
		{0.03, UNIFORM, 2, 8},
	}},
	{"bimodal", "AigcVideoTask", {
		{0.57, LOGNORMAL, 35, 0.20},
		{0.40, LOGNORMAL, 180, 0.22},
		{0.03, UNIFORM, 2, 8},
	}},
	{"narrow100", "AigcVideoTask", {
		{0.97, LOGNORMAL, 100, 0.12},
		{0.03, UNIFORM, 2, 8},
	}},
};

static double
part_survival(const Part *part, double time)
{
	switch (part->shape)
	{
		case LOGNORMAL:
			return 0.5 * erfc(log(time / part->a) / (part->b * M_SQRT2));
		case PARETO:
			return time <= part->a ? 1 : pow(time / part->a, -part->b);
		case UNIFORM:
			return Min(Max((part->b - time) / (part->b - part->a), 0), 1);
	}
	return 0;
}

/* The share of tasks that run for longer. */
double
survival(const Distribution *distribution, double time)
{
	double		share = 0;

	if (time <= 0)
		return 1;
	if (time >= HORIZON)
		return 0;
	for (int i = 0; i < PARTS; i++)
	{
		const Part *part = &distribution->parts[i];

		if (part->share > 0)
			share += part->share * part_survival(part, time);
	}
	return share;
}

/* The time at which half of the tasks still run. */
double
median(const Distribution *distribution)
{
	double		low = 0;
	double		high = 1000;

	for (int i = 0; i < 60; i++)
	{
		double		middle = (low + high) / 2;

		if (survival(distribution, middle) > 0.5)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* How long a task takes, by chance. */
double
draw(const Distribution *distribution)
{
	const Part *part = distribution->parts;
	double		choice = random_share();
	double		time = 0;

	while (choice >= part->share && part < distribution->parts + PARTS - 1 &&
		   part[1].share > 0)
		choice -= (part++)->share;
	switch (part->shape)
	{
		case LOGNORMAL:
			time = part->a * exp(part->b * random_normal());
			break;
		case PARETO:
			time = part->a * pow(random_share(), -1 / part->b);
			break;
		case UNIFORM:
			time = part->a + (part->b - part->a) * random_share();
			break;
	}
	return Min(time, HORIZON);
}
