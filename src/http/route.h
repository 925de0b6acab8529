/*-------------------------------------------------------------------------
 *
 * route.h
 *		Who may open a connection, and who waits for it.
 *
 * Only http.c and what it is made of include this.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_ROUTE_H
#define ANYVOD_ROUTE_H

#include "http/client.h"

typedef struct HttpRoute HttpRoute;

extern HttpRoute *route_get(const ServerSettings *upstream);
extern void route_drop(HttpRoute *route);
extern uint32 route_gateway(const HttpRoute *route);
extern bool route_enter(HttpRoute *route, HttpRequest *request);
extern HttpRequest *route_next(void);
extern bool route_may_open(HttpRoute *route, HttpRequest *request);
extern bool route_is_shared(HttpRoute *route);
extern bool route_is_serial(const HttpRoute *route);
extern bool route_ready(void);
extern HttpRequest *route_waiting(HttpRoute *route);
extern void route_leave(HttpRoute *route, HttpRequest *request);
extern void route_learn(HttpRoute *route, HttpRequest *request);
extern void route_heard(HttpRoute *route);
extern bool route_is_mute(HttpRoute *route, HttpRequest *request);

#endif							/* ANYVOD_ROUTE_H */
