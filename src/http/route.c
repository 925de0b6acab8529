/*-------------------------------------------------------------------------
 *
 * route.c
 *		Who may open a connection, and who waits for it.
 *
 * A route is the way to a gateway: its base URL, and a proxy if there is one.
 * Over HTTP/2 one connection carries many requests, but libcurl (7.88, for
 * one) is hasty when there is no room on it, or when the gateway has said
 * that it will end it (nginx does after 1,000 requests): each of the next
 * requests then opens a connection of its own, or takes a place on one that
 * is not connected yet and fails.  So requests to https are handed to libcurl
 * one after the other: the next one when the last is on its way, by a
 * connection that there was or by one that has come about meanwhile.  That
 * takes no time while there is room, and whoever waits for a connection waits
 * for one that is being made anyway.
 *
 * Where a connection carries one request at a time, nobody waits for anybody.
 * Which it is turns out with the first connection.
 *
 * Nothing here throws.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>

#include "common/hashfn.h"

#include "clock.h"
#include "http/internal.h"
#include "http/route.h"
#include "server/validate.h"

/* What the connections of a route carry. */
typedef enum RouteKind
{
	ROUTE_UNKNOWN,				/* there has been none */
	ROUTE_SERIAL,				/* one request at a time: HTTP/1.1 */
	ROUTE_SHARED,				/* many at once: HTTP/2 */
} RouteKind;

struct HttpRoute
{
	dlist_node	node;			/* in "routes" */
	int			targets;		/* that take it */
	char	   *base_url;
	char	   *proxy;			/* "" if none */
	uint32		gateway;		/* see route_gateway() */
	RouteKind	kind;
	HttpRequest *opener;		/* was let in, and is not on its way yet */
	int			on_the_way;		/* requests let in since, not finished */
	int64		heard_at;		/* when some of an answer last arrived */
	dlist_head	line;			/* requests that wait to be let in */
};

static dlist_head routes = DLIST_STATIC_INIT(routes);

/* Free a route that no target takes. */
static void
route_free(HttpRoute *route)
{
	free(route->base_url);
	free(route->proxy);
	free(route);
}

/* The hash of a URL's host, whatever case it is written in, and port. */
static uint32
route_hash(const char *url)
{
	UrlParts	parts;

	(void) validate_url(url, &parts);
	for (char *p = parts.host; *p != '\0'; p++)
		*p = pg_tolower((unsigned char) *p);
	return hash_combine(hash_bytes((const unsigned char *) parts.host,
								   (int) strlen(parts.host)),
						(uint32) parts.port);
}

/* The route to an upstream; NULL without memory. */
HttpRoute *
route_get(const ServerSettings *upstream)
{
	const char *proxy = upstream->proxy ? upstream->proxy : "";
	HttpRoute  *route;
	dlist_iter	iter;

	dlist_foreach(iter, &routes)
	{
		route = dlist_container(HttpRoute, node, iter.cur);
		if (strcmp(route->base_url, upstream->base_url) == 0 &&
			strcmp(route->proxy, proxy) == 0)
		{
			route->targets++;
			return route;
		}
	}

	route = calloc(1, sizeof(HttpRoute));
	if (route == NULL)
		return NULL;
	route->base_url = strdup(upstream->base_url);
	route->proxy = strdup(proxy);
	if (route->base_url == NULL || route->proxy == NULL)
	{
		route_free(route);
		return NULL;
	}
	route->targets = 1;
	route->gateway = route_hash(route->base_url);
	route->kind = pg_strncasecmp(upstream->base_url, "https:", 6) == 0 ?
		ROUTE_UNKNOWN :
		ROUTE_SERIAL;
	dlist_init(&route->line);
	dlist_push_tail(&routes, &route->node);
	return route;
}

/* A target goes that has taken this route. */
void
route_drop(HttpRoute *route)
{
	if (--route->targets > 0)
		return;
	dlist_delete(&route->node);
	route_free(route);
}

/*
 * A number of the gateway that a route leads to.  Routes that differ in it have
 * no connection in common; others may, since libcurl goes by host and port.
 */
uint32
route_gateway(const HttpRoute *route)
{
	return route->gateway;
}

/*
 * May this request be handed to libcurl?  If not, it stands in line until
 * route_next() gives it.
 */
