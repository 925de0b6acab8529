/*-------------------------------------------------------------------------
 *
 * http/internal.h
 *		What the files of http/ share.  No other file includes this.
 *
 * client.c has the life of a request, loop.c the queue and the iteration,
 * multi.c the multi handles and sockets, handles.c the easy handles, result.c
 * how a transfer ended.
 *
 * A transfer is a request and what libcurl needs of it:
 *
 *		  | http_start()                    refused by the gateway before
 *		  v                                 it was processed: sent again
 *		 QUEUED <--------------------------+
 *		  |   | loop_dispatch()            |
 *		  |   v                            |
 *		  | CONNECTING --------------------+  has no connection yet
 *		  |   |    | the request goes out  |
 *		  |   |    v                       |
 *		  |   |  SENT ---------------------+
 *		  v   v    v
 *		 FINISHED                             result, body and times are good
 *
 * http_release() frees it in any state, and aborts what is in flight.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_INTERNAL_H
#define ANYVOD_HTTP_INTERNAL_H

#include <curl/curl.h>
#include <sys/epoll.h>

#include "http/client.h"
#include "http/curl_compat.h"
#include "lib/ilist.h"
#include "lib/pairingheap.h"

#define MILLISECOND INT64CONST(1000)
#define SECOND INT64CONST(1000000)

/* Set an option of an easy handle, or return why that failed. */
#define HTTP_SET(easy, option, value) \
	do { \
		CURLcode	set_ = curl_easy_setopt(easy, option, value); \
		if (set_ != CURLE_OK) \
			return set_; \
	} while (0)

typedef enum HttpState
{
	HTTP_QUEUED,
	HTTP_CONNECTING,
	HTTP_SENT,
	HTTP_FINISHED,
} HttpState;

/* What the connections to an endpoint carry. */
typedef enum HttpKind
{
	HTTP_KIND_UNKNOWN,			/* no response has come yet */
	HTTP_KIND_SERIAL,			/* one request at a time: HTTP/1 */
	HTTP_KIND_MULTIPLEXED,		/* many at once: HTTP/2 */
} HttpKind;

/* A multi handle, which owns its connections. */
typedef struct HttpMulti
{
	dlist_node	node;			/* in the list of all */
	CURLM	   *curl;
	HttpKind	kind;			/* SERIAL or MULTIPLEXED */
	int64		created;		/* monotonic_us() */
	int			in_flight;		/* easy handles in it */
	int			connections;	/* that it may have; descriptors reserved */
	bool		has_messages;	/* transfers may have ended */
	bool		timer_set;
	int64		timer;			/* when libcurl wants to be called, 0: now */
} HttpMulti;

/*
 * An easy handle, which serves one request after the other.  All options but
 * the URL and the timeout are set once.
 */
typedef struct HttpHandle
{
	CURL	   *easy;
	CompatUrl  *url;			/* the parsed URL, NULL before the first */
	struct HttpHandle *next;	/* in its endpoint's list, if idle */
	struct HttpTransfer *transfer;	/* which it serves, NULL if none */
	char		error[CURL_ERROR_SIZE]; /* libcurl's message */
} HttpHandle;

/*
 * Whom to trust: a PEM text, which endpoints share, and a file in memory that
 * has it.  It is never freed.
 */
typedef struct HttpAuthorities
{
	struct HttpAuthorities *next;
	char		path[32];		/* of the file */
	size_t		len;
	char		pem[FLEXIBLE_ARRAY_MEMBER];
} HttpAuthorities;

/* Where the requests of one ServerSettings go, and what they have in common. */
typedef struct HttpEndpoint
{
	dlist_node	node;			/* in the list of all, last used first */
	uint64		id;				/* the ServerSettings', as are the next two */
	Oid			serverid;
	Oid			userid;
	int			in_use;			/* transfers not yet released */

	/* what handles.c sets up in each handle */
	struct curl_slist *headers; /* holds the key */
	const char *api_key;		/* the place in it, NULL: none */
	char	   *url;			/* base URL, room for a path behind it */
	size_t		base_len;		/* length of the base URL */
	bool		has_path;		/* it has one, which libcurl normalizes */
	char	   *proxy;			/* "" if none: never the environment's */
	const HttpAuthorities *authorities; /* NULL: the system's */
	int			timeout;		/* milliseconds */
	int			connect_timeout;	/* milliseconds */
	size_t		max_response_size;	/* bytes */
	bool		tls;			/* the base URL is https */
	HttpHandle *idle;			/* handles, the one used last first */

	/* what loop.c knows */
	HttpKind	kind;
	bool		has_own_names;	/* see http_doubt() */
	int			in_flight;		/* transfers that libcurl has */
	int			sent;			/* those of them that are SENT */
	int			window;			/* that there may be, fewer after refusals */
	dlist_node	queued_node;	/* in the loop's list, if "queue" is not empty */
	dlist_head	queue;			/* QUEUED transfers, the oldest first */
	dlist_head	connecting;		/* CONNECTING transfers, the oldest first */
} HttpEndpoint;

