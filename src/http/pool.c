/*-------------------------------------------------------------------------
 *
 * pool.c
 *		The connections of this process, in pools.
 *
 * libcurl (7.88, for one) keeps the connections to a host in a list and walks
 * along it twice for each request: past all that are busy, to find one that is
 * not, and once more when the request is over.  With a thousand connections
 * that takes more time than all the rest.  So those that carry one request
 * after the other are shared out among several multi handles, whose lists are
 * short.
 *
 * The first pool has half of the connections that this process may have, is
 * the only one for connections that many requests share, and takes what the
 * others have no room for.  They have POOL_SIZE connections each, and libcurl
 * closes the oldest idle one of a pool if it wants another, so that no request
 * has to wait for a connection while there are no more requests than
 * connections in all.  A handle stays with the pool where it left its last
 * connection; so there are hardly more connections than there ever were
 * requests at once.
 *
 * Nothing here throws.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/fd.h"

#include "clock.h"
#include "http/client.h"
#include "http/pool.h"

/* More would need a hundred thousand descriptors for a process. */
#define POOL_MAX 256

/*
 * Descriptors that a multi handle has for itself, to be woken up by.  (Those of
 * the first are among what is left to others.)
 */
#define POOL_DESCRIPTORS 2

static HttpPool pools[POOL_MAX];
static int	npools = 0;			/* that there may be */
static int	nused = 0;			/* so many of the first have been in use */
static int	first_size = 0;		/* connections of the first */
static int	host_connections = 0;	/* of the first, to one host */
static curl_socket_callback on_socket;


/* libcurl says when it wants to be called even if nothing happens. */
static int
pool_on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	HttpPool   *pool = arg;

	pool->timer_set = timeout_ms >= 0;
	pool->timer = timeout_ms > 0 ?
		monotonic_us() + timeout_ms * INT64CONST(1000) :
		0;
	return 0;
}

/* Tell a multi handle how to work; false if it refuses. */
static bool
pool_set_up(HttpPool *pool, long connections)
{
	CURLM	   *multi = pool->multi;

	return curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) ==
		CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, pool) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, pool_on_timer) ==
		CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERDATA, pool) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_PIPELINING,
						  (long) CURLPIPE_MULTIPLEX) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
						  connections) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS,
						  connections) == CURLM_OK;
}

/* Close a pool that no request is in, with its connections. */
static void
pool_close(HttpPool *pool)
{
	Assert(pool->in_flight == 0);
	if (pool->multi != NULL)
		(void) curl_multi_cleanup(pool->multi);
	for (int i = 0; i < pool->descriptors; i++)
		ReleaseExternalFD();
	memset(pool, 0, sizeof(HttpPool));
}

/* See to it that a pool is in use; false if it cannot be. */
static bool
pool_open(HttpPool *pool)
{
	int			descriptors = pool == pools ? 0 : POOL_DESCRIPTORS;

	if (pool->multi != NULL)
		return true;
	while (pool->descriptors < descriptors && AcquireExternalFD())
		pool->descriptors++;
	if (pool->descriptors == descriptors)
		pool->multi = curl_multi_init();
	if (pool->multi != NULL &&
		pool_set_up(pool, pool == pools ? first_size : POOL_SIZE))
	{
		nused = Max(nused, (int) (pool - pools) + 1);
		return true;
	}
	pool_close(pool);
	return false;
}

/*
 * Let this process have so many connections, or a few less; false if libcurl
 * refuses to begin.  What libcurl waits for at a socket is said to "callback",
 * with the pool as its argument.
 */
bool
pool_init(int connections, curl_socket_callback callback)
{
	int			descriptors = POOL_SIZE + POOL_DESCRIPTORS;
	int			others = Min(connections / 2 / descriptors, POOL_MAX - 1);

	on_socket = callback;
	npools = 1 + others;
	first_size = connections - others * descriptors;
	return pool_open(&pools[0]);
}

/* Connections that there may be. */
int
pool_connections(void)
{
	return first_size + (npools - 1) * POOL_SIZE;
}

/*
 * Let one host bear so many connections.  MAX_HOST_CONNECTIONS is a second
 * bolt: libcurl was seen to open 873 connections for a burst of 1,000
 * transfers, over HTTP/2.
 */
