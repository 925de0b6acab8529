/*-------------------------------------------------------------------------
 *
 * http/handles.c
 *		Endpoints and their easy handles.
 *
 * The requests of one ServerSettings share an endpoint: its base URL, its key
 * as a header, whom to trust, and easy handles with all that set up in them,
 * which serve one request after the other.  The endpoints used last are kept.
 *
 * The key leaves this file in the Authorization header only.  Nothing here
 * throws; memory that libcurl points to comes from malloc.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/fd.h"

#include "http/internal.h"

/* Endpoints whose handles are kept ready; the least recently used go. */
#define MAX_ENDPOINTS 64

/* Idle handles kept, of all endpoints; or as many as there may be requests. */
#define MIN_IDLE_HANDLES 256

/* Room for a path behind a base URL; "validate.h" bounds task ids. */
#define MAX_PATH 512

static dlist_head endpoints = DLIST_STATIC_INIT(endpoints);
static int	n_endpoints = 0;
static int	n_idle = 0;

static HttpAuthorities *all_authorities = NULL;


/*
 * Authorities
 */

/*
 * The authorities of a PEM text; NULL without memory or a descriptor.
 *
 * libcurl gets them as a file, and knows that by its name, that is by its
 * descriptor, which therefore stays open: a text in memory it would parse for
 * each connection.
 */
static const HttpAuthorities *
authorities_get(const char *pem, size_t len)
{
	HttpAuthorities *made;
	int			fd;

	for (made = all_authorities; made != NULL; made = made->next)
	{
		if (made->len == len && memcmp(made->pem, pem, len) == 0)
			return made;
	}
	made = malloc(offsetof(HttpAuthorities, pem) + len);
	if (made == NULL || !AcquireExternalFD())
	{
		free(made);
		return NULL;
	}
	fd = memfd_create("anyvod_ca", MFD_CLOEXEC);
	if (fd < 0 || write(fd, pem, len) != (ssize_t) len)
	{
		if (fd >= 0)
			close(fd);
		ReleaseExternalFD();
		free(made);
		return NULL;
	}
	snprintf(made->path, sizeof(made->path), "/proc/self/fd/%d", fd);
	memcpy(made->pem, pem, len);
	made->len = len;
	made->next = all_authorities;
	all_authorities = made;
	return made;
}


/*
 * Endpoints
 */

static void
handle_free(HttpHandle *handle)
{
	curl_easy_cleanup(handle->easy);
	compat_free_url(handle->url);
	free(handle);
}

/* The idle handle of an endpoint that was used last. */
static HttpHandle *
endpoint_pop_handle(HttpEndpoint *endpoint)
{
	HttpHandle *handle = endpoint->idle;

	endpoint->idle = handle->next;
	n_idle--;
	return handle;
}

static void
endpoint_push_handle(HttpEndpoint *endpoint, HttpHandle *handle)
{
	handle->next = endpoint->idle;
	endpoint->idle = handle;
	n_idle++;
}

/* Free an endpoint that no transfer uses. */
static void
endpoint_free(HttpEndpoint *endpoint)
{
	Assert(endpoint->in_use == 0);
	while (endpoint->idle != NULL)
		handle_free(endpoint_pop_handle(endpoint));
	for (struct curl_slist *header = endpoint->headers; header;
		 header = header->next)
		explicit_bzero(header->data, strlen(header->data));
	curl_slist_free_all(endpoint->headers);
	free(endpoint->url);
	free(endpoint->proxy);
	free(endpoint);
}

/* Append to the headers; false, and they as they were, without memory. */
static bool
endpoint_add_header(HttpEndpoint *endpoint, const char *header)
{
	struct curl_slist *longer = curl_slist_append(endpoint->headers, header);

	if (longer == NULL)
		return false;
	endpoint->headers = longer;
	return true;
}

/*
 * Make the headers, the one place where the key goes; false without memory.
 * (An empty Accept-Encoding keeps libcurl from asking for a compressed
 * response, which it could read.)
 */
static bool
endpoint_set_headers(HttpEndpoint *endpoint, const char *api_key)
{
	static const char scheme[] = "Authorization: Bearer ";
	char	   *header;
	bool		ok;

	if (api_key != NULL)
	{
		if (asprintf(&header, "%s%s", scheme, api_key) < 0)
			return false;
		ok = endpoint_add_header(endpoint, header);
		explicit_bzero(header, strlen(header));
		free(header);
		if (!ok)
			return false;
		endpoint->api_key = endpoint->headers->data + strlen(scheme);
	}
	return endpoint_add_header(endpoint, "Accept-Encoding:") &&
		endpoint_add_header(endpoint, "Accept: application/json");
}

