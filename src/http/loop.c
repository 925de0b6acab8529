/*-------------------------------------------------------------------------
 *
 * http/loop.c
 *		libcurl's multi handles, their sockets, and the queue before them.
 *
 * A process has two multi handles, made when it first needs them, so that
 * connections outlive statements: one for connections that carry one request
 * at a time (HTTP/1), which may have as many as there are requests, and one
 * for those that carry many (HTTP/2), which has few to each host.  What an
 * endpoint speaks turns out with its first connection; until then libcurl gets
 * two of its requests, the second when the first has a connection.
 *
 * A multi handle takes new requests for less than a minute.  Then another one
 * takes its place, and it is closed when its last request has ended: that is
 * how a gateway whose name has moved to another address is followed, whatever
 * its old address still answers.  An idle session closes its connections in a
 * signal handler, since nothing else runs there.
 *
 * Rules that everything here keeps:
 *
 * - A callback that libcurl calls never throws: it notes what went wrong in
 *	 the transfer and returns failure.  It allocates with malloc only.
 * - A call that may start a transfer may start a resolver thread.  Such calls
 *	 run with all signals blocked, so that the thread inherits that and never
 *	 takes a signal that is meant for the process.
 * - Signals are blocked, and interrupts not checked, for one call of libcurl
 *	 more than LOOP_SLICE.  A single call runs all transfers whose timers have
 *	 run out; so few connections are being made at once that this is short.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "http/event_loop.h"
#include "http/internal.h"

#define MILLISECOND INT64CONST(1000)
#define SECOND INT64CONST(1000000)

/* How long libcurl may work before interrupts are checked. */
#define LOOP_SLICE (5 * MILLISECOND)

/* Events that are taken at once. */
#define EVENTS 128

/* How long a multi handle takes new requests. */
#define MULTI_MAX_AGE (50 * SECOND)

/* How long connections of an idle session are kept, in milliseconds. */
#define IDLE_TIMEOUT 60000

/*
 * Connections to an endpoint over TLS that are begun within CONNECT_WINDOW and
 * not ready.  A handshake takes 1.5 to 3 ms, and a CA file of 220 kB 8 to 30
 * ms more if libcurl parses it for each; timers of theirs may run out for all
 * at once.
 */
#define MAX_CONNECTING 8
#define CONNECT_WINDOW (100 * MILLISECOND)
#define CA_SIZE_OF_HANDSHAKE (64 * 1024)

/* libcurl's own timeout comes first, and tells more. */
#define DEADLINE_GRACE (100 * MILLISECOND)

/* How often a request is sent again that the gateway refused to process. */
#define MAX_REFUSALS 4

/* Requests that a connection of HTTP/2 carries if its peer says nothing. */
#define STREAMS 100

/* Hosts whose HTTP/2 connections have descriptors reserved one by one. */
#define MULTIPLEXED_HOSTS 64

/*
 * Descriptors that we leave to others of the third of max_safe_fds that
 * PostgreSQL lends to extensions; and those that libcurl has for itself, with
 * each multi handle.
 */
#define SPARE_DESCRIPTORS 8
#define MULTI_DESCRIPTORS 2

/* What libcurl wants to know about a descriptor, and what is waited for. */
typedef struct HttpSocket
{
	uint32		wanted;			/* EPOLLIN | EPOLLOUT, 0: nothing */
	uint32		polled;			/* what the event loop waits for */
	bool		ours;			/* opened by our callback */
	bool		connected;		/* its peer was waited for */
	bool		serial;			/* carries one request at a time */
	HttpMulti  *multi;			/* whose it is, or was */
	uint64		opener;			/* number of the transfer that it was for */
	int64		active_at;		/* when something last arrived */
} HttpSocket;

/* The loop of this process. */
static struct
{
	bool		ready;
	HttpMulti  *current[2];		/* that take requests: serial, multiplexed */
	dlist_head	multis;			/* all, with those that take none any more */
	dlist_head	queued;			/* endpoints whose queue is not empty */
	HttpSocket *sockets;		/* by descriptor */
	int			nsockets;
	bool		finished;		/* a transfer has, in this iteration */
	bool		busy;			/* there was more to do than a slice allows */
	uint64		number;			/* of the last transfer dispatched */
	int64		used_at;		/* when an iteration last began */
	TimeoutId	idle_timeout;	/* of a session */
} loop;

static int	deadline_compare(const pairingheap_node *a,
							 const pairingheap_node *b, void *arg);
