/*-------------------------------------------------------------------------
 *
 * bar.c
 *		A percentage as something to look at.
 *
 * In C, since SQL cannot write it: a function in SQL that names a character
 * which the database's encoding lacks is refused there, even in a branch that
 * is not taken.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "signature.h"

/* No screen is wider, and nobody shall fill memory with a bar. */
#define BAR_MAX_WIDTH 1000

/* U+2588 full block and U+2591 light shade, in UTF-8. */
#define BAR_FULL "\xe2\x96\x88"
#define BAR_EMPTY "\xe2\x96\x91"

PG_FUNCTION_INFO_V1(anyvod_bar);

/*
 * anyvod_bar(progress integer, width integer) returns text
 *
 * So many characters, the share of "progress" percent of them full.  Rounded
 * down, so that a bar is full at 100 only.  What is out of range is taken for
 * the nearest that is not.
 */
Datum
anyvod_bar(PG_FUNCTION_ARGS)
{
	static const Oid arguments[] = {INT4OID, INT4OID};
	bool		blocks = GetDatabaseEncoding() == PG_UTF8;
	StringInfoData bar;
	int			progress;
	int			width;
	int			full;

	signature_check(fcinfo, TEXTOID, arguments, lengthof(arguments));
	progress = Min(Max(PG_GETARG_INT32(0), 0), 100);
	width = Min(Max(PG_GETARG_INT32(1), 0), BAR_MAX_WIDTH);
	full = width * progress / 100;

	initStringInfo(&bar);
	for (int i = 0; i < full; i++)
		appendStringInfoString(&bar, blocks ? BAR_FULL : "#");
	for (int i = full; i < width; i++)
		appendStringInfoString(&bar, blocks ? BAR_EMPTY : ".");
	PG_RETURN_TEXT_P(cstring_to_text_with_len(bar.data, bar.len));
}
