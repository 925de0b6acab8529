/*-------------------------------------------------------------------------
 *
 * http.c
 *		One libcurl event loop for everything that goes to the network.
 *
 * A process has one multi handle, made when it first asks something and kept
 * until it ends, so that connections outlive statements.  libcurl says which
 * sockets it waits for; they are kept in one epoll (or kqueue) descriptor,
 * and the only place where a process ever waits is a WaitEventSet that holds
 * its latch, the postmaster's death and that descriptor.
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

#include <ctype.h>
#include <curl/curl.h>
#include <fcntl.h>
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
#include "utils/memutils.h"

#include "compat.h"
#include "http.h"
#include "poller.h"
#include "wire.h"

/* The path of a question; the task id follows. */
#define HTTP_PATH "/tencent-vod/v1/query/"

/* Upstreams whose handles are kept ready; the least recently used go. */
#define HTTP_MAX_TARGETS 64

/* Idle easy handles kept for one upstream. */
#define HTTP_MAX_IDLE_HANDLES 128

/* Shorter than any key: an answer may hold it by chance. */
#define HTTP_SHORTEST_KEY 8

/* A body starts with room for a usual answer (1.1 kB, 4 kB in full shape). */
#define HTTP_FIRST_BODY 8192

/*
 * Descriptors that we leave to others of the third of max_safe_fds that
 * PostgreSQL lends to extensions.
 */
#define HTTP_SPARE_DESCRIPTORS 8

/*
 * What one upstream's requests have in common: the easy handles, set up but
 * for the URL, and what they point to.
 */
typedef struct HttpTarget
{
	dlist_node	node;			/* in http.targets, most recently used first */
	uint64		id;				/* the Upstream's */
	Oid			serverid;		/* the Upstream's, which roles share */
	int			max_concurrency;	/* of that server */
	int			in_use;			/* requests not yet released */
	struct curl_slist *headers; /* holds the key */
	const char *api_key;		/* the place in it, NULL: none */
	char	   *url;			/* base URL and path, room for a task id */
	size_t		url_prefix;		/* length without the task id */
	size_t		url_size;
	char	   *proxy;			/* "" if none: never the environment's */
	char	   *ca_pem;			/* NULL: the system's authorities */
	size_t		ca_pem_len;
	long		timeout;		/* milliseconds */
	long		connect_timeout;	/* milliseconds */
	size_t		max_response_size;	/* bytes */
	bool		tls;			/* the base URL is https */
	int			nidle;
	CURL	   *idle[HTTP_MAX_IDLE_HANDLES];
} HttpTarget;

struct HttpBatch
{
	dlist_head	in_flight;
	dlist_head	finished;
	dlist_head	kept;			/* finished, and taken note of */
	int			n_in_flight;
	MemoryContext context;
	MemoryContextCallback callback;
};

/* What libcurl wants to know about a descriptor, and what the poller knows. */
typedef struct HttpSocket
{
	uint8		wanted;			/* POLLER_IN | POLLER_OUT, 0: nothing */
	uint8		polled;			/* the same, as registered with the poller */
	bool		ours;			/* opened by our callback */
	HttpRequest *opener;		/* for whom; it may be gone, compare only */
	ino_t		inode;			/* tells whether it is still that socket */
} HttpSocket;

/* The loop of this process. */
static struct
{
	CURLM	   *multi;			/* NULL until first used */
	int			poller;			/* epoll or kqueue descriptor */
	WaitEventSet *wait_set;
	uint32		wait_event;		/* for pg_stat_activity */
	bool		timer_set;
	int64		timer;			/* when libcurl wants to be called */
	HttpSocket *sockets;		/* by descriptor */
	int			nsockets;
	size_t		body_bytes;		/* allocated to bodies */
	int			max_host_connections;
	dlist_head	targets;
	int			ntargets;
} http;


/*
 * Time
 */

/* A clock that never jumps, in microseconds. */
int64
http_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}


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
		memset(socket, 0, sizeof(HttpSocket));
		ReleaseExternalFD();
	}
}

