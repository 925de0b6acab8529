/*-------------------------------------------------------------------------
 *
 * upstream.c
 *		Where to ask and as whom.
 *
 * A foreign server of our wrapper says where to ask and within which limits;
 * a user mapping says with which API key.  Here live the wrapper's validator,
 * the only parser of these options, and a cache, private to the process, of
 * what they amount to for one role on one server.  The rule for task ids is
 * here too, since a task id becomes part of the URL.
 *
 * No request is sent from here and libcurl is not used: a URL that passes
 * url_parse() is one that every URL parser reads alike.
 *
 * What guards a secret:
 *
 * - USAGE on the server is checked each time the server is asked for, never
 *	 remembered.
 *
 * - Only a superuser or a member of pg_read_server_files may name a file of
 *	 the server machine.  A validator sees the options as they will be, not
 *	 as they were.  For a mapping that is enough: to keep api_key_file while
 *	 altering anything is to set it.  A server has other options that its
 *	 owner may want to alter, so he may keep a ca_file that a privileged role
 *	 chose: one that a server of his already has.
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

#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "upstream.h"

/* The extension, and the wrapper that its script creates. */
#define UPSTREAM_EXTENSION "anyvod"

/* Longest API key, in bytes: nginx refuses header lines of more than 8 kB. */
#define MAX_API_KEY 4096

/* Longest URL, in bytes; a task's path is appended to it. */
#define MAX_URL 2048

/* Longest host name, in bytes (RFC 1035, 2.3.4). */
#define MAX_HOST 253

/* Largest key file: the longest key and the end of its line. */
#define MAX_API_KEY_FILE (MAX_API_KEY + 2)

/* Largest CA file, in bytes: four times Debian's bundle of all public CAs. */
#define MAX_CA_FILE (1024 * 1024)

/* How old the content of a file may be, in milliseconds. */
#define FILE_MAX_AGE 60000

/* What the cache may hold; beyond that it starts afresh. */
#define CACHE_MAX_ENTRIES 1000
#define CACHE_MAX_BYTES (64 * 1024 * 1024)

/* The longest duration that an option takes: a day, in milliseconds. */
#define MAX_DURATION (24 * 60 * 60 * 1000)

/*
 * The options of one server and one mapping, or of one of them while it is
 * being validated.
 */
typedef struct UpstreamConfig
{
	Upstream	upstream;
	char	   *ca_file;		/* path, or NULL */
	char	   *api_key_file;	/* path, or NULL */
	TimestampTz read_at;		/* when reading the files began */
	size_t		secret_size;	/* bytes at upstream.api_key to wipe */
	MemoryContext context;		/* holds this struct and what it points to */
	MemoryContextCallback wipe; /* overwrites the key when that goes */
} UpstreamConfig;

typedef enum OptionKind
{
	OPTION_INTEGER,				/* int, in the unit that "unit" names */
	OPTION_REAL,				/* double */
	OPTION_BASE_URL,			/* char *, as are those below */
	OPTION_PROXY,
	OPTION_API_KEY,
	OPTION_FILE,				/* absolute path on the server machine */
} OptionKind;

typedef struct UpstreamOption
{
	const char *name;
	Oid			catalog;		/* of the object that takes it */
	OptionKind	kind;
	size_t		offset;			/* of its field in UpstreamConfig */
	int			unit;			/* GUC_UNIT_*, or 0 */
	double		min;
	double		max;
	const char *rule;			/* what a good value is, a sentence */
} UpstreamOption;

#define FIELD(f) offsetof(UpstreamConfig, f)
#define DURATION_RULE \
	"The value must be a time from 1 ms to 1 day: milliseconds, or a number with a unit, as in \"30s\"."
#define HOST_RULE \
	"The host in a URL must be a name of ASCII letters, digits, \"-\", \"_\" and \".\", or an address."
#define FILE_RULE \
	"The value must be the absolute path of a file on the database server."

