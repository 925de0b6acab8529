/*-------------------------------------------------------------------------
 *
 * wire.h
 *		What users write that becomes part of a request.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_WIRE_H
#define ANYVOD_WIRE_H

/* Longest URL, in bytes; a task's path is appended to it. */
#define WIRE_MAX_URL 2048

/* Longest host name, in bytes (RFC 1035, 2.3.4). */
#define WIRE_MAX_HOST 253

/* Longest API key, in bytes: nginx refuses header lines of more than 8 kB. */
#define WIRE_MAX_API_KEY 4096

/* Longest task id, in characters (all of them ASCII). */
#define WIRE_MAX_TASK_ID 256

/* What a good API key is, for messages. */
#define WIRE_API_KEY_RULE \
	"An API key has 1 to 4096 visible ASCII characters and no blank."

/* What a URL consists of. */
typedef struct WireUrl
{
	bool		https;			/* else http */
	bool		has_port;
	int			port;			/* the scheme's if it has none */
	bool		has_path;		/* more than "/" */
	char		host[WIRE_MAX_HOST + 1];	/* of an IPv6 address, without
											 * brackets */
} WireUrl;

extern const char *wire_url_parse(const char *url, WireUrl *parts);
extern const char *wire_proxy_parse(const char *url, WireUrl *parts);
extern bool wire_host_is_local(const char *host);
extern bool wire_key_valid(const char *key, size_t len);
extern size_t wire_key_length(const char *content, size_t len);
extern bool wire_task_id_valid(const char *task_id, size_t len);

#endif							/* ANYVOD_WIRE_H */
