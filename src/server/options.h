/*-------------------------------------------------------------------------
 *
 * options.h
 *		The options of servers and user mappings.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_OPTIONS_H
#define ANYVOD_OPTIONS_H

#include "access/htup.h"
#include "nodes/pg_list.h"

#include "compat.h"
#include "server/settings.h"

/* The extension, and the wrapper that its script creates. */
#define OPTION_EXTENSION "anyvod"

/*
 * The options of one server and one mapping, or of one of them while it is
 * being validated.
 */
typedef struct OptionValues
{
	ServerSettings settings;	/* of which the options are set */
	char	   *ca_file;		/* path, or NULL */
	char	   *api_key_file;	/* path, or NULL */
} OptionValues;

extern void option_set_defaults(OptionValues *values);
extern List *option_list(SysCacheIdentifier cacheid, HeapTuple tuple,
						 AttrNumber column);
extern void option_store_all(OptionValues *values, List *options,
							 Oid catalog);
extern void option_check(const OptionValues *values);
extern bool option_wrapper_is_ours(Oid fdwid);
extern bool option_role_reads_files(Oid roleid);

#endif							/* ANYVOD_OPTIONS_H */
