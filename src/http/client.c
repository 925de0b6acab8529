/*-------------------------------------------------------------------------
 *
 * http.c
 *		One libcurl event loop for everything that goes to the network.
 *
 * A process has multi handles (pool.c), the first made when it first asks
 * something and kept until it ends, so that connections outlive statements.
 * libcurl says which sockets it waits for, and waiter.c waits for them.
 *
 * Rules that everything here keeps:
 *
 * - A callback that libcurl calls never throws: it notes what went wrong in
 *	 the request and returns failure.  It allocates with malloc only.
 * - A call that may start a transfer may start a resolver thread.  Such calls
 *	 run with all signals blocked, so that the thread inherits that and never
 *	 takes a signal that is meant for the process.
 * - The key leaves this file in the Authorization header only.
 *
 * What is asked and how the answer is read is not known here.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/memutils.h"

#include "clock.h"
#include "compat.h"
#include "http/client.h"
#include "http/result.h"
#include "http/pool.h"
#include "http/route.h"
#include "http/handles.h"
#include "http/event_loop.h"
#include "server/validate.h"

/* A body starts with room for a usual answer (1.1 kB, 4 kB in full shape). */
#define HTTP_FIRST_BODY 8192

/* A request that a gateway refuses since it ends the connection begins anew. */
#define HTTP_MAX_RESTARTS 5

/* So many questions on a shared connection leave together, at most. */
#define HTTP_PARCEL 32

/*
 * Descriptors that we leave to others of the third of max_safe_fds that
 * PostgreSQL lends to extensions.
 */
#define HTTP_SPARE_DESCRIPTORS 8

/* Look this often, in milliseconds, at what cannot be waited for. */
#define HTTP_LOOK_EVERY 50

struct HttpBatch
{
	dlist_head	in_flight;
	dlist_head	finished;
	dlist_head	kept;			/* finished, and taken note of */
	int			n_in_flight;
	MemoryContext context;
	MemoryContextCallback callback;
};

/* What libcurl wants to know about a descriptor, and what the waiter knows. */
typedef struct HttpSocket
{
	uint8		wanted;			/* POLLER_IN | POLLER_OUT, 0: nothing */
	uint8		polled;			/* the same, as the waiter knows it */
	bool		ours;			/* opened by our callback */
	bool		in_turn;		/* carries one question after the other */
	bool		corked;			/* what is sent waits in the system */
	HttpPool   *pool;			/* whose libcurl waits for, or has waited */
	HttpRequest *opener;		/* for whom; it may be gone, compare only */
	uint32		gateway;		/* where to, as route_gateway() says */
	ino_t		inode;			/* tells whether it is still that socket */
} HttpSocket;

/* The loop of this process. */
static struct
{
	bool		ready;			/* made, when it was first used */
	HttpSocket *sockets;		/* by descriptor */
	int			nsockets;
	size_t		body_bytes;		/* allocated to bodies */
	bool		finished;		/* a request has, in this turn */
	bool		deaf;			/* something wanted is not waited for */
} http;


/*
 * What libcurl calls.  Nothing below throws.
 */

/* Make room for a descriptor in the table; false if there is no memory. */
static bool
http_socket_room(int fd)
{
	HttpSocket *sockets;
	int			n;

	if (fd < http.nsockets)
		return true;
	n = Max(64, Max(http.nsockets * 2, fd + 1));
	sockets = realloc(http.sockets, n * sizeof(HttpSocket));
	if (sockets == NULL)
		return false;
	memset(sockets + http.nsockets, 0,
		   (n - http.nsockets) * sizeof(HttpSocket));
	http.sockets = sockets;
	http.nsockets = n;
	return true;
}

/* A socket is not there any more. */
static void
http_forget_socket(HttpSocket *socket)
{
	if (socket->polled != 0)
		waiter_forget(socket - http.sockets);
	memset(socket, 0, sizeof(HttpSocket));
}

/* Have something else waited for at a socket; false if that fails. */
static bool
http_poll(int fd, int events)
{
	HttpSocket *socket = &http.sockets[fd];

	if (socket->polled == events)
		return true;
	if (!waiter_watch(fd, socket->polled, events))
		return false;
	socket->polled = events;
	return true;
}

/*
 * libcurl closes a socket that it has not finished connecting (refused, timed
 * out, broken off) without calling http_on_close(); 7.88 does.  Give back
 * what such sockets of a request have taken of PostgreSQL's count.
 */
