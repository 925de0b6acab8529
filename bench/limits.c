/*-------------------------------------------------------------------------
 *
 * limits.c
 *		What a machine can do without a database: the limits that anyvod is
 *		measured against.
 *
 *		limits easy URL		libcurl, one request after the other
 *		limits multi URL	libcurl, many at once, with an epoll descriptor
 *		limits version -	nothing: says which libcurl this is
 *
 *		-n N		requests (default 20000)
 *		-s SECONDS	or for so long
 *		-c N		at once (multi; default 128)
 *		-l			idle sockets stay in the epoll descriptor (multi)
 *		-m N		connections at most (multi; default: as many as at once)
 *		-2 CA		HTTP/2 over TLS, by an authority in that file
 *		-d			print each request's time instead, in microseconds (easy)
 *
 * A number is appended to the URL, another for each request, and an API key
 * is sent along, as anyvod does.  Nothing reads the responses, but they are
 * copied.  Prints requests a second, and processor microseconds a request.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define USER_AGENT "anyvod/bench"
#define KEY_HEADER "Authorization: Bearer sk-bench"
#define ACCEPT_HEADER "Accept: application/json"

#define URL_SIZE 2048
#define BODY_SIZE 65536
#define MAX_AT_ONCE 4096
#define MAX_SOCKETS 20000

static struct
{
	const char *url;			/* without the number */
	long		requests;
	double		seconds;		/* 0: as many as "requests" says */
	int			at_once;
	int			connections;	/* 0: as many as at once */
	bool		lazy;
	bool		each;			/* print each request's time */
	bool		http2;
	const char *authority;		/* for HTTP/2 */
} options = {.requests = 20000, .at_once = 128};

static double ends_at;			/* with "seconds" */
static long begun;
static long finished;

static void
die(const char *what)
{
	fprintf(stderr, "limits: %s: %s\n", what,
			errno != 0 ? strerror(errno) : "failed");
	exit(1);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Processor seconds of this process. */
static double
processor_time(void)
{
	struct rusage own;

	getrusage(RUSAGE_SELF, &own);
	return own.ru_utime.tv_sec + own.ru_stime.tv_sec +
		(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
}

/* Is there to be another request? */
static bool
more(void)
{
	return options.seconds > 0 ? now() < ends_at : begun < options.requests;
}


/*
 * libcurl
 */

/* What one handle has of a response. */
typedef struct Body
{
	size_t		len;
	char		data[BODY_SIZE];
} Body;

static size_t
on_body(char *data, size_t one, size_t len, void *arg)
{
	Body	   *body = arg;

	(void) one;
	if (len > BODY_SIZE - body->len)
		return 0;
	memcpy(body->data + body->len, data, len);
	body->len += len;
	return len;
}

static CURL *
make_handle(void)
{
	static struct curl_slist *headers = NULL;
	CURL	   *easy = curl_easy_init();
	Body	   *body = malloc(sizeof(Body));

	if (easy == NULL || body == NULL)
		die("no memory");
	if (headers == NULL)
		headers = curl_slist_append(curl_slist_append(NULL, ACCEPT_HEADER),
									KEY_HEADER);
	body->len = 0;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, body);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, body);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, USER_AGENT);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 30000L);
	if (options.http2)
		curl_easy_setopt(easy, CURLOPT_CAINFO, options.authority);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
					 options.http2 ? (long) CURL_HTTP_VERSION_2TLS :
									 (long) CURL_HTTP_VERSION_1_1);
	return easy;
}

static void
free_handle(CURL *easy)
{
	Body	   *body;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &body);
	curl_easy_cleanup(easy);
	free(body);
}

/* Point a handle at the next task. */
static void
next_url(CURL *easy)
{
	char		url[URL_SIZE];
	Body	   *body;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &body);
	body->len = 0;
	snprintf(url, sizeof(url), "%s%ld", options.url, begun++);
	curl_easy_setopt(easy, CURLOPT_URL, url);
}

static void
check_response(CURL *easy, CURLcode result)
{
	long		status = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	errno = 0;
	if (result != CURLE_OK)
		die(curl_easy_strerror(result));
	if (status != 200)
		die("a response without status 200");
	finished++;
}

static void
run_easy(void)
{
	CURL	   *easy = make_handle();

	while (more())
	{
		double		begin = options.each ? now() : 0;

		next_url(easy);
		check_response(easy, curl_easy_perform(easy));
		if (options.each)
			printf("%.1f\n", (now() - begin) * 1e6);
	}
	free_handle(easy);
}


/*
 * Many at once
 */

