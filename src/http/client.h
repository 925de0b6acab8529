/*-------------------------------------------------------------------------
 *
 * http/client.h
 *		One libcurl event loop for everything that goes to the network.
 *
 * A caller makes a batch in a memory context, starts requests in it, and runs
 * the loop until they have finished:
 *
 *		batch = http_batch_create(context);
 *		http_start(batch, settings, path, tag);
 *		while ((request = http_take_finished(batch)) == NULL)
 *			(void) http_run_once(-1);
 *		... read request ...
 *		http_release(request);
 *
 * When the context is reset or deleted, by an error too, whatever the batch
 * still has in flight is aborted.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_CLIENT_H
#define ANYVOD_HTTP_CLIENT_H

#include "http/result.h"
#include "server/settings.h"

/*
 * Bytes of bodies that one process holds at most, all requests together, and
 * one batch as long as it holds more than one.
 */
#define HTTP_MAX_BODIES ((size_t) 64 * 1024 * 1024)
#define HTTP_MAX_BATCH_BODIES (HTTP_MAX_BODIES / 2)

/* Longest error message of libcurl (its CURL_ERROR_SIZE). */
#define HTTP_ERROR_SIZE 256

typedef struct HttpBatch HttpBatch;

/*
 * What a caller may read of a request; all but "tag" and "result" only once
 * it has finished.
 */
typedef struct HttpRequest
{
	void	   *tag;			/* the caller's */
	HttpResult	result;
	HttpPhase	phase;
	HttpCertificate certificate;
	char		error[HTTP_ERROR_SIZE]; /* libcurl's message, "" if none */
	int			status;			/* HTTP status */
	char		content_type[64];	/* media type alone, cut at that */
	int			retry_after;	/* seconds, -1 if not said */
	char	   *body;			/* malloc'd and terminated, NULL if empty */
	size_t		body_len;
	int64		started;		/* monotonic_us() of http_start() */
	int64		elapsed;		/* start to end, microseconds */
	int			attempts;		/* times that it was sent, or begun to be; a
								 * request that the gateway refused to process
								 * is sent again */
	bool		connected;		/* a connection was made for it */
} HttpRequest;

extern HttpBatch *http_batch_create(MemoryContext context);
extern HttpRequest *http_start(HttpBatch *batch,
							   const ServerSettings *settings,
							   const char *path, void *tag);
extern HttpRequest *http_take_finished(HttpBatch *batch);
extern bool http_doubt(HttpRequest *request);
extern bool http_has_finished(HttpBatch *batch);
extern int	http_in_flight(const HttpBatch *batch);
extern int	http_room(const HttpBatch *batch);
extern bool http_run_once(long timeout_ms);
extern void http_release(HttpRequest *request);

#endif							/* ANYVOD_HTTP_CLIENT_H */
