/*-------------------------------------------------------------------------
 *
 * options.c
 *		The options of servers and user mappings.
 *
 * Which there are, which values they take, and what must hold between them:
 * the wrapper's validator, and the only parser of these options, so that what
 * was validated and what is used later are the same.
 *
 * Only a superuser or a member of pg_read_server_files may name a file of the
 * server machine.  A validator sees the options as they will be, not as they
 * were.  For a mapping that is enough: to keep api_key_file while altering
 * anything is to set it.  A server has other options that its owner may want
 * to alter, so the owner may keep a ca_file that a privileged role chose: one
 * that a server of the same owner already has.
 *
 * No message quotes an API key or a URL.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "server/internal.h"
#include "server/validate.h"

/* The longest duration that an option takes: a day, in milliseconds. */
#define MAX_DURATION (24 * 60 * 60 * 1000)

typedef enum OptionKind
{
	OPTION_INTEGER,				/* int, in the unit that "unit" names */
	OPTION_REAL,				/* double */
	OPTION_URL,					/* char *, as are those below */
	OPTION_PROXY,
	OPTION_API_KEY,
	OPTION_FILE,				/* absolute path on the server machine */
} OptionKind;

typedef struct Option
{
	const char *name;
	Oid			catalog;		/* of the object that takes it */
	OptionKind	kind;
	size_t		offset;			/* of its field in ServerSettings */
	int			unit;			/* GUC_UNIT_*, or 0 */
	double		min;
	double		max;
	const char *rule;			/* what a good value is, a sentence */
} Option;

#define FIELD(f) offsetof(ServerSettings, f)
#define DURATION_RULE \
	"The value must be a time from 1 ms to 1 day: milliseconds, or a number with a unit, as in \"30s\"."
#define FILE_RULE \
	"The value must be the absolute path of a file on the database server."

static const Option known_options[] = {
	{"base_url", ForeignServerRelationId, OPTION_URL,
	 FIELD(base_url), 0, 0, 0, NULL},
	{"timeout", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(timeout), GUC_UNIT_MS, 1, MAX_DURATION, DURATION_RULE},
	{"connect_timeout", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(connect_timeout), GUC_UNIT_MS, 1, MAX_DURATION,
	 DURATION_RULE},
	{"rate_limit", ForeignServerRelationId, OPTION_REAL,
	 FIELD(rate_limit), 0, 0.001, 100000,
	 "The value must be a number of requests a second from 0.001 to 100000."},
	{"max_concurrency", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(max_concurrency), 0, 1, 10000,
	 "The value must be a number of requests from 1 to 10000."},
	{"max_response_size", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(max_response_size), GUC_UNIT_BYTE,
	 1024, 64 * 1024 * 1024,
	 "The value must be a size from 1 kB to 64 MB: bytes, or a number with a unit, as in \"16MB\"."},
	{"ca_file", ForeignServerRelationId, OPTION_FILE,
	 FIELD(ca_file), 0, 0, 0, FILE_RULE},
	{"proxy", ForeignServerRelationId, OPTION_PROXY,
	 FIELD(proxy), 0, 0, 0, NULL},
	{"api_key", UserMappingRelationId, OPTION_API_KEY,
	 FIELD(api_key), 0, 0, 0,
	 API_KEY_RULE},
	{"api_key_file", UserMappingRelationId, OPTION_FILE,
	 FIELD(api_key_file), 0, 0, 0, FILE_RULE},
};

const ServerSettings option_defaults = {
	.base_url = SERVER_BASE_URL,
	.timeout = SERVER_TIMEOUT,
	.connect_timeout = SERVER_CONNECT_TIMEOUT,
	.rate_limit = SERVER_RATE_LIMIT,
	.max_concurrency = SERVER_MAX_CONCURRENCY,
	.max_response_size = SERVER_MAX_RESPONSE_SIZE,
};

PG_FUNCTION_INFO_V1(anyvod_fdw_validator);


/*
 * Is this wrapper ours?  By membership in the extension: a name says nothing,
 * and servers of another wrapper have options that nobody validated for us.
 * One that was found to be stays so: only a superuser could change it.
 */
