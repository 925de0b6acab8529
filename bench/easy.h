/*-------------------------------------------------------------------------
 *
 * easy.h
 *		What the benchmark's own questions by libcurl have in common.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_EASY_H
#define BENCH_EASY_H

#include <curl/curl.h>

#define USER_AGENT "anyvod/bench"
#define KEY_HEADER "Authorization: Bearer sk-bench"
#define ACCEPT_HEADER "Accept: application/json"

/* Options of a handle whose body goes to "on_body". */
static inline void
easy_set_up(CURL *easy, curl_write_callback on_body)
{
	static struct curl_slist *headers = NULL;

	if (headers == NULL)
		headers = curl_slist_append(curl_slist_append(NULL, ACCEPT_HEADER),
									KEY_HEADER);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, USER_AGENT);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 30000L);
}

#endif							/* BENCH_EASY_H */