static void loop_end_transfer(HttpTransfer *transfer, CURLcode code);

/* Transfers that have begun and not finished. */
static pairingheap deadlines = {.ph_compare = deadline_compare};


/*
 * Signals
 */

/* Block all signals, as is due around calls that may start a thread. */
void
loop_block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

void
loop_restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}


/*
 * Sockets, as libcurl tells of them.  Nothing below throws.
 */

/* Make room for a descriptor in the table; false if there is no memory. */
static bool
socket_make_room(int fd)
{
	HttpSocket *sockets;
	int			n;

	if (fd < loop.nsockets)
		return true;
	n = Max(64, Max(loop.nsockets * 2, fd + 1));
	sockets = realloc(loop.sockets, n * sizeof(HttpSocket));
	if (sockets == NULL)
		return false;
	memset(sockets + loop.nsockets, 0,
		   (n - loop.nsockets) * sizeof(HttpSocket));
	loop.sockets = sockets;
	loop.nsockets = n;
	return true;
}

/* Have something else waited for at a socket; false if that fails. */
static bool
socket_poll(int fd, uint32 events)
{
	HttpSocket *socket = &loop.sockets[fd];

	if (socket->polled == events)
		return true;
	if (!event_loop_set(fd, socket->polled, events))
		return false;
	socket->polled = events;
	return true;
}

/* The transfer that a handle of libcurl's serves, NULL if none. */
static HttpTransfer *
transfer_of_easy(CURL *easy)
{
	HttpHandle *handle = NULL;

	(void) curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &handle);
	return handle == NULL ? NULL : handle->transfer;
}

/* libcurl wants a socket: one that exec closes. */
curl_socket_t
loop_on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpHandle *handle = arg;
	HttpTransfer *transfer = handle->transfer;
	HttpEndpoint *endpoint = transfer->endpoint;
	HttpSocket *made;
	int			fd;

	/* What was said before is about an old connection that was closed. */
	if (!transfer->opened)
		handle->error[0] = '\0';

	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	if (fd < 0)
	{
		transfer->denied = (errno == EMFILE || errno == ENFILE);
		return CURL_SOCKET_BAD;
	}
	if (!socket_make_room(fd))
	{
		close(fd);
		transfer->no_memory = true;
		return CURL_SOCKET_BAD;
	}
	made = &loop.sockets[fd];
	memset(made, 0, sizeof(HttpSocket));
	made->ours = true;
	made->opener = transfer->number;
	transfer->opened = true;

	/* A second connection while the first carries a request: one is not
	 * enough for both. */
	if (endpoint->kind == HTTP_KIND_UNKNOWN && endpoint->sent > 0)
		endpoint->kind = HTTP_KIND_SERIAL;
	return fd;
}

/* libcurl is done with a socket that loop_on_open() gave. */
int
loop_on_close(void *arg, curl_socket_t fd)
{
	memset(&loop.sockets[fd], 0, sizeof(HttpSocket));
	return close(fd);
}

/*
 * libcurl says what it waits for at a descriptor.
 *
 * A connection of ours that is kept alive between two requests is still waited
 * for: the next request will want the same (this saves two system calls a
 * request, a fifth of its time), and what comes in meanwhile tells that it is
 * of no use any more.  That needs to know when it is closed, which libcurl
 * tells of connected sockets only; its resolver has others, which it closes by
 * itself.
 *
 * The system may refuse to wait for one more.  That is not said to libcurl,
 * since 7.88 would do nothing more with this multi handle, and then use a
 * transfer's memory that has been freed; the transfer's time is over.
 */
static int
loop_on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	HttpTransfer *transfer = transfer_of_easy(easy);
	HttpSocket *socket;
	long		version = 0;
	uint32		wanted = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		wanted |= EPOLLIN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		wanted |= EPOLLOUT;

	/* (Ours have room.  The resolver looks by itself, too.) */
	if (!socket_make_room(fd))
		return 0;
	socket = &loop.sockets[fd];
	socket->multi = arg;
	if (!socket->ours && socket->polled == 0)
		(void) fcntl(fd, F_SETFD, FD_CLOEXEC);
	/* If its peer is to say something, there is a connection. */
	if ((wanted & EPOLLIN) && socket->ours)
	{
		socket->connected = true;
		if (transfer != NULL && socket->opener == transfer->number)
			transfer->request.connected = true;
	}
	if (wanted == 0)
	{
		(void) curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &version);
		socket->serial = version < CURL_HTTP_VERSION_2_0;
	}
	socket->wanted = wanted;
	if (wanted == 0 && socket->connected && socket->polled != 0)
		wanted = EPOLLIN;
	if (!socket_poll(fd, wanted) && transfer != NULL && socket->wanted != 0)
	{
		transfer->denied = true;
		pairingheap_remove(&deadlines, &transfer->deadline_node);
		transfer->deadline = 0;
		pairingheap_add(&deadlines, &transfer->deadline_node);
	}
	return 0;
}

