/*-------------------------------------------------------------------------
 *
 * server_health.c
 *		Whether a server may be polled, and with a role's key.
 *
 * Whether a failure is the server's or its task's, nobody tells.  What happens
 * again to a task whose last poll failed says nothing about the server while
 * that answers others.  So failures of other tasks pause the server as a whole;
 * those of retried tasks pause retried tasks only.  After a pause one request,
 * the probe, finds out how the server does.
 *
 * Likewise a refused key may be the key's fault or the task's.  It pauses the
 * role's tasks on that server, and a probe follows.  A task for which the key
 * is refused again while it is accepted for others pauses nothing but itself.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "worker/server_health.h"

#define SECOND INT64CONST(1000000)

/* So many failures in a row pause a server. */
#define HEALTH_FAILURES 3

/* An error that has lasted for so long will not pass in a moment. */
#define HEALTH_PATIENCE (60 * SECOND)

/* That a key was accepted says something about it for so long. */
#define HEALTH_ACCEPTED (60 * SECOND)


/*
 * Servers
 */

/* Has a single request to find out whether things go well again? */
bool
health_is_probed(const Health *health)
{
	return health->failures >= HEALTH_FAILURES;
}

/*
 * What a server is paused for, itself or its retried tasks: these only while
 * there was no proper response since they began to fail.
 */
const Health *
health_paused(const ServerHealth *server)
{
	return server->retrying.paused_until > server->all.paused_until ?
		&server->retrying :
		&server->all;
}

/* Is a server paused, or has it failed since its last proper response? */
bool
health_is_failing(const ServerHealth *server, int64 now)
{
	return server->error.since != 0 ||
		health_paused(server)->paused_until > now;
}

/* Poll a server as if it had never failed. */
void
health_recover(ServerHealth *server)
{
	server->all.failures = server->retrying.failures = 0;
	server->all.paused_until = server->retrying.paused_until = 0;
	server->error.since = 0;
}

/*
 * A request that was "started" then got a proper response.  A demand for fewer
 * requests that came later still holds.
 */
void
health_success(ServerHealth *server, int64 started)
{
	server->error.since = 0;
	if (server->all.demanded && started < server->all.failed_at)
		return;
	health_recover(server);
}

/* How long to pause after a failure, in microseconds. */
static int64
health_pause(const Health *health, int task_failures, RetryKind why,
			 int retry_after, double random)
{
	if (retry_after >= 0)
		return retry_after * SECOND;
	if (why == RETRY_RATE_LIMITED)
		return retry_delay(why, Max(health->failures, task_failures + 1),
						   random);
	if (health_is_probed(health))
		return retry_delay(why, health->failures - HEALTH_FAILURES + 1,
						   random);
	return 0;
}

/*
 * A request failed by the server's fault, or the server demands fewer;
 * "retrying": its task had failed before, so many times; "retry_after" is in
 * seconds, -1 if not said.  Requests that were in flight when the last failure
 * was noted are no further failures.
 */
void
health_failure(ServerHealth *server, bool retrying, int task_failures,
			   RetryKind why, int retry_after, int64 started, int64 now,
			   double random)
{
	Health	   *health = &server->all;
	int64		until;

	if (retrying && !health_is_probed(health))
		health = &server->retrying;
	if (started >= health->failed_at)
	{
		health->failures = Min(health->failures + 1, 1000);
		health->failed_at = now;
	}
	until = now + health_pause(health, task_failures, why, retry_after, random);
	if (health->paused_until < until)
	{
		health->paused_until = until;
		health->paused_why = why;
		health->demanded = retry_after >= 0 || why == RETRY_RATE_LIMITED;
	}
}

/* Keep the last that was heard of an error; UTF-8, message may be NULL. */
void
health_error(HealthError *error, const char *code, const char *message,
			 int64 now)
{
	int			len;

	if (error->since == 0)
		error->since = now;
	strlcpy(error->code, code, sizeof(error->code));
	if (message == NULL)
		message = "";
	len = pg_encoding_mbcliplen(PG_UTF8, message, (int) strlen(message),
								sizeof(error->message) - 1);
	memcpy(error->message, message, len);
	error->message[len] = '\0';
}

/* When an error has lasted for long, PG_INT64_MAX if there is none. */
int64
health_error_lasts_at(const HealthError *error)
{
	return error->since != 0 ? error->since + HEALTH_PATIENCE : PG_INT64_MAX;
}


/*
 * Keys
 */

/*
 * The server has refused a key, not for the first time for this task if
 * "again".  Returns false if that is the task's own fault: the key was accepted
 * for another that was polled no earlier, or shortly before.
 */
bool
health_key_refused(KeyHealth *key, bool again, int64 started)
{
	if (key->accepted_at != 0 &&
		key->accepted_at > started - (again ? HEALTH_ACCEPTED : 1))
		return false;
	key->refused = true;
	key->refused_at = started;
	key->accepted_at = 0;
	return true;
}

/* Forget what stood in the way of a key. */
void
health_key_recover(KeyHealth *key)
{
	key->paused_until = key->retry_at = 0;
	key->blocked = key->refused = false;
	key->error.since = 0;
}

/*
 * The server has accepted a key.  That ends its pause; but what began before a
 * request that was refused tells nothing.
 */
void
health_key_accepted(KeyHealth *key, int64 started)
{
	if (key->refused && started < key->refused_at)
		return;
	key->accepted_at = Max(key->accepted_at, started);
	health_key_recover(key);
}

/* Nothing is to be had from these settings before they change. */
void
health_key_block(KeyHealth *key, const HealthSettings *settings,
				 bool has_files)
{
	key->settings = *settings;
	key->blocked = true;
	key->has_files = has_files;
}

/* Is nothing to be sent with these settings?  Others than refused ones may. */
bool
health_key_paused(KeyHealth *key, const ServerSettings *settings, int64 now)
{
	if (key->settings.id != settings->id ||
		key->settings.serverid != settings->serverid ||
		key->settings.userid != settings->userid || key->paused_until <= now)
		key->paused_until = 0;
	key->retry_at = key->paused_until;
	return key->paused_until > 0;
}