/* libcurl wants a socket: one that PostgreSQL knows of, closed at exec. */
static curl_socket_t
http_on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpRequest *request = arg;
	int			type = address->socktype;
	struct stat made;
	int			fd;

	if (!AcquireExternalFD())
	{
		request->denied = true;
		return CURL_SOCKET_BAD;
	}
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
	memset(&http.sockets[fd], 0, sizeof(HttpSocket));
	http.sockets[fd].ours = true;
	http.sockets[fd].opener = request;
	if (fstat(fd, &made) == 0)
		http.sockets[fd].inode = made.st_ino;
	return fd;
}

/* libcurl is done with a socket that http_on_open gave. */
static int
http_on_close(void *arg, curl_socket_t fd)
{
	/* Closing takes it out of the poller. */
	memset(&http.sockets[fd], 0, sizeof(HttpSocket));
	ReleaseExternalFD();
	return close(fd);
}

/* The peer of a transfer is to say something, so there is a connection. */
static void
http_note_connected(CURL *easy)
{
	HttpRequest *request = NULL;

	(void) curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &request);
	if (request != NULL)
		request->connected = true;
}

/*
 * libcurl says what it waits for at a descriptor.
 *
 * A socket of ours that nothing is wanted from, a connection kept alive
 * between two requests, stays in the poller: the next request will want the
 * same (this saves two system calls a request, a fifth of its time).  It is
 * taken out when an event arrives that nobody wants.  That needs to know when
 * the descriptor is closed, so it holds for sockets of ours only; libcurl's
 * resolver has others, which it closes by itself.
 */
static int
http_on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	HttpSocket *socket;
	int			wanted = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		wanted |= POLLER_IN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		wanted |= POLLER_OUT;

	if (!http_socket_room(fd))
		return -1;
	socket = &http.sockets[fd];
	if ((wanted & POLLER_IN) && socket->ours)
		http_note_connected(easy);
	socket->wanted = wanted;
	if (wanted == socket->polled || (wanted == 0 && socket->ours))
		return 0;
	if (!poller_set(http.poller, fd, socket->polled, wanted))
		return -1;
	socket->polled = wanted;
	return 0;
}

/* libcurl says when it wants to be called even if nothing happens. */
static int
http_on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	http.timer_set = timeout_ms >= 0;
	if (http.timer_set)
		http.timer = http_clock() + timeout_ms * INT64CONST(1000);
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
	HttpRequest *request = arg;
	size_t		limit = request->target->max_response_size;

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
			(body = realloc(request->body, size)) == NULL)
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

/* Give back what http_init had got before it failed. */
static void
http_undo_init(CURLM *multi, int poller)
{
	if (multi != NULL)
		curl_multi_cleanup(multi);
	if (poller >= 0)
	{
		close(poller);
		ReleaseExternalFD();
	}
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

/* Tell the multi handle how to work; false if it refuses. */
static bool
http_set_up_multi(CURLM *multi)
{
	long		connections = http_max_connections();

	return curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION,
							 http_on_socket) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION,
						  http_on_timer) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_PIPELINING,
						  (long) CURLPIPE_MULTIPLEX) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
						  connections) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS,
						  connections) == CURLM_OK;
}

/* Make what the process waits on; on failure the rest of the loop goes. */
static void
http_init_waiting(CURLM *multi, int poller)
{
	PG_TRY();
	{
		WaitEventSet *set = compat_create_wait_event_set(3);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		if (IsUnderPostmaster)
			AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
							  NULL, NULL);
		AddWaitEventToSet(set, WL_SOCKET_READABLE, poller, NULL, NULL);
		http.wait_set = set;
		http.wait_event = compat_wait_event("AnyvodAnswer");
	}
	PG_CATCH();
	{
		http_undo_init(multi, poller);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Make the loop of this process when it first asks something. */
static void
http_init(void)
{
	static bool libcurl_ready = false;
	CURLM	   *multi = NULL;
	int			poller = -1;
	sigset_t	saved;

	if (http.multi != NULL)
		return;

	if (!libcurl_ready)
	{
		/* The environment is not obeyed, least of all in this. */
		unsetenv("SSLKEYLOGFILE");
		http_block_signals(&saved);
		libcurl_ready = curl_global_init(CURL_GLOBAL_ALL) == CURLE_OK;
		http_restore_signals(&saved);
	}
	if (libcurl_ready)
		multi = curl_multi_init();
	if (multi == NULL || !http_set_up_multi(multi))
	{
		http_undo_init(multi, poller);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not start libcurl")));
	}

	if (AcquireExternalFD() && (poller = poller_create()) < 0)
		ReleaseExternalFD();
	if (poller < 0)
	{
		int			save_errno = errno;

		http_undo_init(multi, poller);
		errno = save_errno;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create an event queue: %m"),
				 errhint("Consider raising \"max_files_per_process\".")));
	}

	http_init_waiting(multi, poller);

	dlist_init(&http.targets);
	http.poller = poller;
	http.multi = multi;
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