/*
 * Something has come to a connection that is idle: its end, most likely.  If
 * it is a response that nobody requested, libcurl would take it for that to
 * the next request, so no request may go there any more.  (HTTP/2 says what a
 * response is for, and has more to say than responses.)
 */
static void
socket_on_idle_event(int fd, uint32 events)
{
	HttpSocket *socket = &loop.sockets[fd];
	bool		close = socket->serial ||
		(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;

	(void) socket_poll(fd, close || !socket->ours ? 0 : EPOLLRDHUP);
	if (close && socket->ours)
		(void) shutdown(fd, SHUT_RDWR);
}


/*
 * Multi handles
 */

/* libcurl says when it wants to be called even if nothing happens. */
static int
multi_on_timer(CURLM *curl, long timeout_ms, void *arg)
{
	HttpMulti  *multi = arg;

	multi->timer_set = timeout_ms >= 0;
	multi->timer = timeout_ms > 0 ?
		monotonic_us() + timeout_ms * MILLISECOND :
		0;
	return 0;
}

/* Tell a multi handle how to work; false if it refuses. */
static bool
multi_set_up(HttpMulti *multi)
{
	CURLM	   *curl = multi->curl;
	long		pipelining = multi->kind == HTTP_KIND_MULTIPLEXED ?
		CURLPIPE_MULTIPLEX :
		CURLPIPE_NOTHING;

	return curl_multi_setopt(curl, CURLMOPT_SOCKETFUNCTION, loop_on_socket) ==
		CURLM_OK &&
		curl_multi_setopt(curl, CURLMOPT_SOCKETDATA, multi) == CURLM_OK &&
		curl_multi_setopt(curl, CURLMOPT_TIMERFUNCTION, multi_on_timer) ==
		CURLM_OK &&
		curl_multi_setopt(curl, CURLMOPT_TIMERDATA, multi) == CURLM_OK &&
		curl_multi_setopt(curl, CURLMOPT_PIPELINING, pipelining) == CURLM_OK &&
		compat_set_quick_exit(curl) == CURLM_OK;
}

/* Close a multi handle that has no transfer, with its connections. */
static void
multi_close(HttpMulti *multi)
{
	Assert(multi->in_flight == 0);
	if (multi->curl != NULL)
		(void) curl_multi_cleanup(multi->curl);
	for (int i = -MULTI_DESCRIPTORS; i < multi->connections; i++)
		ReleaseExternalFD();
	free(multi);
}

/*
 * Make a multi handle; NULL if there is no descriptor or no memory for it.
 * Two descriptors of its own, to be woken up by, stay open at exec in libcurl
 * before 8.14; they take the lowest numbers that are free.
 */
static HttpMulti *
multi_open(HttpKind kind)
{
	HttpMulti  *multi = calloc(1, sizeof(HttpMulti));
	int			own[MULTI_DESCRIPTORS];

	if (multi == NULL)
		return NULL;
	multi->kind = kind;
	multi->created = monotonic_us();
	multi->connections = -MULTI_DESCRIPTORS;
	while (multi->connections < 0 && AcquireExternalFD())
		multi->connections++;
	if (multi->connections == 0)
	{
		for (int i = 0; i < MULTI_DESCRIPTORS; i++)
			own[i] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
		for (int i = 0; i < MULTI_DESCRIPTORS; i++)
			close(own[i]);
		multi->curl = curl_multi_init();
		for (int i = 0; i < MULTI_DESCRIPTORS; i++)
			(void) fcntl(own[i], F_SETFD, FD_CLOEXEC);
	}
	if (multi->curl == NULL || !multi_set_up(multi))
	{
		multi_close(multi);
		return NULL;
	}
	dlist_push_tail(&loop.multis, &multi->node);
	return multi;
}

/*
 * The multi handle that takes the next request of an endpoint, NULL if there is
 * none.  Where HTTP/2 was possible, the first of several requests goes where
 * the first connection is.
 */
static HttpMulti *
multi_get(HttpEndpoint *endpoint)
{
	HttpKind	kind = endpoint->kind == HTTP_KIND_SERIAL &&
			   (!endpoint->tls || endpoint->in_flight > 0) ?
		HTTP_KIND_SERIAL :
		HTTP_KIND_MULTIPLEXED;
	HttpMulti **current = &loop.current[kind == HTTP_KIND_MULTIPLEXED];
	HttpMulti  *made = NULL;

	if (*current == NULL ||
		monotonic_us() - (*current)->created > MULTI_MAX_AGE)
		made = multi_open(kind);
	if (made != NULL)
		*current = made;
	return *current;
}

/* Close the multi handles that take no requests and have none. */
static void
multi_close_old(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &loop.multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);

		if (multi->in_flight > 0 || multi == loop.current[0] ||
			multi == loop.current[1])
			continue;
		dlist_delete(&multi->node);
		multi_close(multi);
	}
}

