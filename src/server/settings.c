/*-------------------------------------------------------------------------
 *
 * settings.c
 *		Where requests go, as whom, and within which limits.
 *
 * A foreign server of our wrapper says where requests go and within which
 * limits; a user mapping says with which API key.  Here they become what they
 * amount to for one role on one server.  Which options there are is told in
 * options.c, what they may be in validate.c.
 *
 * Nothing of it is remembered: each look-up reads the system catalog cache and
 * the files that options name, so that a changed server, mapping, right or file
 * counts at once, also one that another session has just committed.
 *
 * What guards a secret, beside what options.c says:
 *
 * - USAGE on the server is checked at each look-up.
 *
 * - An API key from a file is sent only where a role that may read files has
 *	 pointed base_url, that is, while the server's owner is such a role.
 *	 Otherwise the owner could have any key file sent to a host of its choice.
 *
 * - Our copies of a key are overwritten before their memory is freed.  (The
 *	 system catalog cache has a copy of its own.)
 *
 * - A FIFO or device must not hang the process: a file is opened without
 *	 blocking, and it is a regular file or not read.
 *
 * - No message quotes what a file holds.  An error has the path in the server
 *	 log only, since a role that may use a server need not know what stands
 *	 behind it.  A warning goes to who sets the option, and names the path.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "server/internal.h"
#include "server/validate.h"

/* The settings that were looked up last, and what holds their strings. */
static ServerSettings current;
static MemoryContext current_context = NULL;

/*
 * The longest content.  Of a key file: the longest key and the end of its
 * line; of a CA file: four times Debian's bundle of all public CAs.
 */
static const size_t max_len[] = {
	[SECRET_CA] = 1024 * 1024,
	[SECRET_API_KEY] = MAX_API_KEY_LENGTH + 2,
};


/*
 * Files
 */

/*
 * Read from a file into "content", up to "limit" bytes and one more.  Returns
 * how much; if that fails, a message with %s for the name of the option, and
 * an SQLSTATE, 0 if errno says it.
 */
static const char *
file_read(const char *path, char *content, size_t limit, size_t *len,
		  int *sqlstate)
{
	const char *problem = NULL;
	struct stat status;
	ssize_t		got = 0;
	int			error;
	const int	flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int			fd = OpenTransientFile(path, flags);

	*len = 0;
	if (fd < 0)
		return "could not open the file of option \"%s\": %m";
	if (fstat(fd, &status) < 0)
		problem = "could not stat the file of option \"%s\": %m";
	else if (!S_ISREG(status.st_mode))
	{
		*sqlstate = ERRCODE_WRONG_OBJECT_TYPE;
		problem = "the file of option \"%s\" is not a regular file";
	}
	else
	{
		while (*len <= limit &&
			   ((got = read(fd, content + *len, limit + 1 - *len)) > 0 ||
				(got < 0 && errno == EINTR)))
			*len += Max(got, 0);
		if (got < 0)
			problem = "could not read the file of option \"%s\": %m";
	}
	error = errno;
	CloseTransientFile(fd);
	errno = error;
	return problem;
}

/*
 * secret_file_read
 *		What is in a file now, followed by a NUL, in the current memory context.
 *
 * Returns its length, too, without the line ends behind a key.  That
 * certificates are such is for the TLS library to say.  If a file cannot be
 * had, reports the SQLSTATE of errno, 42809, 54000 or 22023 at "elevel" and
 * returns NULL.
 */
char *
secret_file_read(SecretKind kind, const char *path, size_t *len, int elevel)
{
	bool		warning = (elevel == WARNING);
	size_t		limit = max_len[kind];
	char	   *content = palloc(limit + 2);
	const char *problem;
	const char *rule = NULL;
	const char *hint = NULL;
	int			sqlstate = 0;
	size_t		got;
	int			error;

	problem = file_read(path, content, limit, &got, &sqlstate);
	error = errno;
	*len = kind == SECRET_API_KEY ? validate_key_file(content, got) : got;
	if (problem == NULL && *len > 0 && got <= limit)
	{
		content[*len] = '\0';
		return content;
	}
	if (problem == NULL && got > limit)
	{
		sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		problem = "the file of option \"%s\" is too large";
		rule = psprintf("It has more than %zu bytes.", limit);
	}
	else if (problem == NULL)
	{
		sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
		problem = "the file of option \"%s\" is empty";
		if (kind == SECRET_API_KEY)
		{
			problem = "invalid API key in the file of option \"%s\"";
			rule = API_KEY_RULE;
			hint = validate_key_hint(content, got);
		}
	}

	explicit_bzero(content, got);
	pfree(content);
	errno = error;
	ereport(elevel,
			(sqlstate == 0 ? errcode_for_file_access() : errcode(sqlstate),
			 errmsg(problem, kind == SECRET_CA ? "ca_file" : "api_key_file"),
			 errdetail_log("The path is \"%s\".", path),
			 rule        ? errdetail_internal("%s", rule) :
				 warning ? errdetail("The path is \"%s\".", path) :
						   0,
			 hint        ? errhint("%s", hint) :
				 warning ? errhint("Requests fail until the server can use the file.") :
						   0));
	return NULL;
}


/*
 * Settings
 */


/* The settings are others if these bytes are. */
static void
add_to_id(const char *bytes, size_t len)
{
	current.id = hash_bytes_extended((const unsigned char *) bytes, (int) len,
									 current.id);
}