/* Copy what settings say into a new endpoint; NULL without memory. */
static HttpEndpoint *
endpoint_create(const ServerSettings *settings)
{
	HttpEndpoint *endpoint = calloc(1, sizeof(HttpEndpoint));

	if (endpoint == NULL)
		return NULL;
	endpoint->id = settings->id;
	endpoint->serverid = settings->serverid;
	endpoint->userid = settings->userid;
	endpoint->timeout = settings->timeout;
	endpoint->connect_timeout = settings->connect_timeout;
	endpoint->max_response_size = settings->max_response_size;
	endpoint->tls = pg_strncasecmp(settings->base_url, "https:", 6) == 0;
	endpoint->kind = endpoint->tls ? HTTP_KIND_UNKNOWN : HTTP_KIND_SERIAL;
	endpoint->window = INT_MAX;
	endpoint->proxy = strdup(settings->proxy ? settings->proxy : "");
	endpoint->base_len = strlen(settings->base_url);
	endpoint->url = malloc(endpoint->base_len + MAX_PATH);
	if (settings->ca_pem != NULL)
		endpoint->authorities = authorities_get(settings->ca_pem,
												settings->ca_pem_len);
	if (endpoint->proxy == NULL || endpoint->url == NULL ||
		(settings->ca_pem != NULL && endpoint->authorities == NULL) ||
		!endpoint_set_headers(endpoint, settings->api_key))
	{
		endpoint_free(endpoint);
		return NULL;
	}
	memcpy(endpoint->url, settings->base_url, endpoint->base_len + 1);
	endpoint->has_path = strchr(strstr(endpoint->url, "://") + 3, '/') != NULL;
	dlist_init(&endpoint->queue);
	dlist_init(&endpoint->connecting);
	return endpoint;
}

/* The endpoint of some settings, made if there is none; NULL without memory. */
HttpEndpoint *
endpoint_get(const ServerSettings *settings)
{
	HttpEndpoint *endpoint;
	HttpEndpoint *made;
	dlist_iter	iter;

	dlist_foreach(iter, &endpoints)
	{
		endpoint = dlist_container(HttpEndpoint, node, iter.cur);
		if (endpoint->id == settings->id &&
			endpoint->serverid == settings->serverid &&
			endpoint->userid == settings->userid)
		{
			dlist_move_head(&endpoints, &endpoint->node);
			return endpoint;
		}
	}
	made = endpoint_create(settings);
	if (made == NULL)
		return NULL;
	dlist_push_head(&endpoints, &made->node);
	if (++n_endpoints <= MAX_ENDPOINTS)
		return made;
	dlist_reverse_foreach(iter, &endpoints)
	{
		endpoint = dlist_container(HttpEndpoint, node, iter.cur);
		if (endpoint == made || endpoint->in_use > 0)
			continue;
		dlist_delete(&endpoint->node);
		endpoint_free(endpoint);
		n_endpoints--;
		break;
	}
	return made;
}


/*
 * Handles
 */

/*
 * Options that all requests have.  CURLOPT_PROXY is always set, to "" if
 * there is none: otherwise http_proxy in the environment would be obeyed and
 * would see the key.  There is no netrc, no cookie and no redirect.  Over TLS
 * the version is libcurl's choice: HTTP/2 where it can (7.62).
 */
