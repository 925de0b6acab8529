/*
 * simulator.c
 *		A gateway for tests: command line, event loop, sockets and HTTP.
 *
 * One thread.  libmicrohttpd brings no loop of its own here: its epoll
 * thread (0.9.75) can hang when 128 clients ask in lock-step, and answers
 * that wait need a timer.  Our loop waits for libmicrohttpd's epoll
 * descriptor, for signals and for the hang-up of clients whose answer is
 * held back; a heap has the times at which those go on.
 *
 * What an answer says is decided in answers.c, what was asked is kept in
 * ledger.c.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <microhttpd.h>

#include "simulator.h"

/* One TCP connection */
typedef struct Connection
{
	uint64_t	serial;
	uint64_t	era;			/* ledger_era when it came */
	bool		control;		/* has only asked for figures: not counted */
} Connection;

/* One HTTP request, from its header until its answer is sent or given up */
typedef struct Request
{
	struct MHD_Connection *mhd;
	Connection *connection;
	Via			via;
	bool		counted;		/* in flight for the counters */
	bool		delayed;		/* delayMS is behind us */
	bool		gone;			/* its client hung up while it waited */
	bool		noted;			/* question and first are set */
	int64_t		question;		/* its number among those about the task */
	int64_t		first;			/* ms, when the first of them came */
	uint64_t	log_entry;
	int64_t		deadline;		/* us of the monotonic clock, while waiting */
	size_t		heap_place;		/* in waiting[], while waiting */
	char		request_id[REQUEST_ID_SIZE];
} Request;

/* What becomes of a body that does not simply arrive */
typedef enum Ending
{
	ENDING_WHOLE,
	ENDING_CUT,					/* closed too early */
	ENDING_RESET				/* RST in its middle */
} Ending;

/* A body on its way, piece by piece */
typedef struct Stream
{
	Request    *request;
	char	   *data;
	size_t		length;
	size_t		pad_at;			/* offset in data where the padding goes */
	uint64_t	pad;			/* bytes of padding */
	uint64_t	total;			/* length + pad */
	uint64_t	stop;			/* bytes that are sent at all */
	Ending		ending;
	int64_t		start;			/* us of the monotonic clock */
	int64_t		dribble;		/* us over which it is spread, 0: at once */
} Stream;

/* dribbleMS sends a body in so many pieces. */
#define DRIBBLE_PIECES 20

/* What libmicrohttpd asks a stream for at once */
#define STREAM_BLOCK (256 * 1024)

/*
 * Bytes that libmicrohttpd keeps for each connection, and clears for each
 * request: header and status line of both directions, a long key included.
 */
#define CONNECTION_MEMORY (16 * 1024)

/* Descriptors that are not connections: standard ones, epoll, signals, ... */
#define OTHER_DESCRIPTORS 32

/* How often a vanished parent is looked for */
#define PARENT_CHECK_MS 250

/* From the command line */
static const char *listen_address = "127.0.0.1";
static const char *listen_port = "0";
static const char *port_file = NULL;
static const char *certificate_file = NULL;
static const char *private_key_file = NULL;
static pid_t parent = 0;
static unsigned int max_connections = 0;

static struct MHD_Daemon *http_daemon;
static int	loop_epoll = -1;
static uint64_t connection_serial;
static char base_url[128];

/* Tell apart what the loop was woken by; anything else is a Request. */
static char woken_by_http;
static char woken_by_signal;

/* ---------- clocks ---------- */

static int64_t
clock_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Milliseconds of the Unix epoch, for what is told */
static int64_t
wall_ms(void)
{
	return clock_us(CLOCK_REALTIME) / 1000;
}

/*
 * Microseconds of the monotonic clock, for waiting: in milliseconds a delay
 * could come out nearly one too short.
 */
static int64_t
steady_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

/* ---------- requests that wait ---------- */

/* A binary heap, the earliest deadline first */
static Request **waiting;
static size_t waiting_count;
static size_t waiting_room;

static void
heap_put(size_t place, Request *request)
{
	waiting[place] = request;
	request->heap_place = place;
}

