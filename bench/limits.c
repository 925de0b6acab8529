/*-------------------------------------------------------------------------
 *
 * limits.c
 *		What a machine can do without a database: the limits that anyvod is
 *		measured against.
 *
 *		limits raw URL		write and read on one socket that is kept alive
 *		limits easy URL		libcurl, one request after the other
 *		limits multi URL	libcurl, many at once, with an epoll descriptor
 *		limits version -	nothing: says which libcurl this is
 *
 *		-n N		requests (default 20000)
 *		-s SECONDS	or for so long
 *		-c N		at once (multi; default 128)
 *		-p N		as so many processes (easy; default 1)
 *		-l			idle sockets stay in the epoll descriptor (multi)
 *		-m N		connections at most (multi; default: as many as at once)
 *		-2 CA		HTTP/2 over TLS, by an authority in that file
 *		-t CA		HTTP/1.1 over TLS
 *		-d			print each request's time instead, in microseconds (easy)
 *		-w MIN,MAX	wait that long before each, by chance (milliseconds; easy)
 *
 * A number is appended to the URL, another for each request, and an API key
 * is sent along, as anyvod does.  Nothing reads the answers, but they are
 * copied out of libcurl's hands.  Prints requests a second, processor
 * microseconds a request and how many connections were made.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "easy.h"

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
	int			processes;
	bool		lazy;
	bool		each;			/* print each request's time */
	double		least_wait;		/* milliseconds */
	double		most_wait;
	bool		http2;
	const char *authority;		/* NULL: plain HTTP */
} options = {.requests = 20000, .at_once = 128, .processes = 1};

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

/* Processor seconds of this process and of those that it has waited for. */
static double
processor_time(void)
{
	struct rusage own;
	struct rusage children;

	getrusage(RUSAGE_SELF, &own);
	getrusage(RUSAGE_CHILDREN, &children);
	return own.ru_utime.tv_sec + own.ru_stime.tv_sec +
		children.ru_utime.tv_sec + children.ru_stime.tv_sec +
		(own.ru_utime.tv_usec + own.ru_stime.tv_usec +
		 children.ru_utime.tv_usec + children.ru_stime.tv_usec) /
		1e6;
}

/* Is there to be another request? */
static bool
more(void)
{
	return options.seconds > 0 ? now() < ends_at : begun < options.requests;
}


/*
 * A socket and nothing else
 */

/* The connection to a URL of the form http://ADDRESS:PORT/... */
static int
raw_connect(const char **path)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	char		host[64];
	int			port;
	int			length;
	int			one = 1;
	int			fd;

	if (sscanf(options.url, "http://%63[0-9.]:%d%n", host, &port, &length) != 2)
		die("raw wants an address and a port");
	*path = options.url + length;
	address.sin_port = htons(port);
	inet_pton(AF_INET, host, &address.sin_addr);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 ||
		connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
		die("could not connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* Read one answer: its length is in its header. */
static void
raw_read(int fd, char *buffer)
{
	size_t		have = 0;
	size_t		want = 0;

	do
	{
		ssize_t		n = read(fd, buffer + have, BODY_SIZE - 1 - have);
		const char *length;
		const char *body;

		if (n <= 0)
			die("could not read");
		have += n;
		buffer[have] = '\0';
		body = strstr(buffer, "\r\n\r\n");
		length = strstr(buffer, "Content-Length: ");
		if (want == 0 && body != NULL)
		{
			if (length == NULL)
				die("no length");
			want = body + 4 - buffer + strtoul(length + 16, NULL, 10);
		}
	} while (want == 0 || have < want);
}

static long
run_raw(void)
{
	static char buffer[BODY_SIZE];
	const char *path;
	int			fd = raw_connect(&path);

	while (more())
	{
		int			n = snprintf(buffer, sizeof(buffer),
								 "GET %s%ld HTTP/1.1\r\nHost: bench\r\n"
								 "User-Agent: " USER_AGENT "\r\n" ACCEPT_HEADER "\r\n" KEY_HEADER "\r\n\r\n",
								 path, begun++);

		if (write(fd, buffer, n) != n)
			die("could not write");
		raw_read(fd, buffer);
		finished++;
	}
	close(fd);
	return 1;
}


/*
 * libcurl
 */

/* What one handle has of an answer. */
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
	CURL	   *easy = curl_easy_init();
	Body	   *body = malloc(sizeof(Body));

	if (easy == NULL || body == NULL)
		die("no memory");
	body->len = 0;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, body);
	easy_set_up(easy, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, body);
	if (options.authority != NULL)
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

