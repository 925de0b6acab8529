/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between the supported major versions, 15 to 19.
 *
 * Code elsewhere is written for the newest version; this header makes the
 * older ones look alike.  Nothing else in src/ tests PG_VERSION_NUM.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_COMPAT_H
#define ANYVOD_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "anyvod needs PostgreSQL 15 or newer"
#endif

/*
 * Backend only.
 */
#ifndef FRONTEND

#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#endif

/* A database left behind by a DROP DATABASE cut short (from 15.4 on). */
#ifdef DATCONNLIMIT_INVALID_DB
#define COMPAT_INVALID_DATABASE DATCONNLIMIT_INVALID_DB
#else
#define COMPAT_INVALID_DATABASE (-2)
#endif

/* Workers that core sends away when a command wants their database (19). */
#ifdef BGWORKER_INTERRUPTIBLE
#define COMPAT_BGWORKER_INTERRUPTIBLE BGWORKER_INTERRUPTIBLE
#else
#define COMPAT_BGWORKER_INTERRUPTIBLE 0
#endif

/* Before 16 each class of objects has functions of its own. */
#if PG_VERSION_NUM < 160000
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#define object_aclcheck(class, object, role, mode) \
	((class) == ForeignServerRelationId ? \
		 pg_foreign_server_aclcheck(object, role, mode) : \
		 pg_namespace_aclcheck(object, role, mode))
#define object_ownercheck(class, object, role) \
	pg_database_ownercheck(object, role)
#endif

/* The type of a syscache's number. */
#if PG_VERSION_NUM < 190000
typedef int SysCacheIdentifier;
#endif

/* A WaitEventSet that lives as long as the process. */
static inline WaitEventSet *
compat_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/*
 * A wait event of our own, where there are such (17); never call it in the
 * postmaster, whose shared memory for them is not ready while it preloads.
 */
static inline uint32
compat_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * May an internal subtransaction begin?  Before 17 not while a parallel plan
 * is executed.  (For files that include access/xact.h.)
 */
#if PG_VERSION_NUM >= 170000
#define compat_may_begin_subtransaction() true
#else
#define compat_may_begin_subtransaction() (!IsInParallelMode())
#endif

#endif							/* !FRONTEND */

/*
 * The JSON parser.  Its semantic actions return nothing before 16 and a result
 * since; 17 made the lexer's context something that is freed.
 */
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType CompatJsonResult;
#define COMPAT_JSON_DONE return JSON_SUCCESS
#else
typedef void CompatJsonResult;
#define COMPAT_JSON_DONE return
#endif

/* A lexer for len bytes (below 1 GB) of UTF-8, which decodes strings. */
static inline JsonLexContext *
compat_json_lex(const char *json, size_t len, bool decode)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, unconstify(char *, json), len,
										PG_UTF8, decode);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), (int) len,
										PG_UTF8, decode);
#endif
}

/* Its string buffer grows to the longest string: free it at once. */
static inline void
compat_json_lex_free(JsonLexContext *lex)
{
#if PG_VERSION_NUM >= 170000
	freeJsonLexContext(lex);
#else
	if (lex->strval != NULL)
	{
		pfree(lex->strval->data);
		pfree(lex->strval);
	}
	pfree(lex);
#endif
}

#endif							/* ANYVOD_COMPAT_H */
