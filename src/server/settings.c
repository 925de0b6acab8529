/*-------------------------------------------------------------------------
 *
 * settings.c
 *		Where requests go, as whom, and within which limits.
 *
 * A foreign server of our wrapper says where requests go and within which
 * limits; a user mapping says with which API key.  Here lives a cache, private
 * to the process, of what they amount to for one role on one server.  Which
 * options there are is told in options.c, what they may be in validate.c.
 *
 * At each look-up a changed server, mapping or right counts, also one that
 * another session has just committed, and so does a changed file.
 *
 * What guards a secret:
 *
 * - USAGE on the server is checked at each look-up, never remembered.
 *
 * - Only a superuser or a member of pg_read_server_files may name a file of
 *	 the server machine (options.c).
 *
 * - An API key from a file is sent only where a role that may read files has
 *	 pointed base_url, that is, while the server's owner is such a role.
 *	 Otherwise the owner could have any key file sent to a host of its choice.
 *
 * - No message quotes an API key or a URL.
 *
 * - Our copies of a key are overwritten before their memory is freed.  (The
 *	 system catalog cache has a copy of its own.)
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "server/options.h"
#include "server/secret_file.h"
#include "server/settings.h"

/* What the cache may hold; beyond that it starts afresh. */
#define CACHE_MAX_ENTRIES 1000
#define CACHE_MAX_BYTES (64 * 1024 * 1024)

/* All that is known for one role on one server. */
typedef struct CachedSettings
{
	OptionValues values;
	FileIdentity ca_file;		/* as they were just before they were read */
	FileIdentity api_key_file;
	MemoryContext context;		/* holds this struct and what it points to */
	MemoryContextCallback wipe; /* overwrites the key when that goes */
} CachedSettings;

typedef struct CacheKey
{
	Oid			serverid;
	Oid			userid;
} CacheKey;

typedef struct CacheEntry
{
	CacheKey	key;			/* first, as dynahash wants it */
	CachedSettings *cached;		/* NULL until there were options */
	uint64		generation;		/* cache_generation of the last look-up */
	bool		complete;		/* the last look-up has not failed */
} CacheEntry;

static HTAB *cache = NULL;
static MemoryContext cache_context = NULL;

/* Counts changes of servers, mappings and wrappers; written by callbacks. */
static uint64 cache_generation = 1;

/* The generation for which cache_sweep() last ran. */
static uint64 cache_swept = 1;

/* The last ServerSettings.id given out. */
static uint64 last_id = 0;


/*
 * Raise 42501 unless the server's owner may read files: the owner says where
 * the key goes.
 */
static void
check_owner(const CachedSettings *cached, HeapTuple tuple)
{
	Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);

	if (cached->values.api_key_file == NULL ||
		option_role_reads_files(server->srvowner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("option \"%s\" is not honored for server \"%s\"",
					"api_key_file", NameStr(server->srvname)),
			 errdetail("The owner of the server, role \"%s\", may not read server files.",
					   GetUserNameFromId(server->srvowner, false)),
			 errhint("The owner must be a superuser or a member of pg_read_server_files.")));
}

/*
 * Take the options of the role's mapping, else of PUBLIC's, else none.
 */
static void
read_mapping(OptionValues *values)
{
	ServerSettings *settings = &values->settings;
	HeapTuple	mapping;
	List	   *options;

	mapping = SearchSysCache2(USERMAPPINGUSERSERVER,
							  ObjectIdGetDatum(settings->userid),
							  ObjectIdGetDatum(settings->serverid));
	if (!HeapTupleIsValid(mapping))
		mapping = SearchSysCache2(USERMAPPINGUSERSERVER,
								  ObjectIdGetDatum(InvalidOid),
								  ObjectIdGetDatum(settings->serverid));
	if (!HeapTupleIsValid(mapping))
		return;

	settings->umid = ((Form_pg_user_mapping) GETSTRUCT(mapping))->oid;
	options = option_list(USERMAPPINGUSERSERVER, mapping,
						  Anum_pg_user_mapping_umoptions);
	option_store_all(values, options, UserMappingRelationId);
	ReleaseSysCache(mapping);
}

/*
 * Take the options of a server.  Raises 42809 if it is not one of ours.
 */
static void
read_server(OptionValues *values, HeapTuple tuple)
{
	Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);
	List	   *options;

	if (!option_wrapper_is_ours(server->srvfdw))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not an anyvod server",
						NameStr(server->srvname)),
				 errhint("Use a server that was created with FOREIGN DATA WRAPPER %s.",
						 OPTION_EXTENSION)));

	values->settings.serverid = server->oid;
	values->settings.server_name = pstrdup(NameStr(server->srvname));
	options = option_list(FOREIGNSERVERNAME, tuple,
						  Anum_pg_foreign_server_srvoptions);
	option_store_all(values, options, ForeignServerRelationId);
}

/*
 * Memory context callback: overwrite the key before its memory is freed.
 */
