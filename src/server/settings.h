/*-------------------------------------------------------------------------
 *
 * settings.h
 *		Where requests go, as whom, and within which limits.
 *
 * A foreign server says where, a user mapping says with which key.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_SETTINGS_H
#define ANYVOD_SETTINGS_H

/* The path of a request; the task id follows. */
#define SERVER_QUERY_PATH "/tencent-vod/v1/query/"
#define SERVER_PATH_SIZE (sizeof(SERVER_QUERY_PATH) + 256)

/* Defaults of the server options; milliseconds, bytes, a second. */
#define SERVER_BASE_URL "https://www.anyapi.vip"
#define SERVER_TIMEOUT 30000
#define SERVER_CONNECT_TIMEOUT 5000
#define SERVER_RATE_LIMIT 50
#define SERVER_MAX_CONCURRENCY 32
#define SERVER_MAX_RESPONSE_SIZE (16 * 1024 * 1024)

/*
 * A server as one role sees it: everything that a request needs.  A pointer to
 * it is good until the next call of server_settings_get() or
 * server_settings_changed().
 */
typedef struct ServerSettings
{
	uint64		id;				/* hash of all that the options and files say,
								 * never 0; the settings are the same if
								 * serverid and userid are the same, too */
	Oid			serverid;
	Oid			userid;			/* the role that sends requests */
	Oid			umid;			/* its mapping or PUBLIC's, InvalidOid: none */

	/* options of the server */
	const char *base_url;		/* without trailing slashes */
	char	   *ca_file;		/* path; NULL: the system's authorities */
	char	   *proxy;			/* NULL: none */
	int			timeout;		/* of a whole request, milliseconds */
	int			connect_timeout;	/* of its connecting, milliseconds */
	double		rate_limit;		/* requests a second, of the worker */
	int			max_concurrency;	/* requests in flight at once */
	int			max_response_size;	/* bytes */

	/* options of the mapping */
	char	   *api_key;		/* NULL: no Authorization is sent */
	char	   *api_key_file;	/* path, or NULL */

	/* content of ca_file */
	const char *ca_pem;			/* NULL: the system's authorities */
	size_t		ca_pem_len;
} ServerSettings;

extern const ServerSettings *server_settings_get(const char *server_name,
												 Oid userid);
extern bool server_settings_changed(Oid serverid, Oid userid, uint64 id);

#endif							/* ANYVOD_SETTINGS_H */
