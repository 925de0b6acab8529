/*-------------------------------------------------------------------------
 *
 * upstream.c
 *		Where to ask and as whom.
 *
 * A foreign server of our wrapper says where to ask and within which limits;
 * a user mapping says with which API key.  Here lives a cache, private to the
 * process, of what they amount to for one role on one server.  Which options
 * there are and what they may be is told in option.c and wire.c.
 *
 * What guards a secret:
 *
 * - USAGE on the server is checked each time the server is asked for, never
 *	 remembered.
 *
 * - Only a superuser or a member of pg_read_server_files may name a file of
 *	 the server machine (option.c).
 *
 * - An API key from a file is sent only where a role that may read files has
 *	 pointed base_url, that is, while the server's owner is such a role.
 *	 Otherwise the owner could have any key file sent to himself.
 *
 * - No message quotes an API key or a URL, and paths go to the server log
 *	 only: a role that may use a server need not know what stands behind it.
 *
 * - Our copies of a key are overwritten before their memory is freed.  (The
 *	 system catalog cache has a copy of its own.)
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
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "server/options.h"
#include "server/settings.h"
#include "server/watch.h"
#include "server/validate.h"

/* Largest key file: the longest key and the end of its line. */
#define MAX_API_KEY_FILE (MAX_API_KEY_LENGTH + 2)

/* Largest CA file, in bytes: four times Debian's bundle of all public CAs. */
#define MAX_CA_FILE (1024 * 1024)

/* How old the content of a file may be, in milliseconds. */
#define FILE_MAX_AGE 60000

/* What the cache may hold; beyond that it starts afresh. */
#define CACHE_MAX_ENTRIES 1000
#define CACHE_MAX_BYTES (64 * 1024 * 1024)

/* All that is known for one role on one server. */
typedef struct UpstreamConfig
{
	OptionValues values;
	TimestampTz read_at;		/* when reading the files began */
	WatchLook	key_look;		/* of api_key_file, before it was read */
	MemoryContext context;		/* holds this struct and what it points to */
	MemoryContextCallback wipe; /* overwrites the key when that goes */
} UpstreamConfig;

typedef struct CacheKey
{
	Oid			serverid;
	Oid			userid;
} CacheKey;

typedef struct CacheEntry
{
	CacheKey	key;			/* first, as dynahash wants it */
	UpstreamConfig *config;		/* NULL until it could be built */
	uint64		generation;		/* cache_generation that config is of, 0 if it
								 * has to be built anew */
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
 * Log where a file is, for the administrator only.
 */
static int
file_detail(const char *path)
{
	return errdetail_log("The path is \"%s\".", path);
}

/*
 * Open a file that an option names.  Raises the SQLSTATE of errno, or 42809
 * if it is not a regular file.
 *
 * A FIFO or device in its place must not hang the session, hence O_NONBLOCK
 * and the check of what was opened, rather than of what the path named.
 */
static int
file_open(const char *option, const char *path)
{
	struct stat st;
	int			fd;

	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open the file of option \"%s\": %m", option),
				 file_detail(path)));
	if (fstat(fd, &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat the file of option \"%s\": %m", option),
				 file_detail(path)));
	if (!S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the file of option \"%s\" is not a regular file",
						option),
				 file_detail(path)));
	return fd;
}

/*
 * The content of a file that an option names, palloc'd and followed by a
 * NUL; *len is set to its length.  Raises what file_open() raises, and 54000
 * if there are more than "limit" bytes.  The size that stat() tells would be
 * no proof of that: the file may grow meanwhile.
 */
static char *
file_read(const char *option, const char *path, size_t limit, size_t *len)
{
	int			fd = file_open(option, path);
	char	   *content = palloc(limit + 2);
	ssize_t		got;

	*len = 0;
	do
	{
		CHECK_FOR_INTERRUPTS();
		got = read(fd, content + *len, limit + 1 - *len);
		if (got > 0)
			*len += got;
		else if (got < 0 && errno != EINTR)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read the file of option \"%s\": %m",
							option),
					 file_detail(path)));
	} while (got != 0 && *len <= limit);

	if (*len > limit)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the file of option \"%s\" is too large", option),
				 errdetail("It has more than %zu bytes.", limit),
				 file_detail(path)));
	content[*len] = '\0';
	CloseTransientFile(fd);
	return content;
}

/*
 * Raise 42501 unless the server's owner may read files: he says where the
 * key goes.
 */
