/*-------------------------------------------------------------------------
 *
 * fuzz_url.c
 *		Any text at all, as the URL of a server or of a proxy.
 *
 * What is accepted must mean the same to libcurl's own parser, with a task's
 * path behind it as http.c puts it there: same scheme, host and port, and
 * nobody's name or password, query or fragment in it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <curl/curl.h>

#include "fuzz.h"
#include "server/validate.h"

#define TASK_PATH "/tencent-vod/v1/query/a-task"

static CURLU *
curl_parse(const char *url)
{
	char		whole[MAX_URL_LENGTH + sizeof(TASK_PATH)];
	size_t		len = strlen(url);
	CURLU	   *parsed = curl_url();

	/* upstream.c stores it so */
	while (url[len - 1] == '/')
		len--;
	snprintf(whole, sizeof(whole), "%.*s" TASK_PATH, (int) len, url);
	REQUIRE(parsed != NULL);
	REQUIRE(curl_url_set(parsed, CURLUPART_URL, whole, 0) == CURLUE_OK);
	return parsed;
}

/* A part of a URL, "" where there is none. */
static void
curl_part(CURLU *parsed, CURLUPart which, char *part, size_t room)
{
	char	   *value = NULL;

	part[0] = '\0';
	if (curl_url_get(parsed, which, &value, 0) == CURLUE_OK)
	{
		REQUIRE(strlen(value) < room);
		strcpy(part, value);
		curl_free(value);
	}
}

/*
 * The host without its brackets.  An address may be written in several ways,
 * and libcurl is free to choose another: 127.1 for 127.0.0.1.
 */
static void
require_host(const char *host, const UrlParts *parts)
{
	size_t		len = strlen(host);

	if (len > 1 && host[0] == '[' && host[len - 1] == ']')
	{
		host++;
		len -= 2;
		/* scopes and zeroes of an address */
		REQUIRE(strspn(parts->host, "0123456789abcdefABCDEF:.") ==
				strlen(parts->host));
		return;
	}
	if (strspn(host, "0123456789.") == len)
	{
		REQUIRE(strspn(parts->host, "0123456789abcdefABCDEFxX.") ==
				strlen(parts->host));
		return;
	}
	REQUIRE(strlen(parts->host) == len);
	REQUIRE(pg_strncasecmp(host, parts->host, len) == 0);
}

static void
require_alike(const char *url, const UrlParts *parts)
{
	CURLU	   *parsed = curl_parse(url);
	char		part[MAX_URL_LENGTH + sizeof(TASK_PATH)];

	curl_part(parsed, CURLUPART_SCHEME, part, sizeof(part));
	REQUIRE(strcmp(part, parts->https ? "https" : "http") == 0);
	curl_part(parsed, CURLUPART_HOST, part, sizeof(part));
	require_host(part, parts);
	curl_part(parsed, CURLUPART_PORT, part, sizeof(part));
	REQUIRE((part[0] != '\0') == parts->has_port);
	REQUIRE(part[0] == '\0' || atoi(part) == parts->port);
	curl_part(parsed, CURLUPART_PATH, part, sizeof(part));
	REQUIRE(strlen(part) >= strlen(TASK_PATH));
	REQUIRE(strcmp(part + strlen(part) - strlen(TASK_PATH), TASK_PATH) == 0);
	curl_part(parsed, CURLUPART_USER, part, sizeof(part));
	REQUIRE(part[0] == '\0');
	curl_part(parsed, CURLUPART_PASSWORD, part, sizeof(part));
	REQUIRE(part[0] == '\0');
	curl_part(parsed, CURLUPART_QUERY, part, sizeof(part));
	REQUIRE(part[0] == '\0');
	curl_part(parsed, CURLUPART_FRAGMENT, part, sizeof(part));
	REQUIRE(part[0] == '\0');
	curl_url_cleanup(parsed);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	char	   *url = malloc(size + 1);
	UrlParts	parts;
	UrlParts	proxy;
	const char *reason;

	memcpy(url, data, size);
	url[size] = '\0';
	reason = validate_url(url, &parts);
	if (reason == NULL)
	{
		for (const char *c = url; *c != '\0'; c++)
			REQUIRE(*c > ' ' && *c <= '~');
		REQUIRE(strlen(url) <= MAX_URL_LENGTH);
		REQUIRE(parts.host[0] != '\0');
		(void) validate_is_loopback(parts.host);
		require_alike(url, &parts);
	}
	if (validate_proxy(url, &proxy) == NULL)
		REQUIRE(reason == NULL && proxy.has_port && !proxy.has_path);
	free(url);
	return 0;
}
