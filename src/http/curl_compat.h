/*-------------------------------------------------------------------------
 *
 * http/curl_compat.h
 *		Differences between the versions of libcurl, 7.61 and newer.
 *
 * Nothing else tests LIBCURL_VERSION_NUM.  Workarounds for single versions
 * that need no #if stand here as well, so that somebody can delete them:
 *
 *	what										where			since	until
 *	sockets that were not connected are closed
 *		without the close callback				multi.c			7.61	8.14
 *	a multi handle's descriptors survive exec	multi.c			7.61	8.14
 *	retries are counted over all transfers of a
 *		handle, and fail the sixth at once		result.c		7.61	8.22
 *	the error buffer tells of another
 *		connection that is closed meanwhile		multi.c			7.61	-
 *	an unsolicited response on an idle connection
 *		is taken for that to the next request	multi.c			7.61	-
 *	times of phases that were not reached are
 *		filled in when a transfer has failed	result.c		8.20	-
 *	a header line that is too long is
 *		CURLE_OUT_OF_MEMORY						result.c		7.61	8.6
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_CURL_COMPAT_H
#define ANYVOD_HTTP_CURL_COMPAT_H

#include <curl/curl.h>

/* Results that say that a certificate was refused; one from 7.62 on. */
#define COMPAT_BAD_CERTIFICATE(code) \
	((code) == CURLE_PEER_FAILED_VERIFICATION || (code) == CURLE_SSL_CACERT)

/*
 * Trust the authorities of a file and nobody else, or (NULL) the system's.
 *
 * libcurl with OpenSSL keeps the certificates of a file, once it has parsed
 * them, for all connections of a multi handle (7.87), but before 8.2x only if
 * there is no folder beside it.  A bundle of 140 takes 8 to 30 ms.  So the
 * system's folder is left out where the system has a file, too (known from
 * 7.84 on).
 */
#if CURL_AT_LEAST_VERSION(7, 87, 0)
#define COMPAT_KEEPS_CERTIFICATES true
#else
#define COMPAT_KEEPS_CERTIFICATES false
#endif

static inline CURLcode
compat_set_authorities(CURL *easy, const char *path)
{
	CURLcode	code = CURLE_OK;

	if (path != NULL)
	{
		code = curl_easy_setopt(easy, CURLOPT_CAINFO, path);
		if (code == CURLE_OK)
			code = curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
		if (code == CURLE_OK)
			code = curl_easy_setopt(easy, CURLOPT_PROXY_CAINFO, path);
		if (code == CURLE_OK)
			code = curl_easy_setopt(easy, CURLOPT_PROXY_CAPATH, NULL);
		return code;
	}
#if CURL_AT_LEAST_VERSION(7, 87, 0)
	(void) curl_easy_getinfo(easy, CURLINFO_CAINFO, (char **) &path);
	if (path != NULL)
		code = curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
#endif
	return code;
}

/* Do not wait for the resolver's threads when a multi handle ends (8.20). */
static inline CURLMcode
compat_set_quick_exit(CURLM *multi)
{
#if CURL_AT_LEAST_VERSION(8, 20, 0)
	return curl_multi_setopt(multi, CURLMOPT_QUICK_EXIT, 1L);
#else
	return CURLM_OK;
#endif
}

/*
 * Only http and https, no HTTP/0.9 (7.64; refused by default from 7.66), and
 * no waiting for the resolver's thread when a transfer is aborted (7.87).
 */
static inline CURLcode
compat_set_safety(CURL *easy)
{
	CURLcode	code;

#if CURL_AT_LEAST_VERSION(7, 85, 0)
	code = curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	code = curl_easy_setopt(easy, CURLOPT_PROTOCOLS,
							(long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if CURL_AT_LEAST_VERSION(7, 64, 0)
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_HTTP09_ALLOWED, 0L);
#endif
#if CURL_AT_LEAST_VERSION(7, 87, 0)
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	return code;
}

/*
 * Give a handle its URL.  From 7.63 on it is parsed once a handle and gets
 * another path afterwards, which saves a tenth of what a request takes; "path"
 * is NULL if it has to be parsed.
 */
#if CURL_AT_LEAST_VERSION(7, 63, 0)
typedef CURLU CompatUrl;
#else
typedef void CompatUrl;
#endif

static inline CURLcode
compat_set_url(CURL *easy, CompatUrl **parsed, const char *url,
			   const char *path)
{
#if CURL_AT_LEAST_VERSION(7, 63, 0)
	bool		made = *parsed == NULL;

	if (made && (*parsed = curl_url()) == NULL)
		return CURLE_OUT_OF_MEMORY;
	if ((made || path == NULL ?
			 curl_url_set(*parsed, CURLUPART_URL, url, 0) :
			 curl_url_set(*parsed, CURLUPART_PATH, path, 0)) != CURLUE_OK)
		return CURLE_OUT_OF_MEMORY;
	return curl_easy_setopt(easy, CURLOPT_CURLU, *parsed);
#else
	return curl_easy_setopt(easy, CURLOPT_URL, url);
#endif
}

static inline void
compat_free_url(CompatUrl *parsed)
{
#if CURL_AT_LEAST_VERSION(7, 63, 0)
	curl_url_cleanup(parsed);
#endif
}

/*
 * Call "on_send" each time that a request is about to be sent, by libcurl's
 * own retries too (7.80).  Before, each transfer counts as sent once.
 */
typedef int (*CompatOnSend)(void *arg, char *to, char *from, int to_port,
							int from_port);

#if CURL_AT_LEAST_VERSION(7, 80, 0)
#define COMPAT_COUNTS_SENDS true
#define COMPAT_SEND_OK CURL_PREREQFUNC_OK
#else
#define COMPAT_COUNTS_SENDS false
#define COMPAT_SEND_OK 0
#endif

static inline CURLcode
compat_set_on_send(CURL *easy, CompatOnSend on_send, void *arg)
{
	CURLcode	code = CURLE_OK;

#if CURL_AT_LEAST_VERSION(7, 80, 0)
	code = curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_send);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_PREREQDATA, arg);
#endif
	return code;
}

/*
 * Seconds that a Retry-After header asks for (7.66), -1 if there is none.  At
 * most six hours, which libcurl itself cuts them to in its later versions.
 */
#define COMPAT_LONGEST_RETRY_AFTER 21600

static inline int
compat_retry_after(CURL *easy)
{
#if CURL_AT_LEAST_VERSION(7, 66, 0)
	curl_off_t	seconds = 0;

	if (curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK &&
		seconds > 0)
		return (int) (seconds < COMPAT_LONGEST_RETRY_AFTER ?
						  seconds :
						  COMPAT_LONGEST_RETRY_AFTER);
#endif
	return -1;
}

#endif							/* ANYVOD_HTTP_CURL_COMPAT_H */