static void
http_count_closed(const HttpRequest *request)
{
	struct stat found;

	for (int fd = 0; fd < http.nsockets; fd++)
	{
		HttpSocket *socket = &http.sockets[fd];

		if (!socket->ours || socket->opener != request ||
			(fstat(fd, &found) == 0 && found.st_ino == socket->inode))
			continue;
		http_forget_socket(socket);
		ReleaseExternalFD();
	}
}

/* libcurl wants a socket: one that PostgreSQL knows of, closed at exec. */
static curl_socket_t
http_on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpRequest *request = ((HttpHandle *) arg)->request;
	int			type = address->socktype;
	struct stat made;
	int			fd;

	if (!route_may_open(request->target->route, request))
	{
		request->again = true;
		return CURL_SOCKET_BAD;
	}
	if (!AcquireExternalFD())
	{
		request->denied = true;
		return CURL_SOCKET_BAD;
	}
	request->opened = true;
#ifdef SOCK_CLOEXEC
	type |= SOCK_CLOEXEC;
#endif
	fd = socket(address->family, type, address->protocol);
	if (fd < 0 || !http_socket_room(fd))
	{
		if (fd >= 0)
		{
			close(fd);
			request->no_memory = true;
		}
		else if (errno == EMFILE || errno == ENFILE)
			request->denied = true;
		ReleaseExternalFD();
		return CURL_SOCKET_BAD;
	}
#ifndef SOCK_CLOEXEC
	(void) fcntl(fd, F_SETFD, FD_CLOEXEC);
#endif
	if (http.sockets[fd].ours)
		ReleaseExternalFD();	/* of a socket closed without a word */
	http_forget_socket(&http.sockets[fd]);
	http.sockets[fd].ours = true;
	http.sockets[fd].opener = request;
	http.sockets[fd].gateway = route_gateway(request->target->route);
	if (fstat(fd, &made) == 0)
		http.sockets[fd].inode = made.st_ino;
	return fd;
}

/* libcurl is done with a socket that http_on_open gave. */
static int
http_on_close(void *arg, curl_socket_t fd)
{
	http_forget_socket(&http.sockets[fd]);
	ReleaseExternalFD();
	return close(fd);
}

/* The request that a handle serves, NULL if none. */
static HttpRequest *
http_request_of(CURL *easy)
{
	HttpHandle *handle = NULL;

	(void) curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &handle);
	return handle == NULL ? NULL : handle->request;
}

/* The HTTP version of a handle's answer, 0 if there is none. */
static long
http_version_of(CURL *easy)
{
	long		version = 0;

	(void) curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &version);
	return version;
}

/*
 * A socket of ours is idle: what comes in is looked for, and no longer whether
 * it can be written to.  (A fast answer is there before it was waited for.)
 */
static void
http_idle(int fd)
{
	if (http.sockets[fd].polled != 0)
		(void) http_poll(fd, POLLER_IN);
}

/*
 * libcurl says what it waits for at a descriptor.
 *
 * A socket of ours that nothing is wanted from, a connection kept alive
 * between two requests, is still waited for, for what comes in: the next
 * request will want the same (this saves two system calls a request, a fifth
 * of its time).  It is taken out when something comes that nobody wants.  That
 * needs to know when the descriptor is closed, so it holds for sockets of ours
 * only; libcurl's resolver has others, which it closes by itself.
 *
 * The system may refuse to wait for one more.  That is not said to libcurl:
 * 7.88 would do nothing more with this multi handle, and then use a request's
 * memory that has been freed.
 */
static int
http_on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	HttpRequest *request = http_request_of(easy);
	HttpSocket *socket;
	int			wanted = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		wanted |= POLLER_IN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		wanted |= POLLER_OUT;

	/* (Those of ours have room.  The resolver looks by itself, too.) */
	if (!http_socket_room(fd))
		return 0;
	socket = &http.sockets[fd];
	socket->pool = arg;
	/* If its peer is to say something, there is a connection. */
	if ((wanted & POLLER_IN) && socket->ours && request != NULL)
		request->connected = true;
	if (wanted == 0)
		socket->in_turn = http_version_of(easy) == CURL_HTTP_VERSION_1_1;
	socket->wanted = wanted;
	if (wanted == 0 && socket->ours)
		http_idle(fd);
	else if (!http_poll(fd, wanted))
		http.deaf = true;
	return 0;
}

