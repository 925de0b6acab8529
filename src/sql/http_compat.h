/*-------------------------------------------------------------------------
 *
 * http_compat.h
 *		What sql/ uses of http/client.h, on the present one.
 *
 * Goes, with the includes of it, when http/client.h takes a path and gives
 * each finished request once.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_COMPAT_H
#define ANYVOD_HTTP_COMPAT_H

#include "http/client.h"

#define HTTP_NO_ROOM HTTP_NO_MEMORY

/* Was the request sent, or tried to be? */
#define http_was_attempted(request) ((request)->elapsed > 0)

static inline HttpRequest *
http_take_finished(HttpBatch *batch)
{
	HttpRequest *request = http_finished(batch);

	if (request != NULL)
		http_keep(request);
	return request;
}

#define http_has_finished(batch) (http_finished(batch) != NULL)

/* The present one is given the task id, and adds the path itself. */
#define http_start(batch, settings, path, tag) \
	http_start(batch, settings, (path) + strlen(REQUEST_PATH), tag)

#endif							/* ANYVOD_HTTP_COMPAT_H */