bool
route_enter(HttpRoute *route, HttpRequest *request)
{
	if (route->kind == ROUTE_SERIAL)
		return true;
	if (route->opener == NULL && dlist_is_empty(&route->line))
	{
		route->opener = request;
		return true;
	}
	request->in_line = true;
	dlist_push_tail(&route->line, &request->line_node);
	return false;
}

/*
 * Look after the request that was let in last: is it on its way?  That
 * another connection is opened for it while the first carries one request
 * shows that this one carries no second.
 */
static void
route_look(HttpRoute *route)
{
	HttpRequest *request = route->opener;
	curl_off_t	sent = 0;

	if (request == NULL)
		return;
	(void) curl_easy_getinfo(request->handle->easy, CURLINFO_PRETRANSFER_TIME_T,
							 &sent);
	if (sent == 0)
	{
		if (route->kind != ROUTE_UNKNOWN || route->on_the_way != 1 ||
			!request->opened)
			return;
		route->kind = ROUTE_SERIAL;
	}
	request->on_the_way = true;
	route->on_the_way++;
	route->opener = NULL;
}

/* A request that is to be handed to libcurl now; NULL if there is none. */
HttpRequest *
route_next(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &routes)
	{
		HttpRoute  *route = dlist_container(HttpRoute, node, iter.cur);
		HttpRequest *request;

		route_look(route);
		if (route->opener != NULL || dlist_is_empty(&route->line))
			continue;
		request = dlist_container(HttpRequest, line_node,
								  dlist_pop_head_node(&route->line));
		request->in_line = false;
		if (route->kind != ROUTE_SERIAL)
			route->opener = request;
		return request;
	}
	return NULL;
}

/*
 * May libcurl open a connection for this request?  Not if it has been on its
 * way: a gateway that ends a connection refuses the last requests on it, and
 * libcurl would at once open one for each of them.  They are to stand in line
 * again.
 */
bool
route_may_open(HttpRoute *route, HttpRequest *request)
{
	return route->kind != ROUTE_SHARED || !request->on_the_way;
}

/* Do its connections carry many requests at once? */
bool
route_is_shared(HttpRoute *route)
{
	return route->kind == ROUTE_SHARED;
}

/* Is it known that they carry one request at a time? */
bool
route_is_serial(const HttpRoute *route)
{
	return route->kind == ROUTE_SERIAL;
}

/* Is there a request for route_next() to give, whatever libcurl does? */
bool
route_ready(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &routes)
	{
		HttpRoute  *route = dlist_container(HttpRoute, node, iter.cur);

		if (route->opener == NULL && !dlist_is_empty(&route->line))
			return true;
	}
	return false;
}

/* The first that stands in line, NULL if none does. */
HttpRequest *
route_waiting(HttpRoute *route)
{
	if (dlist_is_empty(&route->line))
		return NULL;
	return dlist_head_element(HttpRequest, line_node, &route->line);
}

/* A request is finished, or is broken off. */
void
route_leave(HttpRoute *route, HttpRequest *request)
{
	if (request->in_line)
		dlist_delete(&request->line_node);
	if (request->on_the_way)
		route->on_the_way--;
	if (route->opener == request)
		route->opener = NULL;
	request->in_line = request->on_the_way = false;
}

/* Something of an answer has arrived: see route_is_mute(). */
void
route_heard(HttpRoute *route)
{
	if (route->kind != ROUTE_SERIAL)
		route->heard_at = monotonic_us();
}

/* An answer has come: by which protocol? */
void
route_learn(HttpRoute *route, HttpRequest *request)
{
	long		version = 0;

	(void) curl_easy_getinfo(request->handle->easy, CURLINFO_HTTP_VERSION,
							 &version);
	if (version != 0)
		route->kind = version >= CURL_HTTP_VERSION_2_0 ?
			ROUTE_SHARED :
			ROUTE_SERIAL;
	route_heard(route);
}

/*
 * Has nothing been heard since this request was made, which timed out?  Then
 * the shared connection may well be dead; libcurl would give it one request
 * after the other until the system finds out, in a quarter of an hour.
 */
bool
route_is_mute(HttpRoute *route, HttpRequest *request)
{
	return route->kind == ROUTE_SHARED && route->heard_at < request->started;
}