typedef struct HttpTransfer
{
	HttpRequest request;		/* first: what callers see */
	HttpState	state;
	HttpBatch  *batch;
	HttpEndpoint *endpoint;		/* NULL: there was no memory for it */
	HttpHandle *handle;			/* while libcurl has it, else NULL */
	HttpMulti  *multi;			/* the same */
	dlist_node	batch_node;		/* in a list of its batch */
	dlist_node	loop_node;		/* QUEUED, CONNECTING: in its endpoint's list */
	pairingheap_node deadline_node; /* QUEUED, CONNECTING, SENT */
	int64		deadline;		/* when its timeout is over, monotonic_us() */
	int64		dispatched;		/* when libcurl got it, monotonic_us() */
	uint64		number;			/* of its last dispatch, never used again */
	size_t		body_size;		/* allocated, but for the terminator */
	int			refusals;		/* times that the gateway refused it */
	bool		fresh;			/* goes over a new connection */
	curl_socket_t socket;		/* that the response came over */
	bool		redacted;		/* the key is not in what callers see */
	bool		opened;			/* a socket was opened for it */
	bool		denied;			/* a descriptor was refused to it */
	bool		too_large;		/* its body passed the limit */
	bool		no_room;		/* its body did not fit beside others */
	bool		no_memory;
	char		path[FLEXIBLE_ARRAY_MEMBER];
} HttpTransfer;

struct HttpBatch
{
	dlist_head	active;			/* transfers that have not finished */
	dlist_head	finished;
	dlist_head	taken;			/* finished, and given to the caller */
	int			in_flight;		/* length of "active" */
	size_t		body_bytes;		/* allocated to bodies */
	MemoryContext context;
	MemoryContextCallback callback;
};

/* event_loop.c: a mask of epoll's (EPOLLIN, ...) says what is waited for */
extern void event_loop_create(void);
extern bool event_loop_set(int fd, uint32 from, uint32 to);
extern uint32 event_loop_wait(long timeout_ms);
extern int	event_loop_take(struct epoll_event *events, int max);

/* client.c */
extern void transfer_finish(HttpTransfer *transfer);
extern size_t transfer_on_body(char *data, size_t one, size_t len, void *arg);

/* multi.c */
extern HttpMulti *multi_get(HttpEndpoint *endpoint);
extern void multi_act(HttpMulti *multi, curl_socket_t fd, int mask);
extern int64 multi_next_timer(void);
extern bool multi_run_timers(int64 until);
extern void multi_close_old(void);
extern curl_socket_t socket_on_open(void *arg, curlsocktype purpose,
									struct curl_sockaddr *address);
extern int	socket_on_close(void *arg, curl_socket_t fd);
extern void socket_on_event(int fd, uint32 events);
extern void socket_close_of(const HttpTransfer *transfer, int64 active_at);
extern void socket_close_idle(void);

/* loop.c */
extern void loop_init(void);
extern int	loop_max_connections(void);
extern void loop_begin(HttpTransfer *transfer, bool first);
extern void loop_abort(HttpTransfer *transfer);
extern void loop_set_deadline(HttpTransfer *transfer, int64 deadline);
extern int	loop_on_send(void *arg, char *to, char *from, int to_port,
						 int from_port);
extern void loop_end_transfer(HttpTransfer *transfer, CURLcode code);

/* handles.c */
extern HttpEndpoint *endpoint_get(const ServerSettings *settings);
extern CURLcode endpoint_take_handle(HttpEndpoint *endpoint,
									 HttpTransfer *transfer);
extern void endpoint_return_handle(HttpEndpoint *endpoint,
								   HttpTransfer *transfer, bool reusable);

/* result.c */
extern void result_take(HttpTransfer *transfer, CURLcode code);
extern bool result_is_refused(const HttpTransfer *transfer, CURLcode code);
extern void result_redact(HttpTransfer *transfer);

#endif							/* ANYVOD_HTTP_INTERNAL_H */
