/*-------------------------------------------------------------------------
 *
 * http/multi.c
 *		libcurl's multi handles and their sockets.
 *
 * A process has two multi handles, made when it first needs them, so that
 * connections outlive statements: one for connections that carry one request
 * at a time (HTTP/1), which may have as many as there are requests, and one
 * for those that carry many (HTTP/2), which has few to each host.
 *
 * A multi handle takes new requests for less than a minute.  Then another one
 * takes its place, and it is closed when its last request has ended: that is
 * how a gateway whose name has moved to another address is followed, whatever
 * its old address still answers.
 *
 * Nothing here throws.  What libcurl calls notes in the transfer what went
 * wrong, and allocates with malloc only.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"

#include "clock.h"
#include "http/internal.h"

/* How long a multi handle takes new requests. */
#define MULTI_MAX_AGE (50 * SECOND)

/* Requests that a connection of HTTP/2 carries if its peer says nothing. */
#define STREAMS 100

/* Hosts whose HTTP/2 connections have descriptors reserved one by one. */
#define MULTIPLEXED_HOSTS 64

/* Descriptors that libcurl has for itself, with each multi handle. */
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

static HttpSocket *sockets = NULL;	/* by descriptor */
static int	nsockets = 0;
static HttpMulti *current[2];	/* that take requests: serial, multiplexed */
static dlist_head multis = DLIST_STATIC_INIT(multis);	/* old ones, too */


/*
 * Sockets, as libcurl tells of them.  Nothing below throws.
 */

/* Make room for a descriptor in the table; false if there is no memory. */
static bool
socket_make_room(int fd)
{
	HttpSocket *larger;
	int			n;

	if (fd < nsockets)
		return true;
	n = Max(64, Max(nsockets * 2, fd + 1));
	larger = realloc(sockets, n * sizeof(HttpSocket));
	if (larger == NULL)
		return false;
	memset(larger + nsockets, 0, (n - nsockets) * sizeof(HttpSocket));
	sockets = larger;
	nsockets = n;
	return true;
}

/* Have something else waited for at a socket; false if that fails. */
static bool
socket_poll(int fd, uint32 events)
{
	HttpSocket *socket = &sockets[fd];

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
socket_on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
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
	made = &sockets[fd];
	memset(made, 0, sizeof(HttpSocket));
	made->ours = true;
	made->opener = transfer->number;
	transfer->opened = true;
	transfer->denied = transfer->no_memory = false; /* of another address */

	/* A second connection while the first carries a request: one is not
	 * enough for both. */
	if (endpoint->kind == HTTP_KIND_UNKNOWN && endpoint->sent > 0)
		endpoint->kind = HTTP_KIND_SERIAL;
	return fd;
}

/* libcurl is done with a socket that socket_on_open() gave. */
int
socket_on_close(void *arg, curl_socket_t fd)
{
	memset(&sockets[fd], 0, sizeof(HttpSocket));
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
socket_on_wanted(CURL *easy, curl_socket_t fd, int what, void *arg,
				 void *unused)
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
	socket = &sockets[fd];
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
		loop_set_deadline(transfer, 0);
	}
	return 0;
}
/*
 * An event of epoll's has come at a descriptor.
 *
 * At a connection that is idle it is its end, most likely.  If it is a response
 * that nobody requested, libcurl would take it for that to the next request,
 * so no request may go there any more.  (HTTP/2 says what a response is for,
 * and has more to say than responses.)
 */
void
socket_on_event(int fd, uint32 events)
{
	HttpSocket *socket = &sockets[fd];
	int			mask = 0;

	if (socket->wanted == 0)
	{
		bool		close = socket->serial ||
			(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;

		(void) socket_poll(fd, close || !socket->ours ? 0 : EPOLLRDHUP);
		if (close && socket->ours)
			(void) shutdown(fd, SHUT_RDWR);
		return;
	}
	socket->active_at = monotonic_us();
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		mask |= CURL_CSELECT_IN;
	if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		mask |= CURL_CSELECT_OUT;
	if (events & (EPOLLERR | EPOLLHUP))
		mask |= CURL_CSELECT_ERR;
	multi_act(socket->multi, fd, mask);
}

/*
 * Shut the connection of a finished transfer down, so that libcurl finds it
 * closed, unless something has arrived there since "active_at".
 */
void
socket_close_of(const HttpTransfer *transfer, int64 active_at)
{
	curl_socket_t fd = transfer->socket;

	if (fd >= 0 && fd < nsockets && sockets[fd].ours &&
		sockets[fd].active_at < active_at)
		(void) shutdown(fd, SHUT_RDWR);
}

/*
 * Shut down all connections that are idle.  It is called by a signal handler
 * and leaves libcurl alone, which finds them closed.
 */
void
socket_close_idle(void)
{
	for (int fd = 0; fd < nsockets; fd++)
	{
		const HttpSocket *socket = &sockets[fd];

		if (socket->connected && socket->polled != 0 && socket->wanted == 0)
			(void) shutdown(fd, SHUT_RDWR);
	}
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

	return curl_multi_setopt(curl, CURLMOPT_SOCKETFUNCTION, socket_on_wanted) ==
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
	dlist_push_tail(&multis, &multi->node);
	return multi;
}

/* Close the multi handles that have no request and take none any more. */
void
multi_close_old(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);

		if (multi->in_flight > 0 || multi == current[0] ||
			multi == current[1])
			continue;
		dlist_delete(&multi->node);
		multi_close(multi);
	}
}