/*
 * A piece of the body has arrived.
 *
 * The buffer doubles from 8 kB up to the server's limit, so that it is never
 * more than twice as large as what has arrived, and never larger than the
 * limit; what is allocated counts against HTTP_MAX_BODIES.
 */
static size_t
http_on_body(char *data, size_t one, size_t len, void *arg)
{
	HttpRequest *request = ((HttpHandle *) arg)->request;
	size_t		limit = request->target->max_response_size;

	route_heard(request->target->route);
	if (len == 0)
		return 0;				/* there is no body */
	if (len > limit - request->body_len)
	{
		request->too_large = true;
		return 0;
	}
	if (len > request->body_size - request->body_len)
	{
		size_t		size = Max(request->body_size, HTTP_FIRST_BODY / 2) * 2;
		char	   *body;

		while (size - request->body_len < len)
			size *= 2;
		size = Min(size, limit);
		if (http.body_bytes - request->body_size + size > HTTP_MAX_BODIES ||
			(body = realloc(request->body, size + 1)) == NULL)
		{
			request->no_memory = true;
			return 0;
		}
		http.body_bytes += size - request->body_size;
		request->body = body;
		request->body_size = size;
	}
	memcpy(request->body + request->body_len, data, len);
	request->body_len += len;
	request->body[request->body_len] = '\0';
	return len;
}


/*
 * The loop
 */

/* Block all signals, as is due around calls that may start a thread. */
static void
http_block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void
http_restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/*
 * Connections that this process may have: what PostgreSQL lends to
 * extensions, a third of max_safe_fds, less some for others.
 */
static int
http_max_connections(void)
{
	return Max(max_safe_fds / 3 - HTTP_SPARE_DESCRIPTORS, 4);
}

/* Make the loop of this process when it first asks something. */
static void
http_init(void)
{
	static bool libcurl_ready = false;
	sigset_t	saved;

	if (http.ready)
		return;

	waiter_create();
	if (!libcurl_ready)
	{
		/* The environment is not obeyed, least of all in this. */
		unsetenv("SSLKEYLOGFILE");
		http_block_signals(&saved);
		libcurl_ready = curl_global_init(CURL_GLOBAL_ALL) == CURLE_OK;
		http_restore_signals(&saved);
	}
	if (!libcurl_ready || !pool_init(http_max_connections(), http_on_socket))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not start libcurl")));

	http.ready = true;
}

/* What libcurl wants to hear of an event. */
static int
http_mask(const PollerEvent *event)
{
	int			mask = 0;

	if (event->in || event->broken)
		mask |= CURL_CSELECT_IN;
	if (event->out || event->broken)
		mask |= CURL_CSELECT_OUT;
	if (event->broken)
		mask |= CURL_CSELECT_ERR;
	return mask;
}

/*
 * Has a pool a connection whose peer has not hung up?  Each is waited for as
 * long as that.
 */
static bool
http_is_alive(const HttpPool *pool)
{
	for (int fd = 0; fd < http.nsockets; fd++)
	{
		if (http.sockets[fd].pool == pool && http.sockets[fd].polled != 0)
			return true;
	}
	return false;
}

/*
 * Something has come to a connection that is idle: its end, most likely.  If
 * it is an answer that nobody asked for, libcurl (7.88) would take it for that
 * to the next question, so no question may go there any more.  (HTTP/2 says
 * what an answer is for, and has more to say than answers.)
 */
static void
http_retire(int fd)
{
	HttpSocket *socket = &http.sockets[fd];

	(void) http_poll(fd, 0);
	if (socket->ours && socket->in_turn)
		(void) shutdown(fd, SHUT_RDWR);
	if (socket->pool != NULL && !http_is_alive(socket->pool))
		pool_let_rest(socket->pool);
}

/*
 * Milliseconds until there is something to do, at most "timeout_ms"; -1: no
 * end.
 */
static long
http_time_to_wait(long timeout_ms)
{
	if (route_ready())
		return 0;
	if (http.deaf && (timeout_ms < 0 || timeout_ms > HTTP_LOOK_EVERY))
		timeout_ms = HTTP_LOOK_EVERY;
	return pool_time_to_wait(timeout_ms);
}


/*
 * Requests
 */

