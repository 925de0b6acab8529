/*-------------------------------------------------------------------------
 *
 * http/result.c
 *		How a transfer ended.
 *
 * libcurl's code, its times and what our callbacks noted become a result, a
 * phase and a message.  The key is redacted wherever a gateway repeated it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "miscadmin.h"

#include "http/internal.h"

/* Shorter than any key: a response may hold it by chance. */
#define SHORTEST_KEY 8

/* Bytes that are looked at between two interrupt checks; under 1 ms. */
#define REDACT_STEP (256 * 1024)


/*
 * What happened
 */

/* One of libcurl's times of a transfer, 0 if it did not come to that. */
static curl_off_t
result_time(CURL *easy, CURLINFO which)
{
	curl_off_t	time = 0;

	(void) curl_easy_getinfo(easy, which, &time);
	return time;
}

/* One of libcurl's numbers about a transfer. */
static long
result_number(CURL *easy, CURLINFO which)
{
	long		number = 0;

	(void) curl_easy_getinfo(easy, which, &number);
	return number;
}

/* How far did a transfer come? */
static HttpPhase
result_phase(const HttpTransfer *transfer, CURLcode code)
{
	CURL	   *easy = transfer->handle->easy;
	long		at_proxy = result_number(easy, CURLINFO_HTTP_CONNECTCODE);
	bool		connected = transfer->request.connected || at_proxy != 0 ||
		result_time(easy, CURLINFO_CONNECT_TIME_T) > 0 ||
		(transfer->opened && code != CURLE_COULDNT_CONNECT &&
				code != CURLE_OPERATION_TIMEDOUT);

	if (code == CURLE_COULDNT_RESOLVE_HOST ||
		code == CURLE_COULDNT_RESOLVE_PROXY)
		return HTTP_PHASE_DNS;

	/*
	 * Has the request been sent?  The size alone would count what asks a proxy
	 * for a tunnel, and some versions fill in the time alone when a transfer
	 * has failed.
	 */
	if (result_number(easy, CURLINFO_REQUEST_SIZE) > 0 &&
		result_time(easy, CURLINFO_PRETRANSFER_TIME_T) > 0 &&
		code != CURLE_COULDNT_CONNECT)
		return HTTP_PHASE_RESPONSE;
	if (!connected)
		return code == CURLE_COULDNT_CONNECT ||
				result_time(easy, CURLINFO_NAMELOOKUP_TIME_T) > 0 ?
			HTTP_PHASE_CONNECT :
			HTTP_PHASE_DNS;
	if (transfer->endpoint->proxy[0] != '\0' && at_proxy / 100 != 2)
		return HTTP_PHASE_PROXY;
	return transfer->endpoint->tls ? HTTP_PHASE_TLS : HTTP_PHASE_RESPONSE;
}

/*
 * What libcurl's code, what our callbacks noted, and how far the transfer came
 * amount to.
 */
