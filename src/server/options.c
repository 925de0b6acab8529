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
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "server/options.h"
#include "server/secret_file.h"
#include "server/validate.h"

/* The longest duration that an option takes: a day, in milliseconds. */
#define MAX_DURATION (24 * 60 * 60 * 1000)

typedef enum OptionKind
{
	OPTION_INTEGER,				/* int, in the unit that "unit" names */
	OPTION_REAL,				/* double */
	OPTION_BASE_URL,			/* char *, as are those below */
	OPTION_PROXY,
	OPTION_API_KEY,
	OPTION_FILE,				/* absolute path on the server machine */
} OptionKind;

typedef struct Option
{
	const char *name;
	Oid			catalog;		/* of the object that takes it */
	OptionKind	kind;
	size_t		offset;			/* of its field in OptionValues */
	int			unit;			/* GUC_UNIT_*, or 0 */
	double		min;
	double		max;
	const char *rule;			/* what a good value is, a sentence */
} Option;

#define FIELD(f) offsetof(OptionValues, f)
#define DURATION_RULE \
	"The value must be a time from 1 ms to 1 day: milliseconds, or a number with a unit, as in \"30s\"."
#define FILE_RULE \
	"The value must be the absolute path of a file on the database server."

static const Option options_known[] = {
	{"base_url", ForeignServerRelationId, OPTION_BASE_URL,
	 FIELD(settings.base_url), 0, 0, 0, NULL},
	{"timeout", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(settings.timeout), GUC_UNIT_MS, 1, MAX_DURATION, DURATION_RULE},
	{"connect_timeout", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(settings.connect_timeout), GUC_UNIT_MS, 1, MAX_DURATION,
	 DURATION_RULE},
	{"rate_limit", ForeignServerRelationId, OPTION_REAL,
	 FIELD(settings.rate_limit), 0, 0.001, 100000,
	 "The value must be a number of requests a second from 0.001 to 100000."},
	{"max_concurrency", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(settings.max_concurrency), 0, 1, 10000,
	 "The value must be a number of requests from 1 to 10000."},
	{"max_response_size", ForeignServerRelationId, OPTION_INTEGER,
	 FIELD(settings.max_response_size), GUC_UNIT_BYTE,
	 1024, 64 * 1024 * 1024,
	 "The value must be a size from 1 kB to 64 MB: bytes, or a number with a unit, as in \"16MB\"."},
	{"ca_file", ForeignServerRelationId, OPTION_FILE,
	 FIELD(ca_file), 0, 0, 0, FILE_RULE},
	{"proxy", ForeignServerRelationId, OPTION_PROXY,
	 FIELD(settings.proxy), 0, 0, 0, NULL},
	{"api_key", UserMappingRelationId, OPTION_API_KEY,
	 FIELD(settings.api_key), 0, 0, 0,
	 API_KEY_RULE},
	{"api_key_file", UserMappingRelationId, OPTION_FILE,
	 FIELD(api_key_file), 0, 0, 0, FILE_RULE},
};

PG_FUNCTION_INFO_V1(anyvod_fdw_validator);


/*
 * The number that an option's value stands for.  Raises 22023; numbers are
 * the only values that a message quotes.
 */
static double
option_number(const Option *option, const char *value)
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
option_check_url(const Option *option, const char *value)
{
	UrlParts	parts;
	const char *reason;

	if (option->kind == OPTION_PROXY)
		reason = validate_proxy(value, &parts);
	else
		reason = validate_url(value, &parts);
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
option_store(const Option *option, char *value, OptionValues *values)
{
	void	   *field = (char *) values + option->offset;
	size_t		len = strlen(value);
	const char *hint = NULL;
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
			ok = validate_api_key(value, len);
			hint = validate_key_hint(value, len);
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
				 errdetail_internal("%s", option->rule),
				 hint != NULL ? errhint("%s", hint) : 0));
}

/*
 * The option of this name and catalog, or NULL.
 */
