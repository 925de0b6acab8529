/*
 * ledger.c
 *		What was asked: tasks, counters, the log, and the accepted keys.
 *
 * Tests ask for these figures to see what a client did.  Nothing here knows
 * of HTTP; what a task does is the business of words.c.
 *
 * Tasks are kept in a hash table that grows by linear hashing, one bucket
 * with each new task, so that no question waits for millions of tasks to be
 * moved.  A task takes about 32 bytes and its id, from large blocks.
 */
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

Counters	counters;
uint64_t	ledger_era = 1;

/* ---------- tasks ---------- */

typedef struct Task
{
	struct Task *next;			/* in its bucket */
	int64_t		first;			/* ms, the first question */
	int64_t		last;			/* ms, the latest question */
	uint32_t	hash;
	uint32_t	questions;
	char		id[];
} Task;

/* Buckets come in segments, so that the table grows without moving. */
#define SEGMENT_BUCKETS 4096
#define MAX_SEGMENTS 16384 /* 67 million buckets */

/* Tasks come out of blocks of this many bytes; 256 is a long id. */
#define BLOCK_SIZE (1024 * 1024)
#define MAX_ID 4096

typedef struct Block
{
	struct Block *next;
	size_t		used;
	_Alignas(Task) char space[BLOCK_SIZE];
} Block;

static Task **segments[MAX_SEGMENTS];
static uint32_t bucket_count;
static uint32_t bucket_floor;	/* the power of 2 not above bucket_count */
static uint64_t task_count;
static Block *blocks;

static Task **
bucket_at(uint32_t number)
{
	return &segments[number / SEGMENT_BUCKETS][number % SEGMENT_BUCKETS];
}

/* Linear hashing: a bucket that does not exist yet is still in its parent. */
static Task **
bucket_of(uint32_t hash)
{
	uint32_t	number = hash & (2 * bucket_floor - 1);

	if (number >= bucket_count)
		number &= bucket_floor - 1;
	return bucket_at(number);
}

static void
add_segment(uint32_t number)
{
	size_t		size = SEGMENT_BUCKETS * sizeof(Task *);

	segments[number] = must_allocate(NULL, size);
	memset(segments[number], 0, size);
}

/* Adds one bucket and gives it the tasks of its parent that are its own. */
static void
grow_by_a_bucket(void)
{
	uint32_t	new = bucket_count;
	Task	  **from;
	Task	  **to;

	if (new / SEGMENT_BUCKETS >= MAX_SEGMENTS)
		return;
	if (new % SEGMENT_BUCKETS == 0)
		add_segment(new / SEGMENT_BUCKETS);
	if (new == 2 * bucket_floor)
		bucket_floor = new;
	from = bucket_at(new - bucket_floor);
	to = bucket_at(new);
	bucket_count++;
	while (*from != NULL)
	{
		Task	   *task = *from;

		if ((task->hash & (2 * bucket_floor - 1)) == new)
		{
			*from = task->next;
			task->next = *to;
			*to = task;
		}
		else
			from = &task->next;
	}
}

/* FNV-1a of 32 bits, its high bits folded in */
static uint32_t
hash_text(const char *text, size_t length)
{
	uint32_t	hash = 2166136261u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char) text[i]) * 16777619u;
	return hash ^ (hash >> 15);
}

static Task *
find_task(const char *id, size_t length, uint32_t hash)
{
	if (bucket_count == 0)
		return NULL;
	for (Task *task = *bucket_of(hash); task != NULL; task = task->next)
	{
		if (task->hash == hash && strncmp(task->id, id, length) == 0 &&
			task->id[length] == '\0')
			return task;
	}
	return NULL;
}

static Task *
allocate_task(size_t id_length)
{
	size_t		size = offsetof(Task, id) + id_length + 1;
	Task	   *task;

	size = (size + _Alignof(Task) - 1) / _Alignof(Task) * _Alignof(Task);
	if (blocks == NULL || BLOCK_SIZE - blocks->used < size)
	{
		Block	   *block = must_allocate(NULL, sizeof(Block));

		block->next = blocks;
		block->used = 0;
		blocks = block;
	}
	task = (Task *) (blocks->space + blocks->used);
	blocks->used += size;
	return task;
}

