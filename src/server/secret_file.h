/*-------------------------------------------------------------------------
 *
 * secret_file.h
 *		Reading the files that options name.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SECRET_FILE_H
#define ANYVOD_SECRET_FILE_H

#include <sys/types.h>
#include <time.h>

/* What stat() says of a file; another identity, another content. */
typedef struct FileIdentity
{
	int			error;			/* errno of stat(), then the rest is 0 */
	dev_t		device;
	ino_t		inode;
	off_t		size;
	struct timespec changed;	/* its content, or its rights */
	bool		recent;			/* it could change again and look the same */
} FileIdentity;

extern void secret_file_identify(const char *path, FileIdentity *identity);
extern bool secret_file_is_same(const char *path, const FileIdentity *identity);
extern char *secret_file_read_key(const char *path, int elevel, size_t *len);
extern char *secret_file_read_ca(const char *path, int elevel, size_t *len);

#endif							/* ANYVOD_SECRET_FILE_H */
