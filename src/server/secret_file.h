/*-------------------------------------------------------------------------
 *
 * secret_file.h
 *		The files that options name.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SECRET_FILE_H
#define ANYVOD_SECRET_FILE_H

#include <sys/stat.h>

#include "lib/ilist.h"

typedef enum SecretKind
{
	SECRET_CA,					/* of option ca_file */
	SECRET_API_KEY,				/* of option api_key_file */
} SecretKind;

/* A file that has been read. */
typedef struct SecretFile
{
	char	   *content;		/* followed by a NUL */
	size_t		len;			/* without the NUL */
	uint64		hash;			/* of the content */

	/* what secret_file.c knows it by */
	dlist_node	node;
	SecretKind	kind;
	struct stat status;			/* of just before it was read */
	bool		recent;			/* it could change and look the same */
	char		path[FLEXIBLE_ARRAY_MEMBER];
} SecretFile;

extern SecretFile *secret_file_get(SecretKind kind, const char *path,
								   int elevel);

#endif							/* ANYVOD_SECRET_FILE_H */