static void
heap_up(size_t place, Request *request)
{
	while (place > 0)
	{
		size_t		above = (place - 1) / 2;

		if (waiting[above]->deadline <= request->deadline)
			break;
		heap_put(place, waiting[above]);
		place = above;
	}
	heap_put(place, request);
}

static void
heap_down(size_t place, Request *request)
{
	for (;;)
	{
		size_t		below = 2 * place + 1;

		if (below >= waiting_count)
			break;
		if (below + 1 < waiting_count &&
			waiting[below + 1]->deadline < waiting[below]->deadline)
			below++;
		if (request->deadline <= waiting[below]->deadline)
			break;
		heap_put(place, waiting[below]);
		place = below;
	}
	heap_put(place, request);
}

static void
heap_add(Request *request)
{
	if (waiting_count == waiting_room)
	{
		waiting_room = waiting_room == 0 ? 1024 : 2 * waiting_room;
		waiting = must_allocate(waiting, waiting_room * sizeof(Request *));
	}
	heap_up(waiting_count++, request);
}

static void
heap_remove(Request *request)
{
	size_t		place = request->heap_place;
	Request    *last = waiting[--waiting_count];

	if (last == request)
		return;
	if (place > 0 && waiting[(place - 1) / 2]->deadline > last->deadline)
		heap_up(place, last);
	else
		heap_down(place, last);
}

static int
connection_descriptor(struct MHD_Connection *mhd)
{
	return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)
		->connect_fd;
}

/*
 * Holds a request back until "deadline".  libmicrohttpd does not look at a
 * suspended connection, so we watch for its client's hang-up ourselves.
 * Called only from libmicrohttpd's own callbacks.
 */
static void
request_hold(Request *request, int64_t deadline)
{
	struct epoll_event event = {.events = EPOLLRDHUP};

	event.data.ptr = request;
	epoll_ctl(loop_epoll, EPOLL_CTL_ADD, connection_descriptor(request->mhd),
			  &event);
	request->deadline = deadline;
	heap_add(request);
	MHD_suspend_connection(request->mhd);
}

static void
request_go_on(Request *request, bool gone)
{
	epoll_ctl(loop_epoll, EPOLL_CTL_DEL, connection_descriptor(request->mhd),
			  NULL);
	heap_remove(request);
	request->gone = gone;
	MHD_resume_connection(request->mhd);
}

static void
requests_go_on(int64_t now)
{
	while (waiting_count > 0 && waiting[0]->deadline <= now)
		request_go_on(waiting[0], false);
}

/* ---------- bodies ---------- */

/*
 * Sends a RST at once: Linux aborts a TCP connection that is dissolved by
 * connecting it to AF_UNSPEC.  SO_LINGER with 0 would need the close() that
 * libmicrohttpd does, and that comes after a shutdown(), hence after a FIN.
 */
static void
send_reset(struct MHD_Connection *mhd)
{
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	if (connect(connection_descriptor(mhd), &nowhere, sizeof(nowhere)) != 0)
		perror("simulator: could not reset a connection");
}

/* How much of the body may have been sent by now */
static uint64_t
stream_allowed(const Stream *stream, int64_t now)
{
	uint64_t	pieces;

	if (stream->dribble == 0)
		return stream->stop;
	pieces = (now - stream->start) * DRIBBLE_PIECES / stream->dribble;
	if (pieces >= DRIBBLE_PIECES)
		return stream->stop;
	return stream->stop / DRIBBLE_PIECES * pieces;
}

/* When the next piece is due: rounded up, so that it then is allowed */
static int64_t
stream_next_piece(const Stream *stream, int64_t now)
{
	int64_t		piece =
		(now - stream->start) * DRIBBLE_PIECES / stream->dribble + 1;

	return stream->start +
		(piece * stream->dribble + DRIBBLE_PIECES - 1) / DRIBBLE_PIECES;
}

/* Copies what is at "at": the text before the padding, or it, or after. */
static size_t
stream_copy(const Stream *stream, uint64_t at, char *target, uint64_t room)
{
	const char *source = NULL;
	uint64_t	left;

	if (at < stream->pad_at)
	{
		source = stream->data + at;
		left = stream->pad_at - at;
	}
	else if (at < stream->pad_at + stream->pad)
		left = stream->pad_at + stream->pad - at;
	else
	{
		source = stream->data + (at - stream->pad);
		left = stream->total - at;
	}
	if (left > room)
		left = room;
	if (source != NULL)
		memcpy(target, source, left);
	else
		memset(target, 'A', left);
	return left;
}

