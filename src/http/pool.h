/*-------------------------------------------------------------------------
 *
 * pool.h
 *		The connections of this process, in pools.
 *
 * Only http.c and what it is made of include this.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_POOL_H
#define ANYVOD_POOL_H

#include <curl/curl.h>

#include "http/internal.h"

/* Requests that a pool takes that carry one after the other. */
#define POOL_SIZE 64

/* A multi handle, which owns its connections. */
typedef struct HttpPool
{
	CURLM	   *multi;			/* NULL: not in use */
	int			descriptors;	/* taken of PostgreSQL's count for that */
	int			in_flight;		/* easy handles in it */
	bool		acted;			/* there may be transfers that have ended */
	bool		timer_set;
	int64		timer;			/* when libcurl wants to be called, 0: now */
} HttpPool;

extern bool pool_init(int connections, curl_socket_callback on_socket);
extern int	pool_connections(void);
extern void pool_allow_host_connections(int allowed);
extern bool pool_add(HttpHandle *handle, bool serial);
extern void pool_remove(HttpHandle *handle);
extern void pool_act(HttpPool *pool, curl_socket_t fd, int mask);
extern bool pool_is_due(void);
extern void pool_tick(void);
extern long pool_time_to_wait(long timeout_ms);
extern CURLMsg *pool_finished(void);
extern void pool_let_rest(HttpPool *pool);

#endif							/* ANYVOD_POOL_H */