/* Let a handle ask for the next task. */
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
check_answer(CURL *easy, CURLcode result)
{
	long		status = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	errno = 0;
	if (result != CURLE_OK)
		die(curl_easy_strerror(result));
	if (status != 200)
		die("not answered with 200");
	finished++;
}

/* Wait before a request, as -w says. */
static void
pause_between(void)
{
	double		ms = options.least_wait +
		(options.most_wait - options.least_wait) *
		(random() / (double) RAND_MAX);

	if (ms > 0)
		usleep((useconds_t) (ms * 1000));
}

static long
run_easy(void)
{
	CURL	   *easy = make_handle();
	long		connections = 0;

	while (more())
	{
		double		begin;
		long		made = 0;

		pause_between();
		begin = options.each ? now() : 0;
		next_url(easy);
		check_answer(easy, curl_easy_perform(easy));
		curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &made);
		connections += made;
		if (options.each)
			printf("%.1f\n", (now() - begin) * 1e6);
	}
	free_handle(easy);
	return connections;
}

/* The same in several processes, which share the requests. */
static long
run_processes(void)
{
	int			status;

	options.requests /= options.processes;
	for (int i = 0; i < options.processes; i++)
	{
		pid_t		pid = fork();

		if (pid < 0)
			die("could not fork");
		if (pid == 0)
		{
			run_easy();
			exit(0);
		}
	}
	for (int i = 0; i < options.processes; i++)
	{
		if (wait(&status) < 0 || status != 0)
			die("a process");
	}
	finished = options.requests * options.processes;
	return options.processes;
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

/* Take the answers that have come, and ask again.  Returns what is on its way. */
static int
collect(int in_flight, long *connections)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		CURL	   *easy = message->easy_handle;
		long		made = 0;

		check_answer(easy, message->data.result);
		curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &made);
		*connections += made;
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
turn(void)
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

static long
run_multi(void)
{
	long		most = options.connections ? options.connections :
											 options.at_once;
	long		connections = 0;
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
		turn();
		in_flight = collect(in_flight, &connections);
	}
	curl_multi_cleanup(multi);
	return connections;
}


/*
 * Arguments
 */

static void
parse(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "n:s:c:p:lm:2:t:dw:")) != -1)
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
			case 'p':
				options.processes = atoi(optarg);
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
			case 't':
				options.authority = optarg;
				break;
			case 'd':
				options.each = true;
				break;
			case 'w':
				if (sscanf(optarg, "%lf,%lf", &options.least_wait,
						   &options.most_wait) != 2)
					exit(2);
				break;
			default:
				exit(2);
		}
	}
	if (optind + 2 != argc || options.at_once < 1 ||
		options.at_once > MAX_AT_ONCE || options.processes < 1)
	{
		fprintf(stderr, "usage: limits [options] raw|easy|multi|version URL\n");
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
	double		wall;
	long		connections;

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
	if (strcmp(what, "raw") == 0)
		connections = run_raw();
	else if (strcmp(what, "easy") == 0 && options.processes == 1)
		connections = run_easy();
	else if (strcmp(what, "easy") == 0)
		connections = run_processes();
	else if (strcmp(what, "multi") == 0)
		connections = run_multi();
	else
		die("what?");
	wall = now() - begin;
	used = processor_time() - used;
	if (!options.each)
		printf("%.1f %.2f %ld\n", finished / wall, used * 1e6 / finished,
			   connections);
	return 0;
}