/* libmicrohttpd wants the bytes from "at" on. */
static ssize_t
stream_read(void *argument, uint64_t at, char *target, size_t room)
{
	Stream	   *stream = argument;
	int64_t		now;
	uint64_t	allowed;

	if (stream->request->gone)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (at >= stream->stop)
	{
		if (stream->ending == ENDING_RESET)
			send_reset(stream->request->mhd);
		if (stream->ending == ENDING_WHOLE)
			return MHD_CONTENT_READER_END_OF_STREAM;
		return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	now = stream->dribble == 0 ? 0 : steady_us();
	allowed = stream_allowed(stream, now);
	if (at >= allowed)
	{
		request_hold(stream->request, stream_next_piece(stream, now));
		return 0;
	}
	if (room > allowed - at)
		room = allowed - at;
	return stream_copy(stream, at, target, room);
}

static void
stream_free(void *argument)
{
	Stream	   *stream = argument;

	free(stream->data);
	free(stream);
}

/* A response that takes its body from a stream, which takes the answer's. */
static struct MHD_Response *
stream_response(Request *request, const Trouble *trouble, Answer *answer)
{
	Stream	   *stream = must_allocate(NULL, sizeof(Stream));
	uint64_t	announced;

	memset(stream, 0, sizeof(*stream));
	stream->request = request;
	stream->data = answer->body.data;
	stream->length = answer->body.length;
	stream->pad_at = answer->pad > 0 ? answer->pad_at : stream->length;
	stream->pad = answer->pad;
	stream->total = stream->length + stream->pad;
	stream->stop = stream->total;
	stream->start = steady_us();
	stream->dribble = trouble->dribble * 1000;
	announced = stream->total;
	if (trouble->resetbody)
	{
		stream->ending = ENDING_RESET;
		stream->stop = stream->total / 2;
	}
	else if (trouble->cut)
	{
		stream->ending = ENDING_CUT;
		announced += 64;		/* these never come */
	}
	if (trouble->cutchunk)
	{
		if (stream->ending == ENDING_WHOLE)
			stream->ending = ENDING_CUT;
		announced = MHD_SIZE_UNKNOWN;
	}
	memset(&answer->body, 0, sizeof(answer->body));
	return MHD_create_response_from_callback(
		announced, stream->total > 65536 ? STREAM_BLOCK : 4096, stream_read,
		stream, stream_free);
}

static bool
needs_stream(const Trouble *trouble, const Answer *answer)
{
	return answer->pad > 0 || trouble->dribble > 0 || trouble->resetbody ||
		trouble->cut || trouble->cutchunk;
}

/* Retry-After, in seconds or as the date of RFC 9110 */
static void
add_retry_after(struct MHD_Response *response, const Trouble *trouble)
{
	char		text[64];

	if (trouble->retry_after >= 0)
		snprintf(text, sizeof(text), "%" PRId64, trouble->retry_after);
	else if (trouble->retry_date >= 0)
	{
		time_t		when = time(NULL) + trouble->retry_date;
		struct tm	tm;

		gmtime_r(&when, &tm);
		strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	}
	else
		return;
	MHD_add_response_header(response, "Retry-After", text);
}

static void
add_headers(struct MHD_Response *response, const Request *request,
			const Trouble *trouble, const Answer *answer)
{
	if (answer->content_type != NULL)
		MHD_add_response_header(response, "Content-Type", answer->content_type);
	if (answer->server != NULL)
		MHD_add_response_header(response, "Server", answer->server);
	MHD_add_response_header(response, "X-Oneapi-Request-Id",
							request->request_id);
	if (answer->location)
	{
		char		url[sizeof(base_url) + 16];

		snprintf(url, sizeof(url), "%s/elsewhere", base_url);
		MHD_add_response_header(response, "Location", url);
	}
	if (trouble != NULL)
	{
		add_retry_after(response, trouble);
		if (trouble->close)
			MHD_add_response_header(response, "Connection", "close");
	}
}

/* Hands an answer to libmicrohttpd and frees it.  "trouble" may be NULL. */
static enum MHD_Result
send_answer(Request *request, const Trouble *trouble, Answer *answer)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	if (trouble != NULL && needs_stream(trouble, answer))
		response = stream_response(request, trouble, answer);
	else
	{
		response = MHD_create_response_from_buffer(
			answer->body.length, answer->body.data, MHD_RESPMEM_MUST_FREE);
		memset(&answer->body, 0, sizeof(answer->body));
	}
	if (response == NULL)
		return MHD_NO;
	add_headers(response, request, trouble, answer);
	ledger_log_status(request->log_entry, answer->status);
	result = MHD_queue_response(request->mhd, answer->status, response);
	MHD_destroy_response(response);
	return result;
}

