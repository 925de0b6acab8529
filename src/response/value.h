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

#include "response/answer.h"

/* These return a palloc'd string, or NULL. */
extern char *value_line(const char *s);
extern char *value_message(const char *s);
extern char *value_url(const char *s);

extern bool value_is_zero(const char *s);
extern int	value_progress(const char *s);
extern Time value_time(const char *s);

#endif							/* ANYVOD_VALUE_H */