static void
config_check_owner(const UpstreamConfig *config, HeapTuple tuple)
{
	Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);

	if (config->values.api_key_file == NULL ||
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
 * Read the files that the options name into upstream->ca_pem and api_key.
 */
static void
config_read_files(UpstreamConfig *config)
{
	ServerSettings *upstream = &config->values.upstream;
	WatchLook	look;
	size_t		len;

	config->read_at = GetCurrentTimestamp();
	if (config->values.ca_file != NULL)
	{
		char	   *pem;

		watch_look(config->values.ca_file, &look);
		watch_begin(config->values.ca_file, &look, false);
		pem = file_read("ca_file", config->values.ca_file, MAX_CA_FILE, &len);
		if (len == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the file of option \"%s\" is empty", "ca_file"),
					 file_detail(config->values.ca_file)));
		upstream->ca_pem = repalloc(pem, len + 1);
		upstream->ca_pem_len = len;
		watch_end(config->values.ca_file);
	}
	if (config->values.api_key_file != NULL)
	{
		watch_look(config->values.api_key_file, &config->key_look);
		watch_begin(config->values.api_key_file, &config->key_look, false);
		upstream->api_key = file_read("api_key_file", config->values.api_key_file,
									  MAX_API_KEY_FILE, &len);
		config->values.secret_size = len;
		len = validate_key_file(upstream->api_key, len);
		if (len == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid API key in the file of option \"%s\"",
							"api_key_file"),
					 errdetail_internal("%s", API_KEY_RULE),
					 file_detail(config->values.api_key_file)));
		watch_end(config->values.api_key_file);
		upstream->api_key[len] = '\0';
	}
}

/*
 * Take the options of the role's mapping, else of PUBLIC's, else none.
 */
static void
config_read_mapping(UpstreamConfig *config)
{
	ServerSettings *upstream = &config->values.upstream;
	HeapTuple	mapping;
	List	   *options;

	mapping = SearchSysCache2(USERMAPPINGUSERSERVER,
							  ObjectIdGetDatum(upstream->userid),
							  ObjectIdGetDatum(upstream->serverid));
	if (!HeapTupleIsValid(mapping))
		mapping = SearchSysCache2(USERMAPPINGUSERSERVER,
								  ObjectIdGetDatum(InvalidOid),
								  ObjectIdGetDatum(upstream->serverid));
	if (!HeapTupleIsValid(mapping))
		return;

	upstream->umid = ((Form_pg_user_mapping) GETSTRUCT(mapping))->oid;
	options = option_list(USERMAPPINGUSERSERVER, mapping,
						  Anum_pg_user_mapping_umoptions);
	option_store_all(&config->values, options, UserMappingRelationId);
	ReleaseSysCache(mapping);
}

/*
 * Take the options of a server.  Raises 42809 if it is not one of ours.
 */
static void
config_read_server(UpstreamConfig *config, HeapTuple tuple)
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

	config->values.upstream.serverid = server->oid;
	config->values.upstream.server_name = pstrdup(NameStr(server->srvname));
	options = option_list(FOREIGNSERVERNAME, tuple,
						  Anum_pg_foreign_server_srvoptions);
	option_store_all(&config->values, options, ForeignServerRelationId);
}

/*
 * Memory context callback: overwrite the key before its memory is freed.
 */
static void
config_wipe(void *arg)
{
	OptionValues *values = &((UpstreamConfig *) arg)->values;

	if (values->upstream.api_key != NULL)
		explicit_bzero(values->upstream.api_key, values->secret_size);
}

/*
 * Everything that a request of this role to this server needs, in a memory
 * context of its own.  That belongs to the (sub)transaction, so that an error
 * half way takes it along; who keeps the result moves it.
 */
static UpstreamConfig *
config_build(HeapTuple server, Oid userid)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext,
												  "anyvod upstream",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	UpstreamConfig *config = palloc(sizeof(UpstreamConfig));

	option_set_defaults(&config->values);
	config->context = context;
	config->wipe.func = config_wipe;
	config->wipe.arg = config;
	MemoryContextRegisterResetCallback(context, &config->wipe);

	config->values.upstream.userid = userid;
	config_read_server(config, server);
	config_read_mapping(config);
	option_check(&config->values);
	config_check_owner(config, server);
	config_read_files(config);

	MemoryContextSwitchTo(oldcontext);
	return config;
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
 * Syscache callback: a server, mapping or wrapper has changed, we do not ask
 * which.  It may run at any time, so it only counts; the work is done at the
 * next lookup.
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
											  "anyvod upstreams",
											  ALLOCSET_DEFAULT_SIZES);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(CacheKey);
	ctl.entrysize = sizeof(CacheEntry);
	ctl.hcxt = cache_context;
	cache = hash_create("anyvod upstreams", 16, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, cache_invalidate, 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, cache_invalidate, 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, cache_invalidate, 0);
}