/* Give libcurl the events that are there and the time that has passed. */
static void
http_dispatch(void)
{
	PollerEvent events[POLLER_EVENTS];
	int			running;
	int			n;

	n = poller_take(http.poller, events);
	for (int i = 0; i < n; i++)
	{
		HttpSocket *socket = &http.sockets[events[i].fd];

		if (socket->wanted == 0)
		{
			/* An idle connection: most likely its peer has closed it. */
			(void) poller_set(http.poller, events[i].fd, socket->polled, 0);
			socket->polled = 0;
			continue;
		}
		(void) curl_multi_socket_action(http.multi, events[i].fd,
										http_mask(&events[i]), &running);
	}
	if (http.timer_set && http_clock() >= http.timer)
	{
		http.timer_set = false;
		(void) curl_multi_socket_action(http.multi, CURL_SOCKET_TIMEOUT, 0,
										&running);
	}
}

/* Milliseconds until libcurl's timer, at most "timeout_ms"; -1: no end. */
static long
http_time_to_wait(long timeout_ms)
{
	int64		wait;

	if (!http.timer_set)
		return timeout_ms;
	wait = http.timer - http_clock();
	wait = wait > 0 ? (wait + 999) / 1000 : 0;
	return (timeout_ms < 0 || wait < timeout_ms) ? (long) wait : timeout_ms;
}


/*
 * Targets
 */

/* Free a target that no request uses. */
static void
http_target_free(HttpTarget *target)
{
	Assert(target->in_use == 0);
	for (int i = 0; i < target->nidle; i++)
		curl_easy_cleanup(target->idle[i]);
	for (struct curl_slist *header = target->headers; header;
		 header = header->next)
		explicit_bzero(header->data, strlen(header->data));
	curl_slist_free_all(target->headers);
	free(target->url);
	free(target->proxy);
	free(target->ca_pem);
	free(target);
}

/* Append to a header list; false, and the list as it was, without memory. */
static bool
http_add_header(struct curl_slist **headers, const char *header)
{
	struct curl_slist *longer = curl_slist_append(*headers, header);

	if (longer == NULL)
		return false;
	*headers = longer;
	return true;
}

/* Make the header list of a target, the one place where the key goes. */
static bool
http_set_headers(HttpTarget *target, const char *api_key)
{
	static const char scheme[] = "Authorization: Bearer ";
	size_t		size;
	char	   *header;
	bool		ok;

	if (!http_add_header(&target->headers, "Accept: application/json"))
		return false;
	if (api_key == NULL)
		return true;
	size = sizeof(scheme) + strlen(api_key);
	header = malloc(size);
	if (header == NULL)
		return false;
	snprintf(header, size, "%s%s", scheme, api_key);
	ok = http_add_header(&target->headers, header);
	explicit_bzero(header, size);
	free(header);
	if (ok)
		target->api_key = target->headers->next->data + sizeof(scheme) - 1;
	return ok;
}

