/*-------------------------------------------------------------------------
 *
 * target.c
 *		What the requests to one upstream have in common.
 *
 * An upstream that is asked has a target: its base URL, its key as a header,
 * whom to trust, and easy handles with all that set up in them, which serve
 * one request after the other.  The targets asked last are kept.
 *
 * The key leaves this file in the Authorization header only.  Nothing here
 * throws; memory that libcurl points to comes from malloc.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>

#include "common/hashfn.h"

#include "compat.h"
#include "http/handles.h"
#include "server/validate.h"

/* The path of a question; the task id follows. */
#define TARGET_PATH "/tencent-vod/v1/query/"

/* Upstreams whose handles are kept ready; the least recently used go. */
#define TARGET_MAX_TARGETS 64

/* Idle handles kept in all; or as many as there may be connections. */
#define TARGET_IDLE_HANDLES 256

static dlist_head targets = DLIST_STATIC_INIT(targets);
static int	ntargets = 0;
static int	nidle = 0;			/* handles, of all targets */
static int	max_connections = 0;


/* Free a handle. */
static void
target_free_handle(HttpHandle *handle)
{
	curl_easy_cleanup(handle->easy);
	compat_url_free(handle->url);
	free(handle);
}

/* Take the idle handle that was used last. */
static HttpHandle *
target_pop_handle(HttpTarget *target)
{
	HttpHandle *handle = target->idle;

	target->idle = handle->next;
	nidle--;
	return handle;
}

/* Free an idle handle of the least recently used target that has one. */
static void
target_free_idle(void)
{
	dlist_iter	iter;

	dlist_reverse_foreach(iter, &targets)
	{
		HttpTarget *target = dlist_container(HttpTarget, node, iter.cur);

		if (target->idle != NULL)
		{
			target_free_handle(target_pop_handle(target));
			return;
		}
	}
}

/* Free a target that no request uses. */
static void
target_free(HttpTarget *target)
{
	Assert(target->in_use == 0);
	while (target->idle != NULL)
		target_free_handle(target_pop_handle(target));
	for (struct curl_slist *header = target->headers; header;
		 header = header->next)
		explicit_bzero(header->data, strlen(header->data));
	curl_slist_free_all(target->headers);
	free(target->url);
	free(target->proxy);
	free(target->ca_pem);
	if (target->route != NULL)
		route_drop(target->route);
	free(target);
}

/* Append to a header list; false, and the list as it was, without memory. */
static bool
target_add_header(struct curl_slist **headers, const char *header)
{
	struct curl_slist *longer = curl_slist_append(*headers, header);

	if (longer == NULL)
		return false;
	*headers = longer;
	return true;
}

/* Make the header list of a target, the one place where the key goes. */
static bool
target_set_headers(HttpTarget *target, const char *api_key)
{
	static const char scheme[] = "Authorization: Bearer ";
	size_t		size;
	char	   *header;
	bool		ok;

	if (!target_add_header(&target->headers, "Accept: application/json"))
		return false;
	if (api_key == NULL)
		return true;
	size = sizeof(scheme) + strlen(api_key);
	header = malloc(size);
	if (header == NULL)
		return false;
	snprintf(header, size, "%s%s", scheme, api_key);
	ok = target_add_header(&target->headers, header);
	explicit_bzero(header, size);
	free(header);
	if (ok)
		target->api_key = target->headers->next->data + sizeof(scheme) - 1;
	return ok;
}

/* Copy what an upstream says into a new target; NULL without memory. */
static HttpTarget *
target_create(const ServerSettings *upstream)
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
	target->route = route_get(upstream);
	target->proxy = strdup(upstream->proxy ? upstream->proxy : "");
	target->url_prefix = strlen(upstream->base_url) + strlen(TARGET_PATH);
	target->url_size = target->url_prefix + MAX_TASK_ID_LENGTH + 1;
	target->url_path = strchr(upstream->base_url, ':') + 3 - upstream->base_url;
	target->url_path += strcspn(upstream->base_url + target->url_path, "/");
	target->url = malloc(target->url_size);
	if (upstream->ca_pem != NULL)
	{
		target->ca_pem = malloc(upstream->ca_pem_len);
		target->ca_pem_len = upstream->ca_pem_len;
	}
	if (target->route == NULL || target->proxy == NULL ||
		target->url == NULL ||
		(upstream->ca_pem != NULL && target->ca_pem == NULL) ||
		!target_set_headers(target, upstream->api_key))
	{
		target_free(target);
		return NULL;
	}
	snprintf(target->url, target->url_size, "%s%s", upstream->base_url,
			 TARGET_PATH);
	if (upstream->ca_pem != NULL)
		memcpy(target->ca_pem, upstream->ca_pem, upstream->ca_pem_len);
	return target;
}

/* Let the least recently used target go that no request uses. */
static void
target_evict(void)
{
	dlist_iter	iter;

	dlist_reverse_foreach(iter, &targets)
	{
		HttpTarget *target = dlist_container(HttpTarget, node, iter.cur);

		if (target->in_use == 0)
		{
			dlist_delete(&target->node);
			ntargets--;
			target_free(target);
			return;
		}
	}
}

/*
 * Count anew how many connections one host may be asked to bear.  Several
 * servers may lead to one host, and none may wait for another's questions, so
 * it is the sum of what they allow.
 */
