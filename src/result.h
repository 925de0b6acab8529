/*-------------------------------------------------------------------------
 *
 * result.h
 *		From an Answer to values of the database.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_RESULT_H
#define ANYVOD_RESULT_H

#include "answer.h"

extern char *result_cstring(const char *utf8, size_t len);
extern Datum result_text(const char *utf8, bool *isnull);
extern Datum result_jsonb(const Answer *answer);
extern const char *result_state(const Answer *answer);
extern char *result_to_utf8(const char *text, size_t len, size_t *utf8_len);

#endif							/* ANYVOD_RESULT_H */
