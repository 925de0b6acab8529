/*-------------------------------------------------------------------------
 *
 * secret_file.c
 *		The files that options name.
 *
 * An API key and CA certificates can be in a file of the server machine.  Here
 * such a file is read and checked.  Its content is kept, private to the
 * process, until stat() says that the path leads to another file.
 *
 * - A FIFO or device must not hang the process: a file is opened without
 *	 blocking, and it is a regular file or not read.
 *
 * - No message quotes what a file holds.  An error has the path in the server
 *	 log only, since a role that may use a server need not know what stands
 *	 behind it.  A warning goes to who sets the option, and names the path.
 *
 * - A buffer that may hold a key is overwritten before it is freed.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "compat.h"
#include "server/secret_file.h"
#include "server/validate.h"

/* How many files are kept; beyond that, those that were used last. */
#define MAX_FILES 64

/* A file's times are as coarse as a tick of the kernel, or 2 s (FAT). */
#define COARSEST_TIME 2

/*
 * The longest content.  Of a key file: the longest key and the end of its
 * line; of a CA file: four times Debian's bundle of all public CAs.
 */
static const size_t max_len[] = {
	[SECRET_CA] = 1024 * 1024,
	[SECRET_API_KEY] = MAX_API_KEY_LENGTH + 2,
};

#define UNUSABLE_HINT "Requests fail until the server can use the file."

/* What is wrong with a file. */
typedef struct FileProblem
{
	int			sqlstate;
	int			error;			/* errno; then that says the SQLSTATE */
	const char *message;		/* with %s for the name of the option */
	const char *rule;			/* that the content breaks, or NULL */
	const char *hint;			/* or NULL */
} FileProblem;

/* Files by path and kind, those used last first. */
static dlist_head files = DLIST_STATIC_INIT(files);
static int	n_files = 0;


static void
file_free(SecretFile *file)
{
	explicit_bzero(file->content, file->len);
	pfree(file->content);
	pfree(file);
}

static void
file_forget(SecretFile *file)
{
	dlist_delete(&file->node);
	n_files--;
	file_free(file);
}

/*
 * Does the path still lead to the file that was read?
 */
static bool
file_is_same(const SecretFile *file)
{
	const struct stat *then = &file->status;
	struct stat now;

	return !file->recent && stat(file->path, &now) == 0 &&
		now.st_dev == then->st_dev && now.st_ino == then->st_ino &&
		now.st_size == then->st_size &&
		compat_stat_changed(&now).tv_sec == compat_stat_changed(then).tv_sec &&
		compat_stat_changed(&now).tv_nsec == compat_stat_changed(then).tv_nsec;
}

/*
 * Read the content of a file.  What stat() says of its size does not count,
 * since it may grow meanwhile; if it changes otherwise, its status will not be
 * the one that is taken before.
 */
static bool
file_read(SecretFile *file, FileProblem *problem)
{
	size_t		limit = max_len[file->kind];
	ssize_t		got = 0;
	int			fd;

	fd = OpenTransientFile(file->path,
						   O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		problem->message = "could not open the file of option \"%s\": %m";
	else if (fstat(fd, &file->status) < 0)
		problem->message = "could not stat the file of option \"%s\": %m";
	else if (!S_ISREG(file->status.st_mode))
	{
		problem->sqlstate = ERRCODE_WRONG_OBJECT_TYPE;
		problem->message = "the file of option \"%s\" is not a regular file";
	}
	else
	{
		file->recent = time(NULL) - compat_stat_changed(&file->status).tv_sec <=
			COARSEST_TIME;
		while (file->len <= limit &&
			   ((got = read(fd, file->content + file->len,
							limit + 1 - file->len)) > 0 ||
				(got < 0 && errno == EINTR)))
			file->len += Max(got, 0);
		if (got < 0)
			problem->message = "could not read the file of option \"%s\": %m";
	}
	if (problem->sqlstate == 0)
		problem->error = errno;
	if (fd >= 0)
		CloseTransientFile(fd);
	if (problem->message == NULL && file->len > limit)
	{
		problem->sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		problem->message = "the file of option \"%s\" is too large";
		problem->rule = psprintf("It has more than %zu bytes.", limit);
	}
	return problem->message == NULL;
}

/*
 * Check a content, and cut off the line ends behind a key.  That certificates
 * are such is for the TLS library to say.
 */
static bool
file_check(SecretFile *file, FileProblem *problem)
{
	size_t		len = file->len;

	if (file->kind == SECRET_API_KEY)
		len = validate_key_file(file->content, len);
	if (len > 0)
	{
		file->len = len;
		file->content[len] = '\0';
		file->hash = hash_bytes_extended((unsigned char *) file->content,
										 (int) len, 0);
		return true;
	}

	problem->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
	if (file->kind == SECRET_CA)
		problem->message = "the file of option \"%s\" is empty";
	else
	{
		problem->message = "invalid API key in the file of option \"%s\"";
		problem->rule = API_KEY_RULE;
		problem->hint = validate_key_hint(file->content, file->len);
	}
	return false;
}

/*
 * secret_file_get
 *		What is in a file now.
 *
 * The result is good until this file, or MAX_FILES others, are asked for.  If a
 * file cannot be had, reports the SQLSTATE of errno, 42809, 54000 or 22023 at
 * "elevel" and returns NULL.
 */
SecretFile *
secret_file_get(SecretKind kind, const char *path, int elevel)
{
	bool		warning = (elevel == WARNING);
	FileProblem problem = {0};
	SecretFile *file = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &files)
	{
		file = dlist_container(SecretFile, node, iter.cur);
		if (file->kind == kind && strcmp(file->path, path) == 0)
			break;
		file = NULL;
	}
	if (file != NULL && file_is_same(file))
	{
		dlist_move_head(&files, &file->node);
		return file;
	}
	if (file != NULL)
		file_forget(file);

	file = MemoryContextAllocZero(CacheMemoryContext,
								  sizeof(SecretFile) + strlen(path) + 1);
	file->content = MemoryContextAlloc(CacheMemoryContext, max_len[kind] + 2);
	file->kind = kind;
	memcpy(file->path, path, strlen(path) + 1);
	if (!file_read(file, &problem) || !file_check(file, &problem))
	{
		file_free(file);
		errno = problem.error;
		ereport(elevel,
				(problem.sqlstate == 0 ? errcode_for_file_access() :
										 errcode(problem.sqlstate),
				 errmsg(problem.message,
						kind == SECRET_CA ? "ca_file" : "api_key_file"),
				 errdetail_log("The path is \"%s\".", path),
				 problem.rule ? errdetail_internal("%s", problem.rule) :
					 warning  ? errdetail("The path is \"%s\".", path) :
								0,
				 problem.hint ? errhint("%s", problem.hint) :
					 warning  ? errhint(UNUSABLE_HINT) :
								0));
		return NULL;
	}
	/* It becomes smaller where it is: no copy of a key is left behind. */
	file->content = repalloc(file->content, file->len + 1);
	while (n_files >= MAX_FILES)
		file_forget(dlist_tail_element(SecretFile, node, &files));
	dlist_push_head(&files, &file->node);
	n_files++;
	return file;
}