static const Option *
option_find(const char *name, Oid catalog)
{
	for (size_t i = 0; i < lengthof(options_known); i++)
	{
		const Option *option = &options_known[i];

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

	for (size_t i = 0; i < lengthof(options_known); i++)
	{
		const Option *option = &options_known[i];
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
	for (size_t i = 0; i < lengthof(options_known); i++)
	{
		if (options_known[i].catalog == catalog)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
							 options_known[i].name);
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
bool
option_wrapper_is_ours(Oid fdwid)
{
	Oid			extension;
	char	   *name;

	extension = getExtensionOfObject(ForeignDataWrapperRelationId, fdwid);
	if (!OidIsValid(extension))
		return false;
	name = get_extension_name(extension);
	return name != NULL && strcmp(name, OPTION_EXTENSION) == 0;
}

/*
 * May this role read files of the server machine?  True of superusers too.
 */
bool
option_role_reads_files(Oid roleid)
{
	return has_privs_of_role(roleid, ROLE_PG_READ_SERVER_FILES);
}

/*
 * What an options column of a catalog holds, as a list of DefElem.  The array
 * is copied out of the tuple anyhow, as it is stored short or compressed; here
 * the copy is ours, to be overwritten.
 */
List *
option_list(SysCacheIdentifier cacheid, HeapTuple tuple,
			AttrNumber column)
{
	bool		isnull;
	Datum		options = SysCacheGetAttr(cacheid, tuple, column, &isnull);
	ArrayType  *array;
	List	   *list;

	if (isnull)
		return NIL;
	array = DatumGetArrayTypePCopy(options);
	list = untransformRelOptions(PointerGetDatum(array));
	explicit_bzero(array, VARSIZE(array));
	pfree(array);
	return list;
}

void
option_set_defaults(OptionValues *values)
{
	ServerSettings *settings = &values->settings;

	memset(values, 0, sizeof(*values));
	settings->base_url = pstrdup(SERVER_BASE_URL);
	settings->timeout = SERVER_TIMEOUT;
	settings->connect_timeout = SERVER_CONNECT_TIMEOUT;
	settings->rate_limit = SERVER_RATE_LIMIT;
	settings->max_concurrency = SERVER_MAX_CONCURRENCY;
	settings->max_response_size = SERVER_MAX_RESPONSE_SIZE;
}

/*
 * Store the options of an object of this catalog.  Raises HV00D, 22023.
 */
void
option_store_all(OptionValues *values, List *options, Oid catalog)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const Option *option = option_find(def->defname, catalog);

		if (option == NULL)
			option_refuse_unknown(def->defname, catalog);
		else
			option_store(option, defGetString(def), values);
	}
}

/*
 * Rules between the options of one object.  Raises 22023.
 */
void
option_check(const OptionValues *values)
{
	const ServerSettings *settings = &values->settings;

	if (settings->api_key != NULL && values->api_key_file != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"%s\" and \"%s\" exclude each other",
						"api_key", "api_key_file"),
				 errhint("Drop the one when you add the other: OPTIONS (DROP api_key, ADD api_key_file '...').")));

	/*
	 * With an http base URL the proxy would be handed the API key, whatever
	 * lies between.
	 */
	if (settings->proxy != NULL &&
		pg_strncasecmp(settings->base_url, "https:", 6) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" requires a base URL with https", "proxy"),
				 errdetail("The proxy could read the API key of each request.")));
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
		List	   *options;
		ListCell   *cell;

		server = (Form_pg_foreign_server) GETSTRUCT(tuple);
		if (!has_privs_of_role(GetUserId(), server->srvowner) ||
			!option_wrapper_is_ours(server->srvfdw))
			continue;
		options = option_list(FOREIGNSERVEROID, tuple,
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
check_files(const OptionValues *values)
{
	const char *option = NULL;

	if (option_role_reads_files(GetUserId()))
		return;
	if (values->api_key_file != NULL)
		option = "api_key_file";
	else if (values->ca_file != NULL && !keeps_ca_file(values->ca_file))
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
warn_cleartext(const OptionValues *values)
{
	UrlParts	parts;

	if (validate_url(values->settings.base_url, &parts) != NULL ||
		parts.https || validate_is_loopback(parts.host))
		return;
	ereport(WARNING,
			(errmsg("the API key will be sent unencrypted"),
			 errdetail("The base URL starts with \"http://\" and its host is not this machine."),
			 errhint("Use a base URL with https.")));
}

/*
 * Warn if a file that is named cannot be used now.  No more than that: it may
 * be made later, and a dump is restored on a machine that does not have it.
 */
static void
warn_files(const OptionValues *values)
{
	char	   *content;
	size_t		len;

	if (values->ca_file != NULL)
	{
		content = secret_file_read_ca(values->ca_file, WARNING, &len);
		if (content != NULL)
			pfree(content);
	}
	if (values->api_key_file != NULL)
	{
		content = secret_file_read_key(values->api_key_file, WARNING, &len);
		if (content != NULL)
		{
			explicit_bzero(content, len);
			pfree(content);
		}
	}
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
	OptionValues values;

	if (catalog == ForeignTableRelationId || catalog == AttributeRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign-data wrapper \"%s\" does not support foreign tables",
						OPTION_EXTENSION),
				 errhint("Use anyvod_query(), or insert into anyvod_tasks.")));

	option_set_defaults(&values);
	option_store_all(&values, options, catalog);
	option_check(&values);
	check_files(&values);
	warn_files(&values);
	if (catalog == ForeignServerRelationId)
		warn_cleartext(&values);

	PG_RETURN_VOID();
}
