/*
 * simulator.h
 *		What the rooms of the simulated gateway share.
 *
 * simulator.c	command line, event loop, sockets and HTTP
 * words.c		words of a task id, the course of a task
 * answers.c	bodies of answers
 * files.c		what the URLs of generated files lead to
 * ledger.c		what was asked: tasks, counters, log, accepted keys
 * json.c		writing JSON
 *
 * All of it runs in one thread.  Times are milliseconds: of the Unix epoch
 * where a name does not say otherwise.
 */
#ifndef SIMULATOR_H
#define SIMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LENGTH_OF(array) (sizeof(array) / sizeof((array)[0]))

/* json.c */

/* The deepest answer: wrapper, Response, task, Output, files, MetaData, ... */
#define JSON_MAX_DEPTH 32

typedef struct Json
{
	char	   *data;			/* not terminated by a zero */
	size_t		length;
	size_t		room;
	bool		trim;			/* drop zero, empty and null values */
	int			depth;			/* objects and arrays open now */
	size_t		opened[JSON_MAX_DEPTH]; /* where each begins, key included */
} Json;

extern void *must_allocate(void *old, size_t size);
extern void json_free(Json *json);
extern void json_raw(Json *json, const char *text, size_t length);
extern void json_literal(Json *json, const char *text);
extern void json_fill(Json *json, char what, size_t times);
extern void json_open(Json *json, const char *key, char bracket);
extern void json_close(Json *json);
extern void json_key(Json *json, const char *key);
extern void json_text(Json *json, const char *key, const char *value);
extern void json_escaped(Json *json, const char *key, const char *value);
extern void json_digits(Json *json, int64_t value);
extern void json_number(Json *json, const char *key, int64_t value);
extern void json_real(Json *json, const char *key, const char *value);
extern void json_null(Json *json, const char *key);

/* words.c */

/* Where a task object keeps its files */
typedef enum Output
{
	OUTPUT_FILE_INFOS,
	OUTPUT_AUDIO,				/* AudioInfos and VideoInfos */
	OUTPUT_FILE_INFO,			/* one object */
	OUTPUT_FLAT,				/* FileUrl directly in Output */
	OUTPUT_MODELS,				/* FileInfos with PreviewFileUrl */
	OUTPUT_PROCEDURE			/* in the results of its sub-tasks */
} Output;

typedef struct TaskType
{
	const char *name;			/* TaskType */
	const char *key;			/* key of the task object */
	const char *model;
	const char *version;
	const char *extension;		/* of its files */
	Output		output;
	bool		has_code_ext;
	bool		has_session;
	int64_t		run_time;		/* ms, of a task that has ended already */
} TaskType;

enum
{
	TYPE_IMAGE,
	TYPE_VIDEO,
	TYPE_AUDIO,
	TYPE_SCENE_IMAGE,
	TYPE_SCENE_VIDEO,
	TYPE_REDRAW,
	TYPE_HUNYUAN3D,
	TYPE_EDIT,
	TYPE_PROCESS_IMAGE,
	TYPE_PROCEDURE
};

/* What goes wrong with an answer; xN limits it to the first N questions. */
typedef struct Trouble
{
	bool		html;
	bool		empty;
	bool		oneapi;
	bool		unknown;
	bool		notjson;
	bool		double429;
	bool		two;
	bool		reset;
	bool		resetbody;
	bool		cut;
	bool		cutchunk;
	bool		close;
	bool		nofile;
	int64_t		http;			/* status code, 0: none */
	int64_t		delay;			/* ms before the answer */
	int64_t		dribble;		/* ms over which the body is spread */
	int64_t		huge;			/* bytes of the whole body, 0: as it is */
	int64_t		deep;			/* levels of nesting, 0: as it is */
	int64_t		retry_after;	/* seconds, -1: no such header */
	int64_t		retry_date;		/* the same, sent as a date */
	char		code[64];		/* Response.Error.Code, "" for none */
} Trouble;

