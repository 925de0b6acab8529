/*-------------------------------------------------------------------------
 *
 * http/client.c
 *		Requests, from their start to their release.
 *
 * What is requested and how the response is read is not known here, nor when
 * libcurl gets a request: that is loop.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "clock.h"
#include "http/internal.h"

/* A body whose length is not told starts with room for a usual response. */
#define FIRST_BODY_SIZE 8192

/* Bytes allocated to the bodies of this process. */
static size_t body_bytes = 0;

/* Note how much is allocated to the body of a transfer. */
static void
transfer_set_body_size(HttpTransfer *transfer, size_t size)
{
	body_bytes += size - transfer->body_size;
	transfer->batch->body_bytes += size - transfer->body_size;
	transfer->body_size = size;
}

static void
transfer_free_body(HttpTransfer *transfer)
{
	transfer_set_body_size(transfer, 0);
	free(transfer->request.body);
	transfer->request.body = NULL;
	transfer->request.body_len = 0;
}

/*
 * Make room for "needed" bytes of a body, which the limit allows; false if
 * there is none.  The buffer becomes as large as the response says that it is,
 * else twice as large as before.  A batch that holds other bodies may not take
 * all that this process has for bodies.
 */
static bool
transfer_make_room(HttpTransfer *transfer, size_t needed)
{
	size_t		size = Max(transfer->body_size * 2, FIRST_BODY_SIZE);
	size_t		others = body_bytes - transfer->body_size;
	size_t		in_batch = transfer->batch->body_bytes - transfer->body_size;
	curl_off_t	length = 0;
	char	   *body;

	while (size < needed)
		size *= 2;
	if (transfer->body_size == 0)
		(void) curl_easy_getinfo(transfer->handle->easy,
								 CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	if (length > 0 && (size_t) length >= needed)
		size = (size_t) length;
	size = Min(size, transfer->endpoint->max_response_size);

	if (others + size > HTTP_MAX_BODIES ||
		(in_batch > 0 && in_batch + size > HTTP_MAX_BATCH_BODIES))
	{
		transfer->no_room = others > 0;
		return false;
	}
	body = realloc(transfer->request.body, size + 1);
	if (body == NULL)
	{
		transfer->no_memory = true;
		return false;
	}
	transfer->request.body = body;
	transfer_set_body_size(transfer, size);
	return true;
}

/* libcurl has a piece of the body, which may have been decompressed. */
size_t
transfer_on_body(char *data, size_t one, size_t len, void *arg)
{
	HttpTransfer *transfer = ((HttpHandle *) arg)->transfer;
	HttpRequest *request = &transfer->request;

	if (len == 0)
		return 0;				/* there is no body */
	if (len > transfer->endpoint->max_response_size - request->body_len)
	{
		transfer->too_large = true;
		return 0;
	}
	if (len > transfer->body_size - request->body_len &&
		!transfer_make_room(transfer, request->body_len + len))
		return 0;
	memcpy(request->body + request->body_len, data, len);
	request->body_len += len;
	request->body[request->body_len] = '\0';
	return len;
}

/* A transfer has ended, or could not begin: its batch has it.  Never throws. */
void
transfer_finish(HttpTransfer *transfer)
{
	HttpBatch  *batch = transfer->batch;

	Assert(transfer->handle == NULL);
	transfer->state = HTTP_FINISHED;
	transfer->request.elapsed = monotonic_us() - transfer->request.started;
	batch->in_flight--;
	dlist_delete(&transfer->batch_node);
	dlist_push_tail(&batch->finished, &transfer->batch_node);
}

/* The batch's context goes: abort what is in flight.  Must not throw. */
static void
batch_reset(void *arg)
{
	HttpBatch  *batch = arg;
	dlist_head *lists[] = {&batch->active, &batch->finished, &batch->taken};

	for (int i = 0; i < (int) lengthof(lists); i++)
	{
		while (!dlist_is_empty(lists[i]))
			http_release(&dlist_head_element(HttpTransfer, batch_node, lists[i])
							  ->request);
	}
}

/*
 * Make a batch that lives in "context": requests started in it are aborted
 * when that is reset or deleted.  Raises 53000 if no descriptor is left for
 * the event loop, 53200 if libcurl does not start.
 */
HttpBatch *
http_batch_create(MemoryContext context)
{
	HttpBatch  *batch;

	loop_init();
	batch = MemoryContextAllocZero(context, sizeof(HttpBatch));
	dlist_init(&batch->active);
	dlist_init(&batch->finished);
	dlist_init(&batch->taken);
	batch->context = context;
	batch->callback.func = batch_reset;
	batch->callback.arg = batch;
	MemoryContextRegisterResetCallback(context, &batch->callback);
	return batch;
}

/*
 * Start a GET request for a path below a base URL: "path" begins with a slash
 * and has nothing that would have to be encoded.
 *
 * Raises an error only when the memory for the request itself is missing; one
 * that cannot be sent finishes with the result that says why.
 */
HttpRequest *
http_start(HttpBatch *batch, const ServerSettings *settings, const char *path,
		   void *tag)
{
	size_t		size = strlen(path) + 1;
	HttpTransfer *transfer;

	transfer = MemoryContextAllocZero(batch->context,
									  offsetof(HttpTransfer, path) + size);
	memcpy(transfer->path, path, size);
	transfer->batch = batch;
	transfer->request.tag = tag;
	transfer->request.retry_after = -1;
	transfer->request.started = monotonic_us();
	dlist_push_tail(&batch->active, &transfer->batch_node);
	batch->in_flight++;
	transfer->endpoint = endpoint_get(settings);
	if (transfer->endpoint != NULL)
	{
		transfer->endpoint->in_use++;
		loop_begin(transfer, false);
	}
	else
	{
		result_take(transfer, CURLE_OUT_OF_MEMORY);
		transfer_finish(transfer);
	}
	return &transfer->request;
}

/* Has a request of the batch finished that has not been taken? */
bool
http_has_finished(HttpBatch *batch)
{
	return !dlist_is_empty(&batch->finished);
}

/*
 * Take a request of the batch that has finished, the first first; NULL if
 * there is none.  It stays in the batch until it is released.  The key is
 * redacted in what it holds, which takes time where that is much: raises
 * whatever CHECK_FOR_INTERRUPTS() raises.
 */
HttpRequest *
http_take_finished(HttpBatch *batch)
{
	HttpTransfer *transfer;

	if (dlist_is_empty(&batch->finished))
		return NULL;
	transfer = dlist_head_element(HttpTransfer, batch_node, &batch->finished);
	result_redact(transfer);
	dlist_delete(&transfer->batch_node);
	dlist_push_tail(&batch->taken, &transfer->batch_node);
	return &transfer->request;
}

/*
 * The caller finds that a response is about something else than was requested,
 * and wants to know if that is meant.  Over HTTP/1, which does not say what a
 * response is for, a response that nobody had requested may have come first.
 * Returns true if the request has been started again, over a new connection;
 * what it holds is gone.  Returns false if the gateway means it: it has names
 * of its own, here and from now on.
 */
bool
http_doubt(HttpRequest *request)
{
	HttpTransfer *transfer = (HttpTransfer *) request;
	HttpEndpoint *endpoint = transfer->endpoint;
	HttpBatch  *batch = transfer->batch;

	Assert(transfer->state == HTTP_FINISHED);
	endpoint->has_own_names |= transfer->fresh;
	if (endpoint->has_own_names || endpoint->kind != HTTP_KIND_SERIAL)
		return false;
	socket_close_of(transfer, PG_INT64_MAX);
	transfer_free_body(transfer);
	transfer->fresh = true;
	transfer->redacted = false;
	request->result = HTTP_UNFINISHED;
	batch->in_flight++;
	dlist_delete(&transfer->batch_node);
	dlist_push_tail(&batch->active, &transfer->batch_node);
	loop_begin(transfer, true);
	return true;
}

/* Requests of the batch that have not finished. */
int
http_in_flight(const HttpBatch *batch)
{
	return batch->in_flight;
}

/* How many more requests of the batch would not wait for a descriptor. */
int
http_room(const HttpBatch *batch)
{
	return Max(loop_max_connections() - batch->in_flight, 0);
}

/* Release a request; if it is in flight it is aborted.  Never throws. */
void
http_release(HttpRequest *request)
{
	HttpTransfer *transfer = (HttpTransfer *) request;

	if (transfer->state != HTTP_FINISHED)
	{
		loop_abort(transfer);
		transfer->batch->in_flight--;
	}
	if (transfer->endpoint != NULL)
		transfer->endpoint->in_use--;
	dlist_delete(&transfer->batch_node);
	transfer_free_body(transfer);
	pfree(transfer);
}
