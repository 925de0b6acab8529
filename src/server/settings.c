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
 * the files, so that a changed server, mapping, right or file counts at once,
 * also one that another session has just committed.
 *
 * What guards a secret, beside what options.c and secret_file.c say:
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
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "server/internal.h"

/* The settings that were looked up last, and what holds their strings. */
static ServerSettings current;
static MemoryContext current_context = NULL;


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

	if (compat_server_aclcheck(server->oid, userid, ACL_USAGE) != ACLCHECK_OK)
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
