/*-------------------------------------------------------------------------
 *
 * curl.h
 *		libcurl's header as if it were that of 7.61.0, the oldest supported.
 *
 * "make matrix-build" compiles against it once, with gcc.  It is the header of
 * whichever libcurl is installed, with another version number, and without
 * the names that came after 7.61.0: using one is an error.  Those that anyvod
 * has no conceivable use for are not listed.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_CURL_7_61
#define ANYVOD_CURL_7_61

/* what was deprecated since is not, at 7.61 */
#define CURL_DISABLE_DEPRECATION
#include_next <curl/curl.h>

#undef LIBCURL_VERSION
#undef LIBCURL_VERSION_MAJOR
#undef LIBCURL_VERSION_MINOR
#undef LIBCURL_VERSION_PATCH
#undef LIBCURL_VERSION_NUM
#define LIBCURL_VERSION "7.61.0"
#define LIBCURL_VERSION_MAJOR 7
#define LIBCURL_VERSION_MINOR 61
#define LIBCURL_VERSION_PATCH 0
#define LIBCURL_VERSION_NUM 0x073D00

/* 7.62 */
#pragma GCC poison CURLOPT_DOH_URL CURLOPT_UPLOAD_BUFFERSIZE
#pragma GCC poison CURLOPT_UPKEEP_INTERVAL_MS curl_easy_upkeep
#pragma GCC poison curl_url curl_url_cleanup curl_url_dup curl_url_get
#pragma GCC poison curl_url_set CURLU
/* 7.64 */
#pragma GCC poison CURLOPT_HTTP09_ALLOWED CURLOPT_TRAILERFUNCTION
/* 7.65 */
#pragma GCC poison CURLOPT_MAXAGE_CONN
/* 7.66 */
#pragma GCC poison CURLINFO_RETRY_AFTER CURLOPT_SASL_AUTHZID
#pragma GCC poison CURL_HTTP_VERSION_3 curl_multi_poll
/* 7.67 */
#pragma GCC poison CURLMOPT_MAX_CONCURRENT_STREAMS
/* 7.68 */
#pragma GCC poison curl_multi_wakeup
/* 7.69 */
#pragma GCC poison CURLE_QUIC_CONNECT_ERROR
/* 7.70 */
#pragma GCC poison CURLSSLOPT_REVOKE_BEST_EFFORT
/* 7.71 */
#pragma GCC poison curl_blob CURL_BLOB_COPY CURL_BLOB_NOCOPY
#pragma GCC poison CURLOPT_SSLCERT_BLOB CURLOPT_SSLKEY_BLOB
#pragma GCC poison CURLOPT_ISSUERCERT_BLOB CURLSSLOPT_NATIVE_CA
/* 7.72 */
#pragma GCC poison CURLINFO_EFFECTIVE_METHOD
/* 7.73 */
#pragma GCC poison CURLE_PROXY CURLINFO_PROXY_ERROR curl_easy_option_by_id
#pragma GCC poison curl_easy_option_by_name curl_easy_option_next
/* 7.76 */
#pragma GCC poison CURLINFO_REFERER
/* 7.77 */
#pragma GCC poison CURLOPT_CAINFO_BLOB CURLOPT_PROXY_CAINFO_BLOB
#pragma GCC poison CURLE_SSL_CLIENTCERT
/* 7.79 */
#pragma GCC poison CURLE_UNRECOVERABLE_POLL
/* 7.80 */
#pragma GCC poison CURLOPT_MAXLIFETIME_CONN CURLOPT_PREREQFUNCTION
#pragma GCC poison curl_url_strerror
/* 7.83 */
#pragma GCC poison curl_easy_header curl_easy_nextheader curl_header
/* 7.84 */
#pragma GCC poison CURLINFO_CAINFO CURLINFO_CAPATH
/* 7.85 */
#pragma GCC poison CURLOPT_PROTOCOLS_STR CURLOPT_REDIR_PROTOCOLS_STR
/* 7.86 */
#pragma GCC poison curl_ws_recv curl_ws_send curl_ws_meta CURLOPT_WS_OPTIONS
/* 7.87 */
#pragma GCC poison CURLOPT_QUICK_EXIT CURLOPT_CA_CACHE_TIMEOUT
/* 8 */
#pragma GCC poison CURLOPT_HAPROXY_CLIENT_IP CURLINFO_CONN_ID
#pragma GCC poison CURLINFO_XFER_ID CURLINFO_USED_PROXY
#pragma GCC poison CURLINFO_POSTTRANSFER_TIME_T CURLINFO_QUEUE_TIME_T
#pragma GCC poison CURLINFO_EARLYDATA_SENT_T CURLE_TOO_LARGE
#pragma GCC poison curl_global_trace curl_multi_get_handles
#pragma GCC poison curl_multi_waitfds curl_multi_notify_enable
#pragma GCC poison CURLOPT_TCP_KEEPCNT CURLFOLLOW_ALL

#endif							/* ANYVOD_CURL_7_61 */
