/*-------------------------------------------------------------------------
 *
 * fuzz_retry_after.c
 *		Any bytes at all, as the Retry-After header of an answer.
 *
 * libcurl reads it, curl_compat.h bounds it.  The answer comes over a pair of
 * sockets, so that nothing leaves the process.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <curl/curl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http/curl_compat.h"
#include "fuzz.h"

/* The longest time that is believed, in seconds. */
#define LONGEST 21600

/* Room for an answer in a socket's buffer, so that writing does not wait. */
#define MAX_HEADER 16384

static int	server = -1;		/* the other end of the connection */
static const uint8 *header;
static size_t header_size;

/* The socket of a connection on which the answer waits already. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	static const char begin[] =
		"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: ";
	static const char end[] = "\r\n\r\n";
	int			pair[2];

	REQUIRE(server == -1);
	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	server = pair[1];
	REQUIRE(write(server, begin, strlen(begin)) == (ssize_t) strlen(begin));
	REQUIRE(write(server, header, header_size) == (ssize_t) header_size);
	REQUIRE(write(server, end, strlen(end)) == (ssize_t) strlen(end));
	shutdown(server, SHUT_WR);
	return pair[0];
}

static int
already_connected(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	return CURL_SOCKOPT_ALREADY_CONNECTED;
}

static size_t
ignore_body(char *data, size_t size, size_t count, void *arg)
{
	return size * count;
}

/* The seconds that a header of nothing but digits means, else -1. */
static int
plain_seconds(void)
{
	int			seconds = 0;

	if (header_size < 1 || header_size > 9)
		return -1;
	for (size_t i = 0; i < header_size; i++)
	{
		if (header[i] < '0' || header[i] > '9')
			return -1;
		seconds = seconds * 10 + (header[i] - '0');
	}
	return seconds;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	CURL	   *easy;
	CURLcode	result;

	if (size > MAX_HEADER)
		return 0;
	header = data;
	header_size = size;

	easy = curl_easy_init();
	REQUIRE(easy != NULL);
	curl_easy_setopt(easy, CURLOPT_URL, "http://127.0.0.1:1/");
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 5000L);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, already_connected);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore_body);
	REQUIRE(compat_set_safety(easy) == CURLE_OK);
	result = curl_easy_perform(easy);

	REQUIRE(result != CURLE_OPERATION_TIMEDOUT);
#if CURL_AT_LEAST_VERSION(7, 66, 0)
	if (result == CURLE_OK)
	{
		int			retry_after = compat_retry_after(easy);
		int			seconds = plain_seconds();

		REQUIRE(retry_after == -1 ||
				(retry_after > 0 && retry_after <= LONGEST));
		if (seconds > 0)
			REQUIRE(retry_after == Min(seconds, LONGEST));
	}
#endif
	curl_easy_cleanup(easy);
	close(server);
	server = -1;
	return 0;
}
