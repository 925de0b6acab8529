/*-------------------------------------------------------------------------
 *
 * signature.h
 *		Is a function what the library takes it for?
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SIGNATURE_H
#define ANYVOD_SIGNATURE_H

#include "access/tupdesc.h"
#include "fmgr.h"

/* What helps when script and library are of different versions. */
#define SIGNATURE_HINT \
	"Run \"ALTER EXTENSION anyvod UPDATE\"; after an update of the library, restart the server first."

extern void signature_check(FunctionCallInfo fcinfo, Oid result,
							const Oid  *arguments, int n);
extern void signature_check_columns(TupleDesc desc, const Oid *types, int n);

#endif							/* ANYVOD_SIGNATURE_H */
