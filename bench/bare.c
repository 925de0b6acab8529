/*-------------------------------------------------------------------------
 *
 * bare.c
 *		A function of the database that asks by libcurl, and does no more.
 *
 *		bare_easy(url text) returns integer		the HTTP status
 *
 * What "limits easy" does, but in a session: the limit of a question that is
 * a transaction of its own, where client, session and gateway compete for the
 * processors.  It cannot be interrupted, and nothing reads the answer.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>

#include "fmgr.h"
#include "utils/builtins.h"

#include "easy.h"

#define BODY_SIZE 65536

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bare_easy);

static char body[BODY_SIZE];
static size_t body_len;

static size_t
on_body(char *data, size_t one, size_t len, void *arg)
{
	if (len > BODY_SIZE - body_len)
		return 0;
	memcpy(body + body_len, data, len);
	body_len += len;
	return len;
}

/* The handle of this process. */
static CURL *
handle(void)
{
	static CURL *easy = NULL;

	if (easy != NULL)
		return easy;
	easy = curl_easy_init();
	if (easy == NULL)
		elog(ERROR, "no memory");
	easy_set_up(easy, on_body);
	return easy;
}

Datum
bare_easy(PG_FUNCTION_ARGS)
{
	CURL	   *easy = handle();
	long		status = 0;
	CURLcode	code;

	body_len = 0;
	curl_easy_setopt(easy, CURLOPT_URL,
					 text_to_cstring(PG_GETARG_TEXT_PP(0)));
	code = curl_easy_perform(easy);
	if (code != CURLE_OK)
		elog(ERROR, "%s", curl_easy_strerror(code));
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	PG_RETURN_INT32((int32) status);
}