/*
 * Let a multi handle have the connections that one more request needs: one for
 * each request, or fewer if they share them.  Returns false if the descriptor
 * for it is not to be had.
 */
static bool
multi_reserve(HttpMulti *multi)
{
	int			n = multi->in_flight + 1;
	int			wanted = multi->kind == HTTP_KIND_SERIAL ?
		n :
		Min(n, MULTIPLEXED_HOSTS + n / STREAMS);
	int			before = multi->connections;

	while (multi->connections < wanted && AcquireExternalFD())
		multi->connections++;
	if (multi->connections == before)
		return before >= wanted ||
			(before > 0 && multi->kind == HTTP_KIND_MULTIPLEXED);
	(void) curl_multi_setopt(multi->curl, CURLMOPT_MAX_TOTAL_CONNECTIONS,
							 (long) multi->connections);
	(void) curl_multi_setopt(multi->curl, CURLMOPT_MAXCONNECTS,
							 (long) multi->connections);
	if (multi->kind == HTTP_KIND_MULTIPLEXED)
		(void) curl_multi_setopt(multi->curl, CURLMOPT_MAX_HOST_CONNECTIONS,
								 (long) Max((n + STREAMS - 1) / STREAMS, 2));
	return true;
}

/* Have libcurl see to a socket, or to what is due (CURL_SOCKET_TIMEOUT). */
static void
multi_act(HttpMulti *multi, curl_socket_t fd, int mask)
{
	CURLMsg    *message;
	int			n;

	if (fd == CURL_SOCKET_TIMEOUT)
		multi->timer_set = false;
	(void) curl_multi_socket_action(multi->curl, fd, mask, &n);
	while ((message = curl_multi_info_read(multi->curl, &n)) != NULL)
	{
		if (message->msg == CURLMSG_DONE)
			loop_end_transfer(transfer_of_easy(message->easy_handle),
							  message->data.result);
	}
}


/*
 * Transfers
 */

/* A request goes out, or seems to have. */
static void
transfer_on_sent(HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;

	if (transfer->state != HTTP_CONNECTING)
		return;
	dlist_delete(&transfer->loop_node);
	transfer->state = HTTP_SENT;

	/* It shares a connection with one that is on its way. */
	if (endpoint->kind == HTTP_KIND_UNKNOWN && endpoint->sent > 0 &&
		!transfer->opened)
		endpoint->kind = HTTP_KIND_MULTIPLEXED;
	endpoint->sent++;
}

/* libcurl sends a request now, for the first time or again. */
int
loop_on_send(void *arg, char *to, char *from, int to_port, int from_port)
{
	HttpTransfer *transfer = ((HttpHandle *) arg)->transfer;

	transfer->request.attempts++;
	transfer_on_sent(transfer);
	return COMPAT_SEND_OK;
}

/* Find out which requests have been sent, where libcurl does not tell. */
static void
endpoint_look_for_sent(HttpEndpoint *endpoint)
{
	dlist_mutable_iter iter;

	if (COMPAT_COUNTS_SENDS)
		return;
	dlist_foreach_modify(iter, &endpoint->connecting)
	{
		HttpTransfer *transfer = dlist_container(HttpTransfer, loop_node,
												 iter.cur);
		curl_off_t	sent = 0;

		(void) curl_easy_getinfo(transfer->handle->easy,
								 CURLINFO_PRETRANSFER_TIME_T, &sent);
		if (sent == 0)
			continue;
		transfer->request.attempts++;
		transfer_on_sent(transfer);
	}
}

