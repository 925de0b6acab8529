/*-------------------------------------------------------------------------
 *
 * server_health.h
 *		Whether a server may be polled, and with a role's key.
 *
 * All times are microseconds of monotonic_us().
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SERVER_HEALTH_H
#define ANYVOD_SERVER_HEALTH_H

#include "schedule/retry.h"
#include "server/settings.h"

/* An error that lasts, and the last that was heard of it. */
typedef struct HealthError
{
	int64		since;			/* no proper response since then; 0: none */
	char		code[64];
	char		message[256];	/* UTF-8 */
} HealthError;

/* Which settings something was found out with. */
typedef struct HealthSettings
{
	Oid			serverid;
	Oid			userid;
	uint64		id;				/* 0: none could be had */
} HealthSettings;

/*
 * How requests of a kind fare.  A failure is counted once for all that were in
 * flight together.
 */
typedef struct Health
{
	int			failures;		/* in a row */
	int64		failed_at;		/* when the last of them was noted */
	int64		paused_until;	/* no request of that kind before this */
	RetryKind	paused_why;		/* then the reason */
	bool		demanded;		/* the server itself has demanded it */
} Health;

/*
 * A server: working, or paused until a time and then probed by one request.
 * Tasks whose last poll failed have a health of their own, see queue.c.
 */
typedef struct ServerHealth
{
	Health		all;
	Health		retrying;
	HealthSettings settings;	/* of the last request that failed */
	HealthError error;
} ServerHealth;

/* The key of a role on a server. */
typedef struct KeyHealth
{
	bool		refused;		/* and not accepted since */
	int64		refused_at;		/* when the last refused request began */
	int64		accepted_at;	/* when the last accepted one did, if later */
	int64		paused_until;	/* nothing is sent with these settings */
	int64		retry_at;		/* nor is a task taken to find that out */
	HealthSettings settings;	/* that were refused, or could not be had */
	bool		blocked;		/* until they change */
	bool		has_files;		/* which change without a command */
	HealthError error;
} KeyHealth;

extern bool health_is_probed(const Health *health);
extern const Health *health_paused(const ServerHealth *server);
extern bool health_is_failing(const ServerHealth *server, int64 now);
extern void health_recover(ServerHealth *server);
extern void health_success(ServerHealth *server, int64 started);
extern void health_failure(ServerHealth *server, bool retrying,
						   int task_failures, RetryKind why,
						   int retry_after, int64 started, int64 now,
						   double random);
extern void health_error(HealthError *error, const char *code,
						 const char *message, int64 now);
extern int64 health_error_lasts_at(const HealthError *error);

extern bool health_key_refused(KeyHealth *key, bool again, int64 started);
extern void health_key_accepted(KeyHealth *key, int64 started);
extern void health_key_block(KeyHealth *key, const HealthSettings *settings,
							 bool has_files);
extern void health_key_recover(KeyHealth *key);
extern bool health_key_paused(KeyHealth *key, const ServerSettings *settings,
							  int64 now);

#endif							/* ANYVOD_SERVER_HEALTH_H */
