/*-------------------------------------------------------------------------
 *
 * http/loop.c
 *		Which transfers libcurl gets, and when it is called.
 *
 * Each endpoint has a queue.  What its gateway speaks turns out with its first
 * connection: until then libcurl gets two of its requests, the second when the
 * first has a connection.
 *
 * Rules that everything here keeps, beside those of multi.c:
 *
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

#include <limits.h>
#include <pthread.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "http/internal.h"

/* How long libcurl may work before interrupts are checked. */
#define LOOP_SLICE (5 * MILLISECOND)

/* Events that are taken at once. */
#define EVENTS 128

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

/*
 * Descriptors that we leave to others of the third of max_safe_fds that
 * PostgreSQL lends to extensions.
 */
#define SPARE_DESCRIPTORS 8

/* The loop of this process. */
static struct
{
	bool		ready;
	dlist_head	queued;			/* endpoints whose queue is not empty */
	int			in_flight;		/* transfers that libcurl has */
	bool		finished;		/* a transfer has, in this iteration */
	bool		busy;			/* there was more to do than a slice allows */
	uint64		number;			/* of the last transfer dispatched */
	int64		used_at;		/* when an iteration last began */
	TimeoutId	idle_timeout;	/* of a session */
} loop;

static int	deadline_compare(const pairingheap_node *a,
							 const pairingheap_node *b, void *arg);
/* Transfers that have begun and not finished. */
static pairingheap deadlines = {.ph_compare = deadline_compare};


/*
 * Signals
 */

/* Block all signals, as is due around calls that may start a thread. */
static void
loop_block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void
loop_restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}


/*
 * Transfers
 */