/*
 * Take a transfer from libcurl.  A handle whose transfer came to its end
 * serves another; one whose transfer is aborted does not, nor does its
 * connection, unless others use it: over HTTP/2 libcurl (7.88) would keep it
 * and tell the gateway that the request is gone only with the next one.
 */
static void
transfer_leave_libcurl(HttpTransfer *transfer, bool ended)
{
	HttpEndpoint *endpoint = transfer->endpoint;
	HttpHandle *handle = transfer->handle;

	if (!ended)
		(void) curl_easy_setopt(handle->easy, CURLOPT_FORBID_REUSE, 1L);
	(void) curl_multi_remove_handle(transfer->multi->curl, handle->easy);
	transfer->multi->in_flight--;
	endpoint->in_flight--;
	if (transfer->state == HTTP_CONNECTING)
		dlist_delete(&transfer->loop_node);
	else
		endpoint->sent--;
	transfer->handle = NULL;
	transfer->multi = NULL;
	endpoint_return_handle(endpoint, handle, ended);
}

static int
deadline_compare(const pairingheap_node *a, const pairingheap_node *b,
				 void *arg)
{
	const HttpTransfer *left = pairingheap_const_container(HttpTransfer,
														   deadline_node, a);
	const HttpTransfer *right = pairingheap_const_container(HttpTransfer,
															deadline_node, b);

	return (left->deadline < right->deadline) -
		(left->deadline > right->deadline);
}

/* Put a transfer into its endpoint's queue, at its end or before all others. */
static void
loop_enqueue(HttpTransfer *transfer, bool first)
{
	HttpEndpoint *endpoint = transfer->endpoint;

	transfer->state = HTTP_QUEUED;
	if (dlist_is_empty(&endpoint->queue))
		dlist_push_tail(&loop.queued, &endpoint->queued_node);
	if (first)
		dlist_push_head(&endpoint->queue, &transfer->loop_node);
	else
		dlist_push_tail(&endpoint->queue, &transfer->loop_node);
}

/* Let a transfer go that waits to be begun: see loop_enqueue(). */
void
loop_begin(HttpTransfer *transfer, bool first)
{
	transfer->deadline = transfer->request.started +
		transfer->endpoint->timeout * MILLISECOND + DEADLINE_GRACE;
	pairingheap_add(&deadlines, &transfer->deadline_node);
	loop_enqueue(transfer, first);
}

static void
loop_dequeue(HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;

	dlist_delete(&transfer->loop_node);
	if (dlist_is_empty(&endpoint->queue))
		dlist_delete(&endpoint->queued_node);
}

/* Take a transfer that has not finished out of the loop: it is aborted. */
void
loop_remove(HttpTransfer *transfer)
{
	sigset_t	saved;

	if (transfer->state == HTTP_PREPARED)
		return;
	pairingheap_remove(&deadlines, &transfer->deadline_node);
	if (transfer->state == HTTP_QUEUED)
		loop_dequeue(transfer);
	else
	{
		loop_block_signals(&saved);
		transfer_leave_libcurl(transfer, false);
		loop_restore_signals(&saved);
	}
}

static void
loop_finish(HttpTransfer *transfer)
{
	pairingheap_remove(&deadlines, &transfer->deadline_node);
	loop.finished = true;
	transfer_finish(transfer);
}

/*
 * Shut the connection of a finished transfer down, so that libcurl finds it
 * closed, unless something has arrived there since "active_at".
 */
void
loop_close_connection(const HttpTransfer *transfer, int64 active_at)
{
	curl_socket_t fd = transfer->socket;

	if (fd >= 0 && fd < loop.nsockets && loop.sockets[fd].ours &&
		loop.sockets[fd].active_at < active_at)
		(void) shutdown(fd, SHUT_RDWR);
}

/* Learn from a transfer's end what the connections to its endpoint carry. */
static void
transfer_learn_kind(HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;
	long		version = 0;

	(void) curl_easy_getinfo(transfer->handle->easy, CURLINFO_HTTP_VERSION,
							 &version);
	if (transfer->request.result == HTTP_COMPLETE && endpoint->window < INT_MAX)
		endpoint->window++;
	if (transfer->request.result == HTTP_COMPLETE && version != 0)
		endpoint->kind = version >= CURL_HTTP_VERSION_2_0 ?
			HTTP_KIND_MULTIPLEXED :
			HTTP_KIND_SERIAL;
	/* Those that wait shall not wait for one failure after the other. */
	else if (endpoint->kind == HTTP_KIND_UNKNOWN)
		endpoint->kind = HTTP_KIND_SERIAL;
}