/* ---------- questions about the simulator itself ---------- */

static enum MHD_Result
set_key(void *argument, enum MHD_ValueKind kind, const char *name,
		const char *value)
{
	(void) argument;
	(void) kind;
	if (strcmp(name, "set") == 0 && value != NULL && value[0] != '\0')
		ledger_accept_key(value);
	return MHD_YES;
}

static const char *
argument_of(struct MHD_Connection *mhd, const char *name)
{
	return MHD_lookup_connection_value(mhd, MHD_GET_ARGUMENT_KIND, name);
}

static void
write_stats(struct MHD_Connection *mhd, Json *json)
{
	const char *task = argument_of(mhd, "task");
	const char *tasks = argument_of(mhd, "tasks");

	if (task != NULL)
		ledger_write_task(json, task);
	else
		ledger_write_stats(json, tasks == NULL || strcmp(tasks, "0") != 0);
}

static bool
is_control(const char *path)
{
	return strcmp(path, "/_stats") == 0 || strcmp(path, "/_reset") == 0 ||
		strcmp(path, "/_key") == 0 || strcmp(path, "/_log") == 0 ||
		strcmp(path, "/_tasks") == 0;
}

static enum MHD_Result
answer_control(Request *request, const char *path)
{
	struct MHD_Connection *mhd = request->mhd;
	Answer		answer = {.status = 200, .content_type = CONTENT_JSON};

	if (strcmp(path, "/_stats") == 0)
		write_stats(mhd, &answer.body);
	else if (strcmp(path, "/_tasks") == 0)
		ledger_write_tasks(&answer.body);
	else if (strcmp(path, "/_log") == 0)
	{
		const char *count = argument_of(mhd, "n");

		ledger_write_log(&answer.body,
						 count == NULL ? 100 : strtoll(count, NULL, 10));
	}
	else
	{
		if (strcmp(path, "/_reset") == 0)
			ledger_reset();
		else
		{
			ledger_forget_keys();
			MHD_get_connection_values(mhd, MHD_GET_ARGUMENT_KIND, set_key,
									  NULL);
		}
		json_literal(&answer.body, "{\"ok\":true}");
	}
	return send_answer(request, NULL, &answer);
}

/* ---------- questions as the gateway gets them ---------- */

#define API_PATH "/tencent-vod/"
#define QUERY_PATH "/tencent-vod/v1/query/"

static bool
starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

/* The task id of a path, or NULL if it is another path */
static const char *
task_of_path(const char *method, const char *path)
{
	const char *id;

	if (strcmp(method, "GET") != 0 || !starts_with(path, QUERY_PATH))
		return NULL;
	id = path + strlen(QUERY_PATH);
	return *id == '\0' || strchr(id, '/') != NULL ? NULL : id;
}

static enum MHD_Result
answer_question(Request *request, const char *id)
{
	Answer		answer = {0};
	Words		words;

	if (!request->noted)
	{
		request->question = ledger_question(id, wall_ms(), &request->first);
		request->noted = true;
	}
	words_read(id, &words);
	if (words.trouble_count >= 0 && request->question > words.trouble_count)
		words_end_trouble(&words);
	if (words.trouble.delay > 0 && !request->delayed)
	{
		request->delayed = true;
		request_hold(request, steady_us() + words.trouble.delay * 1000);
		return MHD_YES;
	}
	if (words.trouble.reset)
	{
		send_reset(request->mhd);
		return MHD_NO;
	}
	answer_task(id, &words, request->first, wall_ms(), request->request_id,
				&answer);
	return send_answer(request, &words.trouble, &answer);
}

