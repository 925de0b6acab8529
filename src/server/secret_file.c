/*-------------------------------------------------------------------------
 *
 * secret_file.c
 *		Reading the files that options name.
 *
 * An API key and a CA certificate can be in a file of the server machine.
 * Here such a file is read and checked, and told apart from a later one at
 * the same path.  What was read is not kept here.
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
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "compat.h"
#include "server/secret_file.h"
#include "server/validate.h"

/* Largest key file: the longest key and the end of its line. */
#define MAX_API_KEY_FILE (MAX_API_KEY_LENGTH + 2)

/* Largest CA file, in bytes: four times Debian's bundle of all public CAs. */
#define MAX_CA_FILE (1024 * 1024)

/* A file's times are as coarse as a tick of the kernel, or 2 s (FAT). */
#define COARSEST_TIME 2


/*
 * secret_file_identify
 *		Fill "identity" with what the path leads to now.  Raises nothing.
 */
void
secret_file_identify(const char *path, FileIdentity *identity)
{
	struct stat status;

	memset(identity, 0, sizeof(FileIdentity));
	if (stat(path, &status) != 0)
	{
		identity->error = errno;
		return;
	}
	identity->device = status.st_dev;
	identity->inode = status.st_ino;
	identity->size = status.st_size;
	identity->changed = compat_stat_changed(&status);
	identity->recent = time(NULL) - identity->changed.tv_sec <= COARSEST_TIME;
}

/*
 * secret_file_is_same
 *		Does the path still lead to what "identity" was filled from?
 */
bool
secret_file_is_same(const char *path, const FileIdentity *identity)
{
	FileIdentity now;

	secret_file_identify(path, &now);
	return now.error == identity->error && now.device == identity->device &&
		now.inode == identity->inode && now.size == identity->size &&
		now.changed.tv_sec == identity->changed.tv_sec &&
		now.changed.tv_nsec == identity->changed.tv_nsec;
}

/*
 * DETAIL and HINT of a report: the rule that a content breaks, if that is what
 * is wrong, else the path.
 */
static int
file_detail(const char *path, int elevel, const char *rule, const char *hint)
{
	errdetail_log("The path is \"%s\".", path);
	if (rule != NULL)
		errdetail_internal("%s", rule);
	else if (elevel < ERROR)
		errdetail("The path is \"%s\".", path);
	if (hint != NULL)
		errhint("%s", hint);
	else if (elevel < ERROR)
		errhint("Requests fail until the server can use the file.");
	return 0;
}

static void
wipe_and_free(char *content, size_t size)
{
	explicit_bzero(content, size);
	pfree(content);
}

/*
 * The content of a file, palloc'd with room for limit + 2 bytes and followed
 * by a NUL; *len is set to its length.  If it cannot be had, reports the
 * SQLSTATE of errno, 42809 or 54000 at "elevel" and returns NULL.  What stat()
 * says of the size does not count, since the file may grow meanwhile.
 */
static char *
file_read(const char *option, const char *path, int elevel, size_t limit,
		  size_t *len)
{
	char	   *content = palloc(limit + 2);
	const char *failed = NULL;
	bool		regular = true;
	struct stat status;
	ssize_t		got = 0;
	int			error;
	int			fd;

	*len = 0;
	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		failed = "open";
	else if (fstat(fd, &status) < 0)
		failed = "stat";
	else if ((regular = S_ISREG(status.st_mode)))
	{
		while (*len <= limit &&
			   ((got = read(fd, content + *len, limit + 1 - *len)) > 0 ||
				(got < 0 && errno == EINTR)))
			*len += Max(got, 0);
		if (got < 0)
			failed = "read";
	}
	error = errno;
	if (fd >= 0)
		CloseTransientFile(fd);
	if (failed == NULL && regular && *len <= limit)
	{
		content[*len] = '\0';
		return content;
	}

	wipe_and_free(content, limit + 2);
	errno = error;
	if (failed != NULL)
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not %s the file of option \"%s\": %m", failed,
						option),
				 file_detail(path, elevel, NULL, NULL)));
	else if (!regular)
		ereport(elevel,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the file of option \"%s\" is not a regular file",
						option),
				 file_detail(path, elevel, NULL, NULL)));
	else
		ereport(elevel,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the file of option \"%s\" is too large", option),
				 file_detail(path, elevel,
							 psprintf("It has more than %zu bytes.", limit),
							 NULL)));
	return NULL;
}

/*
 * secret_file_read_key
 *		The API key in a file, palloc'd; *len is set to its length.
 *
 * If it cannot be had, reports the SQLSTATE of errno, 42809, 54000 or 22023
 * at "elevel" and returns NULL.  The caller overwrites the key.
 */
char *
secret_file_read_key(const char *path, int elevel, size_t *len)
{
	size_t		size;
	char	   *content = file_read("api_key_file", path, elevel,
									MAX_API_KEY_FILE, &size);
	const char *hint;

	if (content == NULL)
		return NULL;
	*len = validate_key_file(content, size);
	if (*len > 0)
	{
		content[*len] = '\0';
		return content;
	}
	hint = validate_key_hint(content, size);
	wipe_and_free(content, size);
	ereport(elevel,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid API key in the file of option \"%s\"",
					"api_key_file"),
			 file_detail(path, elevel, API_KEY_RULE, hint)));
	return NULL;
}

/*
 * secret_file_read_ca
 *		The CA certificates in a file, palloc'd; *len is set to their length.
 *
 * If they cannot be had, the same as secret_file_read_key().  That they are
 * certificates is for the TLS library to say.
 */
char *
secret_file_read_ca(const char *path, int elevel, size_t *len)
{
	char	   *content = file_read("ca_file", path, elevel, MAX_CA_FILE, len);

	if (content == NULL || *len > 0)
		return content ? repalloc(content, *len + 1) : NULL;
	pfree(content);
	ereport(elevel,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the file of option \"%s\" is empty", "ca_file"),
			 file_detail(path, elevel, NULL, NULL)));
	return NULL;
}
