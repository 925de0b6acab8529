/*-------------------------------------------------------------------------
 *
 * replay.c
 *		A fuzz target's corpus, once more, without libFuzzer.
 *
 * Each file that is named is read as it is, and cut off at every length up to
 * a kilobyte.  The last line says "N passed, 0 failed"; what fails aborts,
 * after its file was named.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "expected.h"
#include "fuzz.h"

#define MAX_CUT 1024

/* A copy of its own, so that a sanitizer sees each byte read beyond it. */
static void
replay(const char *bytes, size_t len)
{
	uint8	   *copy = malloc(len > 0 ? len : 1);

	memcpy(copy, bytes, len);
	LLVMFuzzerTestOneInput(copy, len);
	free(copy);
}

int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
	{
		size_t		len;
		char	   *bytes = expected_slurp(argv[i], &len);

		if (bytes == NULL)
		{
			perror(argv[i]);
			return 1;
		}
		fprintf(stderr, "%s\n", argv[i]);
		for (size_t cut = 0; cut < Min(len, MAX_CUT); cut++)
			replay(bytes, cut);
		replay(bytes, len);
		free(bytes);
	}
	printf("%d passed, 0 failed\n", argc - 1);
	return 0;
}