/* Copy what an upstream says into a new target; NULL without memory. */
static HttpTarget *
http_target_create(const Upstream *upstream)
{
	HttpTarget *target = calloc(1, sizeof(HttpTarget));

	if (target == NULL)
		return NULL;
	target->id = upstream->id;
	target->serverid = upstream->serverid;
	target->max_concurrency = upstream->max_concurrency;
	target->timeout = upstream->timeout;
	target->connect_timeout = upstream->connect_timeout;
	target->max_response_size = upstream->max_response_size;
	target->tls = pg_strncasecmp(upstream->base_url, "https:", 6) == 0;
	target->proxy = strdup(upstream->proxy ? upstream->proxy : "");
	target->url_prefix = strlen(upstream->base_url) + strlen(HTTP_PATH);
	target->url_size = target->url_prefix + WIRE_MAX_TASK_ID + 1;
	target->url = malloc(target->url_size);
	if (upstream->ca_pem != NULL)
	{
		target->ca_pem = malloc(upstream->ca_pem_len);
		target->ca_pem_len = upstream->ca_pem_len;
	}
	if (target->proxy == NULL || target->url == NULL ||
		(upstream->ca_pem != NULL && target->ca_pem == NULL) ||
		!http_set_headers(target, upstream->api_key))
	{
		http_target_free(target);
		return NULL;
	}
	snprintf(target->url, target->url_size, "%s%s", upstream->base_url,
			 HTTP_PATH);
	if (upstream->ca_pem != NULL)
		memcpy(target->ca_pem, upstream->ca_pem, upstream->ca_pem_len);
	return target;
}

/* Let the least recently used target go that no request uses. */
static void
http_evict_target(void)
{
	dlist_iter	iter;

	dlist_reverse_foreach(iter, &http.targets)
	{
		HttpTarget *target = dlist_container(HttpTarget, node, iter.cur);

		if (target->in_use == 0)
		{
			dlist_delete(&target->node);
			http.ntargets--;
			http_target_free(target);
			return;
		}
	}
}

/*
 * MAX_HOST_CONNECTIONS: without it libcurl opens a connection for each of a
 * burst of transfers before it knows that one HTTP/2 connection would carry
 * them all (873 for 1,000 seen).  Several servers may lead to one host, and
 * none may wait for another's questions, so it is the sum of what they allow.
 */
static void
http_allow_host_connections(void)
{
	dlist_iter	iter;
	int			sum = 0;

	dlist_foreach(iter, &http.targets)
	{
		HttpTarget *target = dlist_container(HttpTarget, node, iter.cur);
		HttpTarget *other;
		dlist_iter	earlier;
		bool		counted = false;

		dlist_foreach(earlier, &http.targets)
		{
			if (earlier.cur == iter.cur)
				break;
			other = dlist_container(HttpTarget, node, earlier.cur);
			if (other->serverid == target->serverid)
				counted = true;
		}
		if (!counted)
			sum += target->max_concurrency;
	}
	if (sum <= http.max_host_connections)
		return;
	http.max_host_connections = sum;
	(void) curl_multi_setopt(http.multi, CURLMOPT_MAX_HOST_CONNECTIONS,
							 (long) sum);
}

/* The target of an upstream. */
static HttpTarget *
http_target_get(const Upstream *upstream)
{
	HttpTarget *target;
	dlist_iter	iter;

	dlist_foreach(iter, &http.targets)
	{
		target = dlist_container(HttpTarget, node, iter.cur);
		if (target->id == upstream->id)
		{
			dlist_move_head(&http.targets, &target->node);
			return target;
		}
	}

	target = http_target_create(upstream);
	if (target == NULL)
		return NULL;
	if (http.ntargets >= HTTP_MAX_TARGETS)
		http_evict_target();
	dlist_push_head(&http.targets, &target->node);
	http.ntargets++;
	http_allow_host_connections();
	return target;
}


/*
 * Requests
 */

/* Set an option, or leave the function it is used in. */
#define HTTP_SET(easy, option, value) \
	do { \
		CURLcode	set_ = curl_easy_setopt(easy, option, value); \
		if (set_ != CURLE_OK) \
			return set_; \
	} while (0)

