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

#include "server/settings.h"

/* The extension, and the wrapper that its script creates. */
#define OPTION_EXTENSION "anyvod"

extern const ServerSettings option_defaults;

extern bool option_wrapper_is_ours(Oid fdwid);
extern bool option_read(ServerSettings *settings, Oid catalog, HeapTuple tuple,
						int level);

#endif							/* ANYVOD_OPTIONS_H */
