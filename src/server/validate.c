/*-------------------------------------------------------------------------
 *
 * validate.c
 *		What users write that becomes part of a request.
 *
 * URLs, API keys and task ids: here is which of them are accepted, and nothing
 * else.  Pure: no SPI, no libcurl, no clock, no backend, no errors raised; it
 * compiles in a backend and, with FRONTEND defined, in the unit tests and fuzz
 * targets.
 *
 * No request is sent from here: a URL that is accepted is one that every URL
 * parser reads alike.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>

#include "server/validate.h"

#define HOST_RULE \
	"The host in a URL must be a name of ASCII letters, digits, \"-\", \"_\" and \".\", or an address."
#define PORT_RULE \
	"The port in a URL must be a number from 1 to 65535."

/*
 * Are these characters that mean nothing in a URL: [0-9A-Za-z_.-]?
 */
static bool
is_plain(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'A' && s[i] <= 'Z') ||
			  (s[i] >= 'a' && s[i] <= 'z') ||
			  s[i] == '_' || s[i] == '.' || s[i] == '-'))
			return false;
	}
	return true;
}


/*
 * URLs
 */

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
			return PORT_RULE;
		number = number * 10 + (port[i] - '0');
	}
	if (port[0] != ':' || number < 1 || number > 65535)
		return PORT_RULE;
	parts->has_port = true;
	parts->port = number;
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
	if (host_end - host > MAX_HOST_LENGTH)
		return "The host in a URL has at most 253 bytes.";
	strlcpy(parts->host, host, host_end - host + 1);

	if (ipv6)
	{
		if (host_end == end || inet_pton(AF_INET6, parts->host, &address) != 1)
			return HOST_RULE;
		host_end++;
	}
	else if (!is_plain(host, host_end - host) || host[0] == '.' ||
			 strstr(parts->host, "..") != NULL)
		return HOST_RULE;

	return url_parse_port(parts, host_end, end - host_end);
}

/*
 * validate_url
 *		Fill "parts" from an http or https URL.
 *
 * Returns NULL, or why the URL is refused: a sentence that does not quote it,
 * since it may hold a password.
 *
 * Strict on purpose.  Two parsers that read one URL differently are how a
 * request reaches a host that nobody named, and what stands behind this one
 * is libcurl's, which changes from version to version.  So a host is a plain
 * ASCII name or an address, and nothing has to be decoded or guessed.
 */
const char *
validate_url(const char *url, UrlParts *parts)
{
	const char *authority;
	const char *path;
	const char *reason;

	memset(parts, 0, sizeof(*parts));
	if (strlen(url) > MAX_URL_LENGTH)
		return "A URL has at most 2048 bytes.";
	if (pg_strncasecmp(url, "https://", 8) == 0)
		parts->https = true;
	else if (pg_strncasecmp(url, "http://", 7) != 0)
		return "A URL starts with \"https://\" or \"http://\".";
	parts->port = parts->https ? 443 : 80;
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
 * validate_proxy
 *		The same for the URL of a proxy.
 *
 * Without a port libcurl would take 1080 for an http proxy, which nobody
 * expects, and a path has no meaning.
 */
const char *
validate_proxy(const char *url, UrlParts *parts)
{
	const char *reason = validate_url(url, parts);

	if (reason != NULL)
		return reason;
	if (!parts->has_port)
		return "The URL of a proxy must have a port, as in \"http://proxy.example.com:3128\".";
	if (parts->has_path)
		return "The URL of a proxy must not have a path.";
	return NULL;
}

/*
 * validate_is_loopback
 *		Does what is sent to this host stay on this machine?
 *
 * Numbers that only some resolvers take for a loopback address (0x7f.1) do not
 * count.
 */
bool
validate_is_loopback(const char *host)
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
 * API keys
 */

/*
 * The length of a key file's content without the line ends behind it.
 */
static size_t
key_length(const char *content, size_t len)
{
	while (len > 0 && (content[len - 1] == '\n' || content[len - 1] == '\r'))
		len--;
	return len;
}

/* What people put around a key, in shells and programs. */
static const char key_quotes[] = {'"', '\'', '`'};

/*
 * Does a key begin with this prefix, in upper or lower case?
 */
static bool
key_begins_with(const char *key, size_t len, const char *prefix)
{
	size_t		n = strlen(prefix);

	return len >= n && pg_strncasecmp(key, prefix, n) == 0;
}

/*
 * Is this an assignment, NAME=value?  A key may have a "=", as Base64 ends
 * with some, so there must be a value; and either the name says that a key or
 * token follows, or the value begins as keys do.
 */
static bool
key_is_assignment(const char *key, size_t len)
{
	const char *equal = memchr(key, '=', len);
	size_t		name = equal ? equal - key : 0;
	size_t		value = len - name;
	bool		telling = false;

	if (name == 0 || value < 2 || equal[1] == '=')
		return false;
	for (size_t i = 0; i < name; i++)
	{
		if (!(key[i] == '_' || (key[i] >= 'a' && key[i] <= 'z') ||
			  (key[i] >= 'A' && key[i] <= 'Z') ||
			  (i > 0 && key[i] >= '0' && key[i] <= '9')))
			return false;
		telling |= key_begins_with(key + i, name - i, "key") ||
			key_begins_with(key + i, name - i, "token") ||
			key_begins_with(key + i, name - i, "secret");
	}
	return telling || key_begins_with(equal, value, "=sk-") ||
		memchr(key_quotes, equal[1], sizeof(key_quotes)) != NULL;
}

/*
 * validate_key_hint
 *		What stands around a key that should not, if anything does.
 *
 * Returns NULL, or a sentence that does not quote it.  Such a key would be
 * sent, and refused by the gateway without a reason.  "key" may be the content
 * of a key file and need not end with a NUL.
 */
const char *
validate_key_hint(const char *key, size_t len)
{
	len = key_length(key, len);
	if (len == 0)
		return NULL;
	if (key_is_assignment(key, len) || key_begins_with(key, len, "export "))
		return "The key has the form NAME=value: give the value alone.";
	if (memchr(key_quotes, key[0], sizeof(key_quotes)) != NULL ||
		memchr(key_quotes, key[len - 1], sizeof(key_quotes)) != NULL)
		return "The key is in quotation marks: give it without them.";
	if (key_begins_with(key, len, "Bearer ") ||
		key_begins_with(key, len, "Authorization:"))
		return "Give the key alone, without \"Authorization\" and \"Bearer\".";
	return NULL;
}

/*
 * validate_api_key
 *		May this be sent in a header?
 *
 * "key" need not end with a NUL.
 */
bool
validate_api_key(const char *key, size_t len)
{
	if (len < 1 || len > MAX_API_KEY_LENGTH ||
		validate_key_hint(key, len) != NULL)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (key[i] <= ' ' || key[i] > '~')
			return false;
	}
	return true;
}

/*
 * validate_key_file
 *		How much of a key file's content is the key.
 *
 * All but the line ends behind it; 0 if what remains is no key.
 */
size_t
validate_key_file(const char *content, size_t len)
{
	len = key_length(content, len);
	return validate_api_key(content, len) ? len : 0;
}


/*
 * Task ids
 */

/*
 * validate_task_id
 *		Is this a task id?
 *
 * It becomes a segment of the URL's path, so it is no dot segment.
 */
bool
validate_task_id(const char *task_id, size_t len)
{
	return len >= 1 && len <= MAX_TASK_ID_LENGTH && is_plain(task_id, len) &&
		!(len == 1 && task_id[0] == '.') &&
		!(len == 2 && task_id[0] == '.' && task_id[1] == '.');
}