static HttpResult
result_classify(const HttpTransfer *transfer, CURLcode code)
{
	if (code == CURLE_OK)
		return HTTP_COMPLETE;
	if (transfer->denied)
		return HTTP_NO_DESCRIPTOR;
	if (transfer->no_memory)
		return HTTP_NO_MEMORY;
	switch (code)
	{
		case CURLE_OUT_OF_MEMORY:
			/* In the middle of the header one of its lines was too long. */
			if (transfer->handle != NULL &&
				transfer->request.body_len == 0 &&
				result_time(transfer->handle->easy,
							CURLINFO_STARTTRANSFER_TIME_T) > 0)
				return HTTP_BROKEN;
			return HTTP_NO_MEMORY;
		case CURLE_OPERATION_TIMEDOUT:
			return HTTP_TIMED_OUT;
		case CURLE_FILESIZE_EXCEEDED:
			return HTTP_TOO_LARGE;
		case CURLE_WRITE_ERROR:
			if (transfer->too_large)
				return HTTP_TOO_LARGE;
			return transfer->no_room ? HTTP_NO_ROOM : HTTP_BROKEN;
		default:
			return transfer->request.phase < HTTP_PHASE_RESPONSE ?
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
result_certificate(CURL *easy, bool at_proxy)
{
	CURLINFO	which = at_proxy ? CURLINFO_PROXY_SSL_VERIFYRESULT :
								   CURLINFO_SSL_VERIFYRESULT;
	struct curl_tlssessioninfo *session = NULL;

	(void) curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &session);
	if (session == NULL || session->backend != CURLSSLBACKEND_OPENSSL)
		return HTTP_CERTIFICATE_REFUSED;
	switch (result_number(easy, which))
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
 * Is it certain that the gateway has not processed a request that failed, so
 * that it may be sent again?
 *
 * Over HTTP/2 a gateway that ends a connection says so (GOAWAY,
 * REFUSED_STREAM).  libcurl then sends the request again by itself, and gives
 * up after 5 times, or fails without a message if the connection was new.  What
 * was to go over a connection of others may also never have been sent, to
 * the end of its connect_timeout, or (8.23) have met one that was closed.
 */
bool
result_is_refused(const HttpTransfer *transfer, CURLcode code)
{
	static const char gave_up[] = "Connection died, tried ";
	const HttpEndpoint *endpoint = transfer->endpoint;
	CURL	   *easy = transfer->handle->easy;
	bool		tried = strncmp(transfer->handle->error, gave_up,
								strlen(gave_up)) == 0;

	if (code == CURLE_OK || result_number(easy, CURLINFO_RESPONSE_CODE) != 0)
		return false;
	if (code == CURLE_HTTP2 && transfer->handle->error[0] == '\0')
		return true;
	if (endpoint->kind == HTTP_KIND_MULTIPLEXED)
		return tried ||
			(endpoint->sent > 0 && !transfer->opened &&
			 result_number(easy, CURLINFO_REQUEST_SIZE) == 0);
	return code == CURLE_SEND_ERROR && !tried && !transfer->opened;
}

/* A transfer has ended, and libcurl has it: take what that knows of it. */
static void
result_take_response(HttpTransfer *transfer, CURLcode code)
{
	HttpRequest *request = &transfer->request;
	CURL	   *easy = transfer->handle->easy;
	long		connect = result_number(easy, CURLINFO_HTTP_CONNECTCODE);
	char	   *content_type = NULL;

	if (COMPAT_BAD_CERTIFICATE(code))
		request->certificate =
			result_certificate(easy, request->phase == HTTP_PHASE_PROXY);
	request->status = (int) result_number(easy, CURLINFO_RESPONSE_CODE);
	(void) curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &content_type);
	if (content_type != NULL &&
		(transfer->endpoint->api_key == NULL ||
		 strstr(content_type, transfer->endpoint->api_key) == NULL))
		strlcpy(request->content_type, content_type,
				Min(strcspn(content_type, "; \t") + 1,
					sizeof(request->content_type)));
	request->retry_after = compat_retry_after(easy);
	if (code != CURLE_OK)
		strlcpy(request->error, transfer->handle->error, HTTP_ERROR_SIZE);
	if (code != CURLE_OK && request->error[0] == '\0' && connect / 100 > 2)
		snprintf(request->error, HTTP_ERROR_SIZE,
				 "CONNECT tunnel failed, response %ld", connect);
}

/*
 * A transfer has ended with this code, or could not be handed to libcurl: take
 * what is worth knowing.
 */
void
result_take(HttpTransfer *transfer, CURLcode code)
{
	HttpRequest *request = &transfer->request;

	request->phase = transfer->handle != NULL ? result_phase(transfer, code) :
												HTTP_PHASE_CONNECT;
	request->result = result_classify(transfer, code);
	if (transfer->handle != NULL)
		result_take_response(transfer, code);
	if (code == CURLE_OUT_OF_MEMORY && request->result == HTTP_BROKEN)
		strlcpy(request->error, "A line of the header is too long",
				HTTP_ERROR_SIZE);
	else if (code != CURLE_OK && request->error[0] == '\0')
		strlcpy(request->error, curl_easy_strerror(code), HTTP_ERROR_SIZE);
}


/*
 * The key
 */

/*
 * How many bytes at "text" stand for a key, 0 if they do not: its characters,
 * each as it is or escaped as JSON allows (\/ or \u002f for a slash).  What was
 * looked at is added to "work".
 */
static size_t
redact_match(const char *key, const char *text, const char *end, size_t *work)
{
	static const char hex[] = "0123456789abcdef";
	const char *at = text;

	for (; *key != '\0' && at < end; key++)
	{
		unsigned char c = *key;

		if (*at == *key)
			at++;
		else if (*at != '\\' || end - at < 2)
			break;
		else if (at[1] == *key && !isalnum(c))
			at += 2;
		else if (at[1] == 'u' && end - at >= 6 && at[2] == '0' &&
				 at[3] == '0' && at[4] == hex[c >> 4] &&
				 pg_tolower((unsigned char) at[5]) == hex[c & 15])
			at += 6;
		else
			break;
	}
	*work += at - text + 1;
	return *key == '\0' ? at - text : 0;
}

/* Redact all occurrences of a key in some text. */
static void
redact_text(const char *key, char *text, size_t len)
{
	char	   *end = text + len;
	size_t		work = 0;

	/* Most responses can be done with at once. */
	if (len == 0)
		return;
	if (memchr(text, '\\', len) == NULL &&
		memmem(text, len, key, strlen(key)) == NULL)
		return;
	while (text < end)
	{
		size_t		found = 0;

		if (*text == *key || *text == '\\')
			found = redact_match(key, text, end, &work);
		memset(text, '*', found);
		text += Max(found, 1);
		if (++work >= REDACT_STEP)
		{
			CHECK_FOR_INTERRUPTS();
			work = 0;
		}
	}
}

/*
 * Redact the key where a gateway repeats it, most likely in a complaint
 * about it, so that it cannot get into an error, a log or a table.  (A key
 * that is too short to be one may stand in a response by chance.)  Raises
 * whatever CHECK_FOR_INTERRUPTS() raises, and then has to be called again.
 */
void
result_redact(HttpTransfer *transfer)
{
	HttpRequest *request = &transfer->request;
	const char *key = transfer->endpoint ? transfer->endpoint->api_key : NULL;

	if (key == NULL || strlen(key) < SHORTEST_KEY || transfer->redacted)
		return;
	redact_text(key, request->error, strlen(request->error));
	redact_text(key, request->body, request->body_len);
	transfer->redacted = true;
}

/* What was done in a phase, for an error's DETAIL. */
const char *
http_phase_name(HttpPhase phase)
{
	static const char *const names[] = {
		[HTTP_PHASE_DNS] = "resolving the name",
		[HTTP_PHASE_CONNECT] = "connecting",
		[HTTP_PHASE_PROXY] = "asking the proxy",
		[HTTP_PHASE_TLS] = "negotiating TLS",
		[HTTP_PHASE_RESPONSE] = "waiting for the response",
	};

	return names[phase];
}
