/*-------------------------------------------------------------------------
 *
 * server/internal.h
 *		What the files of server/ share.  No other file includes this.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SERVER_INTERNAL_H
#define ANYVOD_SERVER_INTERNAL_H

#include "access/htup.h"

#include "server/settings.h"

/* The extension, and the wrapper that its script creates. */
#define OPTION_EXTENSION "anyvod"

/* The files that options name. */
typedef enum SecretKind
{
	SECRET_CA,					/* of option ca_file */
	SECRET_API_KEY,				/* of option api_key_file */
} SecretKind;

extern const ServerSettings option_defaults;

/* options.c */
extern bool option_wrapper_is_ours(Oid fdwid);
extern bool option_read(ServerSettings *settings, Oid catalog, HeapTuple tuple,
						int level);

/* settings.c */
extern char *secret_file_read(SecretKind kind, const char *path, size_t *len,
							  int elevel);

#endif							/* ANYVOD_SERVER_INTERNAL_H */