static void
wipe_key(void *arg)
{
	char	   *key = ((CachedSettings *) arg)->values.settings.api_key;

	if (key != NULL)
		explicit_bzero(key, strlen(key));
}

/*
 * What the options say for this role on this server, in a memory context of
 * its own.  That belongs to the (sub)transaction, so that an error half way
 * takes it along; who keeps the result moves it.
 */
static CachedSettings *
read_options(HeapTuple server, Oid userid)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext,
												  "anyvod settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	CachedSettings *cached = palloc0(sizeof(CachedSettings));

	option_set_defaults(&cached->values);
	cached->context = context;
	cached->wipe.func = wipe_key;
	cached->wipe.arg = cached;
	MemoryContextRegisterResetCallback(context, &cached->wipe);

	cached->values.settings.userid = userid;
	read_server(&cached->values, server);
	read_mapping(&cached->values);
	option_check(&cached->values);

	/*
	 * Noted before they are read: a file that changes meanwhile has another
	 * identity then, and is read again.
	 */
	if (cached->values.ca_file != NULL)
		secret_file_identify(cached->values.ca_file, &cached->ca_file);
	if (cached->values.api_key_file != NULL)
		secret_file_identify(cached->values.api_key_file,
							 &cached->api_key_file);

	MemoryContextSwitchTo(oldcontext);
	return cached;
}

/*
 * Read the files that the options name.  Raises what secret_file_read_key()
 * reports.
 */
static void
read_files(CachedSettings *cached)
{
	OptionValues *values = &cached->values;
	ServerSettings *settings = &values->settings;
	MemoryContext oldcontext = MemoryContextSwitchTo(cached->context);
	size_t		len;

	if (values->ca_file != NULL)
		settings->ca_pem = secret_file_read_ca(values->ca_file, ERROR,
											   &settings->ca_pem_len);
	if (values->api_key_file != NULL)
		settings->api_key = secret_file_read_key(values->api_key_file, ERROR,
												 &len);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Do the paths still lead to the files that were read?
 */
static bool
files_are_same(const CachedSettings *cached)
{
	const OptionValues *values = &cached->values;

	return (values->ca_file == NULL ||
			secret_file_is_same(values->ca_file, &cached->ca_file)) &&
		(values->api_key_file == NULL ||
		 secret_file_is_same(values->api_key_file, &cached->api_key_file));
}

/* Can a file be read, if an option names one? */
static bool
can_read(const char *path)
{
	return path == NULL || access(path, R_OK) == 0;
}

/*
 * Are two strings, either of which may be NULL, the same?
 */
static bool
same_string(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

/*
 * Would a request be the same with either?
 */
static bool
same_content(const ServerSettings *a, const ServerSettings *b)
{
	return a->serverid == b->serverid &&
		a->userid == b->userid &&
		a->umid == b->umid &&
		same_string(a->server_name, b->server_name) &&
		same_string(a->base_url, b->base_url) &&
		same_string(a->api_key, b->api_key) &&
		same_string(a->proxy, b->proxy) &&
		a->ca_pem_len == b->ca_pem_len &&
		(a->ca_pem_len == 0 ||
		 memcmp(a->ca_pem, b->ca_pem, a->ca_pem_len) == 0) &&
		a->timeout == b->timeout &&
		a->connect_timeout == b->connect_timeout &&
		a->rate_limit == b->rate_limit &&
		a->max_concurrency == b->max_concurrency &&
		a->max_response_size == b->max_response_size;
}

/*
 * Syscache callback: some server, mapping or wrapper has changed.  It may run
 * at any time, so it only counts; the work is done at the next look-up.
 */
static void
cache_invalidate(Datum arg, SysCacheIdentifier cacheid, uint32 hashvalue)
{
	cache_generation++;
}

/*
 * Create the cache at its first use.  Callbacks cannot be unregistered, so
 * they come last, when nothing can fail any more.
 */
static void
cache_init(void)
{
	HASHCTL		ctl;

	if (cache != NULL)
		return;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(CacheMemoryContext,
											  "anyvod settings",
											  ALLOCSET_DEFAULT_SIZES);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(CacheKey);
	ctl.entrysize = sizeof(CacheEntry);
	ctl.hcxt = cache_context;
	cache = hash_create("anyvod settings", 16, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, cache_invalidate, 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, cache_invalidate, 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, cache_invalidate, 0);
}

static void
cache_remove(CacheEntry *entry)
{
	if (entry->cached != NULL)
		MemoryContextDelete(entry->cached->context);
	entry->cached = NULL;
	hash_search(cache, &entry->key, HASH_REMOVE, NULL);
}

/*
 * After a change: remove the entries whose server or mapping is gone.  The
 * others stay, although they are no longer fresh, so that they can keep their
 * id if it turns out that their content is still the same.
 */
static void
cache_sweep(void)
{
	uint64		generation = cache_generation;
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	if (cache_swept == generation)
		return;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		Oid			umid = entry->cached ? entry->cached->values.settings.umid :
										   InvalidOid;

		if (!SearchSysCacheExists1(FOREIGNSERVEROID,
								   ObjectIdGetDatum(entry->key.serverid)) ||
			(OidIsValid(umid) &&
			 !SearchSysCacheExists1(USERMAPPINGOID, ObjectIdGetDatum(umid))))
			cache_remove(entry);
	}
	cache_swept = generation;
}

/*
 * Make room for one more entry: if the cache is full, forget everything.  It
 * is filled again at once by what is in use, with new ids.
 */
static void
cache_make_room(void)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	if (hash_get_num_entries(cache) < CACHE_MAX_ENTRIES &&
		MemoryContextMemAllocated(cache_context, true) < CACHE_MAX_BYTES)
		return;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		cache_remove(entry);
}