/* Paths that are not a task's: as the gateway's web server has it */
static enum MHD_Result
answer_other(Request *request, const char *path)
{
	Answer		answer = {0};

	if (starts_with(path, "/files/"))
		answer_file(path, &answer);
	else if (strcmp(path, "/elsewhere") == 0)
	{
		answer.status = 200;
		answer.content_type = CONTENT_JSON;
		json_literal(&answer.body, "{\"elsewhere\":true}");
	}
	else if (starts_with(path, "/v1") || starts_with(path, "/api") ||
			 starts_with(path, "/assets"))
		answer_refusal(404, path, request->request_id, &answer);
	else
		answer_index(&answer);
	return send_answer(request, NULL, &answer);
}

static enum MHD_Result
refuse(Request *request, unsigned int status, const char *path)
{
	Answer		answer = {0};

	answer_refusal(status, path, request->request_id, &answer);
	return send_answer(request, NULL, &answer);
}

/* How a request came: its form, else its headers */
static Via
via_of(struct MHD_Connection *mhd, const char *method, const char *url)
{
	if (strcasecmp(method, "CONNECT") == 0)
		return VIA_CONNECT;
	if (url[0] != '/')
		return VIA_ABSOLUTE;
	if (MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Via") != NULL)
		return VIA_HEADER;
	return VIA_DIRECT;
}

/* The path of http://host/path */
static const char *
path_of(const char *url)
{
	const char *host = strstr(url, "://");
	const char *path;

	if (url[0] == '/' || host == NULL)
		return url;
	path = strchr(host + 3, '/');
	return path == NULL ? "/" : path;
}

/* A connection that asked for figures only so far is counted from now on. */
static void
count_connection(Connection *connection)
{
	if (!connection->control)
		return;
	connection->control = false;
	counters.open_connections++;
	counters.connections++;
}

/* One whose first request is for figures is not. */
static void
uncount_connection(Connection *connection)
{
	if (connection->control)
		return;
	connection->control = true;
	counters.open_connections--;
	if (connection->era == ledger_era)
		counters.connections--;
}

static void
count_request(Request *request, const char *path, const char *id, bool with_key)
{
	Via			via = request->via;
	bool		proxied = via == VIA_ABSOLUTE || via == VIA_CONNECT;
	bool		elsewhere = strcmp(path, "/elsewhere") == 0;

	count_connection(request->connection);
	request->counted = true;
	if (++counters.in_flight > counters.max_in_flight)
		counters.max_in_flight = counters.in_flight;
	counters.with_key += with_key;
	counters.proxied += proxied;
	counters.proxied_with_key += proxied && with_key;
	counters.elsewhere += elsewhere;
	counters.elsewhere_with_key += elsewhere && with_key;
	if (id != NULL)
		counters.requests++;
	else if (starts_with(path, "/files/"))
		counters.files++;
	else if (!elsewhere)
		counters.other_paths++;
	request->log_entry =
		ledger_log(wall_ms(), id != NULL ? id : path, id != NULL,
				   request->connection->serial, request->via);
}

/* A request has arrived, or goes on after its delay. */
static enum MHD_Result
answer_request(Request *request, const char *method, const char *url)
{
	const char *path = path_of(url);
	const char *id = task_of_path(method, path);
	const char *authorization;

	if (request->counted)
		return answer_question(request, id);
	request->via = via_of(request->mhd, method, url);
	if (is_control(path) && request->via == VIA_DIRECT)
		return answer_control(request, path);

	authorization = MHD_lookup_connection_value(request->mhd, MHD_HEADER_KIND,
												MHD_HTTP_HEADER_AUTHORIZATION);
	count_request(request, path, id, authorization != NULL);
	if (request->via == VIA_CONNECT)
		return refuse(request, 502, path);
	if (starts_with(path, API_PATH) && !ledger_authorizes(authorization))
	{
		counters.unauthorized++;
		return refuse(request, 401, path);
	}
	if (id != NULL)
		return answer_question(request, id);
	return answer_other(request, path);
}

/* ---------- libmicrohttpd's callbacks ---------- */

static Request *
request_new(struct MHD_Connection *mhd)
{
	Request    *request = must_allocate(NULL, sizeof(Request));

	memset(request, 0, sizeof(*request));
	request->mhd = mhd;
	request->connection =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)
			->socket_context;
	request_id_make(request->request_id, wall_ms());
	return request;
}