static CURLM *multi;
static int	poller;
static double timer_at;			/* 0: none */
static uint32_t polled[MAX_SOCKETS];	/* events, by descriptor */
static bool wanted[MAX_SOCKETS];

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	struct epoll_event event = {.data.fd = fd};

	(void) easy, (void) arg, (void) unused;
	if (fd >= MAX_SOCKETS)
		return -1;
	wanted[fd] = what != CURL_POLL_REMOVE;
	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		event.events |= EPOLLIN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		event.events |= EPOLLOUT;
	if (event.events == polled[fd] || (options.lazy && event.events == 0))
		return 0;
	if (event.events == 0)
		epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
	else if (polled[fd] == 0)
		epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
	else
		epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
	polled[fd] = event.events;
	return 0;
}

static int
on_close(void *arg, curl_socket_t fd)
{
	(void) arg;
	polled[fd] = 0;
	return close(fd);
}

static int
on_timer(CURLM *which, long timeout_ms, void *arg)
{
	(void) which, (void) arg;
	timer_at = timeout_ms < 0 ? 0 : now() + timeout_ms / 1e3;
	return 0;
}

static void
start(CURL *easy)
{
	next_url(easy);
	curl_multi_add_handle(multi, easy);
}

/* Take the responses that have come, and send again.  Returns the requests in flight. */
static int
collect(int in_flight)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		CURL	   *easy = message->easy_handle;

		check_response(easy, message->data.result);
		curl_multi_remove_handle(multi, easy);
		in_flight--;
		if (more())
		{
			start(easy);
			in_flight++;
		}
		else
			free_handle(easy);
	}
	return in_flight;
}

static void
run_once(void)
{
	struct epoll_event events[64];
	double		left = timer_at == 0 ? 1 : timer_at - now();
	int			running;
	int			n;

	n = epoll_wait(poller, events, 64, left <= 0 ? 0 : (int) (left * 1e3) + 1);
	for (int i = 0; i < n; i++)
	{
		int			fd = events[i].data.fd;
		int			mask = 0;

		if (!wanted[fd])
		{
			epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
			polled[fd] = 0;
			continue;
		}
		if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			mask |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			mask |= CURL_CSELECT_OUT;
		curl_multi_socket_action(multi, fd, mask, &running);
	}
	if (timer_at != 0 && now() >= timer_at)
	{
		timer_at = 0;
		curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
}

static void
run_multi(void)
{
	long		most = options.connections ? options.connections :
											 options.at_once;
	int			in_flight = 0;

	poller = epoll_create1(0);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, most);
	curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, most);
	while (in_flight < options.at_once && more())
	{
		CURL	   *easy = make_handle();

		curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close);
		/* or each would make a connection before the first has said "2" */
		if (options.http2)
			curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);
		start(easy);
		in_flight++;
	}
	while (in_flight > 0)
	{
		run_once();
		in_flight = collect(in_flight);
	}
	curl_multi_cleanup(multi);
}


/*
 * Arguments
 */

static void
parse(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "n:s:c:lm:2:d")) != -1)
	{
		switch (option)
		{
			case 'n':
				options.requests = atol(optarg);
				break;
			case 's':
				options.seconds = atof(optarg);
				break;
			case 'c':
				options.at_once = atoi(optarg);
				break;
			case 'l':
				options.lazy = true;
				break;
			case 'm':
				options.connections = atoi(optarg);
				break;
			case '2':
				options.http2 = true;
				options.authority = optarg;
				break;
			case 'd':
				options.each = true;
				break;
			default:
				exit(2);
		}
	}
	if (optind + 2 != argc || options.at_once < 1 ||
		options.at_once > MAX_AT_ONCE)
	{
		fprintf(stderr, "usage: limits [options] easy|multi|version URL\n");
		exit(2);
	}
	options.url = argv[optind + 1];
}

int
main(int argc, char **argv)
{
	const char *what;
	double		begin;
	double		used;

	parse(argc, argv);
	what = argv[optind];
	if (strcmp(what, "version") == 0)
	{
		puts(curl_version_info(CURLVERSION_NOW)->version);
		return 0;
	}
	curl_global_init(CURL_GLOBAL_ALL);
	begin = now();
	used = processor_time();
	ends_at = begin + options.seconds;
	if (strcmp(what, "easy") == 0)
		run_easy();
	else if (strcmp(what, "multi") == 0)
		run_multi();
	else
		die("what?");
	if (!options.each)
		printf("%.1f %.2f\n", finished / (now() - begin),
			   (processor_time() - used) * 1e6 / finished);
	return 0;
}
