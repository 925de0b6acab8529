/*-------------------------------------------------------------------------
 *
 * signature.c
 *		Is a function what the library takes it for?
 *
 * The library and the extension's script are updated at different times: the
 * library when its package is and the server has been restarted, the script
 * by ALTER EXTENSION, in each database.  In between a function may have been
 * declared with other arguments, or with another result, than the code has
 * in mind.  It then raises an error here, before it reads a Datum as what it
 * is not.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "signature.h"

/*
 * Does a function have these arguments and this result?  Nulls must be kept
 * from a function that has arguments; a procedure cannot be strict, and looks
 * for itself.
 */
static bool
signature_fits(Form_pg_proc proc, Oid result, const Oid *arguments, int n)
{
	if (proc->pronargs != n ||
		(OidIsValid(result) && proc->prorettype != result))
		return false;
	if (n == 0)
		return true;
	return (proc->proisstrict || proc->prokind == PROKIND_PROCEDURE) &&
		memcmp(proc->proargtypes.values, arguments, n * sizeof(Oid)) == 0;
}

/*
 * Raise an error unless the function that is called has these types of
 * arguments and of its result.  InvalidOid stands for a row, whose columns
 * signature_check_columns() checks.
 */
void
signature_check(FunctionCallInfo fcinfo, Oid result, const Oid *arguments,
				int n)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool		fits;

	fits = HeapTupleIsValid(tuple) && fcinfo->nargs == n &&
		signature_fits((Form_pg_proc) GETSTRUCT(tuple), result, arguments, n);
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("function %s is declared otherwise than this library has it",
						format_procedure(function)),
				 errhint(SIGNATURE_HINT)));
}

/* Is a column of this type?  ANYENUMOID stands for any enum. */
static bool
signature_is_type(Oid actual, Oid wanted)
{
	return wanted == ANYENUMOID ? type_is_enum(actual) : actual == wanted;
}

/*
 * Raise an error unless a function's result has columns of these types.
 * NULL stands for a result that is no row.
 */
void
signature_check_columns(TupleDesc desc, const Oid *types, int n)
{
	bool		fits = desc != NULL && desc->natts == n;

	for (int i = 0; fits && i < n; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		fits = !column->attisdropped &&
			signature_is_type(column->atttypid, types[i]);
	}
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the function's result is not the one this library gives"),
				 errhint(SIGNATURE_HINT)));
}