/*
 * Called with the header of a request, with pieces of its body (we have no
 * use for one), at its end, and again after each suspension.
 */
static enum MHD_Result
on_request(void *argument, struct MHD_Connection *mhd, const char *url,
		   const char *method, const char *version, const char *upload,
		   size_t *upload_size, void **request_place)
{
	Request    *request = *request_place;

	(void) argument;
	(void) version;
	(void) upload;
	if (request == NULL)
	{
		request = request_new(mhd);
		*request_place = request;
		if (strncmp(url, "/_", 2) == 0 && is_control(url))
			uncount_connection(request->connection);
		return MHD_YES;
	}
	if (*upload_size > 0)
	{
		*upload_size = 0;
		return MHD_YES;
	}
	if (request->gone)
		return MHD_NO;
	return answer_request(request, method, url);
}

static void
on_request_end(void *argument, struct MHD_Connection *mhd, void **request_place,
			   enum MHD_RequestTerminationCode code)
{
	Request    *request = *request_place;

	(void) argument;
	(void) mhd;
	(void) code;
	if (request == NULL)
		return;
	if (request->counted)
		counters.in_flight--;
	free(request);
	*request_place = NULL;
}

static void
on_connection(void *argument, struct MHD_Connection *mhd, void **place,
			  enum MHD_ConnectionNotificationCode code)
{
	Connection *connection = *place;

	(void) argument;
	(void) mhd;
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
	{
		connection = must_allocate(NULL, sizeof(Connection));
		connection->serial = ++connection_serial;
		connection->era = ledger_era;
		connection->control = false;
		counters.connections++;
		counters.open_connections++;
		*place = connection;
	}
	else if (connection != NULL)
	{
		if (!connection->control)
			counters.open_connections--;
		free(connection);
		*place = NULL;
	}
}

/* ---------- start, loop, end ---------- */

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "simulator: %s: %s\n", what, why);
	exit(1);
}

/* A whole file in memory, zero-terminated */
static char *
read_file(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char	   *text = NULL;
	size_t		length = 0;
	size_t		got;

	if (file == NULL)
		fail(path, strerror(errno));
	do
	{
		text = must_allocate(text, length + 4096 + 1);
		got = fread(text + length, 1, 4096, file);
		length += got;
	} while (got > 0);
	fclose(file);
	text[length] = '\0';
	return text;
}

/* The listening socket; also fills in base_url and the port. */
static int
open_listener(unsigned int *port)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_PASSIVE,
							 .ai_socktype = SOCK_STREAM};
	struct addrinfo *address;
	struct sockaddr_storage bound;
	socklen_t	bound_size = sizeof(bound);
	char		host[64];
	char		service[16];
	int			on = 1;
	int			code;
	int			listener;

	code = getaddrinfo(listen_address, listen_port, &hints, &address);
	if (code != 0)
		fail(listen_address, gai_strerror(code));
	listener = socket(address->ai_family,
					  SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener < 0 ||
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
		bind(listener, address->ai_addr, address->ai_addrlen) != 0 ||
		listen(listener, 4096) != 0 ||
		getsockname(listener, (struct sockaddr *) &bound, &bound_size) != 0)
		fail("could not listen", strerror(errno));
	code =
		getnameinfo((struct sockaddr *) &bound, bound_size, host, sizeof(host),
					service, sizeof(service), NI_NUMERICHOST | NI_NUMERICSERV);
	if (code != 0)
		fail("getnameinfo", gai_strerror(code));
	*port = (unsigned int) strtoul(service, NULL, 10);
	snprintf(base_url, sizeof(base_url),
			 address->ai_family == AF_INET6 ? "%s://[%s]:%u" : "%s://%s:%u",
			 certificate_file != NULL ? "https" : "http", host, *port);
	freeaddrinfo(address);
	return listener;
}

