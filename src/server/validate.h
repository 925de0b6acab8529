/*-------------------------------------------------------------------------
 *
 * validate.h
 *		What users write that becomes part of a request.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_VALIDATE_H
#define ANYVOD_VALIDATE_H

/* Longest URL, in bytes; a task's path is appended to it. */
#define MAX_URL_LENGTH 2048

/* Longest host name, in bytes (RFC 1035, 2.3.4). */
#define MAX_HOST_LENGTH 253

/* Longest API key, in bytes: nginx refuses header lines of more than 8 kB. */
#define MAX_API_KEY_LENGTH 4096

/* Longest task id, in characters (all of them ASCII). */
#define MAX_TASK_ID_LENGTH 256

/* What a good API key is, for messages. */
#define API_KEY_RULE \
	"An API key has 1 to 4096 visible ASCII characters and no blank."

/* What a URL consists of. */
typedef struct UrlParts
{
	bool		https;			/* else http */
	bool		has_port;
	int			port;			/* the scheme's if it has none */
	bool		has_path;		/* more than "/" */
	char		host[MAX_HOST_LENGTH + 1];	/* of an IPv6 address, without
											 * brackets */
} UrlParts;

extern const char *validate_url(const char *url, UrlParts *parts);
extern const char *validate_proxy(const char *url, UrlParts *parts);
extern bool validate_is_loopback(const char *host);
extern bool validate_api_key(const char *key, size_t len);
extern const char *validate_key_hint(const char *key, size_t len);
extern size_t validate_key_file(const char *content, size_t len);
extern bool validate_task_id(const char *task_id, size_t len);

#endif							/* ANYVOD_VALIDATE_H */