/* Let libcurl call us about what a handle does. */
static CURLcode
http_bind(CURL *easy, HttpHandle *handle)
{
	HTTP_SET(easy, CURLOPT_PRIVATE, handle);
	HTTP_SET(easy, CURLOPT_OPENSOCKETFUNCTION, http_on_open);
	HTTP_SET(easy, CURLOPT_OPENSOCKETDATA, handle);
	HTTP_SET(easy, CURLOPT_CLOSESOCKETFUNCTION, http_on_close);
	HTTP_SET(easy, CURLOPT_WRITEFUNCTION, http_on_body);
	HTTP_SET(easy, CURLOPT_WRITEDATA, handle);
	HTTP_SET(easy, CURLOPT_ERRORBUFFER, handle->trouble);
	return CURLE_OK;
}

/* Give a request a handle that will ask for its task. */
static CURLcode
http_take_handle(HttpRequest *request, const char *task_id)
{
	CURLcode	code;
	HttpHandle *handle = target_take_handle(request->target, task_id, &code);

	if (handle == NULL)
		return code;
	if (!handle->bound)
	{
		code = http_bind(handle->easy, handle);
		if (code != CURLE_OK)
		{
			target_return_handle(request->target, handle, false);
			return code;
		}
		handle->bound = true;
	}
	handle->request = request;
	request->handle = handle;
	return CURLE_OK;
}

/*
 * Part a request from its handle.  A handle whose transfer came to its end
 * serves another request; one that was broken off does not.  Its connection
 * goes with it, unless others use it: over HTTP/2 libcurl (7.88) would keep it
 * and tell the gateway that the request is gone only with the next one.
 */
static void
http_drop_handle(HttpRequest *request, bool reusable)
{
	HttpHandle *handle = request->handle;

	if (handle == NULL)
		return;
	route_leave(request->target->route, request);
	request->handle = NULL;
	request->batch->n_in_flight--;
	if (!reusable)
		(void) curl_easy_setopt(handle->easy, CURLOPT_FORBID_REUSE, 1L);
	pool_remove(handle);
	if (!reusable || request->result != HTTP_COMPLETE)
		http_count_closed(request);
	target_return_handle(request->target, handle, reusable);
}

/* A request has finished, or was never started: let its batch have it. */
static void
http_finish(HttpRequest *request)
{
	http_drop_handle(request, true);
	dlist_delete(&request->node);
	dlist_push_tail(&request->batch->finished, &request->node);
	http.finished = true;
}

/* Hand a request to libcurl, which does nothing for it until its next call. */
static void
http_hand_over(HttpRequest *request)
{
	if (pool_add(request->handle,
				 route_is_serial(request->target->route)))
		return;
	outcome_not_started(request, CURLE_OUT_OF_MEMORY);
	http_finish(request);
}

/*
 * Let a request have another handle like its own.  A handle keeps the times of
 * its last transfer until the next has begun, and by them route_look() tells
 * whether a request is on its way: one that has been and is to stand in line
 * again would be kept from opening a connection for ever.
 */
static void
http_renew_handle(HttpRequest *request)
{
	HttpHandle *handle = request->handle;
	CURL	   *easy = curl_easy_duphandle(handle->easy);

	if (easy != NULL && http_bind(easy, handle) != CURLE_OK)
	{
		curl_easy_cleanup(easy);
		easy = NULL;
	}
	if (easy == NULL)
		return;
	curl_easy_cleanup(handle->easy);
	handle->easy = easy;
}

/* Have a transfer begin anew, when its turn comes. */
static void
http_restart(HttpRequest *request)
{
	pool_remove(request->handle);
	http_count_closed(request);
	http_renew_handle(request);
	route_leave(request->target->route, request);
	request->restarts++;
	request->again = request->opened = request->connected = false;
	request->handle->trouble[0] = '\0';
	request->body_len = 0;
	if (route_enter(request->target->route, request))
		http_hand_over(request);
}

/*
 * Did a connection come to its end before anything of the answer was there?
 * If it is shared, libcurl itself tries again, and may well give up because
 * others do.  If it was kept, 8.23 does not always look whether its peer has
 * closed it meanwhile.
 */
