/*-------------------------------------------------------------------------
 *
 * value.h
 *		Single values of an answer: text, codes, numbers, dates.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_VALUE_H
#define ANYVOD_VALUE_H

#include "datatype/timestamp.h"

typedef struct Time
{
	bool		known;
	TimestampTz value;
} Time;

/* These return a palloc'd copy, or part of it, or NULL. */
extern char *value_copy(const char *s, size_t len);
extern char *value_line(const char *s, size_t len);
extern char *value_message(const char *s, size_t len);
extern char *value_url(const char *s, size_t len);

extern bool value_is_zero(const char *s, size_t len);
extern int	value_progress(const char *s, size_t len);
extern Time value_time(const char *s, size_t len);

#endif							/* ANYVOD_VALUE_H */