static const UpstreamOption upstream_options[] = {
	{"base_url", ForeignServerRelationId, OPTION_BASE_URL,
	 FIELD(upstream.base_url), 0, 0, 0, NULL},
	{"timeout", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(upstream.timeout), GUC_UNIT_MS, 1, MAX_DURATION, DURATION_RULE},
	{"connect_timeout", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(upstream.connect_timeout), GUC_UNIT_MS, 1, MAX_DURATION,
	 DURATION_RULE},
	{"rate_limit", ForeignServerRelationId, OPTION_REAL,
	 FIELD(upstream.rate_limit), 0, 0.001, 100000,
	 "The value must be a number of requests a second from 0.001 to 100000."},
	{"max_concurrency", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(upstream.max_concurrency), 0, 1, 10000,
	 "The value must be a number of requests from 1 to 10000."},
	{"max_response_size", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(upstream.max_response_size), GUC_UNIT_BYTE,
	 1024, 64 * 1024 * 1024,
	 "The value must be a size from 1 kB to 64 MB: bytes, or a number with a unit, as in \"16MB\"."},
	{"ca_file", ForeignServerRelationId, OPTION_FILE,
	 FIELD(ca_file), 0, 0, 0, FILE_RULE},
	{"proxy", ForeignServerRelationId, OPTION_PROXY,
	 FIELD(upstream.proxy), 0, 0, 0, NULL},
	{"api_key", UserMappingRelationId, OPTION_API_KEY,
	 FIELD(upstream.api_key), 0, 0, 0,
	 "An API key has 1 to 4096 visible ASCII characters and no blank."},
	{"api_key_file", UserMappingRelationId, OPTION_FILE,
	 FIELD(api_key_file), 0, 0, 0, FILE_RULE},
};

/* What url_parse() finds out. */
typedef struct UrlParts
{
	bool		https;			/* else http */
	bool		has_port;
	bool		has_path;		/* more than "/" */
	char		host[MAX_HOST + 1]; /* of an IPv6 address, without brackets */
} UrlParts;

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

/* The last Upstream.id given out. */
static uint64 last_id = 0;

PG_FUNCTION_INFO_V1(anyvod_fdw_validator);


/*
 * What follows the host in a URL: nothing, or a colon and a port number.
 * Returns NULL, or what is wrong with it.
 */
static const char *
url_parse_port(UrlParts *parts, const char *port, size_t len)
{
	int			number = 0;

	if (len == 0)
		return NULL;
	for (size_t i = 1; i < len && number <= 65535; i++)
	{
		if (port[i] < '0' || port[i] > '9')
			return "The port in a URL must be a number from 1 to 65535.";
		number = number * 10 + (port[i] - '0');
	}
	if (port[0] != ':' || number < 1 || number > 65535)
		return "The port in a URL must be a number from 1 to 65535.";
	parts->has_port = true;
	return NULL;
}

/*
 * The host and port of a URL.  Returns NULL, or what is wrong with them.  An
 * underscore is no character of a host name by the letter, but container
 * networks use it.
 */
static const char *
url_parse_host(UrlParts *parts, const char *authority, size_t len)
{
	static const char name[] = "0123456789abcdefghijklmnopqrstuvwxyz"
							   "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.";
	const char *end = authority + len;
	const char *host = authority;
	const char *host_end;
	struct in6_addr address;
	bool		ipv6 = (len > 0 && *host == '[');

	if (ipv6)
		host_end = memchr(++host, ']', len - 1);
	else
		host_end = memchr(host, ':', len);
	if (host_end == NULL)
		host_end = end;
	if (host_end == host)
		return "A URL must have a host.";
	if (host_end - host > MAX_HOST)
		return "The host in a URL has at most 253 bytes.";
	strlcpy(parts->host, host, host_end - host + 1);

	if (ipv6)
	{
		if (host_end == end || inet_pton(AF_INET6, parts->host, &address) != 1)
			return HOST_RULE;
		host_end++;
	}
	else if (strspn(parts->host, name) != strlen(parts->host) ||
			 parts->host[0] == '.' || strstr(parts->host, "..") != NULL)
		return HOST_RULE;

	return url_parse_port(parts, host_end, end - host_end);
}

/*
 * Fill "parts" from an http or https URL.  Returns NULL, or why the URL is
 * refused: a sentence that does not quote it, since it may hold a password.
 *
 * Strict on purpose.  Two parsers that read one URL differently are how a
 * request reaches a host that nobody named, and what stands behind this one
 * is libcurl's, which changes from version to version.  So a host is a plain
 * ASCII name or an address, and nothing has to be decoded or guessed.
 */