/* Options that say whom to trust. */
static CURLcode
http_set_trust(CURL *easy, HttpTarget *target)
{
	HTTP_SET(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	HTTP_SET(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	HTTP_SET(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (target->ca_pem != NULL)
		return compat_set_ca_blob(easy, target->ca_pem, target->ca_pem_len);
	return CURLE_OK;
}

/*
 * Options that all requests have.  CURLOPT_PROXY is always set, to "" if
 * there is none: otherwise http_proxy in the environment would be obeyed and
 * would see the key.  There is no netrc, no cookie and no redirect.
 */
static CURLcode
http_set_common(CURL *easy, HttpTarget *target)
{
	HTTP_SET(easy, CURLOPT_NOSIGNAL, 1L);
	HTTP_SET(easy, CURLOPT_OPENSOCKETFUNCTION, http_on_open);
	HTTP_SET(easy, CURLOPT_CLOSESOCKETFUNCTION, http_on_close);
	HTTP_SET(easy, CURLOPT_WRITEFUNCTION, http_on_body);
	HTTP_SET(easy, CURLOPT_HTTPHEADER, target->headers);
	HTTP_SET(easy, CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE);
	HTTP_SET(easy, CURLOPT_USERAGENT, "anyvod/" ANYVOD_VERSION);
	HTTP_SET(easy, CURLOPT_PROXY, target->proxy);
	HTTP_SET(easy, CURLOPT_NOPROXY, "");
	HTTP_SET(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	HTTP_SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
	HTTP_SET(easy, CURLOPT_TIMEOUT_MS, target->timeout);
	HTTP_SET(easy, CURLOPT_CONNECTTIMEOUT_MS, target->connect_timeout);
	HTTP_SET(easy, CURLOPT_MAXFILESIZE_LARGE,
			 (curl_off_t) target->max_response_size);
	HTTP_SET(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	if (target->tls)
	{
		HTTP_SET(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
		HTTP_SET(easy, CURLOPT_PIPEWAIT, 1L);
	}
	else
		HTTP_SET(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	return compat_set_safety(easy);
}

/* Options that name the request itself. */
static CURLcode
http_set_request(CURL *easy, HttpRequest *request, const char *task_id)
{
	HttpTarget *target = request->target;

	strlcpy(target->url + target->url_prefix, task_id,
			target->url_size - target->url_prefix);
	HTTP_SET(easy, CURLOPT_URL, target->url);
	HTTP_SET(easy, CURLOPT_PRIVATE, request);
	HTTP_SET(easy, CURLOPT_OPENSOCKETDATA, request);
	HTTP_SET(easy, CURLOPT_WRITEDATA, request);
	HTTP_SET(easy, CURLOPT_ERRORBUFFER, request->trouble);
	return CURLE_OK;
}

/* An easy handle for a request, ready to go; NULL and "trouble" if not. */
static CURL *
http_take_handle(HttpRequest *request, const char *task_id)
{
	HttpTarget *target = request->target;
	CURLcode	code = CURLE_OK;
	CURL	   *easy;

	if (target->nidle > 0)
		easy = target->idle[--target->nidle];
	else
	{
		easy = curl_easy_init();
		if (easy == NULL)
			return NULL;
		code = http_set_common(easy, target);
		if (code == CURLE_OK)
			code = http_set_trust(easy, target);
	}
	if (code == CURLE_OK)
		code = http_set_request(easy, request, task_id);
	if (code != CURLE_OK)
	{
		strlcpy(request->trouble, curl_easy_strerror(code),
				HTTP_TROUBLE_SIZE);
		curl_easy_cleanup(easy);
		return NULL;
	}
	return easy;
}

/*
 * Part a request from its handle.  A handle whose transfer came to its end
 * serves another request; one that was broken off does not.
 */
static void
http_drop_handle(HttpRequest *request, bool reusable)
{
	HttpTarget *target = request->target;
	CURL	   *easy = request->easy;

	if (easy == NULL)
		return;
	request->easy = NULL;
	request->batch->n_in_flight--;
	(void) curl_multi_remove_handle(http.multi, easy);
	if (!reusable || request->outcome != HTTP_ANSWERED)
		http_count_closed(request);
	if (reusable && target->nidle < HTTP_MAX_IDLE_HANDLES)
	{
		(void) curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL);
		target->idle[target->nidle++] = easy;
	}
	else
		curl_easy_cleanup(easy);
}

/* One of libcurl's times of a transfer, 0 if it did not come to that. */
static curl_off_t
http_time(CURL *easy, CURLINFO which)
{
	curl_off_t	time = 0;

	(void) curl_easy_getinfo(easy, which, &time);
	return time;
}

/*
 * How far did a request come?  Some results say so themselves; for the others
 * there are libcurl's times.
 */
static HttpPhase
http_phase(const HttpRequest *request, CURLcode result)
{
	const HttpTarget *target = request->target;
	CURL	   *easy = request->easy;

	switch (result)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_RESOLVE_PROXY:
			return HTTP_PHASE_DNS;
		case CURLE_COULDNT_CONNECT:
			return HTTP_PHASE_CONNECT;
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
			return HTTP_PHASE_TLS;
		default:
			break;
	}
	if (http_time(easy, CURLINFO_PRETRANSFER_TIME_T) > 0)
		return HTTP_PHASE_ANSWER;
	if (http_time(easy, CURLINFO_CONNECT_TIME_T) > 0 || request->connected)
		return target->tls ? HTTP_PHASE_TLS : HTTP_PHASE_ANSWER;
	if (http_time(easy, CURLINFO_NAMELOOKUP_TIME_T) > 0)
		return HTTP_PHASE_CONNECT;
	return HTTP_PHASE_DNS;
}

/* What libcurl's result, and what our callbacks noted, amount to. */
static HttpOutcome
http_outcome(HttpRequest *request, CURLcode result)
{
	switch (result)
	{
		case CURLE_OK:
			return HTTP_ANSWERED;
		case CURLE_OUT_OF_MEMORY:
			return HTTP_NO_MEMORY;
		case CURLE_OPERATION_TIMEDOUT:
			return HTTP_TIMED_OUT;
		case CURLE_FILESIZE_EXCEEDED:
			return HTTP_TOO_LARGE;
		case CURLE_WRITE_ERROR:
			if (request->too_large)
				return HTTP_TOO_LARGE;
			return request->no_memory ? HTTP_NO_MEMORY : HTTP_BROKEN;
		case CURLE_COULDNT_CONNECT:
			if (request->denied)
				return HTTP_NO_DESCRIPTOR;
			return request->no_memory ? HTTP_NO_MEMORY : HTTP_UNREACHABLE;
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_RESOLVE_PROXY:
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
			return HTTP_UNREACHABLE;
		default:
			return HTTP_BROKEN;
	}
}

/*
 * How many bytes at "text" stand for a key, 0 if they do not: its characters,
 * each as it is or escaped as JSON allows (\/ or \u002f for a slash).
 */
static size_t
http_match_key(const char *key, const char *text, const char *end)
{
	const char *at = text;

	for (; *key != '\0'; key++)
	{
		char		code[7];

		if (at == end)
			return 0;
		if (*at == *key)
			at++;
		else if (*at != '\\' || end - at < 2)
			return 0;
		else if (at[1] == *key && !isalnum((unsigned char) *key))
			at += 2;
		else
		{
			snprintf(code, sizeof(code), "\\u%04x", (unsigned char) *key);
			if (end - at < 6 || pg_strncasecmp(at, code, 6) != 0)
				return 0;
			at += 6;
		}
	}
	return at - text;
}

/* Black out all occurrences of a key in some text. */
static void
http_hide(const char *key, char *text, size_t len)
{
	bool		escapes = len > 0 && memchr(text, '\\', len) != NULL;
	size_t		key_len = strlen(key);
	char	   *end = text + len;

	while (text < end)
	{
		size_t		found;

		if (!escapes)
		{
			text = memmem(text, end - text, key, key_len);
			if (text == NULL)
				return;
		}
		found = http_match_key(key, text, end);
		memset(text, '*', found);
		text += Max(found, 1);
	}
}

/*
 * Black out the key where a gateway repeats it, most likely in a complaint
 * about it, so that it cannot get into an error, a log or a table.  (A key
 * that is too short to be one may stand in an answer by chance.)
 */
static void
http_hide_key(HttpRequest *request)
{
	const char *key = request->target->api_key;

	if (key == NULL || strlen(key) < HTTP_SHORTEST_KEY)
		return;
	http_hide(key, request->body, request->body_len);
	http_hide(key, request->trouble, strlen(request->trouble));
}

/* Note the media type, without parameters, unless the key is in it. */
static void
http_note_content_type(HttpRequest *request, const char *content_type)
{
	const char *key = request->target->api_key;
	size_t		len = strcspn(content_type, "; \t");

	if (key != NULL && strstr(content_type, key) != NULL)
		return;
	strlcpy(request->content_type, content_type,
			Min(len + 1, sizeof(request->content_type)));
}

/* A transfer has ended: take what is worth knowing and free its handle. */
static void
http_end_transfer(HttpRequest *request, CURLcode result)
{
	CURL	   *easy = request->easy;
	char	   *content_type = NULL;
	long		status = 0;

	request->outcome = http_outcome(request, result);
	request->phase = http_phase(request, result);
	request->elapsed = http_clock() - request->started;
	if (curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK)
		request->status = (int) status;
	(void) curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &content_type);
	if (content_type != NULL)
		http_note_content_type(request, content_type);
	request->retry_after = compat_retry_after(easy);
	if (result != CURLE_OK && request->trouble[0] == '\0')
		strlcpy(request->trouble, curl_easy_strerror(result),
				HTTP_TROUBLE_SIZE);
	http_hide_key(request);
	http_drop_handle(request, true);
	dlist_delete(&request->node);
	dlist_push_tail(&request->batch->finished, &request->node);
}

/* Hand the transfers that have ended to their batches. */
static void
http_collect(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(http.multi, &left)) != NULL)
	{
		HttpRequest *request = NULL;
		CURLcode	result = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void) curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
								 (char **) &request);
		http_end_transfer(request, result);
	}
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
 * Start asking "upstream" for a task, whose id has been checked.
 *
 * Never fails: a request that cannot be started has finished at once, with
 * the outcome that says why.  Raises an error only when the memory for the
 * request itself is missing.
 */
HttpRequest *
http_start(HttpBatch *batch, const Upstream *upstream, const char *task_id,
		   void *tag)
{
	HttpRequest *request;
	sigset_t	saved;

	Assert(wire_task_id_valid(task_id, strlen(task_id)));
	request = MemoryContextAllocZero(batch->context, sizeof(HttpRequest));
	request->batch = batch;
	request->tag = tag;
	request->retry_after = -1;
	request->started = http_clock();

	http_block_signals(&saved);
	request->target = http_target_get(upstream);
	if (request->target != NULL)
	{
		request->target->in_use++;
		request->easy = http_take_handle(request, task_id);
	}
	if (request->easy != NULL)
	{
		if (curl_multi_add_handle(http.multi, request->easy) == CURLM_OK)
			batch->n_in_flight++;
		else
		{
			curl_easy_cleanup(request->easy);
			request->easy = NULL;
		}
	}
	http_restore_signals(&saved);

	if (request->easy != NULL)
		dlist_push_tail(&batch->in_flight, &request->node);
	else
	{
		/* An option that this libcurl does not know has said so. */
		request->outcome = request->trouble[0] != '\0' ?
			HTTP_UNREACHABLE :
			HTTP_NO_MEMORY;
		dlist_push_tail(&batch->finished, &request->node);
	}
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
	return Max(http_max_connections() - batch->n_in_flight, 0);
}

/*
 * One turn of the loop: wait until something happens, at most "timeout_ms"
 * milliseconds (-1: without an end), and deal with it.  Returns whether the
 * latch was set.  Raises whatever CHECK_FOR_INTERRUPTS() raises.
 */
bool
http_turn(long timeout_ms)
{
	WaitEvent	events[3];
	bool		latched = false;
	sigset_t	saved;
	int			n;

	http_init();
	CHECK_FOR_INTERRUPTS();
	n = WaitEventSetWait(http.wait_set, http_time_to_wait(timeout_ms), events,
						 lengthof(events), http.wait_event);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latched = true;
		}
	}
	CHECK_FOR_INTERRUPTS();

	http_block_signals(&saved);
	http_dispatch();
	http_collect();
	http_restore_signals(&saved);
	return latched;
}

/* Let go of a request; if it is in flight it is broken off. */
void
http_release(HttpRequest *request)
{
	sigset_t	saved;

	if (request->easy != NULL)
	{
		http_block_signals(&saved);
		http_drop_handle(request, false);
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
		case HTTP_PHASE_DNS:
			return "resolving the name";
		case HTTP_PHASE_CONNECT:
			return "connecting";
		case HTTP_PHASE_TLS:
			return "negotiating TLS";
		case HTTP_PHASE_ANSWER:
			return "waiting for the answer";
	}
	return "an unknown phase";	/* not reached */
}