static CURLcode
handle_set_common(CURL *easy, HttpEndpoint *endpoint)
{
	HTTP_SET(easy, CURLOPT_NOSIGNAL, 1L);
	HTTP_SET(easy, CURLOPT_HTTPHEADER, endpoint->headers);
	HTTP_SET(easy, CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE);
	HTTP_SET(easy, CURLOPT_USERAGENT, "anyvod/" ANYVOD_VERSION);
	HTTP_SET(easy, CURLOPT_ACCEPT_ENCODING, "");
	HTTP_SET(easy, CURLOPT_PROXY, endpoint->proxy);
	HTTP_SET(easy, CURLOPT_NOPROXY, "");
	HTTP_SET(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	HTTP_SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
	HTTP_SET(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) endpoint->connect_timeout);
	HTTP_SET(easy, CURLOPT_MAXFILESIZE_LARGE,
			 (curl_off_t) endpoint->max_response_size);
	HTTP_SET(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	HTTP_SET(easy, CURLOPT_PIPEWAIT, 1L);
	if (!endpoint->tls)
		HTTP_SET(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	HTTP_SET(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	HTTP_SET(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	HTTP_SET(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	HTTP_SET(easy, CURLOPT_PROXY_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	return CURLE_OK;
}

/* Have libcurl call us about what a handle does. */
static CURLcode
handle_set_callbacks(HttpHandle *handle)
{
	CURL	   *easy = handle->easy;

	HTTP_SET(easy, CURLOPT_PRIVATE, handle);
	HTTP_SET(easy, CURLOPT_OPENSOCKETFUNCTION, socket_on_open);
	HTTP_SET(easy, CURLOPT_OPENSOCKETDATA, handle);
	HTTP_SET(easy, CURLOPT_CLOSESOCKETFUNCTION, socket_on_close);
	HTTP_SET(easy, CURLOPT_WRITEFUNCTION, transfer_on_body);
	HTTP_SET(easy, CURLOPT_WRITEDATA, handle);
	HTTP_SET(easy, CURLOPT_ERRORBUFFER, handle->error);
	return compat_set_on_send(easy, loop_on_send, handle);
}

/* Make a handle, the endpoint's first idle one; or say why that fails. */
static CURLcode
endpoint_add_handle(HttpEndpoint *endpoint)
{
	HttpHandle *handle = calloc(1, sizeof(HttpHandle));
	CURLcode	code = CURLE_OUT_OF_MEMORY;

	if (handle == NULL)
		return code;
	handle->easy = curl_easy_init();
	if (handle->easy != NULL)
		code = handle_set_common(handle->easy, endpoint);
	if (code == CURLE_OK)
		code = compat_set_authorities(handle->easy,
									  endpoint->authorities ?
										  endpoint->authorities->path :
										  NULL);
	if (code == CURLE_OK)
		code = compat_set_safety(handle->easy);
	if (code == CURLE_OK)
		code = handle_set_callbacks(handle);
	if (code == CURLE_OK)
		endpoint_push_handle(endpoint, handle);
	else
		handle_free(handle);
	return code;
}

/* Point a handle at a transfer's URL, and give it the time that is left. */
static CURLcode
handle_set_transfer(HttpHandle *handle, HttpTransfer *transfer)
{
	HttpEndpoint *endpoint = transfer->endpoint;
	int64		left = endpoint->timeout -
		(transfer->dispatched - transfer->request.started) / 1000;
	CURLcode	code;

	strlcpy(endpoint->url + endpoint->base_len, transfer->path, MAX_PATH);
	code = compat_set_url(handle->easy, &handle->url, endpoint->url,
						  endpoint->has_path ? NULL : transfer->path);
	if (code != CURLE_OK)
		return code;
	HTTP_SET(handle->easy, CURLOPT_TIMEOUT_MS, (long) Max(left, 1));
	HTTP_SET(handle->easy, CURLOPT_FRESH_CONNECT, (long) transfer->fresh);
	handle->error[0] = '\0';
	handle->transfer = transfer;
	return CURLE_OK;
}

/*
 * Give a transfer, which is being dispatched, a handle that will send its
 * request; or say why there is none.
 */
CURLcode
endpoint_take_handle(HttpEndpoint *endpoint, HttpTransfer *transfer)
{
	CURLcode	code = CURLE_OK;
	HttpHandle *handle;

	if (endpoint->idle == NULL)
		code = endpoint_add_handle(endpoint);
	if (code != CURLE_OK)
		return code;
	handle = endpoint_pop_handle(endpoint);
	code = handle_set_transfer(handle, transfer);
	if (code == CURLE_OK)
		transfer->handle = handle;
	else
		handle_free(handle);
	return code;
}

/*
 * Take the handle of a transfer back.  One whose transfer came to its end
 * serves another; one whose transfer was aborted does not.
 */
void
endpoint_return_handle(HttpEndpoint *endpoint, HttpTransfer *transfer,
					   bool reusable)
{
	HttpHandle *handle = transfer->handle;

	transfer->handle = NULL;
	handle->transfer = NULL;
	if (reusable && n_idle < Max(loop_max_connections(), MIN_IDLE_HANDLES))
		endpoint_push_handle(endpoint, handle);
	else
		handle_free(handle);
}
