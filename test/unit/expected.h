/*-------------------------------------------------------------------------
 *
 * expected.h
 *		Recorded bodies and what is expected of reading them.
 *
 * A folder of bodies has an expected.json: an array of objects, one a body.
 * "file", "http" and "headers" ({"Content-Type": ...} or null) go in; the
 * other fields are named like the columns they end up in.  Null means none.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TEST_EXPECTED_H
#define ANYVOD_TEST_EXPECTED_H

#define EXPECTED_FIELDS 24

typedef struct Expected
{
	int			nfields;
	char	   *keys[EXPECTED_FIELDS];
	char	   *values[EXPECTED_FIELDS];	/* NULL: null */
	char	   *body;			/* malloc'd to its length: no NUL behind it */
	size_t		body_len;
	struct Expected *next;
} Expected;

/* The bodies of a folder, NULL if it has no expected.json. */
extern Expected *expected_load(const char *folder);

/* A field's value; *found tells null from absent, and may be NULL. */
extern const char *expected_get(const Expected *expected, const char *key,
								bool *found);

/* A whole file, malloc'd; NULL if it cannot be read. */
extern char *expected_slurp(const char *path, size_t *len);

#endif							/* ANYVOD_TEST_EXPECTED_H */
