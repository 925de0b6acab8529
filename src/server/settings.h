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
 * A server as one role sees it: everything that a request needs.  Lives in
 * this process only; a pointer to it is good until the next call of
 * server_settings_get() or the next wait, whichever comes first.
 */
typedef struct ServerSettings
{
	uint64		id;				/* never the same for two different contents
								 * in one process, and never 0 */
	Oid			serverid;
	Oid			userid;			/* the role that sends requests */
	Oid			umid;			/* its mapping or PUBLIC's, InvalidOid: none */
	char	   *server_name;
	char	   *base_url;		/* without trailing slashes */
	char	   *api_key;		/* NULL: no Authorization is sent */
	char	   *ca_pem;			/* content of ca_file, NULL: the system's */
	size_t		ca_pem_len;
	char	   *proxy;			/* NULL: none */
	int			timeout;		/* of a whole request, milliseconds */
	int			connect_timeout;	/* of its connecting, milliseconds */
	double		rate_limit;		/* requests a second, of the worker */
	int			max_concurrency;	/* requests in flight at once */
	int			max_response_size;	/* bytes */
} ServerSettings;

extern const ServerSettings *server_settings_get(const char *server_name,
												 Oid userid);
extern bool server_settings_changed(Oid serverid, Oid userid, uint64 id);

#endif							/* ANYVOD_SETTINGS_H */