static Task *
add_task(const char *id, size_t length, uint32_t hash, int64_t now)
{
	Task	   *task = allocate_task(length);
	Task	  **bucket;

	if (bucket_count == 0)
	{
		add_segment(0);
		bucket_count = bucket_floor = SEGMENT_BUCKETS;
	}
	if (++task_count > bucket_count)
		grow_by_a_bucket();
	bucket = bucket_of(hash);
	task->next = *bucket;
	task->first = now;
	task->hash = hash;
	task->questions = 0;
	memcpy(task->id, id, length);
	task->id[length] = '\0';
	*bucket = task;
	return task;
}

/* Ids longer than any the gateway makes are told apart by their beginning. */
static size_t
id_length(const char *id)
{
	size_t		length = strlen(id);

	return length > MAX_ID ? MAX_ID : length;
}

/*
 * Notes a question about a task.  Returns its number, from 1, and when the
 * first one came.
 */
int64_t
ledger_question(const char *id, int64_t now, int64_t *first)
{
	size_t		length = id_length(id);
	uint32_t	hash = hash_text(id, length);
	Task	   *task = find_task(id, length, hash);

	if (task == NULL)
		task = add_task(id, length, hash, now);
	task->last = now;
	*first = task->first;
	return ++task->questions;
}

static void
free_tasks(void)
{
	while (blocks != NULL)
	{
		Block	   *next = blocks->next;

		free(blocks);
		blocks = next;
	}
	for (size_t i = 0; i < MAX_SEGMENTS && segments[i] != NULL; i++)
	{
		free(segments[i]);
		segments[i] = NULL;
	}
	bucket_count = bucket_floor = 0;
	task_count = 0;
}

/* ---------- log ---------- */

/* The latest requests, in a ring */
#define LOG_ENTRIES 10000
#define LOG_SUBJECT 257

typedef struct LogEntry
{
	uint64_t	number;			/* of the request, from 1 */
	int64_t		ms;
	uint64_t	connection;
	unsigned int status;		/* 0: not answered yet, or never */
	Via			via;
	bool		is_task;
	char		subject[LOG_SUBJECT];	/* task id, else path */
} LogEntry;

static LogEntry log_ring[LOG_ENTRIES];
static uint64_t log_written;	/* since the start */
static uint64_t log_forgotten;	/* of these, before the last reset */

/* Notes a request; returns a handle for ledger_log_status. */
uint64_t
ledger_log(int64_t now, const char *subject, bool is_task, uint64_t connection,
		   Via via)
{
	LogEntry   *entry = &log_ring[log_written % LOG_ENTRIES];
	size_t		length = strlen(subject);

	if (length >= LOG_SUBJECT)
		length = LOG_SUBJECT - 1;
	entry->number = ++log_written;
	entry->ms = now;
	entry->connection = connection;
	entry->status = 0;
	entry->via = via;
	entry->is_task = is_task;
	memcpy(entry->subject, subject, length);
	entry->subject[length] = '\0';
	return entry->number;
}

/* The request was answered; nothing happens if its entry is gone. */
void
ledger_log_status(uint64_t entry, unsigned int status)
{
	LogEntry   *found = &log_ring[(entry - 1) % LOG_ENTRIES];

	if (entry > 0 && found->number == entry)
		found->status = status;
}

/* The last "count" requests since the reset, the oldest first */
void
ledger_write_log(Json *json, int64_t count)
{
	static const char *const via_names[] = {"", "Via", "absolute", "CONNECT"};
	uint64_t	kept = log_written - log_forgotten;
	uint64_t	wanted = count < 0 ? 0 : (uint64_t) count;

	if (kept > LOG_ENTRIES)
		kept = LOG_ENTRIES;
	if (wanted > kept)
		wanted = kept;
	json_open(json, NULL, '[');
	for (uint64_t i = log_written - wanted; i < log_written; i++)
	{
		const LogEntry *entry = &log_ring[i % LOG_ENTRIES];

		json_open(json, NULL, '{');
		json_number(json, "ms", entry->ms);
		json_text(json, entry->is_task ? "id" : "path", entry->subject);
		json_number(json, "status", entry->status);
		json_number(json, "connection", (int64_t) entry->connection);
		if (entry->via == VIA_DIRECT)
			json_null(json, "via");
		else
			json_text(json, "via", via_names[entry->via]);
		json_close(json);
	}
	json_close(json);
}