static const char *
url_parse(const char *url, UrlParts *parts)
{
	const char *authority;
	const char *path;
	const char *reason;

	memset(parts, 0, sizeof(*parts));
	if (strlen(url) > MAX_URL)
		return "A URL has at most 2048 bytes.";
	if (pg_strncasecmp(url, "https://", 8) == 0)
		parts->https = true;
	else if (pg_strncasecmp(url, "http://", 7) != 0)
		return "A URL starts with \"https://\" or \"http://\".";
	authority = url + (parts->https ? 8 : 7);
	path = authority + strcspn(authority, "/?#");

	if (memchr(authority, '@', path - authority) != NULL)
		return "A URL must not contain a user name or password.";
	if (strpbrk(path, "?#") != NULL)
		return "A URL must not have a query or fragment.";
	reason = url_parse_host(parts, authority, path - authority);
	if (reason != NULL)
		return reason;
	for (const char *p = path; *p != '\0'; p++)
	{
		if (*p <= ' ' || *p > '~' || strchr("\"<>\\^`{|}", *p) != NULL)
			return "A URL must not contain blanks, control characters, backslashes or other characters that need encoding.";
		if (*p == '%' &&
			!(isxdigit((unsigned char) p[1]) &&
			  isxdigit((unsigned char) p[2])))
			return "In a URL, \"%\" must be followed by two hexadecimal digits.";
	}
	parts->has_path = (path[strspn(path, "/")] != '\0');
	return NULL;
}

/*
 * Does what is sent to this host stay on this machine?  Numbers that only
 * some resolvers take for a loopback address (0x7f.1) do not count.
 */
static bool
url_host_is_loopback(const char *host)
{
	size_t		len = strlen(host);
	struct in_addr v4;
	struct in6_addr v6;

	if (pg_strcasecmp(host, "localhost") == 0)
		return true;
	if (len > 10 && pg_strcasecmp(host + len - 10, ".localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&v6);
	return false;
}

/*
 * May this be sent in a header?  "key" need not end with a NUL.
 */
static bool
api_key_is_valid(const char *key, size_t len)
{
	if (len < 1 || len > MAX_API_KEY)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (key[i] <= ' ' || key[i] > '~')
			return false;
	}
	return true;
}

/*
 * The number that an option's value stands for.  Raises 22023; numbers are
 * the only values that a message quotes.
 */
static double
option_number(const UpstreamOption *option, const char *value)
{
	const char *hint = NULL;
	double		number = 0;
	int			integer;
	bool		ok;

	if (option->kind == OPTION_INTEGER)
	{
		ok = parse_int(value, &integer, option->unit, &hint);
		if (ok)
			number = integer;
	}
	else
		ok = parse_real(value, &number, option->unit, &hint);

	if (!ok || number < option->min || number > option->max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"",
						option->name, value),
				 errdetail_internal("%s", option->rule),
				 hint != NULL ? errhint("%s", _(hint)) : 0));
	return number;
}

/*
 * Raise 22023 unless the value is a URL that this option takes.
 */
static void
option_check_url(const UpstreamOption *option, const char *value)
{
	UrlParts	parts;
	const char *reason = url_parse(value, &parts);

	/*
	 * Without a port libcurl would take 1080 for an http proxy, which nobody
	 * expects, and a path has no meaning.
	 */
	if (reason == NULL && option->kind == OPTION_PROXY)
	{
		if (!parts.has_port)
			reason = "The URL of a proxy must have a port, as in \"http://proxy.example.com:3128\".";
		else if (parts.has_path)
			reason = "The URL of a proxy must not have a path.";
	}
	if (reason != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", option->name),
				 errdetail_internal("%s", reason)));
}

/*
 * Store the value of an option in its field.  "value" is kept, not copied,
 * so that there is one copy of a key to wipe.  Raises 22023.
 */
static void
option_store(const UpstreamOption *option, char *value, UpstreamConfig *config)
{
	void	   *field = (char *) config + option->offset;
	size_t		len = strlen(value);
	bool		ok = true;

	switch (option->kind)
	{
		case OPTION_INTEGER:
			*(int *) field = (int) option_number(option, value);
			return;
		case OPTION_REAL:
			*(double *) field = option_number(option, value);
			return;
		case OPTION_BASE_URL:
		case OPTION_PROXY:
			option_check_url(option, value);
			while (value[len - 1] == '/')
				value[--len] = '\0';
			break;
		case OPTION_API_KEY:
			config->secret_size = len;
			ok = api_key_is_valid(value, len);
			break;
		case OPTION_FILE:
			ok = is_absolute_path(value) && len < MAXPGPATH;
			break;
	}
	*(char **) field = value;
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", option->name),
				 errdetail_internal("%s", option->rule)));
}