/*
 * Let a multi handle have so many connections, or as many as there are
 * descriptors for.
 */
static void
multi_resize(HttpMulti *multi, int connections)
{
	while (multi->connections < connections && AcquireExternalFD())
		multi->connections++;
	for (; multi->connections > connections; multi->connections--)
		ReleaseExternalFD();
	(void) curl_multi_setopt(multi->curl, CURLMOPT_MAX_TOTAL_CONNECTIONS,
							 (long) multi->connections);
	(void) curl_multi_setopt(multi->curl, CURLMOPT_MAXCONNECTS,
							 (long) multi->connections);
}

/*
 * Give back the descriptors of idle connections, for a multi handle that lacks
 * them (NULL: that could not be made).
 */
static void
multi_give_back(const HttpMulti *lacking)
{
	dlist_iter	iter;

	for (int i = 0; i < (int) lengthof(current); i++)
	{
		if (current[i] != lacking && current[i] != NULL &&
			current[i]->in_flight == 0)
			current[i] = NULL;
	}
	multi_close_old();
	dlist_foreach(iter, &multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);

		if (multi != lacking && multi->connections > multi->in_flight)
			multi_resize(multi, multi->in_flight);
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

	if (multi->connections >= wanted)
		return true;
	multi_resize(multi, wanted);
	if (multi->kind == HTTP_KIND_SERIAL)
		return multi->connections >= wanted;
	(void) curl_multi_setopt(multi->curl, CURLMOPT_MAX_HOST_CONNECTIONS,
							 (long) Max((n + STREAMS - 1) / STREAMS, 2));
	return multi->connections > 0;
}

/*
 * The multi handle that takes the next request of an endpoint; NULL if there is
 * no descriptor or no memory for it.  Where HTTP/2 was possible, the first of
 * several requests goes where the first connection is.
 */
HttpMulti *
multi_get(HttpEndpoint *endpoint)
{
	HttpKind	kind = endpoint->kind == HTTP_KIND_SERIAL &&
			   (!endpoint->tls || endpoint->in_flight > 0) ?
		HTTP_KIND_SERIAL :
		HTTP_KIND_MULTIPLEXED;
	HttpMulti **place = &current[kind == HTTP_KIND_MULTIPLEXED];

	for (int tries = 0; tries < 2; tries++)
	{
		bool		old = *place == NULL ||
			monotonic_us() - (*place)->created > MULTI_MAX_AGE;
		HttpMulti  *made = old ? multi_open(kind) : NULL;

		if (made != NULL)
			*place = made;
		if (*place != NULL && multi_reserve(*place))
			return *place;
		if (tries == 0)
			multi_give_back(*place);
	}
	return NULL;
}

/* Have libcurl see to a socket, or to what is due (CURL_SOCKET_TIMEOUT). */
void
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


/* When libcurl wants to be called next, 0: now; -1: it does not. */
int64
multi_next_timer(void)
{
	int64		next = -1;
	dlist_iter	iter;

	dlist_foreach(iter, &multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);

		if (multi->timer_set && (next < 0 || multi->timer < next))
			next = multi->timer;
	}
	return next;
}

/*
 * Give libcurl the time that has passed.  Returns false if "until" has come
 * first.
 */
bool
multi_run_timers(int64 until)
{
	dlist_iter	iter;

	dlist_foreach(iter, &multis)
	{
		HttpMulti  *multi = dlist_container(HttpMulti, node, iter.cur);
		int64		now = monotonic_us();

		if (!multi->timer_set || multi->timer > now)
			continue;
		if (now >= until)
			return false;
		multi_act(multi, CURL_SOCKET_TIMEOUT, 0);
	}
	return true;
}