/*
 * The cache's entry for a role on a server, made if there is none.
 */
static CacheEntry *
cache_enter(Oid serverid, Oid userid)
{
	CacheKey	key = {serverid, userid};
	CacheEntry *entry;
	bool		found;

	cache_sweep();
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry != NULL)
		return entry;
	cache_make_room();
	entry = hash_search(cache, &key, HASH_ENTER, &found);
	entry->cached = NULL;
	entry->complete = false;
	return entry;
}

/*
 * Read everything for an entry anew.  What is known of the files stays with
 * the entry also when they cannot be read, since that tells when to try again.
 */
static void
cache_fill(CacheEntry *entry, HeapTuple server)
{
	CachedSettings *old = entry->cached;
	CachedSettings *cached = read_options(server, entry->key.userid);
	ServerSettings *settings = &cached->values.settings;

	MemoryContextSetParent(cached->context, cache_context);
	entry->cached = cached;
	if (old != NULL)			/* an error takes it along */
		MemoryContextSetParent(old->context, CurTransactionContext);

	check_owner(cached, server);
	read_files(cached);

	if (old != NULL && old->values.settings.id != 0 &&
		same_content(&old->values.settings, settings))
		settings->id = old->values.settings.id;
	else
		settings->id = ++last_id;
	if (old != NULL)
		MemoryContextDelete(old->context);
}

/*
 * server_settings_get
 *		What a request of role "userid" to the server of this name needs.
 *
 * Must be called in a transaction, where the catalogs may be read.  Takes in
 * what other sessions have committed, as a statement may send requests for
 * hours and take no lock meanwhile that would.  The result is good until the
 * next call or the next wait; its id stays the same as long as its content
 * does (unless the cache had to be emptied), so that a caller can tell by it
 * whether what was derived from an earlier result still holds.
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
	Form_pg_foreign_server server;
	uint64		generation;
	CacheEntry *entry;
	bool		fresh;

	Assert(IsTransactionState());

	/*
	 * The generation is read before the catalog, so that a change in between
	 * leaves the entry stale rather than wrong.
	 */
	cache_init();
	AcceptInvalidationMessages();
	generation = cache_generation;
	tuple = SearchSysCache1(FOREIGNSERVERNAME, CStringGetDatum(server_name));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", server_name),
				 errhint("Use CREATE SERVER %s FOREIGN DATA WRAPPER %s.",
						 quote_identifier(server_name), OPTION_EXTENSION)));
	server = (Form_pg_foreign_server) GETSTRUCT(tuple);

	/* A file that has just changed may change again and look the same. */
	entry = cache_enter(server->oid, userid);
	fresh = entry->complete && entry->generation == generation &&
		!entry->cached->ca_file.recent && !entry->cached->api_key_file.recent &&
		files_are_same(entry->cached);
	entry->generation = generation;
	entry->complete = false;	/* if one of the following fails */

	if (compat_server_aclcheck(server->oid, userid, ACL_USAGE) !=
		ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER,
					   NameStr(server->srvname));
	if (fresh)
		check_owner(entry->cached, tuple);
	else
		cache_fill(entry, tuple);
	entry->complete = true;
	ReleaseSysCache(tuple);
	return &entry->cached->values.settings;
}

/*
 * server_settings_changed
 *		May server_settings_get() give other settings than those of this id?
 *
 * For who has had a key refused, or (id 0) could have no settings: false means
 * that it is no use to try again.  So it is false while a file cannot be read.
 * Raises nothing on account of a file, right or option.  Can be called outside
 * a transaction; then a change of a server or mapping is not heard of here.
 */
bool
server_settings_changed(Oid serverid, Oid userid, uint64 id)
{
	CacheKey	key = {serverid, userid};
	CacheEntry *entry = NULL;

	if (IsTransactionState())
		AcceptInvalidationMessages();
	if (cache != NULL)
		entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry == NULL)
		return false;
	if (entry->generation != cache_generation)
		return true;
	if (entry->cached != NULL && !files_are_same(entry->cached))
		return can_read(entry->cached->values.ca_file) &&
			can_read(entry->cached->values.api_key_file);
	return entry->complete && entry->cached->values.settings.id != id;
}