/*
 * The option of this name and catalog, or NULL.
 */
static const UpstreamOption *
option_find(const char *name, Oid catalog)
{
	for (size_t i = 0; i < lengthof(upstream_options); i++)
	{
		const UpstreamOption *option = &upstream_options[i];

		if (option->catalog == catalog && strcmp(option->name, name) == 0)
			return option;
	}
	return NULL;
}

/*
 * The option of this catalog that "name" was most likely meant to be, or
 * NULL.  Bounds as in PostgreSQL's own suggestions: at most 4 edits and at
 * most half of the letters.
 */
static const char *
option_nearest(const char *name, Oid catalog)
{
	const char *nearest = NULL;
	int			len = (int) strlen(name);
	int			bound = Min(4, len / 2);

	for (size_t i = 0; i < lengthof(upstream_options); i++)
	{
		const UpstreamOption *option = &upstream_options[i];
		int			distance;

		if (option->catalog != catalog)
			continue;
		distance = varstr_levenshtein_less_equal(name, len, option->name,
												 (int) strlen(option->name),
												 1, 1, 1, bound, true);
		if (distance <= bound)
		{
			nearest = option->name;
			bound = distance - 1;
		}
	}
	return nearest;
}

/*
 * Refuse an option that objects of this catalog do not have, and say what
 * may have been meant.
 */
static void
option_refuse_unknown(const char *name, Oid catalog)
{
	const char *nearest = option_nearest(name, catalog);
	const char *hint;
	StringInfoData list;

	initStringInfo(&list);
	for (size_t i = 0; i < lengthof(upstream_options); i++)
	{
		if (upstream_options[i].catalog == catalog)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
							 upstream_options[i].name);
	}

	if (option_find(name, UserMappingRelationId) != NULL)
		hint = psprintf("The option \"%s\" belongs to a user mapping.", name);
	else if (option_find(name, ForeignServerRelationId) != NULL)
		hint = psprintf("The option \"%s\" belongs to a server.", name);
	else if (nearest != NULL)
		hint = psprintf("Perhaps you meant the option \"%s\".", nearest);
	else if (list.len > 0)
		hint = psprintf("Valid options in this context are: %s.", list.data);
	else
		hint = "There are no valid options in this context.";

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 errhint("%s", hint)));
}

/*
 * Is this wrapper ours?  By membership in the extension: a name says nothing,
 * and servers of another wrapper have options that nobody validated for us.
 */
static bool
wrapper_is_ours(Oid fdwid)
{
	Oid			extension;
	char	   *name;

	extension = getExtensionOfObject(ForeignDataWrapperRelationId, fdwid);
	if (!OidIsValid(extension))
		return false;
	name = get_extension_name(extension);
	return name != NULL && strcmp(name, UPSTREAM_EXTENSION) == 0;
}

/*
 * May this role read files of the server machine?  True of superusers too.
 */
static bool
role_reads_files(Oid roleid)
{
	return has_privs_of_role(roleid, ROLE_PG_READ_SERVER_FILES);
}

/*
 * What an options column of a catalog holds, as a list of DefElem.
 */
static List *
config_catalog_options(SysCacheIdentifier cacheid, HeapTuple tuple,
					   AttrNumber column)
{
	bool		isnull;
	Datum		options = SysCacheGetAttr(cacheid, tuple, column, &isnull);

	return isnull ? NIL : untransformRelOptions(options);
}

static void
config_set_defaults(UpstreamConfig *config)
{
	Upstream   *upstream = &config->upstream;

	memset(config, 0, sizeof(*config));
	upstream->base_url = pstrdup(UPSTREAM_BASE_URL);
	upstream->timeout = UPSTREAM_TIMEOUT;
	upstream->connect_timeout = UPSTREAM_CONNECT_TIMEOUT;
	upstream->rate_limit = UPSTREAM_RATE_LIMIT;
	upstream->max_concurrency = UPSTREAM_MAX_CONCURRENCY;
	upstream->max_response_size = UPSTREAM_MAX_RESPONSE_SIZE;
}