static bool
http_was_refused(HttpRequest *request, CURLcode result)
{
	bool		kept = !request->opened && result == CURLE_SEND_ERROR;
	long		status = 0;

	if (!kept &&
		(!route_is_shared(request->target->route) ||
		 (result != CURLE_SEND_ERROR && result != CURLE_RECV_ERROR &&
		  result != CURLE_HTTP2 && result != CURLE_HTTP2_STREAM)))
		return false;
	(void) curl_easy_getinfo(request->handle->easy, CURLINFO_RESPONSE_CODE,
							 &status);
	return status == 0;
}

/*
 * A request has timed out on a connection that is shared, and so outlives it.
 * If it seems dead, shut it down: libcurl finds it closed.
 */
static void
http_shut_if_mute(HttpRequest *request)
{
	curl_socket_t fd = CURL_SOCKET_BAD;

	if (request->phase != HTTP_PHASE_RESPONSE ||
		!route_is_mute(request->target->route, request))
		return;
	if (curl_easy_getinfo(request->handle->easy, CURLINFO_ACTIVESOCKET, &fd) ==
			CURLE_OK &&
		fd != CURL_SOCKET_BAD)
		(void) shutdown(fd, SHUT_RDWR);
}

/*
 * A transfer has ended.  If the connection that it was to make did not come
 * about, those that waited for the same connection have ended as well: the
 * first of them would find what it found, the next after it, and so on, each
 * after its own timeout.
 */
static void
http_end_transfer(HttpRequest *request, CURLcode result)
{
	HttpRoute  *route = request->target->route;
	HttpRequest *other;

	if (http_was_refused(request, result))
		request->again = true;
	if (request->again && request->restarts < HTTP_MAX_RESTARTS)
	{
		http_restart(request);
		return;
	}
	outcome_take(request, result);
	if (request->result == HTTP_COMPLETE)
		route_learn(route, request);
	if (request->result == HTTP_TIMED_OUT)
		http_shut_if_mute(request);
	if (request->phase < HTTP_PHASE_RESPONSE &&
		(request->result == HTTP_UNREACHABLE ||
		 request->result == HTTP_TIMED_OUT))
	{
		while ((other = route_waiting(route)) != NULL)
		{
			outcome_share(other, request);
			http_finish(other);
		}
	}
	http_finish(request);
}

/* Hand the transfers that have ended to their batches. */
static void
http_collect(void)
{
	CURLMsg    *message;

	while ((message = pool_finished()) != NULL)
	{
		if (message->msg == CURLMSG_DONE)
			http_end_transfer(http_request_of(message->easy_handle),
							  message->data.result);
	}
}

/*
 * Have the system keep what is sent on the connections that a route may take,
 * or (NULL) send what it has kept on any.
 */
static void
http_cork(const HttpRoute *route)
{
#ifdef TCP_CORK
	int			cork = route != NULL;

	for (int fd = 0; fd < http.nsockets; fd++)
	{
		HttpSocket *socket = &http.sockets[fd];

		if (!socket->ours || socket->corked == cork ||
			(cork && socket->gateway != route_gateway(route)))
			continue;
		if (setsockopt(fd, IPPROTO_TCP, TCP_CORK, &cork, sizeof(cork)) == 0)
			socket->corked = cork;
	}
#endif
}

/*
 * Let libcurl have the requests whose turn has come; each is on its way at
 * once if there is a connection for it.
 *
 * libcurl sends each question by itself, and to wake the peer up for each is a
 * quarter of the work.  So of those that share a connection the first goes at
 * once, and those behind it go together.
 */
static void
http_let_in(void)
{
	const HttpRoute *corked = NULL;
	HttpRequest *request;
	int			held = 0;

	while ((request = route_next()) != NULL)
	{
		HttpRoute  *route = request->target->route;

		http_hand_over(request);
		pool_tick();
		http_collect();
		if (corked != NULL && (route != corked || ++held == HTTP_PARCEL))
		{
			http_cork(NULL);
			corked = NULL;
		}
		if (corked == NULL && route_is_shared(route) &&
			route_waiting(route) != NULL)
		{
			http_cork(route);
			corked = route;
			held = 0;
		}
	}
	if (corked != NULL)
		http_cork(NULL);
}

/*
 * Give libcurl the events that are there; "ready" if it is known that some are.
 * A transfer that one of them ends is taken at once: when it ended is when its
 * answer came.
 */