bool
option_wrapper_is_ours(Oid fdwid)
{
	static Oid	ours = InvalidOid;
	Oid			extension;
	char	   *name;

	if (OidIsValid(ours) && fdwid == ours)
		return true;
	extension = getExtensionOfObject(ForeignDataWrapperRelationId, fdwid);
	name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	if (name == NULL || strcmp(name, OPTION_EXTENSION) != 0)
		return false;
	ours = fdwid;
	return true;
}

/*
 * Refuse an option that objects of this catalog do not have, and say what may
 * have been meant: the nearest name, with bounds as in PostgreSQL's own
 * suggestions, at most 4 edits and at most half of the letters.
 */
static void
refuse_unknown(const char *name, Oid catalog, int level)
{
	const char *nearest = NULL;
	const char *owner = NULL;
	int			len = (int) strlen(name);
	int			bound = Min(4, len / 2);
	StringInfoData list;

	initStringInfo(&list);
	for (size_t i = 0; i < lengthof(known_options); i++)
	{
		const Option *option = &known_options[i];
		int			distance;

		if (option->catalog != catalog)
		{
			if (strcmp(option->name, name) == 0)
				owner = option->catalog == UserMappingRelationId ?
					"user mapping" :
					"server";
			continue;
		}
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", option->name);
		distance = varstr_levenshtein_less_equal(name, len, option->name,
												 (int) strlen(option->name),
												 1, 1, 1, bound, true);
		if (distance <= bound)
		{
			nearest = option->name;
			bound = distance - 1;
		}
	}

	ereport(level,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 owner            ? errhint("The option \"%s\" belongs to a %s.", name, owner) :
				 nearest      ? errhint("Perhaps you meant the option \"%s\".", nearest) :
				 list.len > 0 ? errhint("Valid options in this context are: %s.",
										list.data) :
								errhint("There are no valid options in this context.")));
}

/*
 * Store the value of an option in its field.  "value" is kept, not copied,
 * so that there is one copy of a key to wipe.  Numbers are the only values
 * that a message quotes.
 */
static bool
store_value(ServerSettings *settings, const Option *option, char *value,
			int level)
{
	void	   *field = (char *) settings + option->offset;
	size_t		len = strlen(value);
	const char *reason = option->rule;
	const char *hint = NULL;
	bool		quotable = false;
	bool		ok = false;
	double		number = 0;
	UrlParts	parts;

	switch (option->kind)
	{
		case OPTION_INTEGER:
			ok = parse_int(value, field, option->unit, &hint);
			number = *(int *) field;
			quotable = true;
			break;
		case OPTION_REAL:
			ok = parse_real(value, &number, option->unit, &hint);
			*(double *) field = number;
			quotable = true;
			break;
		case OPTION_URL:
		case OPTION_PROXY:
			reason = option->kind == OPTION_URL ?
				validate_url(value, &parts) :
				validate_proxy(value, &parts);
			ok = (reason == NULL);
			while (ok && value[len - 1] == '/')
				value[--len] = '\0';
			*(char **) field = value;
			break;
		case OPTION_API_KEY:
			ok = validate_api_key(value, len);
			hint = validate_key_hint(value, len);
			*(char **) field = value;
			break;
		case OPTION_FILE:
			ok = is_absolute_path(value) && len < MAXPGPATH;
			*(char **) field = value;
			break;
	}
	if (ok && (!quotable || (number >= option->min && number <= option->max)))
		return true;
	ereport(level,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 quotable ? errmsg("invalid value for option \"%s\": \"%s\"",
							   option->name, value) :
						errmsg("invalid value for option \"%s\"", option->name),
			 errdetail_internal("%s", reason),
			 hint != NULL ? errhint("%s", _(hint)) : 0));
	return false;
}

/*
 * Store the options of an object of this catalog, and check what must hold
 * between them.  If something is wrong, reports HV00D or 22023 at "level" and
 * returns false.
 */
