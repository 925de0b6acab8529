/*-------------------------------------------------------------------------
 *
 * handle.h
 *		An easy handle of libcurl, and what belongs to it.
 *
 * Only http.c and what it is made of include this.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HANDLE_H
#define ANYVOD_HANDLE_H

#include <curl/curl.h>

#include "compat.h"
#include "http/client.h"

/*
 * An easy handle, which serves one request after the other.  All options but
 * the URL are set once.
 */
typedef struct HttpHandle
{
	CURL	   *easy;
	CompatUrl  *url;			/* taken apart; NULL: libcurl does that */
	struct HttpHandle *next;	/* in its target's list, if idle */
	HttpRequest *request;		/* which it serves, NULL if none */
	struct HttpPool *pool;		/* that it was put into last, NULL: none */
	bool		in_pool;		/* and is in */
	bool		bound;			/* the callbacks and the trouble are set */
	char		trouble[CURL_ERROR_SIZE];	/* libcurl's words */
} HttpHandle;

#endif							/* ANYVOD_HANDLE_H */
