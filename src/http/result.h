/*-------------------------------------------------------------------------
 *
 * outcome.h
 *		How a transfer ended.
 *
 * Only http.c and what it is made of include this.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_OUTCOME_H
#define ANYVOD_OUTCOME_H

#include <curl/curl.h>

#include "http/client.h"

extern void outcome_take(HttpRequest *request, CURLcode result);
extern void outcome_not_started(HttpRequest *request, CURLcode why);
extern void outcome_share(HttpRequest *request, const HttpRequest *opener);

#endif							/* ANYVOD_OUTCOME_H */