static void
http_dispatch(bool ready)
{
	PollerEvent events[POLLER_EVENTS];
	int			n = waiter_take(events, ready);

	for (int i = 0; i < n; i++)
	{
		HttpSocket *socket = &http.sockets[events[i].fd];

		if (socket->wanted == 0)
		{
			http_retire(events[i].fd);
			continue;
		}
		pool_act(socket->pool, events[i].fd, http_mask(&events[i]));
		http_collect();
	}
}

/* Have libcurl look for itself where nothing can be waited for. */
static void
http_look(void)
{
	if (!http.deaf)
		return;
	http.deaf = false;
	for (int fd = 0; fd < http.nsockets; fd++)
	{
		if (http.sockets[fd].wanted == 0 ||
			http_poll(fd, http.sockets[fd].wanted))
			continue;
		http.deaf = true;
		pool_act(http.sockets[fd].pool, fd, 0);
	}
}

/* Do what is due. */
static void
http_advance(void)
{
	pool_tick();
	http_look();
	http_collect();
	http_let_in();
}

/* Free the body of a request. */
static void
http_free_body(HttpRequest *request)
{
	http.body_bytes -= request->body_size;
	free(request->body);
	request->body = NULL;
	request->body_size = 0;
	request->body_len = 0;
}

/* The batch's context goes: break off what is in flight.  Must not throw. */
static void
http_batch_reset(void *arg)
{
	HttpBatch  *batch = arg;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &batch->in_flight)
	{
		http_release(dlist_container(HttpRequest, node, iter.cur));
	}
	dlist_foreach_modify(iter, &batch->finished)
	{
		http_release(dlist_container(HttpRequest, node, iter.cur));
	}
	dlist_foreach_modify(iter, &batch->kept)
	{
		http_release(dlist_container(HttpRequest, node, iter.cur));
	}
}


/*
 * What other rooms call
 */

/*
 * Make a batch that lives in "context": requests started in it are broken
 * off when that is reset or deleted.
 */
HttpBatch *
http_batch_create(MemoryContext context)
{
	HttpBatch  *batch;

	http_init();
	batch = MemoryContextAllocZero(context, sizeof(HttpBatch));
	dlist_init(&batch->in_flight);
	dlist_init(&batch->finished);
	dlist_init(&batch->kept);
	batch->context = context;
	batch->callback.func = http_batch_reset;
	batch->callback.arg = batch;
	MemoryContextRegisterResetCallback(context, &batch->callback);
	return batch;
}

/*
 * Prepare a request that asks "upstream" for a task, whose id has been checked.
 * It counts as in flight, since it has a place there.
 *
 * Never fails: one that cannot be prepared finishes when it is to begin, with
 * the outcome that says why.  Raises an error only when the memory for the
 * request itself is missing.
 */
HttpRequest *
http_prepare(HttpBatch *batch, const ServerSettings *upstream, const char *task_id,
			 void *tag)
{
	HttpRequest *request;
	CURLcode	code = CURLE_OUT_OF_MEMORY;

	Assert(validate_task_id(task_id, strlen(task_id)));
	request = MemoryContextAllocZero(batch->context, sizeof(HttpRequest));
	request->batch = batch;
	request->tag = tag;
	request->retry_after = -1;
	request->prepared = true;
	dlist_push_tail(&batch->in_flight, &request->node);

	request->target = target_get(upstream);
	if (request->target != NULL)
	{
		request->target->in_use++;
		pool_allow_host_connections(target_max_connections());
		code = http_take_handle(request, task_id);
	}
	if (request->handle != NULL)
		batch->n_in_flight++;
	else
		outcome_not_started(request, code);
	return request;
}

/* Let a request that was prepared go. */
void
http_begin(HttpRequest *request)
{
	Assert(request->prepared);
	request->prepared = false;
	request->started = monotonic_us();
	if (request->handle == NULL)
		http_finish(request);
	else if (route_enter(request->target->route, request))
		http_hand_over(request);
}

/* Start asking for a task: see http_prepare(). */
HttpRequest *
http_start(HttpBatch *batch, const ServerSettings *upstream, const char *task_id,
		   void *tag)
{
	HttpRequest *request = http_prepare(batch, upstream, task_id, tag);

	http_begin(request);
	return request;
}

/* A request of the batch that has finished, the first first; NULL if none. */
HttpRequest *
http_finished(HttpBatch *batch)
{
	if (dlist_is_empty(&batch->finished))
		return NULL;
	return dlist_head_element(HttpRequest, node, &batch->finished);
}