/*
 * Send a transfer again that the gateway refused to process, before others.
 * That happens where a connection ends after few requests: half as many at
 * once are enough for it then.
 */
static void
loop_repeat(HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;

	transfer->refusals++;
	transfer_leave_libcurl(transfer, true);
	transfer->request.body_len = 0;
	transfer->opened = transfer->request.connected = false;
	endpoint->window = Max(endpoint->in_flight / 2, 1);
	loop_enqueue(transfer, true);
}

/*
 * A transfer has ended.  One that the gateway has refused to process is sent
 * again, as long as its timeout allows.
 */
static void
loop_end_transfer(HttpTransfer *transfer, CURLcode code)
{
	int64		elapsed = monotonic_us() - transfer->request.started;

	if (result_is_refused(transfer, code) &&
		transfer->refusals < MAX_REFUSALS &&
		elapsed < transfer->endpoint->timeout * MILLISECOND)
	{
		loop_repeat(transfer);
		return;
	}
	transfer->socket = CURL_SOCKET_BAD;
	(void) curl_easy_getinfo(transfer->handle->easy, CURLINFO_ACTIVESOCKET,
							 &transfer->socket);
	result_take(transfer, code);
	transfer_learn_kind(transfer);

	/*
	 * A connection that is shared outlives a request that timed out.  If
	 * nothing has arrived since, it may be dead; libcurl would give it one
	 * request after the other until the system finds out, in a quarter of an
	 * hour.
	 */
	if (transfer->request.result == HTTP_TIMED_OUT &&
		transfer->multi->kind == HTTP_KIND_MULTIPLEXED)
		loop_close_connection(transfer, transfer->request.started);
	transfer_leave_libcurl(transfer, true);
	loop_finish(transfer);
}


/*
 * The queue
 */

/* A transfer that cannot be handed to libcurl has finished. */
static void
loop_refuse(HttpTransfer *transfer, CURLcode why)
{
	result_not_started(transfer, why);
	loop_finish(transfer);
}

/*
 * May libcurl have another request of an endpoint?  Not while its first
 * connection is being made, nor while two are in flight and it is not known
 * whether they share it, nor while many connections are
 * being made whose handshakes take time.
 */
static bool
endpoint_may_dispatch(HttpEndpoint *endpoint, int64 now)
{
	const HttpAuthorities *from = endpoint->authorities;
	int			weight = 1;
	int			n = 0;
	dlist_iter	iter;

	if (from != NULL && from->fd < 0)
		weight += from->len / CA_SIZE_OF_HANDSHAKE;
	if (endpoint->in_flight >= endpoint->window)
		return false;
	if (!endpoint->tls || endpoint->kind == HTTP_KIND_MULTIPLEXED)
		return true;
	if (endpoint->kind == HTTP_KIND_UNKNOWN)
		return endpoint->in_flight < 2 &&
			endpoint->in_flight == endpoint->sent;
	dlist_reverse_foreach(iter, &endpoint->connecting)
	{
		HttpTransfer *transfer = dlist_container(HttpTransfer, loop_node,
												 iter.cur);

		if (now - transfer->dispatched > CONNECT_WINDOW)
			break;
		if (++n * weight >= MAX_CONNECTING)
			return false;
	}
	return true;
}

/*
 * Hand the first request of an endpoint's queue to libcurl, which sends it at
 * once if there is a connection for it.  Returns false if it has to wait for a
 * descriptor.
 */
static bool
endpoint_dispatch(HttpEndpoint *endpoint, int64 now)
{
	HttpTransfer *transfer = dlist_head_element(HttpTransfer, loop_node,
												&endpoint->queue);
	HttpMulti  *multi = multi_get(endpoint);
	CURLcode	code = CURLE_OUT_OF_MEMORY;
	HttpHandle *handle;

	if (multi == NULL || !multi_reserve(multi))
	{
		if (multi != NULL && multi->in_flight > 0)
			return false;
		transfer->denied = true;
		loop_dequeue(transfer);
		loop_refuse(transfer, CURLE_COULDNT_CONNECT);
		return true;
	}
	loop_dequeue(transfer);
	transfer->dispatched = now;
	transfer->number = ++loop.number;
	handle = endpoint_take_handle(endpoint, transfer, &code);
	if (handle == NULL ||
		curl_multi_add_handle(multi->curl, handle->easy) != CURLM_OK)
	{
		if (handle != NULL)
			endpoint_return_handle(endpoint, handle, false);
		loop_refuse(transfer, code == CURLE_OK ? CURLE_OUT_OF_MEMORY : code);
		return true;
	}
	transfer->handle = handle;
	transfer->multi = multi;
	transfer->state = HTTP_CONNECTING;
	dlist_push_tail(&endpoint->connecting, &transfer->loop_node);
	endpoint->in_flight++;
	multi->in_flight++;
	multi_act(multi, CURL_SOCKET_TIMEOUT, 0);
	return true;
}