/*
 * Store the options of an object of this catalog.  Raises HV00D, 22023.
 */
static void
config_store_options(UpstreamConfig *config, List *options, Oid catalog)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const UpstreamOption *option = option_find(def->defname, catalog);

		if (option == NULL)
			option_refuse_unknown(def->defname, catalog);
		else
			option_store(option, defGetString(def), config);
	}
}

/*
 * Rules between the options of one object.  Raises 22023.
 */
static void
config_check(const UpstreamConfig *config)
{
	const Upstream *upstream = &config->upstream;

	if (upstream->api_key != NULL && config->api_key_file != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"%s\" and \"%s\" exclude each other",
						"api_key", "api_key_file"),
				 errhint("Drop the one when you add the other: OPTIONS (DROP api_key, ADD api_key_file '...').")));

	/*
	 * With an http base URL the proxy would be handed the API key, whatever
	 * lies between.
	 */
	if (upstream->proxy != NULL &&
		pg_strncasecmp(upstream->base_url, "https:", 6) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" requires a base URL with https", "proxy"),
				 errdetail("The proxy could read the API key of each request.")));
}

/*
 * Has a server that the current user owns this ca_file already?
 */
static bool
config_keeps_ca_file(const char *ca_file)
{
	Relation	rel = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		kept = false;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!kept && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server server;
		List	   *options;
		ListCell   *cell;

		server = (Form_pg_foreign_server) GETSTRUCT(tuple);
		if (!has_privs_of_role(GetUserId(), server->srvowner) ||
			!wrapper_is_ours(server->srvfdw))
			continue;
		options = config_catalog_options(FOREIGNSERVEROID, tuple,
										 Anum_pg_foreign_server_srvoptions);
		foreach(cell, options)
		{
			DefElem    *def = lfirst_node(DefElem, cell);

			if (strcmp(def->defname, "ca_file") == 0 &&
				strcmp(defGetString(def), ca_file) == 0)
				kept = true;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return kept;
}

/*
 * Raise 42501 if the current user may not name the files that are named.
 */
static void
config_check_files(const UpstreamConfig *config)
{
	const char *option = NULL;

	if (role_reads_files(GetUserId()))
		return;
	if (config->api_key_file != NULL)
		option = "api_key_file";
	else if (config->ca_file != NULL && !config_keeps_ca_file(config->ca_file))
		option = "ca_file";
	if (option != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", option),
				 errhint("Only a superuser or a member of pg_read_server_files may name a file of the database server.")));
}

/*
 * Warn if an API key would be readable on its way.
 */
static void
config_warn_cleartext(const UpstreamConfig *config)
{
	UrlParts	parts;

	if (url_parse(config->upstream.base_url, &parts) != NULL ||
		parts.https || url_host_is_loopback(parts.host))
		return;
	ereport(WARNING,
			(errmsg("the API key will be sent unencrypted"),
			 errdetail("The base URL starts with \"http://\" and its host is not this machine."),
			 errhint("Use a base URL with https.")));
}

/*
 * anyvod_fdw_validator(options text[], catalog oid) returns void
 *
 * Called by CREATE and ALTER with all options that the object will have.
 * There is no handler, so a foreign table could be created but never read:
 * it is refused here, where it can be said what to use instead.
 */
Datum
anyvod_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	UpstreamConfig config;

	if (catalog == ForeignTableRelationId || catalog == AttributeRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign-data wrapper \"%s\" does not support foreign tables",
						UPSTREAM_EXTENSION),
				 errhint("Ask with anyvod_query(), or insert into anyvod_tasks.")));

	config_set_defaults(&config);
	config_store_options(&config, options, catalog);
	config_check(&config);
	config_check_files(&config);
	if (catalog == ForeignServerRelationId)
		config_warn_cleartext(&config);

	PG_RETURN_VOID();
}

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

	if (config->api_key_file == NULL || role_reads_files(server->srvowner))
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
	Upstream   *upstream = &config->upstream;
	size_t		len;

	config->read_at = GetCurrentTimestamp();
	if (config->ca_file != NULL)
	{
		char	   *pem = file_read("ca_file", config->ca_file, MAX_CA_FILE,
									&len);

		if (len == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the file of option \"%s\" is empty", "ca_file"),
					 file_detail(config->ca_file)));
		upstream->ca_pem = repalloc(pem, len + 1);
		upstream->ca_pem_len = len;
	}
	if (config->api_key_file != NULL)
	{
		upstream->api_key = file_read("api_key_file", config->api_key_file,
									  MAX_API_KEY_FILE, &len);
		config->secret_size = len;
		while (len > 0 &&
			   (upstream->api_key[len - 1] == '\n' ||
				upstream->api_key[len - 1] == '\r'))
			upstream->api_key[--len] = '\0';
		if (!api_key_is_valid(upstream->api_key, len))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid API key in the file of option \"%s\"",
							"api_key_file"),
					 errdetail("An API key has 1 to 4096 visible ASCII characters and no blank."),
					 file_detail(config->api_key_file)));
	}
}