/* Keep a finished request; http_finished() will not give it again. */
void
http_keep(HttpRequest *request)
{
	dlist_delete(&request->node);
	dlist_push_tail(&request->batch->kept, &request->node);
}

/*
 * Is the answer to a request about one task, which names another (NULL: none),
 * for that?  A gateway may have names of its own, so it is not only if that
 * other task was asked about shortly before.  Then HTTP/1.1, which does not say
 * what an answer is for, has got out of step on one of its connections, by an
 * answer that nobody had asked for: none to that gateway is used any more.
 */
bool
http_is_answer(HttpRequest *request, const char *asked, const char *named)
{
	if (named == NULL || strcmp(asked, named) == 0 ||
		!target_has_asked(request->target, named))
		return true;
	for (int fd = 0; fd < http.nsockets; fd++)
	{
		HttpSocket *socket = &http.sockets[fd];

		if (socket->ours && socket->in_turn &&
			socket->gateway == route_gateway(request->target->route))
			(void) shutdown(fd, SHUT_RDWR);
	}
	return false;
}

/* Requests of the batch that have not finished. */
int
http_in_flight(const HttpBatch *batch)
{
	return batch->n_in_flight;
}

/*
 * How many more requests of the batch would find a descriptor.  Those beyond
 * would wait inside libcurl, where a request's timeout runs all the same.
 */
int
http_room(const HttpBatch *batch)
{
	return Max(pool_connections() - batch->n_in_flight, 0);
}

/*
 * If there is a single connection, and one that is kept from one request to
 * the next, it may be waited for by itself.  (libcurl tells of the end of such
 * a connection; not of that of any descriptor.)
 */
static void
http_hold(void)
{
	int			fd = waiter_only();

	if (fd >= 0 && http.sockets[fd].ours && http.sockets[fd].in_turn)
		waiter_hold(fd);
}

/*
 * Is there no reason for a wait, not even a short one?  Not if a request has
 * finished and nobody else wants to be heard.
 */
static bool
http_need_not_wait(void)
{
	return http.finished && !MyLatch->is_set &&
		(!IsUnderPostmaster || PostmasterIsAlive());
}

/*
 * One turn of the loop: do what is due, questions that were just started
 * above all; wait until something happens, at most "timeout_ms" milliseconds
 * (-1: without an end), unless a request has finished by then; and deal with
 * it.  Returns whether the latch was set.  Raises whatever
 * CHECK_FOR_INTERRUPTS() raises.
 */
bool
http_run_once(long timeout_ms)
{
	uint32		happened;
	sigset_t	saved;

	http_init();
	CHECK_FOR_INTERRUPTS();
	http.finished = false;
	if (route_ready() || pool_is_due())
	{
		http_block_signals(&saved);
		http_dispatch(false);	/* no question goes to what is to be retired */
		http_advance();
		http_restore_signals(&saved);
		if (http_need_not_wait())
			return false;
	}

	http_hold();
	happened = waiter_wait(http.finished ? 0 : http_time_to_wait(timeout_ms));
	CHECK_FOR_INTERRUPTS();

	http_block_signals(&saved);
	http_dispatch(happened & WL_SOCKET_READABLE);
	http_advance();
	http_restore_signals(&saved);
	return happened & WL_LATCH_SET;
}

/* Let go of a request; if it is in flight it is broken off. */
void
http_release(HttpRequest *request)
{
	sigset_t	saved;

	if (request->handle != NULL)
	{
		http_block_signals(&saved);
		http_drop_handle(request, request->prepared);
		http_restore_signals(&saved);
	}
	if (request->target != NULL)
		request->target->in_use--;
	dlist_delete(&request->node);
	http_free_body(request);
	pfree(request);
}

/* The name of a phase, for an error's DETAIL. */
const char *
http_phase_name(HttpPhase phase)
{
	switch (phase)
	{
		case HTTP_PHASE_PROXY:
			return "asking the proxy";
		case HTTP_PHASE_DNS:
			return "resolving the name";
		case HTTP_PHASE_CONNECT:
			return "connecting";
		case HTTP_PHASE_TLS:
			return "negotiating TLS";
		case HTTP_PHASE_RESPONSE:
			return "waiting for the answer";
	}
	return "an unknown phase";	/* not reached */
}
