/*-------------------------------------------------------------------------
 *
 * secret_file.c
 *		The files that options name.
 *
 * An API key and CA certificates can be in a file of the server machine.  Here
 * such a file is read and checked, each time that somebody wants to know what
 * is in it, so that a changed file counts at once.
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

#include "server/internal.h"
#include "server/validate.h"

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
	int			sqlstate;		/* 0: as errno says */
	const char *message;		/* with %s for the name of the option */
	const char *rule;			/* that the content breaks, or NULL */
	const char *hint;			/* or NULL */
} FileProblem;

/*
 * Read from a file into "content", one byte more than it may have.  Returns
 * how much; if that fails, "problem" says why.
 */
static size_t
file_read(int fd, char *content, size_t limit, FileProblem *problem)
{
	struct stat status;
	size_t		len = 0;
	ssize_t		got = 0;

	if (fstat(fd, &status) < 0)
		problem->message = "could not stat the file of option \"%s\": %m";
	else if (!S_ISREG(status.st_mode))
	{
		problem->sqlstate = ERRCODE_WRONG_OBJECT_TYPE;
		problem->message = "the file of option \"%s\" is not a regular file";
	}
	else
	{
		while (len <= limit &&
			   ((got = read(fd, content + len, limit + 1 - len)) > 0 ||
				(got < 0 && errno == EINTR)))
			len += Max(got, 0);
		if (got < 0)
			problem->message = "could not read the file of option \"%s\": %m";
	}
	return len;
}

/*
 * Check a content.  Returns its length without the line ends behind a key, 0
 * if "problem" says what is wrong with it.  That certificates are such is for
 * the TLS library to say.
 */
static size_t
file_check(SecretKind kind, const char *content, size_t len,
		   FileProblem *problem)
{
	size_t		good = len;

	if (kind == SECRET_API_KEY)
		good = validate_key_file(content, len);
	if (good > 0 && len <= max_len[kind])
		return good;
	problem->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
	if (len > max_len[kind])
	{
		problem->sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		problem->message = "the file of option \"%s\" is too large";
		problem->rule = psprintf("It has more than %zu bytes.", max_len[kind]);
	}
	else if (kind == SECRET_CA)
		problem->message = "the file of option \"%s\" is empty";
	else
	{
		problem->message = "invalid API key in the file of option \"%s\"";
		problem->rule = API_KEY_RULE;
		problem->hint = validate_key_hint(content, len);
	}
	return 0;
}

/*
 * secret_file_read
 *		What is in a file now, followed by a NUL, in the current memory context.
 *
 * Returns its length, too.  If a file cannot be had, reports the SQLSTATE of
 * errno, 42809, 54000 or 22023 at "elevel" and returns NULL.
 */
char *
secret_file_read(SecretKind kind, const char *path, size_t *len, int elevel)
{
	bool		warning = (elevel == WARNING);
	char	   *content = palloc(max_len[kind] + 2);
	FileProblem problem = {0};
	size_t		got = 0;
	int			error;
	int			fd;

	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		problem.message = "could not open the file of option \"%s\": %m";
	else
		got = file_read(fd, content, max_len[kind], &problem);
	error = errno;
	if (fd >= 0)
		CloseTransientFile(fd);
	*len = problem.message == NULL ? file_check(kind, content, got, &problem) :
									 0;
	if (problem.message == NULL)
	{
		content[*len] = '\0';
		return content;
	}

	explicit_bzero(content, got);
	pfree(content);
	errno = error;
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