static void
cache_remove(CacheEntry *entry)
{
	if (entry->config != NULL)
		MemoryContextDelete(entry->config->context);
	entry->config = NULL;
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
		Oid			umid = entry->config ? entry->config->values.upstream.umid :
										   InvalidOid;

		if (entry->config == NULL ||
			!SearchSysCacheExists1(FOREIGNSERVEROID,
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
	entry->config = NULL;
	entry->generation = 0;
	return entry;
}

/*
 * Is what an entry holds still good?  What came from a file is so for a
 * while only, and not after a clock was set back.
 */
static bool
cache_entry_is_fresh(const CacheEntry *entry)
{
	const UpstreamConfig *config = entry->config;
	TimestampTz now;

	if (config == NULL || entry->generation != cache_generation)
		return false;
	if (config->values.ca_file == NULL && config->values.api_key_file == NULL)
		return true;
	now = GetCurrentTimestamp();
	return now >= config->read_at &&
		!TimestampDifferenceExceeds(config->read_at, now, FILE_MAX_AGE);
}

/*
 * Build an entry's content anew, from a server as of the given generation.
 * Nothing can fail once the old content is touched.
 */
static void
cache_fill(CacheEntry *entry, HeapTuple server, uint64 generation)
{
	UpstreamConfig *old = entry->config;
	UpstreamConfig *config = config_build(server, entry->key.userid);
	ServerSettings *upstream = &config->values.upstream;

	if (old != NULL && same_content(&old->values.upstream, upstream))
		upstream->id = old->values.upstream.id;
	else
		upstream->id = ++last_id;

	MemoryContextSetParent(config->context, cache_context);
	entry->config = config;
	entry->generation = generation;
	if (old != NULL)
		MemoryContextDelete(old->context);
}

/*
 * What a request of role "userid" to the server of this name needs.  Must be
 * called in a transaction.  The result is good until the next call into this
 * room or the next wait; its id stays the same as long as its content does
 * (unless the cache had to be emptied), so a caller can tell by it whether
 * what he derived from an earlier result still holds.
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

	Assert(IsTransactionState());

	/*
	 * The generation is read before the catalog, so that a change in between
	 * leaves the entry stale rather than wrong.
	 */
	cache_init();
	generation = cache_generation;
	tuple = SearchSysCache1(FOREIGNSERVERNAME, CStringGetDatum(server_name));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", server_name),
				 errhint("Use CREATE SERVER %s FOREIGN DATA WRAPPER %s.",
						 quote_identifier(server_name), OPTION_EXTENSION)));
	server = (Form_pg_foreign_server) GETSTRUCT(tuple);

	if (compat_server_aclcheck(server->oid, userid, ACL_USAGE) !=
		ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER,
					   NameStr(server->srvname));

	entry = cache_enter(server->oid, userid);
	if (cache_entry_is_fresh(entry))
		config_check_owner(entry->config, tuple);
	else
		cache_fill(entry, tuple, generation);
	ReleaseSysCache(tuple);
	return &entry->config->values.upstream;
}

/*
 * Have the API key read again at the next server_settings_get(), however young it
 * is: the gateway has refused it, perhaps since the file has a new one.
 * Returns false if the key does not come from a file, so that there is
 * nothing to be gained by asking again; otherwise the id of the next result
 * tells whether there was.
 */
bool
upstream_forget(Oid serverid, Oid userid)
{
	CacheKey	key = {serverid, userid};
	CacheEntry *entry;

	if (cache == NULL)
		return false;
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry == NULL || entry->config == NULL ||
		entry->config->values.api_key_file == NULL)
		return false;
	watch_begin(entry->config->values.api_key_file, &entry->config->key_look,
				true);
	entry->generation = 0;
	return true;
}

/* Has any file been in trouble lately, so that it is worth being looked at? */
bool
upstream_watches_files(void)
{
	return watch_any();
}

/*
 * Has a file that was in trouble changed?  Then what was had from files is
 * read again at the next server_settings_get().
 */
bool
upstream_files_changed(void)
{
	if (!watch_changed())
		return false;
	cache_generation++;
	return true;
}

/*
 * Raise 22023 unless this is a task id.  Quotes it only if that is short and
 * cannot garble the log.
 */
void
upstream_check_task_id(const char *task_id, size_t len)
{
	bool		quotable = (len <= 64);

	if (validate_task_id(task_id, len))
		return;
	for (size_t i = 0; i < len && quotable; i++)
		quotable = (task_id[i] >= ' ' && task_id[i] <= '~');
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 quotable ? errmsg("invalid task id \"%.*s\"", (int) len, task_id) :
						errmsg("invalid task id"),
			 errdetail("A task id has 1 to %d characters of [0-9A-Za-z_.-] and is neither \".\" nor \"..\".",
					   MAX_TASK_ID_LENGTH)));
}
