/*-------------------------------------------------------------------------
 *
 * outcome.c
 *		How a transfer ended.
 *
 * libcurl's result, its times and what our callbacks noted become an outcome,
 * a phase and words; the key is blacked out wherever a gateway repeated it.
 * Nothing here throws.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <curl/curl.h>

#include "clock.h"
#include "compat.h"
#include "http/result.h"
#include "http/handles.h"

/* Shorter than any key: an answer may hold it by chance. */
#define OUTCOME_SHORTEST_KEY 8


/*
 * What happened
 */

/* One of libcurl's times of a transfer, 0 if it did not come to that. */
static curl_off_t
outcome_time(CURL *easy, CURLINFO which)
{
	curl_off_t	time = 0;

	(void) curl_easy_getinfo(easy, which, &time);
	return time;
}

/* What a proxy said when it was asked for a tunnel; 0: nothing. */
static long
outcome_proxy_status(const HttpRequest *request)
{
	long		status = 0;

	(void) curl_easy_getinfo(request->handle->easy, CURLINFO_HTTP_CONNECTCODE,
							 &status);
	return status;
}

/* Has a socket of the request been connected? */
static bool
outcome_connected(const HttpRequest *request, CURLcode result)
{
	if (request->connected || outcome_proxy_status(request) != 0 ||
		outcome_time(request->handle->easy, CURLINFO_CONNECT_TIME_T) > 0)
		return true;
	return request->opened && result != CURLE_COULDNT_CONNECT &&
		result != CURLE_OPERATION_TIMEDOUT;
}

/*
 * Has the question been sent?  When a transfer has failed libcurl (8.23) fills
 * in the times to which it has not come; older ones count what asks a proxy
 * for a tunnel as sent.
 */
static bool
outcome_sent(const HttpRequest *request)
{
	long		size = 0;

	(void) curl_easy_getinfo(request->handle->easy, CURLINFO_REQUEST_SIZE,
							 &size);
	return size > 0 &&
		outcome_time(request->handle->easy, CURLINFO_PRETRANSFER_TIME_T) > 0;
}

/* How far did a request come? */
static HttpPhase
outcome_phase(const HttpRequest *request, CURLcode result)
{
	const HttpTarget *target = request->target;

	if (result == CURLE_COULDNT_RESOLVE_HOST ||
		result == CURLE_COULDNT_RESOLVE_PROXY)
		return HTTP_PHASE_DNS;
	if (outcome_sent(request) && result != CURLE_COULDNT_CONNECT)
		return HTTP_PHASE_RESPONSE;
	if (outcome_connected(request, result))
	{
		if (target->proxy[0] != '\0' &&
			outcome_proxy_status(request) / 100 != 2)
			return HTTP_PHASE_PROXY;
		return target->tls ? HTTP_PHASE_TLS : HTTP_PHASE_RESPONSE;
	}
	if (result == CURLE_COULDNT_CONNECT ||
		outcome_time(request->handle->easy, CURLINFO_NAMELOOKUP_TIME_T) > 0)
		return HTTP_PHASE_CONNECT;
	return HTTP_PHASE_DNS;
}

/*
 * Has memory that was refused been for the header?  libcurl (before 8.6) says
 * the same of a line that is too long, more than 100 kB.
 */
static bool
outcome_too_long(const HttpRequest *request)
{
	return request->body_len == 0 &&
		curl_version_info(CURLVERSION_NOW)->version_num <
		CURL_VERSION_BITS(8, 6, 0) &&
		outcome_time(request->handle->easy, CURLINFO_STARTTRANSFER_TIME_T) > 0;
}

/*
 * What libcurl's result, what our callbacks noted, and how far it came amount
 * to.
 */
static HttpResult
outcome_kind(const HttpRequest *request, CURLcode result)
{
	switch (result)
	{
		case CURLE_OK:
			return HTTP_COMPLETE;
		case CURLE_OUT_OF_MEMORY:
			return outcome_too_long(request) ? HTTP_BROKEN : HTTP_NO_MEMORY;
		case CURLE_OPERATION_TIMEDOUT:
			return HTTP_TIMED_OUT;
		case CURLE_FILESIZE_EXCEEDED:
			return HTTP_TOO_LARGE;
		case CURLE_WRITE_ERROR:
			if (request->too_large)
				return HTTP_TOO_LARGE;
			return request->no_memory ? HTTP_NO_MEMORY : HTTP_BROKEN;
		case CURLE_COULDNT_CONNECT:
			if (request->denied)
				return HTTP_NO_DESCRIPTOR;
			return request->no_memory ? HTTP_NO_MEMORY : HTTP_UNREACHABLE;
		default:
			return request->phase < HTTP_PHASE_RESPONSE ?
				HTTP_UNREACHABLE :
				HTTP_BROKEN;
	}
}

/*
 * What is wrong with a certificate that was refused?  OpenSSL's numbers
 * (X509_V_ERR_...) tell, if it is OpenSSL; it is libcurl itself that compares
 * the host name, after OpenSSL has found nothing (0, or 1: unspecified).
 */