/*
 * Take the options of the role's mapping, else of PUBLIC's, else none.
 */
static void
config_read_mapping(UpstreamConfig *config)
{
	Upstream   *upstream = &config->upstream;
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
	options = config_catalog_options(USERMAPPINGUSERSERVER, mapping,
									 Anum_pg_user_mapping_umoptions);
	config_store_options(config, options, UserMappingRelationId);
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

	if (!wrapper_is_ours(server->srvfdw))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not an anyvod server",
						NameStr(server->srvname)),
				 errhint("Use a server that was created with FOREIGN DATA WRAPPER %s.",
						 UPSTREAM_EXTENSION)));

	config->upstream.serverid = server->oid;
	config->upstream.server_name = pstrdup(NameStr(server->srvname));
	options = config_catalog_options(FOREIGNSERVERNAME, tuple,
									 Anum_pg_foreign_server_srvoptions);
	config_store_options(config, options, ForeignServerRelationId);
}

/*
 * Memory context callback: overwrite the key before its memory is freed.
 */
static void
config_wipe(void *arg)
{
	UpstreamConfig *config = (UpstreamConfig *) arg;

	if (config->upstream.api_key != NULL)
		explicit_bzero(config->upstream.api_key, config->secret_size);
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

	config_set_defaults(config);
	config->context = context;
	config->wipe.func = config_wipe;
	config->wipe.arg = config;
	MemoryContextRegisterResetCallback(context, &config->wipe);

	config->upstream.userid = userid;
	config_read_server(config, server);
	config_read_mapping(config);
	config_check(config);
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
same_content(const Upstream *a, const Upstream *b)
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
		Oid			umid = entry->config ? entry->config->upstream.umid :
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
	if (config->ca_file == NULL && config->api_key_file == NULL)
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

	if (old != NULL && same_content(&old->upstream, &config->upstream))
		config->upstream.id = old->upstream.id;
	else
		config->upstream.id = ++last_id;

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
const Upstream *
upstream_get(const char *server_name, Oid userid)
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
						 quote_identifier(server_name), UPSTREAM_EXTENSION)));
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
	return &entry->config->upstream;
}

/*
 * Have the API key read again at the next upstream_get(), however young it
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
		entry->config->api_key_file == NULL)
		return false;
	entry->generation = 0;
	return true;
}

/*
 * Is this a task id?  It becomes a segment of the URL's path, so only
 * characters that mean nothing there are let in, and no dot segment.
 */
bool
upstream_task_id_valid(const char *task_id, size_t len)
{
	if (len < 1 || len > UPSTREAM_MAX_TASK_ID)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = task_id[i];

		if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
			  (c >= 'a' && c <= 'z') || c == '_' || c == '.' || c == '-'))
			return false;
	}
	return !(len == 1 && task_id[0] == '.') &&
		!(len == 2 && task_id[0] == '.' && task_id[1] == '.');
}

/*
 * Raise 22023 unless this is a task id.  Quotes it only if that is short and
 * cannot garble the log.
 */
void
upstream_check_task_id(const char *task_id, size_t len)
{
	bool		quotable = (len <= 64);

	if (upstream_task_id_valid(task_id, len))
		return;
	for (size_t i = 0; i < len && quotable; i++)
		quotable = (task_id[i] >= ' ' && task_id[i] <= '~');
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 quotable ? errmsg("invalid task id \"%.*s\"", (int) len, task_id) :
						errmsg("invalid task id"),
			 errdetail("A task id has 1 to %d characters of [0-9A-Za-z_.-] and is neither \".\" nor \"..\".",
					   UPSTREAM_MAX_TASK_ID)));
}