/*
 * Take the options of the role's mapping, else of PUBLIC's, else none.
 */
static bool
read_mapping(int level)
{
	HeapTuple	mapping;
	bool		ok;

	mapping = SearchSysCache2(USERMAPPINGUSERSERVER,
							  ObjectIdGetDatum(current.userid),
							  ObjectIdGetDatum(current.serverid));
	if (!HeapTupleIsValid(mapping))
		mapping = SearchSysCache2(USERMAPPINGUSERSERVER,
								  ObjectIdGetDatum(InvalidOid),
								  ObjectIdGetDatum(current.serverid));
	if (!HeapTupleIsValid(mapping))
		return true;

	current.umid = ((Form_pg_user_mapping) GETSTRUCT(mapping))->oid;
	current.id = hash_combine64(current.id, current.umid);
	ok = option_read(&current, UserMappingRelationId, mapping, level);
	ReleaseSysCache(mapping);
	return ok;
}

/*
 * Take the content of the files that the options name.
 */
static bool
read_files(Form_pg_foreign_server server, int level)
{
	size_t		len;

	if (current.ca_file != NULL)
	{
		current.ca_pem = secret_file_read(SECRET_CA, current.ca_file,
										  &current.ca_pem_len, level);
		if (current.ca_pem == NULL)
			return false;
		add_to_id(current.ca_pem, current.ca_pem_len);
	}
	if (current.api_key_file == NULL)
		return true;
	if (!has_privs_of_role(server->srvowner, ROLE_PG_READ_SERVER_FILES))
	{
		ereport(level,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("option \"%s\" is not honored for server \"%s\"",
						"api_key_file", NameStr(server->srvname)),
				 errdetail("The owner of the server, role \"%s\", may not read server files.",
						   GetUserNameFromId(server->srvowner, true)),
				 errhint("The owner must be a superuser or a member of pg_read_server_files.")));
		return false;
	}
	current.api_key = secret_file_read(SECRET_API_KEY, current.api_key_file,
									   &len, level);
	if (current.api_key == NULL)
		return false;
	add_to_id(current.api_key, len);
	return true;
}

/*
 * Make "current" the settings of a role on a server.  What is in the way is
 * reported at "level", and false is returned.
 */
static bool
read_settings(HeapTuple tuple, Oid userid, int level)
{
	Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);
	MemoryContext caller;
	bool		ok;

	if (object_aclcheck(ForeignServerRelationId, server->oid, userid,
						ACL_USAGE) != ACLCHECK_OK)
	{
		ereport(level,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s",
						NameStr(server->srvname))));
		return false;
	}
	if (!option_wrapper_is_ours(server->srvfdw))
	{
		ereport(level,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not an anyvod server",
						NameStr(server->srvname)),
				 errhint("Use a server that was created with FOREIGN DATA WRAPPER %s.",
						 OPTION_EXTENSION)));
		return false;
	}

	if (current.api_key != NULL)
		explicit_bzero(current.api_key, strlen(current.api_key));
	current = option_defaults;
	current.serverid = server->oid;
	current.userid = userid;
	if (current_context == NULL)
		current_context = AllocSetContextCreate(CacheMemoryContext,
												"anyvod settings",
												ALLOCSET_SMALL_SIZES);
	MemoryContextReset(current_context);

	caller = MemoryContextSwitchTo(current_context);
	ok = option_read(&current, ForeignServerRelationId, tuple, level) &&
		read_mapping(level) && read_files(server, level);
	MemoryContextSwitchTo(caller);
	if (current.id == 0)
		current.id = 1;
	return ok;
}

/*
 * server_settings_get
 *		What a request of role "userid" to the server of this name needs.
 *
 * Must be called in a transaction, where the catalogs may be read.  Takes in
 * what other sessions have committed, as a statement may send requests for
 * hours and take no lock meanwhile that would.
 *
 * Raises 42704 if there is no such server, 42501 if the role may not use it
 * or the server's owner may not have a key file read, 42809 if the server is
 * not one of ours, and for ca_file and api_key_file the SQLSTATE of errno,
 * 42809, 54000 or 22023.
 */
const ServerSettings *
server_settings_get(const char *server_name, Oid userid)
{
	HeapTuple	tuple;

	Assert(IsTransactionState());
	AcceptInvalidationMessages();
	tuple = SearchSysCache1(FOREIGNSERVERNAME, CStringGetDatum(server_name));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", server_name),
				 errhint("Use CREATE SERVER %s FOREIGN DATA WRAPPER %s.",
						 quote_identifier(server_name), OPTION_EXTENSION)));
	(void) read_settings(tuple, userid, ERROR);
	ReleaseSysCache(tuple);
	return &current;
}

/*
 * server_settings_changed
 *		Would server_settings_get() give other settings than those of this id?
 *
 * For who has had a key refused, or (id 0) could have no settings: false means
 * that it is no use to try again.  So it is false if there are no settings now.
 * Raises nothing on account of a file, right or option.  Must be called in a
 * transaction.
 */
bool
server_settings_changed(Oid serverid, Oid userid, uint64 id)
{
	HeapTuple	tuple;
	bool		ok;

	Assert(IsTransactionState());
	AcceptInvalidationMessages();
	tuple = SearchSysCache1(FOREIGNSERVEROID, ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(tuple))
		return false;
	ok = OidIsValid(userid) && read_settings(tuple, userid, DEBUG1);
	ReleaseSysCache(tuple);
	return ok && current.id != id;
}