/* ---------- keys ---------- */

static char **keys;
static size_t key_count;

void
ledger_accept_key(const char *key)
{
	size_t		size = strlen(key) + 1;

	keys = must_allocate(keys, (key_count + 1) * sizeof(char *));
	keys[key_count] = must_allocate(NULL, size);
	memcpy(keys[key_count++], key, size);
}

/* From now on everything is accepted. */
void
ledger_forget_keys(void)
{
	for (size_t i = 0; i < key_count; i++)
		free(keys[i]);
	free(keys);
	keys = NULL;
	key_count = 0;
}

/* May a request with this Authorization header (or none, NULL) come in? */
bool
ledger_authorizes(const char *authorization)
{
	static const char bearer[] = "Bearer ";

	if (key_count == 0)
		return true;
	if (authorization == NULL ||
		strncmp(authorization, bearer, sizeof(bearer) - 1) != 0)
		return false;
	for (size_t i = 0; i < key_count; i++)
	{
		if (strcmp(authorization + sizeof(bearer) - 1, keys[i]) == 0)
			return true;
	}
	return false;
}

/* ---------- figures ---------- */

static void
write_task_counts(Json *json)
{
	json_open(json, "tasks", '{');
	for (uint32_t i = 0; i < bucket_count; i++)
	{
		for (Task *task = *bucket_at(i); task != NULL; task = task->next)
		{
			json_text(json, NULL, task->id);
			json_literal(json, ":");
			json_digits(json, task->questions);
		}
	}
	json_close(json);
}

void
ledger_write_stats(Json *json, bool with_tasks)
{
	json_open(json, NULL, '{');
	json_number(json, "requests", counters.requests);
	json_number(json, "in_flight", counters.in_flight);
	json_number(json, "max_in_flight", counters.max_in_flight);
	json_number(json, "connections", counters.connections);
	json_number(json, "open_connections", counters.open_connections);
	json_number(json, "unauthorized", counters.unauthorized);
	json_number(json, "with_key", counters.with_key);
	json_number(json, "elsewhere", counters.elsewhere);
	json_number(json, "elsewhere_with_key", counters.elsewhere_with_key);
	json_number(json, "files", counters.files);
	json_number(json, "other_paths", counters.other_paths);
	json_number(json, "proxied", counters.proxied);
	json_number(json, "proxied_with_key", counters.proxied_with_key);
	json_number(json, "known_tasks", (int64_t) task_count);
	if (with_tasks)
		write_task_counts(json);
	json_close(json);
}

/* One task; of one that nobody asked about (NULL) there is no time to tell. */
static void
write_task(Json *json, const char *id, const Task *task)
{
	Words		words;

	json_open(json, NULL, '{');
	json_text(json, "id", id);
	json_number(json, "requests", task == NULL ? 0 : task->questions);
	if (task != NULL)
	{
		words_read(id, &words);
		json_number(json, "first_ms", task->first);
		json_number(json, "last_ms", task->last);
		json_number(json, "end_ms", task_course(&words, task->first).ends);
	}
	json_close(json);
}

void
ledger_write_task(Json *json, const char *id)
{
	size_t		length = id_length(id);

	write_task(json, id, find_task(id, length, hash_text(id, length)));
}

/* All of them, in no particular order */
void
ledger_write_tasks(Json *json)
{
	json_open(json, NULL, '[');
	for (uint32_t i = 0; i < bucket_count; i++)
	{
		for (Task *task = *bucket_at(i); task != NULL; task = task->next)
			write_task(json, task->id, task);
	}
	json_close(json);
}

/* Forgets tasks, log and counters; what is open now stays counted. */
void
ledger_reset(void)
{
	Counters	fresh = {.in_flight = counters.in_flight,
						 .open_connections = counters.open_connections,
						 .max_in_flight = counters.in_flight};

	counters = fresh;
	ledger_era++;
	log_forgotten = log_written;
	free_tasks();
}

void
ledger_free(void)
{
	free_tasks();
	ledger_forget_keys();
}
