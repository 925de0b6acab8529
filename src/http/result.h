/*-------------------------------------------------------------------------
 *
 * http/result.h
 *		How a request ended, for whoever counts or reports it.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef ANYVOD_HTTP_RESULT_H
#define ANYVOD_HTTP_RESULT_H

typedef enum HttpResult
{
	HTTP_UNFINISHED,			/* it has not ended */
	HTTP_COMPLETE,				/* a response arrived whole */
	HTTP_UNREACHABLE,			/* no connection: name, refusal, TLS */
	HTTP_BROKEN,				/* broken off while sending or receiving */
	HTTP_TIMED_OUT,				/* in the phase that "phase" names */
	HTTP_TOO_LARGE,				/* the response, larger than its limit */
	HTTP_NO_DESCRIPTOR,			/* this process has no descriptor to spare */
	HTTP_NO_ROOM,				/* other bodies fill HTTP_MAX_BODIES: worth
								 * repeating when some are released */
	HTTP_NO_MEMORY,				/* malloc() failed */
} HttpResult;

/* How far a request came. */
typedef enum HttpPhase
{
	HTTP_PHASE_DNS,
	HTTP_PHASE_CONNECT,
	HTTP_PHASE_PROXY,			/* asking it for a tunnel */
	HTTP_PHASE_TLS,
	HTTP_PHASE_RESPONSE,
} HttpPhase;

/* What was found wrong with the peer's certificate. */
typedef enum HttpCertificate
{
	HTTP_CERTIFICATE_GOOD,		/* nothing, or it did not come to that */
	HTTP_CERTIFICATE_UNTRUSTED, /* by no authority that is trusted */
	HTTP_CERTIFICATE_OUTDATED,	/* expired, or not yet valid */
	HTTP_CERTIFICATE_OF_OTHER,	/* for another host name */
	HTTP_CERTIFICATE_REFUSED,	/* something else */
} HttpCertificate;

extern const char *http_phase_name(HttpPhase phase);

#endif							/* ANYVOD_HTTP_RESULT_H */
