/*-------------------------------------------------------------------------
 *
 * check.h
 *		The little that a unit test needs.
 *
 *		RUN(test)			runs a test, a function named after a property
 *		CHECK(condition)	in it, as many as it takes
 *
 * A CHECK that does not hold is printed with its place and the note, if one
 * was set, and the test goes on.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TEST_CHECK_H
#define ANYVOD_TEST_CHECK_H

#include <stdarg.h>
#include <stdio.h>

static char check_note[512];	/* which case a test is at */
static int	check_complaints;	/* of the running test */
static int	check_passed;
static int	check_failed;

/* Say which case is tested, for the lines about checks that do not hold. */
static inline void
	pg_attribute_printf(1, 2)
		note(const char *format, ...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(check_note, sizeof(check_note), format, args);
	va_end(args);
}

static inline bool
check(bool holds, const char *what, const char *file, int line)
{
	if (!holds)
	{
		check_complaints++;
		printf("%s:%d: not so: %s%s%s\n", file, line, what,
			   check_note[0] != '\0' ? " -- " : "", check_note);
	}
	return holds;
}

#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)

static inline void
check_test(const char *name, void (*test)(void))
{
	check_complaints = 0;
	check_note[0] = '\0';
	test();
	if (check_complaints == 0)
		check_passed++;
	else
		check_failed++;
	printf("%s - %s\n", check_complaints == 0 ? "ok" : "not ok", name);
	fflush(stdout);
}

#define RUN(test) check_test(#test, test)

static inline int
check_summary(void)
{
	printf("%d passed, %d failed\n", check_passed, check_failed);
	return check_failed == 0 ? 0 : 1;
}

#endif							/* ANYVOD_TEST_CHECK_H */