static void
target_count_connections(void)
{
	dlist_iter	iter;
	int			sum = 0;

	dlist_foreach(iter, &targets)
	{
		HttpTarget *target = dlist_container(HttpTarget, node, iter.cur);
		HttpTarget *other;
		dlist_iter	earlier;
		bool		counted = false;

		dlist_foreach(earlier, &targets)
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
	max_connections = Max(sum, max_connections);
}

/* The target of an upstream; NULL without memory. */
HttpTarget *
target_get(const ServerSettings *upstream)
{
	HttpTarget *target;
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
	{
		target = dlist_container(HttpTarget, node, iter.cur);
		if (target->id == upstream->id)
		{
			dlist_move_head(&targets, &target->node);
			return target;
		}
	}

	target = target_create(upstream);
	if (target == NULL)
		return NULL;
	if (ntargets >= TARGET_MAX_TARGETS)
		target_evict();
	dlist_push_head(&targets, &target->node);
	ntargets++;
	target_count_connections();
	return target;
}

/* Connections to one host that all targets so far would allow. */
int
target_max_connections(void)
{
	return max_connections;
}


/*
 * Handles
 */

static uint64
target_hash(const char *task_id)
{
	return hash_bytes_extended((const unsigned char *) task_id,
							   (int) strlen(task_id), 0);
}

/*
 * Has there been a question about this task, not long ago, by this target or
 * by one that may have connections in common with it?
 */
bool
target_has_asked(const HttpTarget *target, const char *task_id)
{
	uint64		hash = target_hash(task_id);
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
	{
		HttpTarget *other = dlist_container(HttpTarget, node, iter.cur);

		if (route_gateway(other->route) != route_gateway(target->route))
			continue;
		for (int i = 0; i < TARGET_MAX_ASKED; i++)
		{
			if (other->asked[i] == hash)
				return true;
		}
	}
	return false;
}

/* Options that say whom to trust. */
static CURLcode
target_set_trust(CURL *easy, HttpTarget *target)
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
target_set_common(CURL *easy, HttpTarget *target)
{
	HTTP_SET(easy, CURLOPT_NOSIGNAL, 1L);
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
	HTTP_SET(easy, CURLOPT_HTTP_VERSION,
			 target->tls ? (long) CURL_HTTP_VERSION_2TLS :
						   (long) CURL_HTTP_VERSION_1_1);
	return compat_set_safety(easy);
}

/*
 * The URL of a target, taken apart.  NULL without memory, and if the path has
 * something that libcurl writes in its own way when it takes a URL apart, but
 * not, or (7.88) in another way, when it is given the path alone.
 */
static CompatUrl *
target_create_url(const HttpTarget *target)
{
	const char *path = target->url + target->url_path;

	if (strchr(path, '%') != NULL || strstr(path, "/.") != NULL)
		return NULL;
	return compat_url_create(target->url);
}

/* Make a handle; NULL if that fails, and "code" says why. */
static HttpHandle *
target_create_handle(HttpTarget *target, CURLcode *code)
{
	HttpHandle *handle = calloc(1, sizeof(HttpHandle));

	*code = CURLE_OUT_OF_MEMORY;
	if (handle == NULL)
		return NULL;
	handle->easy = curl_easy_init();
	if (handle->easy != NULL)
		*code = target_set_common(handle->easy, target);
	if (*code == CURLE_OK)
		*code = target_set_trust(handle->easy, target);
	if (*code == CURLE_OK)
	{
		handle->url = target_create_url(target);
		if (handle->url != NULL)
			*code = compat_url_use(handle->easy, handle->url);
	}
	if (*code == CURLE_OK)
		return handle;
	target_free_handle(handle);
	return NULL;
}

/*
 * Let a handle ask for the task whose URL that of the target is.  It is set as
 * text as well, which libcurl goes back to when it begins anew.
 */
static CURLcode
target_set_url(HttpTarget *target, HttpHandle *handle)
{
	CURLcode	code = CURLE_OK;

	if (handle->url != NULL)
		code = compat_url_set_path(handle->url,
								   target->url + target->url_path);
	if (code == CURLE_OK)
		code = curl_easy_setopt(handle->easy, CURLOPT_URL, target->url);
	return code;
}

/*
 * A handle that will ask for a task; NULL if there is none, and "code" says
 * why.
 */
HttpHandle *
target_take_handle(HttpTarget *target, const char *task_id, CURLcode *code)
{
	HttpHandle *handle;

	handle = target->idle != NULL ?
		target_pop_handle(target) :
		target_create_handle(target, code);
	if (handle == NULL)
		return NULL;
	strlcpy(target->url + target->url_prefix, task_id,
			target->url_size - target->url_prefix);
	target->asked[target->nasked++ % TARGET_MAX_ASKED] = target_hash(task_id);
	*code = target_set_url(target, handle);
	if (*code == CURLE_OK)
		return handle;
	target_free_handle(handle);
	return NULL;
}

/*
 * Take back a handle.  One whose transfer came to its end serves another
 * request; one that was broken off does not.  As many are kept as there may be
 * requests at once: where these come and go in clumps, to make handles anew
 * would be a tenth of the work.
 */
void
target_return_handle(HttpTarget *target, HttpHandle *handle, bool reusable)
{
	if (!reusable)
	{
		target_free_handle(handle);
		return;
	}
	handle->request = NULL;
	handle->trouble[0] = '\0';
	handle->next = target->idle;
	target->idle = handle;
	if (++nidle > Max(max_connections, TARGET_IDLE_HANDLES))
		target_free_idle();
}