/* As many descriptors as we may have; returns how many connections fit. */
static unsigned int
raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		fail("getrlimit", strerror(errno));
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		fail("setrlimit", strerror(errno));
	if (limit.rlim_cur > 1000000)
		return 1000000;
	if (limit.rlim_cur <= OTHER_DESCRIPTORS)
		return 1;
	return (unsigned int) limit.rlim_cur - OTHER_DESCRIPTORS;
}

static void
start_http(int listener, unsigned int connections)
{
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_END, 0, NULL},
		{MHD_OPTION_END, 0, NULL},
		{MHD_OPTION_END, 0, NULL},
	};
	unsigned int flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
	char	   *certificate = NULL;
	char	   *private_key = NULL;

	if (certificate_file != NULL)
	{
		certificate = read_file(certificate_file);
		private_key = read_file(private_key_file);
		tls[0].option = MHD_OPTION_HTTPS_MEM_CERT;
		tls[0].ptr_value = certificate;
		tls[1].option = MHD_OPTION_HTTPS_MEM_KEY;
		tls[1].ptr_value = private_key;
		flags |= MHD_USE_TLS;
	}
	http_daemon = MHD_start_daemon(
		flags, 0, NULL, NULL, on_request, NULL, MHD_OPTION_LISTEN_SOCKET,
		listener, MHD_OPTION_CONNECTION_LIMIT, connections,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
		MHD_OPTION_NOTIFY_COMPLETED, on_request_end, NULL,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL, MHD_OPTION_ARRAY,
		tls, MHD_OPTION_END);
	free(certificate);
	free(private_key);
	if (http_daemon == NULL)
		fail("could not start the HTTP server", strerror(errno));
}

static void
watch(int descriptor, void *tag)
{
	struct epoll_event event = {.events = EPOLLIN};

	event.data.ptr = tag;
	if (epoll_ctl(loop_epoll, EPOLL_CTL_ADD, descriptor, &event) != 0)
		fail("epoll_ctl", strerror(errno));
}

/* SIGTERM and SIGINT become readable; a closed socket is no signal at all. */
static int
signals_as_descriptor(void)
{
	sigset_t	signals;
	int			descriptor;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	descriptor = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (descriptor < 0)
		fail("signalfd", strerror(errno));
	return descriptor;
}

/* How long the loop may sleep, in ms; -1: until something happens */
static int
loop_timeout(void)
{
	MHD_UNSIGNED_LONG_LONG http_timeout;
	int64_t		timeout = -1;

	if (waiting_count > 0)
	{
		/* rounded up: waking too early would be waking twice */
		timeout = (waiting[0]->deadline - steady_us() + 999) / 1000;
		if (timeout < 0)
			timeout = 0;
	}
	if (MHD_get_timeout(http_daemon, &http_timeout) == MHD_YES &&
		(timeout < 0 || (int64_t) http_timeout < timeout))
		timeout = (int64_t) http_timeout;
	if (parent > 0 && (timeout < 0 || timeout > PARENT_CHECK_MS))
		timeout = PARENT_CHECK_MS;
	return timeout > INT_MAX ? INT_MAX : (int) timeout;
}

/* A parent that has ended but is not yet waited for is gone, too. */
static bool
parent_is_gone(bool was_our_parent)
{
	if (parent == 0)
		return false;
	if (was_our_parent && getppid() != parent)
		return true;
	return kill(parent, 0) != 0 && errno == ESRCH;
}

static void
run_loop(void)
{
	struct epoll_event events[64];
	bool		was_our_parent = getppid() == parent;

	while (!parent_is_gone(was_our_parent))
	{
		int			count = epoll_wait(loop_epoll, events, 64, loop_timeout());

		if (count < 0 && errno != EINTR)
			fail("epoll_wait", strerror(errno));
		for (int i = 0; i < count; i++)
		{
			if (events[i].data.ptr == &woken_by_signal)
				return;
			if (events[i].data.ptr != &woken_by_http)
				request_go_on(events[i].data.ptr, true);
		}
		if (waiting_count > 0)
			requests_go_on(steady_us());
		MHD_run(http_daemon);
	}
}