void
pool_allow_host_connections(int allowed)
{
	if (allowed <= host_connections)
		return;
	host_connections = allowed;
	(void) curl_multi_setopt(pools[0].multi, CURLMOPT_MAX_HOST_CONNECTIONS,
							 (long) allowed);
}

/*
 * The pool for a handle's next request, whose connection carries one at a time
 * or may be shared.
 */
static HttpPool *
pool_choose(const HttpHandle *handle, bool serial)
{
	HttpPool   *last = handle->pool;

	if (!serial)
		return &pools[0];
	if (last != NULL && last->in_flight < POOL_SIZE && pool_open(last))
		return last;
	for (int i = 0; i < npools; i++)
	{
		if (pools[i].in_flight < POOL_SIZE && pool_open(&pools[i]))
			return &pools[i];
	}
	return &pools[0];
}

/*
 * Let libcurl have a handle whose request is to begin with its next call;
 * false if it refuses.
 */
bool
pool_add(HttpHandle *handle, bool serial)
{
	HttpPool   *pool = pool_choose(handle, serial);

	if (curl_multi_add_handle(pool->multi, handle->easy) != CURLM_OK)
		return false;
	handle->pool = pool;
	handle->in_pool = true;
	pool->in_flight++;
	return true;
}

/* Take back a handle that libcurl may have. */
void
pool_remove(HttpHandle *handle)
{
	if (!handle->in_pool)
		return;
	(void) curl_multi_remove_handle(handle->pool->multi, handle->easy);
	handle->pool->in_flight--;
	handle->in_pool = false;
}

/* Have libcurl see to a socket, or to what is due (CURL_SOCKET_TIMEOUT). */
void
pool_act(HttpPool *pool, curl_socket_t fd, int mask)
{
	int			running;

	pool->acted = true;
	(void) curl_multi_socket_action(pool->multi, fd, mask, &running);
}

/* When libcurl wants to be called next, 0: now; -1: it does not. */
static int64
pool_next(void)
{
	int64		next = -1;

	for (int i = 0; i < nused; i++)
	{
		if (pools[i].timer_set && (next < 0 || pools[i].timer < next))
			next = pools[i].timer;
	}
	return next;
}

/* Has a time come that libcurl waits for? */
bool
pool_is_due(void)
{
	int64		next = pool_next();

	return next == 0 || (next > 0 && monotonic_us() >= next);
}

/* Give libcurl the time that has passed. */
void
pool_tick(void)
{
	int64		now;

	if (!pool_is_due())
		return;
	now = monotonic_us();
	for (int i = 0; i < nused; i++)
	{
		HttpPool   *pool = &pools[i];

		if (!pool->timer_set || pool->timer > now)
			continue;
		pool->timer_set = false;
		pool_act(pool, CURL_SOCKET_TIMEOUT, 0);
	}
}

/* Milliseconds until libcurl wants to be called, at most "timeout_ms". */
long
pool_time_to_wait(long timeout_ms)
{
	int64		next = pool_next();
	int64		wait;

	if (next < 0)
		return timeout_ms;
	wait = next - monotonic_us();
	wait = wait > 0 ? (wait + 999) / 1000 : 0;
	return (timeout_ms < 0 || wait < timeout_ms) ? (long) wait : timeout_ms;
}

/* What libcurl has to say of a transfer that has ended; NULL if nothing. */
CURLMsg *
pool_finished(void)
{
	for (int i = 0; i < nused; i++)
	{
		HttpPool   *pool = &pools[i];
		CURLMsg    *message;
		int			left;

		if (!pool->acted)
			continue;
		message = curl_multi_info_read(pool->multi, &left);
		if (message != NULL)
			return message;
		pool->acted = false;
	}
	return NULL;
}

/*
 * The peers of all its connections have hung up, and libcurl hears of it with
 * the pool's next request only: if there is none, nor any under way, the pool
 * is closed.  The first is in use as long as the process asks anything.
 */
void
pool_let_rest(HttpPool *pool)
{
	if (pool != &pools[0] && pool->in_flight == 0)
		pool_close(pool);
}
