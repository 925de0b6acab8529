/*-------------------------------------------------------------------------
 *
 * http.h
 *		One libcurl event loop for everything that goes to the network.
 *
 * A caller makes a batch in a memory context, starts requests in it, and
 * takes turns of the loop until they have finished:
 *
 *		batch = http_batch_create(context);
 *		http_start(batch, upstream, task_id, tag);
 *		while ((request = http_finished(batch)) == NULL)
 *			http_run_once(-1);
 *		... read request ...
 *		http_release(request);
 *
 * A request may be prepared some time before it is let go, or released again:
 * http_start() is http_prepare() and http_begin().
 *
 * One request and ten thousand are the same code.  When the context is reset
 * or deleted, by an error too, whatever the batch still has in flight is
 * broken off.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_H
#define ANYVOD_HTTP_H

#include "lib/ilist.h"
#include "server/settings.h"

/* Bytes of bodies that one process holds at most, all requests together. */
#define HTTP_MAX_BODIES ((size_t) 64 * 1024 * 1024)

/* How a request ended. */
typedef enum HttpResult
{
	HTTP_UNFINISHED,			/* it has not ended */
	HTTP_COMPLETE,				/* an answer arrived whole */
	HTTP_UNREACHABLE,			/* no connection: name, refusal, TLS */
	HTTP_BROKEN,				/* broken off while asking or answering */
	HTTP_TIMED_OUT,				/* in the phase that "phase" names */
	HTTP_TOO_LARGE,				/* the answer, larger than its limit */
	HTTP_NO_DESCRIPTOR,			/* this process has no descriptor to spare */
	HTTP_NO_MEMORY,				/* no memory, or HTTP_MAX_BODIES reached */
} HttpResult;

/* How far a request came. */
typedef enum HttpPhase
{
	HTTP_PHASE_DNS,
	HTTP_PHASE_CONNECT,
	HTTP_PHASE_PROXY,			/* asking it for a way to the gateway */
	HTTP_PHASE_TLS,
	HTTP_PHASE_RESPONSE,
} HttpPhase;

/* What was found wrong with the peer's certificate. */
typedef enum HttpCertificate
{
	HTTP_CERTIFICATE_GOOD,		/* nothing, or it did not come to that */
	HTTP_CERTIFICATE_UNTRUSTED, /* by no authority that is trusted */
	HTTP_CERTIFICATE_OUTDATED,	/* expired, or not yet valid */
	HTTP_CERTIFICATE_OF_OTHER,	/* for another host name */
	HTTP_CERTIFICATE_REFUSED,	/* something else */
} HttpCertificate;

/* Longest explanation that libcurl gives (its CURL_ERROR_SIZE). */
#define HTTP_ERROR_SIZE 256

typedef struct HttpBatch HttpBatch;

/*
 * A request.  All but "tag" is to be read only, and only once it has
 * finished.
 */
typedef struct HttpRequest
{
	dlist_node	node;			/* in its batch's list: in flight or finished */
	HttpBatch  *batch;
	struct HttpTarget *target;
	struct HttpHandle *handle;	/* NULL once finished */
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
	size_t		body_size;		/* allocated, but for the terminator */
	int64		started;		/* monotonic clock, microseconds */
	int64		elapsed;		/* start to end, microseconds */
	dlist_node	line_node;		/* in its route's line, if in_line */
	bool		prepared;		/* has not begun */
	bool		in_line;		/* waits for others to have a connection */
	bool		on_the_way;		/* its route has seen it go out */
	bool		opened;			/* a connection was begun for it */
	bool		again;			/* is to begin anew, see route_may_open() */
	int			restarts;		/* times that it has */
	bool		connected;		/* a connection was made for it */
	bool		denied;			/* a descriptor was refused to it */
	bool		too_large;
	bool		no_memory;
} HttpRequest;

extern HttpBatch *http_batch_create(MemoryContext context);
extern HttpRequest *http_prepare(HttpBatch *batch, const ServerSettings *upstream,
								 const char *task_id, void *tag);
extern void http_begin(HttpRequest *request);
extern HttpRequest *http_start(HttpBatch *batch, const ServerSettings *upstream,
							   const char *task_id, void *tag);
extern HttpRequest *http_finished(HttpBatch *batch);
extern void http_keep(HttpRequest *request);
extern bool http_is_answer(HttpRequest *request, const char *asked,
						   const char *named);
extern int	http_in_flight(const HttpBatch *batch);
extern int	http_room(const HttpBatch *batch);
extern bool http_run_once(long timeout_ms);
extern void http_release(HttpRequest *request);
extern const char *http_phase_name(HttpPhase phase);

#endif							/* ANYVOD_HTTP_H */
