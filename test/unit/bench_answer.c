/*-------------------------------------------------------------------------
 *
 * bench_answer.c
 *		Nanoseconds to read an answer, for the files that are named.
 *
 * With ANYVOD_TIMES it only reads them, that often, for callgrind to count.
 *
 * palloc is a pointer that moves on and is set back after each answer, which
 * costs about what a backend's memory context does; malloc would be half of
 * what is measured.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <time.h>

#include "response/answer.h"

static char arena[16 * 1024 * 1024];
static size_t arena_used;

/* Each piece has its size in front, for repalloc; 16 keeps it aligned. */
void *
palloc(Size size)
{
	char	   *piece = arena + arena_used;

	arena_used += 16 + ((size + 15) & ~(Size) 15);
	if (arena_used > sizeof(arena))
		abort();
	*(Size *) piece = size;
	return piece + 16;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
repalloc(void *pointer, Size size)
{
	Size		old = *(Size *) ((char *) pointer - 16);

	return memcpy(palloc(size), pointer, Min(old, size));
}

void
pfree(void *pointer)
{
}

char *
pstrdup(const char *in)
{
	size_t		size = strlen(in) + 1;

	return memcpy(palloc(size), in, size);
}

char *
pnstrdup(const char *in, Size size)
{
	char	   *out = palloc(size + 1);

	memcpy(out, in, size);
	out[size] = '\0';
	return out;
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
read_often(const char *body, size_t len, int times)
{
	for (int i = 0; i < times; i++)
	{
		Answer		answer;

		answer_read(&answer, 200, NULL, body, len);
		arena_used = 0;
	}
}

/* The best of several rounds: what else the machine does only adds. */
static double
best_round(const char *body, size_t len, int repeats)
{
	double		best = 1e9;

	for (int round = 0; round < 50; round++)
	{
		double		begin = seconds();
		double		took;

		read_often(body, len, repeats);
		took = (seconds() - begin) / repeats;
		if (took < best)
			best = took;
	}
	return best;
}

int
main(int argc, char **argv)
{
	const char *times = getenv("ANYVOD_TIMES");

	for (int i = 1; i < argc; i++)
	{
		static char body[1024 * 1024];
		FILE	   *file = fopen(argv[i], "rb");
		size_t		len;

		if (file == NULL)
		{
			perror(argv[i]);
			return 1;
		}
		len = fread(body, 1, sizeof(body), file);
		fclose(file);
		if (times != NULL)
		{
			read_often(body, len, atoi(times));
			continue;
		}
		printf("%s: %zu bytes, %.0f ns\n", argv[i], len,
			   best_round(body, len, 1 + (int) (10000000 / (len + 1000))) *
				   1e9);
	}
	return 0;
}