/* A task id, read */
typedef struct Words
{
	const TaskType *type;
	bool		full;
	bool		wrap;
	bool		progress;
	bool		permanent;
	bool		abort;
	bool		failed;			/* fail, failN, extWORD or abort */
	bool		nul;
	bool		badutf8;
	bool		surrogate;
	bool		uni;
	int64_t		end;			/* tMS: ms from creation to end */
	int64_t		wait;			/* ms from creation to PROCESSING */
	int64_t		creation;		/* bUNIXMS, -1: the first question */
	int64_t		jump;			/* constant progress, -1: none */
	int64_t		files;
	int64_t		code;			/* failN, -1: the usual one */
	int64_t		trouble_count;	/* xN, -1: the trouble does not end */
	char		model[64];
	char		version[32];
	char		code_ext[64];
	Trouble		trouble;
} Words;

/* When a task was created and when it ends or ended */
typedef struct Course
{
	int64_t		created;
	int64_t		begins;			/* WAITING until then */
	int64_t		ends;
} Course;

extern const TaskType task_types[];

extern void words_read(const char *id, Words *words);
extern void words_end_trouble(Words *words);
extern Course task_course(const Words *words, int64_t first);

/* answers.c */

/* One answer, ready to be sent */
typedef struct Answer
{
	unsigned int status;		/* HTTP */
	const char *content_type;
	const char *server;			/* Server header, or NULL */
	bool		location;		/* Location: /elsewhere */
	Json		body;
	size_t		pad_at;			/* offset in body where the padding goes */
	uint64_t	pad;			/* bytes of padding, 0: none */
} Answer;

#define CONTENT_JSON "application/json; charset=utf-8"
#define CONTENT_HTML "text/html; charset=utf-8"
#define CONTENT_PLAIN "text/plain; charset=utf-8"

/* Sizes of texts below, terminating zero included */
#define REQUEST_ID_SIZE 48
#define DATE_SIZE 32

extern void answers_start(const char *base_url, uint64_t seed);
extern void request_id_make(char *id, int64_t now);
extern void answer_task(const char *id, const Words *words, int64_t first,
						int64_t		now, const char *request_id,
						Answer *answer);
extern void answer_refusal(unsigned int status, const char *path,
						   const char *request_id, Answer *answer);
extern void answer_index(Answer *answer);

/* files.c */

extern void answer_file(const char *name, Answer *answer);

/* ledger.c */

/* How a request came */
typedef enum Via
{
	VIA_DIRECT,
	VIA_HEADER,					/* with a Via header */
	VIA_ABSOLUTE,				/* GET http://host/path: we are the proxy */
	VIA_CONNECT					/* CONNECT host:port */
} Via;

/* Since the start or the last reset; the first two are of this moment. */
typedef struct Counters
{
	int64_t		in_flight;
	int64_t		open_connections;
	int64_t		requests;		/* about tasks */
	int64_t		max_in_flight;
	int64_t		connections;
	int64_t		unauthorized;
	int64_t		with_key;
	int64_t		elsewhere;
	int64_t		elsewhere_with_key;
	int64_t		files;
	int64_t		other_paths;
	int64_t		proxied;
	int64_t		proxied_with_key;
} Counters;

extern Counters counters;

/* Grows with each reset; a connection notes under which it came. */
extern uint64_t ledger_era;

extern void ledger_free(void);
extern void ledger_reset(void);
extern int64_t ledger_question(const char *id, int64_t now, int64_t *first);
extern uint64_t ledger_log(int64_t now, const char *subject, bool is_task,
						   uint64_t connection, Via via);
extern void ledger_log_status(uint64_t entry, unsigned int status);
extern void ledger_accept_key(const char *key);
extern void ledger_forget_keys(void);
extern bool ledger_authorizes(const char *authorization);
extern void ledger_write_stats(Json *json, bool with_tasks);
extern void ledger_write_task(Json *json, const char *id);
extern void ledger_write_tasks(Json *json);
extern void ledger_write_log(Json *json, int64_t count);

#endif							/* SIMULATOR_H */