static HttpCertificate
outcome_certificate(CURL *easy, bool at_proxy)
{
	struct curl_tlssessioninfo *session = NULL;
	long		verified = -1;

	(void) curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &session);
	if (session == NULL || session->backend != CURLSSLBACKEND_OPENSSL)
		return HTTP_CERTIFICATE_REFUSED;
	(void) curl_easy_getinfo(easy,
							 at_proxy ? CURLINFO_PROXY_SSL_VERIFYRESULT :
										CURLINFO_SSL_VERIFYRESULT,
							 &verified);
	switch (verified)
	{
		case 0:
		case 1:
			return HTTP_CERTIFICATE_OF_OTHER;
		case 9:					/* not yet valid */
		case 10:				/* expired */
			return HTTP_CERTIFICATE_OUTDATED;
		case 2:					/* no issuer */
		case 18:				/* signed by itself */
		case 19:				/* its authority is signed by itself */
		case 20:				/* no issuer here */
		case 21:				/* the first cannot be verified */
			return HTTP_CERTIFICATE_UNTRUSTED;
		default:
			return HTTP_CERTIFICATE_REFUSED;
	}
}


/*
 * The key
 */

/*
 * How many bytes at "text" stand for a key, 0 if they do not: its characters,
 * each as it is or escaped as JSON allows (\/ or \u002f for a slash).
 */
static size_t
outcome_match_key(const char *key, const char *text, const char *end)
{
	const char *at = text;

	for (; *key != '\0'; key++)
	{
		char		code[7];

		if (at == end)
			return 0;
		if (*at == *key)
			at++;
		else if (*at != '\\' || end - at < 2)
			return 0;
		else if (at[1] == *key && !isalnum((unsigned char) *key))
			at += 2;
		else
		{
			snprintf(code, sizeof(code), "\\u%04x", (unsigned char) *key);
			if (end - at < 6 || pg_strncasecmp(at, code, 6) != 0)
				return 0;
			at += 6;
		}
	}
	return at - text;
}

/* Black out all occurrences of a key in some text. */
static void
outcome_hide(const char *key, char *text, size_t len)
{
	bool		escapes = len > 0 && memchr(text, '\\', len) != NULL;
	size_t		key_len = strlen(key);
	char	   *end = text + len;

	while (text < end)
	{
		size_t		found;

		if (!escapes)
		{
			text = memmem(text, end - text, key, key_len);
			if (text == NULL)
				return;
		}
		found = outcome_match_key(key, text, end);
		memset(text, '*', found);
		text += Max(found, 1);
	}
}

/*
 * Black out the key where a gateway repeats it, most likely in a complaint
 * about it, so that it cannot get into an error, a log or a table.  (A key
 * that is too short to be one may stand in an answer by chance.)
 */
static void
outcome_hide_key(HttpRequest *request)
{
	const char *key = request->target->api_key;

	if (key == NULL || strlen(key) < OUTCOME_SHORTEST_KEY)
		return;
	outcome_hide(key, request->body, request->body_len);
	if (request->error[0] != '\0')
		outcome_hide(key, request->error, strlen(request->error));
}

/* Note the media type, without parameters, unless the key is in it. */
static void
outcome_note_content_type(HttpRequest *request, const char *content_type)
{
	const char *key = request->target->api_key;
	size_t		len = strcspn(content_type, "; \t");

	if (key != NULL && strstr(content_type, key) != NULL)
		return;
	strlcpy(request->content_type, content_type,
			Min(len + 1, sizeof(request->content_type)));
}


/*
 * What http.c calls
 */

/* A transfer has ended with this result: take what is worth knowing. */
void
outcome_take(HttpRequest *request, CURLcode result)
{
	CURL	   *easy = request->handle->easy;
	char	   *content_type = NULL;
	long		status = 0;

	request->phase = outcome_phase(request, result);
	request->result = outcome_kind(request, result);
	if (COMPAT_BAD_CERTIFICATE(result))
		request->certificate =
			outcome_certificate(easy, request->phase == HTTP_PHASE_PROXY);
	request->elapsed = monotonic_us() - request->started;
	if (curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK)
		request->status = (int) status;
	(void) curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &content_type);
	if (content_type != NULL)
		outcome_note_content_type(request, content_type);
	request->retry_after = compat_retry_after(easy);
	if (result != CURLE_OK)
		strlcpy(request->error, request->handle->trouble, HTTP_ERROR_SIZE);
	if (result == CURLE_OUT_OF_MEMORY && request->result == HTTP_BROKEN)
		strlcpy(request->error, "A line of the header is too long",
				HTTP_ERROR_SIZE);
	if (result != CURLE_OK && request->error[0] == '\0')
		strlcpy(request->error, curl_easy_strerror(result),
				HTTP_ERROR_SIZE);
	outcome_hide_key(request);
}

/*
 * A request could not be started.  (An option that this libcurl does not know
 * is no lack of memory.)
 */
void
outcome_not_started(HttpRequest *request, CURLcode why)
{
	if (why == CURLE_OK || why == CURLE_OUT_OF_MEMORY)
		request->result = HTTP_NO_MEMORY;
	else
	{
		request->result = HTTP_UNREACHABLE;
		strlcpy(request->error, curl_easy_strerror(why), HTTP_ERROR_SIZE);
	}
}

/* The connection that a request has waited for did not come about. */
void
outcome_share(HttpRequest *request, const HttpRequest *opener)
{
	request->result = opener->result;
	request->phase = opener->phase;
	request->certificate = opener->certificate;
	strlcpy(request->error, opener->error, HTTP_ERROR_SIZE);
	request->elapsed = monotonic_us() - request->started;
}