/*
 * Finish the requests whose timeout is over and that libcurl has not finished.
 * They wait in the queue, or libcurl has sent them again with a new timeout.
 */
static void
loop_expire(void)
{
	while (!pairingheap_is_empty(&deadlines))
	{
		HttpTransfer *transfer =
			pairingheap_container(HttpTransfer, deadline_node,
								  pairingheap_first(&deadlines));

		if (transfer->deadline > monotonic_us())
			break;
		if (transfer->state == HTTP_QUEUED)
		{
			loop_dequeue(transfer);
			loop_refuse(transfer, CURLE_OPERATION_TIMEDOUT);
		}
		else
		{
			result_take(transfer, CURLE_OPERATION_TIMEDOUT);
			transfer_leave_libcurl(transfer, false);
			loop_finish(transfer);
		}
	}
}

/*
 * Let libcurl have what is queued and may go, one request of each endpoint
 * after the other, until "until".
 */
static void
loop_dispatch(int64 until)
{
	dlist_mutable_iter iter;
	bool		dispatched = true;
	int64		now = monotonic_us();

	while (dispatched)
	{
		dispatched = false;
		dlist_foreach_modify(iter, &loop.queued)
		{
			HttpEndpoint *endpoint = dlist_container(HttpEndpoint,
													 queued_node, iter.cur);

			if (now >= until)
			{
				loop.busy = true;
				return;
			}
			endpoint_look_for_sent(endpoint);
			if (endpoint_may_dispatch(endpoint, now) &&
				endpoint_dispatch(endpoint, now))
				dispatched = true;
			now = monotonic_us();
		}
	}
}


/*
 * The loop
 */

/* When something is due next, 0: now; -1: nothing is. */
static int64
loop_next_timer(void)
{
	int64		next = -1;
	dlist_iter	iter;

	if (!pairingheap_is_empty(&deadlines))
		next = pairingheap_container(HttpTransfer, deadline_node,
									 pairingheap_first(&deadlines))
				   ->deadline;

	dlist_foreach(iter, &loop.multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);

		if (multi->timer_set && (next < 0 || multi->timer < next))
			next = multi->timer;
	}
	return next;
}

/* Give libcurl the time that has passed. */
static void
loop_run_timers(int64 until)
{
	dlist_iter	iter;

	dlist_foreach(iter, &loop.multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);
		int64		now = monotonic_us();

		if (!multi->timer_set || multi->timer > now)
			continue;
		if (now >= until)
		{
			loop.busy = true;
			return;
		}
		multi_act(multi, CURL_SOCKET_TIMEOUT, 0);
	}
}

/* Give libcurl the events that are there. */
static void
loop_run_events(int64 until)
{
	struct epoll_event events[EVENTS];
	int			n = event_loop_take(events, EVENTS);

	for (int i = 0; i < n; i++)
	{
		int			fd = events[i].data.fd;
		uint32		what = events[i].events;
		HttpSocket *socket = &loop.sockets[fd];
		int64		now = monotonic_us();
		int			mask = 0;

		if (now >= until)
		{
			loop.busy = true;	/* the rest comes again */
			return;
		}
		if (socket->wanted == 0)
		{
			socket_on_idle_event(fd, what);
			continue;
		}
		socket->active_at = now;
		if (what & (EPOLLIN | EPOLLERR | EPOLLHUP))
			mask |= CURL_CSELECT_IN;
		if (what & (EPOLLOUT | EPOLLERR | EPOLLHUP))
			mask |= CURL_CSELECT_OUT;
		if (what & (EPOLLERR | EPOLLHUP))
			mask |= CURL_CSELECT_ERR;
		multi_act(socket->multi, fd, mask);
	}
}

/*
 * Do what there is to do, for one slice.  Events come first: no request goes
 * to a connection that has just been closed.
 */
static void
loop_work(void)
{
	int64		until = monotonic_us() + LOOP_SLICE;
	sigset_t	saved;

	loop.busy = false;
	loop_block_signals(&saved);
	loop_run_events(until);
	loop_run_timers(until);
	loop_expire();
	loop_dispatch(until);
	multi_close_old();
	loop_restore_signals(&saved);
}