/* A request goes out, or seems to have. */
static void
transfer_on_sent(HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;

	transfer->request.attempts++;
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
	transfer_on_sent(((HttpHandle *) arg)->transfer);
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
		if (sent != 0)
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
	CURL	   *easy = transfer->handle->easy;

	if (!ended)
		(void) curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
	(void) curl_multi_remove_handle(transfer->multi->curl, easy);
	loop.in_flight--;
	transfer->multi->in_flight--;
	endpoint->in_flight--;
	if (transfer->state == HTTP_CONNECTING)
		dlist_delete(&transfer->loop_node);
	else
		endpoint->sent--;
	transfer->multi = NULL;
	endpoint_return_handle(endpoint, transfer, ended);
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

static HttpTransfer *
loop_first_deadline(void)
{
	return pairingheap_container(HttpTransfer, deadline_node,
								 pairingheap_first(&deadlines));
}

/* Move the deadline of a transfer that is in flight. */
void
loop_set_deadline(HttpTransfer *transfer, int64 deadline)
{
	pairingheap_remove(&deadlines, &transfer->deadline_node);
	transfer->deadline = deadline;
	pairingheap_add(&deadlines, &transfer->deadline_node);
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

/* Take a transfer out of the loop, which has "ended" or is aborted. */
static void
loop_take_out(HttpTransfer *transfer, bool ended)
{
	pairingheap_remove(&deadlines, &transfer->deadline_node);
	if (transfer->state == HTTP_QUEUED)
		loop_dequeue(transfer);
	else
		transfer_leave_libcurl(transfer, ended);
}

/* Abort a transfer that has not finished. */
void
loop_abort(HttpTransfer *transfer)
{
	sigset_t	saved;

	loop_block_signals(&saved);
	loop_take_out(transfer, false);
	loop_restore_signals(&saved);
}

/*
 * A transfer that libcurl does not have, or has not finished, ends with this
 * code.
 */
static void
loop_fail(HttpTransfer *transfer, CURLcode code)
{
	result_take(transfer, code);
	loop_take_out(transfer, false);
	loop.finished = true;
	transfer_finish(transfer);
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
 * Over HTTP/1 all kept connections may have ended.  Over HTTP/2 a connection
 * may end after few requests: half as many at once are enough for it then.
 */
static void
loop_repeat(HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;

	transfer->refusals++;
	transfer_leave_libcurl(transfer, true);
	transfer->request.body_len = 0;
	transfer->opened = transfer->request.connected = false;
	transfer->denied = transfer->no_memory = false;
	if (endpoint->kind == HTTP_KIND_SERIAL)
		transfer->fresh = true;
	else
		endpoint->window = Max(endpoint->in_flight / 2, 1);
	loop_enqueue(transfer, true);
}

/*
 * A transfer has ended.  One that the gateway has refused to process is sent
 * again, as long as its timeout allows.
 */
void
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
		socket_close_of(transfer, transfer->request.started);
	loop_take_out(transfer, true);
	loop.finished = true;
	transfer_finish(transfer);
}


/*
 * The queue
 */

/*
 * May libcurl have another request of an endpoint?  Not while its first
 * connection is being made, nor while two are in flight and it is not known
 * whether they share it, nor while many connections are
 * being made whose handshakes take time.
 */
static bool
endpoint_may_dispatch(HttpEndpoint *endpoint, int64 now)
{
	int			weight = 1;
	int			n = 0;
	dlist_iter	iter;

	if (endpoint->authorities != NULL && !COMPAT_KEEPS_CERTIFICATES)
		weight += endpoint->authorities->len / CA_SIZE_OF_HANDSHAKE;
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
	CURLcode	code;

	if (multi == NULL && loop.in_flight > 0)
		return false;
	transfer->denied = multi == NULL;
	transfer->dispatched = now;
	transfer->number = ++loop.number;
	code = multi == NULL ? CURLE_COULDNT_CONNECT :
						   endpoint_take_handle(endpoint, transfer);
	if (code == CURLE_OK &&
		curl_multi_add_handle(multi->curl, transfer->handle->easy) != CURLM_OK)
	{
		endpoint_return_handle(endpoint, transfer, false);
		code = CURLE_OUT_OF_MEMORY;
	}
	if (code != CURLE_OK)
	{
		loop_fail(transfer, code);
		return true;
	}
	loop_dequeue(transfer);
	transfer->multi = multi;
	transfer->state = HTTP_CONNECTING;
	dlist_push_tail(&endpoint->connecting, &transfer->loop_node);
	loop.in_flight++;
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
		HttpTransfer *transfer = loop_first_deadline();

		if (transfer->deadline > monotonic_us())
			break;
		loop_fail(transfer, CURLE_OPERATION_TIMEDOUT);
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

/*
 * Do what there is to do, for one slice; events that are left come again.
 * They come first: no request goes to a connection that has just been closed.
 */
static void
loop_work(void)
{
	int64		until = monotonic_us() + LOOP_SLICE;
	struct epoll_event events[EVENTS];
	sigset_t	saved;
	int			n;

	loop_block_signals(&saved);
	n = event_loop_take(events, EVENTS);
	loop.busy = false;
	for (int i = 0; i < n && !loop.busy; i++)
	{
		socket_on_event(events[i].data.fd, events[i].events);
		loop.busy = monotonic_us() >= until;
	}
	if (!multi_run_timers(until))
		loop.busy = true;
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
	int64		next = multi_next_timer();
	long		wait;

	if (loop.busy || loop.finished)
		return 0;
	if (!dlist_is_empty(&loop.queued) &&
		(timeout_ms < 0 || timeout_ms > CONNECT_WINDOW / MILLISECOND))
		timeout_ms = CONNECT_WINDOW / MILLISECOND;
	if (!pairingheap_is_empty(&deadlines))
	{
		int64		deadline = loop_first_deadline()->deadline;

		next = next < 0 ? deadline : Min(next, deadline);
	}
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

	dlist_init(&loop.queued);
	if (MyBackendType == B_BACKEND)
	{
		loop.idle_timeout = RegisterTimeout(USER_TIMEOUT, socket_close_idle);
		RegisterXactCallback(loop_on_xact, NULL);
	}
	loop.ready = true;
}
