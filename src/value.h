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

/* These take over a palloc'd token and return it, or less of it, or NULL. */
extern char *value_line(char *token);
extern char *value_message(char *token);
extern char *value_url(char *token);

extern bool value_is_zero(const char *s);
extern int	value_progress(const char *s);
extern Time value_time(const char *s);

#endif							/* ANYVOD_VALUE_H */