/*
 * Milliseconds until there is something to do, at most "timeout_ms"; -1: no
 * limit.  What is queued is looked at again when connections that are being
 * made count no more.
 */
static long
loop_time_to_wait(long timeout_ms)
{
	int64		next = loop_next_timer();
	long		wait;

	if (loop.busy || loop.finished)
		return 0;
	if (!dlist_is_empty(&loop.queued) &&
		(timeout_ms < 0 || timeout_ms > CONNECT_WINDOW / MILLISECOND))
		timeout_ms = CONNECT_WINDOW / MILLISECOND;
	if (next < 0)
		return timeout_ms;
	wait = (long) ((Max(next - monotonic_us(), 0) + MILLISECOND - 1) /
				   MILLISECOND);
	return timeout_ms < 0 ? wait : Min(wait, timeout_ms);
}

/*
 * One iteration of the loop: send what may be sent; wait until something
 * happens, at most "timeout_ms" milliseconds (-1: without limit), unless a
 * request has finished by then; and deal with it.  Returns whether the latch
 * was set.  Raises whatever CHECK_FOR_INTERRUPTS() raises.
 */
bool
http_run_once(long timeout_ms)
{
	uint32		happened;

	loop_init();
	CHECK_FOR_INTERRUPTS();
	loop.finished = false;
	loop.used_at = monotonic_us();
	if (!dlist_is_empty(&loop.queued) || loop_time_to_wait(timeout_ms) == 0)
	{
		loop_work();
		if (loop.finished && !MyLatch->is_set)
			return false;
	}
	happened = event_loop_wait(loop_time_to_wait(timeout_ms));
	CHECK_FOR_INTERRUPTS();
	loop_work();
	return happened & WL_LATCH_SET;
}

/*
 * Connections that this process may have: what PostgreSQL lends to
 * extensions, a third of max_safe_fds, less some for others.
 */
int
loop_max_connections(void)
{
	return Max(max_safe_fds / 3 - SPARE_DESCRIPTORS, 4);
}


/*
 * Connections of an idle session
 */

/*
 * The session has sent nothing for a while: close its connections.  A signal
 * handler, so it leaves libcurl alone, which finds them closed.
 */
static void
loop_close_idle(void)
{
	for (int fd = 0; fd < loop.nsockets; fd++)
	{
		const HttpSocket *socket = &loop.sockets[fd];

		if (socket->connected && socket->polled != 0 && socket->wanted == 0)
			(void) shutdown(fd, SHUT_RDWR);
	}
}

/*
 * A transaction has ended.  An error has cleared all timeouts before, so this
 * is the place to set ours.
 */
static void
loop_on_xact(XactEvent event, void *arg)
{
	int64		left;

	if (loop.used_at == 0 ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		 event != XACT_EVENT_PREPARE))
		return;
	left = IDLE_TIMEOUT - (monotonic_us() - loop.used_at) / MILLISECOND;
	if (left > 0)
		enable_timeout_after(loop.idle_timeout, (int) left);
}

/*
 * Make the loop of this process when it is first used.  Raises 53000 if no
 * descriptor is left, 53200 or 0A000 if libcurl is of no use.
 */
void
loop_init(void)
{
	static bool libcurl_ready = false;
	sigset_t	saved;

	if (loop.ready)
		return;

	event_loop_create();
	if (!libcurl_ready)
	{
		/* The environment is not obeyed, least of all in this. */
		unsetenv("SSLKEYLOGFILE");
		loop_block_signals(&saved);
		libcurl_ready = curl_global_init(CURL_GLOBAL_ALL) == CURLE_OK;
		loop_restore_signals(&saved);
	}
	if (!libcurl_ready)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not start libcurl")));
	if ((curl_version_info(CURLVERSION_NOW)->features &
		 CURL_VERSION_ASYNCHDNS) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("libcurl resolves names synchronously"),
				 errdetail("A statement could not be cancelled meanwhile."),
				 errhint("Install a libcurl that was built with its threaded resolver or c-ares.")));

	dlist_init(&loop.multis);
	dlist_init(&loop.queued);
	if (MyBackendType == B_BACKEND)
	{
		loop.idle_timeout = RegisterTimeout(USER_TIMEOUT, loop_close_idle);
		RegisterXactCallback(loop_on_xact, NULL);
	}
	loop.ready = true;
}
