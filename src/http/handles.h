/*-------------------------------------------------------------------------
 *
 * target.h
 *		What the requests to one upstream have in common.
 *
 * Only http.c and what it is made of include this.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_TARGET_H
#define ANYVOD_TARGET_H

#include <curl/curl.h>

#include "lib/ilist.h"
#include "http/internal.h"
#include "http/route.h"
#include "server/settings.h"

/* Set an option, or leave the function it is used in. */
#define HTTP_SET(easy, option, value) \
	do { \
		CURLcode	set_ = curl_easy_setopt(easy, option, value); \
		if (set_ != CURLE_OK) \
			return set_; \
	} while (0)

/* Questions that are remembered, to tell whose answer it is that comes. */
#define TARGET_MAX_ASKED 512

/*
 * What one upstream's requests have in common: the easy handles, set up but
 * for the request itself, and what they point to.
 */
typedef struct HttpTarget
{
	dlist_node	node;			/* in "targets", last used first */
	uint64		id;				/* the ServerSettings's */
	Oid			serverid;		/* the ServerSettings's, which roles share */
	int			max_concurrency;	/* of that server */
	int			in_use;			/* requests not yet released */
	HttpRoute  *route;			/* which its requests take */
	struct curl_slist *headers; /* holds the key */
	const char *api_key;		/* the place in it, NULL: none */
	char	   *url;			/* base URL and path, room for a task id */
	size_t		url_prefix;		/* length without the task id */
	size_t		url_size;
	size_t		url_path;		/* where in it the path begins */
	char	   *proxy;			/* "" if none: never the environment's */
	char	   *ca_pem;			/* NULL: the system's authorities */
	size_t		ca_pem_len;
	long		timeout;		/* milliseconds */
	long		connect_timeout;	/* milliseconds */
	size_t		max_response_size;	/* bytes */
	bool		tls;			/* the base URL is https */
	uint32		nasked;			/* questions so far */
	uint64		asked[TARGET_MAX_ASKED];	/* hashes of the latest task ids */
	HttpHandle *idle;			/* handles, the one used last first */
} HttpTarget;

extern HttpTarget *target_get(const ServerSettings *upstream);
extern bool target_has_asked(const HttpTarget *target, const char *task_id);
extern int	target_max_connections(void);
extern HttpHandle *target_take_handle(HttpTarget *target, const char *task_id,
									  CURLcode *code);
extern void target_return_handle(HttpTarget *target, HttpHandle *handle,
								 bool reusable);

#endif							/* ANYVOD_TARGET_H */