static bool
store_options(ServerSettings *settings, List *options, Oid catalog, int level)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const Option *option = known_options;
		const Option *end = known_options + lengthof(known_options);

		while (option < end &&
			   (option->catalog != catalog ||
				strcmp(option->name, def->defname) != 0))
			option++;
		if (option == end)
		{
			refuse_unknown(def->defname, catalog, level);
			return false;
		}
		if (!store_value(settings, option, defGetString(def), level))
			return false;
	}

	if (settings->api_key != NULL && settings->api_key_file != NULL)
	{
		ereport(level,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"%s\" and \"%s\" exclude each other",
						"api_key", "api_key_file"),
				 errhint("Drop the one when you add the other: OPTIONS (DROP api_key, ADD api_key_file '...').")));
		return false;
	}
	if (settings->proxy != NULL &&
		pg_strncasecmp(settings->base_url, "https:", 6) != 0)
	{
		ereport(level,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" requires a base URL with https", "proxy"),
				 errdetail("The proxy could read the API key of each request.")));
		return false;
	}
	return true;
}

/*
 * option_read
 *		Take what the options of a server or mapping say into "settings", and
 *		combine their hash with its id.
 *
 * They were validated when they were set, maybe by another version of this
 * library.  If something is wrong, reports HV00D or 22023 at "level" and
 * returns false.
 */
bool
option_read(ServerSettings *settings, Oid catalog, HeapTuple tuple, int level)
{
	bool		is_server = (catalog == ForeignServerRelationId);
	List	   *list = NIL;
	bool		isnull;
	Datum		options;
	ArrayType  *array;

	options = SysCacheGetAttr(is_server ? FOREIGNSERVEROID : USERMAPPINGOID,
							  tuple,
							  is_server ? Anum_pg_foreign_server_srvoptions :
										  Anum_pg_user_mapping_umoptions,
							  &isnull);
	if (!isnull)
	{
		/* a copy in any case, so that a key in it can be overwritten */
		array = DatumGetArrayTypePCopy(options);
		settings->id = hash_bytes_extended((unsigned char *) array,
										   VARSIZE(array), settings->id);
		list = untransformRelOptions(PointerGetDatum(array));
		explicit_bzero(array, VARSIZE(array));
		pfree(array);
	}
	return store_options(settings, list, catalog, level);
}

/*
 * Has a server that the current user owns this ca_file already?
 */
static bool
keeps_ca_file(const char *ca_file)
{
	Relation	rel = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		kept = false;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!kept && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server server;
		ServerSettings settings = option_defaults;

		server = (Form_pg_foreign_server) GETSTRUCT(tuple);
		kept = has_privs_of_role(GetUserId(), server->srvowner) &&
			option_wrapper_is_ours(server->srvfdw) &&
			option_read(&settings, ForeignServerRelationId, tuple, DEBUG1) &&
			settings.ca_file != NULL && strcmp(settings.ca_file, ca_file) == 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return kept;
}

/*
 * Raise 42501 if the current user may not name the files that are named, and
 * warn if one cannot be used now.  No more than that: it may be made later,
 * and a dump is restored on a machine that does not have it.
 */
static void
check_files(const ServerSettings *settings)
{
	const char *option = NULL;
	char	   *key;
	size_t		len;

	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		option = NULL;
	else if (settings->api_key_file != NULL)
		option = "api_key_file";
	else if (settings->ca_file != NULL && !keeps_ca_file(settings->ca_file))
		option = "ca_file";
	if (option != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", option),
				 errhint("Only a superuser or a member of pg_read_server_files may name a file of the database server.")));

	if (settings->ca_file != NULL)
		(void) secret_file_read(SECRET_CA, settings->ca_file, &len, WARNING);
	if (settings->api_key_file != NULL &&
		(key = secret_file_read(SECRET_API_KEY, settings->api_key_file, &len,
								WARNING)) != NULL)
		explicit_bzero(key, len);
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
	ServerSettings settings = option_defaults;
	UrlParts	parts;

	if (catalog == ForeignTableRelationId || catalog == AttributeRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign-data wrapper \"%s\" does not support foreign tables",
						OPTION_EXTENSION),
				 errhint("Use anyvod_query(), or insert into anyvod_tasks.")));

	(void) store_options(&settings, options, catalog, ERROR);
	check_files(&settings);
	if (catalog == ForeignServerRelationId &&
		validate_url(settings.base_url, &parts) == NULL && !parts.https &&
		!validate_is_loopback(parts.host))
		ereport(WARNING,
				(errmsg("the API key will be sent unencrypted"),
				 errdetail("The base URL starts with \"http://\" and its host is not this machine."),
				 errhint("Use a base URL with https.")));

	PG_RETURN_VOID();
}