/* libmicrohttpd must not be stopped while anything is suspended. */
static void
stop_http(void)
{
	while (waiting_count > 0)
	{
		while (waiting_count > 0)
			request_go_on(waiting[0], true);
		MHD_run(http_daemon);
	}
	MHD_stop_daemon(http_daemon);
	free(waiting);
}

/* Whoever waits for the file to appear must not find half of it. */
static void
write_port_file(unsigned int port)
{
	char		unfinished[PATH_MAX];
	FILE	   *file;

	snprintf(unfinished, sizeof(unfinished), "%s.new", port_file);
	file = fopen(unfinished, "w");
	if (file == NULL || fprintf(file, "%u\n", port) < 0 || fclose(file) != 0 ||
		rename(unfinished, port_file) != 0)
		fail(port_file, strerror(errno));
}

static void
usage(FILE *where)
{
	fputs("Plays the gateway; see README.md for what a task id may say.\n"
		  "\n"
		  "Usage: simulator [OPTION]...\n"
		  "  --port N             port, 0 for any free one (default)\n"
		  "  --listen ADDRESS     default 127.0.0.1\n"
		  "  --port-file PATH     write the port there once ready\n"
		  "  --key KEY            accept this API key (repeatable);\n"
		  "                       without any, everything is accepted\n"
		  "  --tls CERT KEYFILE   speak TLS, with these PEM files\n"
		  "  --max-connections N  more than these wait\n"
		  "  --parent PID         end when that process is gone\n",
		  where);
}

static int64_t
number_option(const char *text, int64_t least, int64_t most)
{
	char	   *end;
	int64_t		number = strtoll(text, &end, 10);

	if (*text == '\0' || *end != '\0' || number < least || number > most)
		fail(text, "not a number that this option takes");
	return number;
}

static void
read_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", required_argument, NULL, 'p'},
		{"listen", required_argument, NULL, 'l'},
		{"port-file", required_argument, NULL, 'f'},
		{"key", required_argument, NULL, 'k'},
		{"tls", required_argument, NULL, 't'},
		{"max-connections", required_argument, NULL, 'm'},
		{"parent", required_argument, NULL, 'P'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0}
	};
	int			option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (option)
		{
			case 'p':
				number_option(optarg, 0, 65535);
				listen_port = optarg;
				break;
			case 'l':
				listen_address = optarg;
				break;
			case 'f':
				port_file = optarg;
				break;
			case 'k':
				ledger_accept_key(optarg);
				break;
			case 't':
				certificate_file = optarg;
				if (optind >= argc)
					fail("--tls", "needs a certificate and a key file");
				private_key_file = argv[optind++];
				break;
			case 'm':
				max_connections = number_option(optarg, 1, 1000000);
				break;
			case 'P':
				parent = number_option(optarg, 1, INT_MAX);
				break;
			case 'h':
				usage(stdout);
				exit(0);
			default:
				usage(stderr);
				exit(2);
		}
	}
	if (optind < argc)
		fail(argv[optind], "not an option");
}

int
main(int argc, char **argv)
{
	const union MHD_DaemonInfo *info;
	unsigned int room;
	unsigned int port;

	read_options(argc, argv);
	room = raise_descriptor_limit();
	if (max_connections > 0 && max_connections < room)
		room = max_connections;

	loop_epoll = epoll_create1(EPOLL_CLOEXEC);
	if (loop_epoll < 0)
		fail("epoll_create1", strerror(errno));
	watch(signals_as_descriptor(), &woken_by_signal);
	start_http(open_listener(&port), room);
	info = MHD_get_daemon_info(http_daemon, MHD_DAEMON_INFO_EPOLL_FD);
	watch(info->epoll_fd, &woken_by_http);
	answers_start(base_url, (uint64_t) wall_ms() << 20 ^ (uint64_t) getpid());

	if (port_file != NULL)
		write_port_file(port);
	printf("listening on %s\n", strstr(base_url, "://") + 3);
	fflush(stdout);
	run_loop();
	stop_http();
	ledger_free();
	return 0;
}
