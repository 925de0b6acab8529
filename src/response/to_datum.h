/*-------------------------------------------------------------------------
 *
 * to_datum.h
 *		From an Answer to values of the database.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TO_DATUM_H
#define ANYVOD_TO_DATUM_H

#include "access/tupdesc.h"
#include "response/answer.h"
#include "fmgr.h"

/* The message of 54000, for an answer that jsonb cannot hold. */
#define RESULT_NOT_JSONB "the answer holds what jsonb cannot hold"

extern char *result_cstring(const char *utf8, size_t len);
extern Datum result_text(const char *utf8, bool *isnull);
extern bool result_try_jsonb(const Answer *answer, Datum *result, char **why);
extern Datum result_jsonb(const Answer *answer);
extern char *result_to_utf8(const char *text);

extern TupleDesc result_row_type(FunctionCallInfo fcinfo);
extern Datum result_row(FunctionCallInfo fcinfo, const Answer *answer);

#endif							/* ANYVOD_TO_DATUM_H */
