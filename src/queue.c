/*-------------------------------------------------------------------------
 *
 * queue.c
 *		What a worker keeps in memory: which task is due when, and how each
 *		server is doing.
 *
 * The table is the truth; all of this can be lost at any time.  Each server
 * has a queue of its own, so that one which is slow, paused or limited holds
 * back no other.  Nothing here asks, reads, writes or waits.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "queue.h"

#define SECOND INT64CONST(1000000)

/* So many failures in a row, of a server as a whole, pause it. */
#define QUEUE_FAILURES 3

/*
 * Pacing looks ahead by this much (microseconds), since a process is woken no
 * oftener than every millisecond: at 5,000 a second it may send 100 at once.
 */
#define QUEUE_LOOKAHEAD (SECOND / 50)

/* Requests are paced at this share of the limit, to stay below it. */
#define QUEUE_SHARE 0.97

/* The tasks by id. */
typedef struct QueueEntry
{
	const char *task_id;		/* the task's own copy */
	QueueTask  *task;
	uint32		hash;
	char		status;
} QueueEntry;

#define SH_PREFIX queuetable
#define SH_ELEMENT_TYPE QueueEntry
#define SH_KEY_TYPE const char *
#define SH_KEY task_id
#define SH_HASH_KEY(tb, key) hash_bytes((const unsigned char *) (key), \
										(int) strlen(key))
#define SH_EQUAL(tb, a, b) (strcmp((a), (b)) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static struct
{
	MemoryContext context;
	queuetable_hash *tasks;
	HTAB	   *servers;
	HTAB	   *accounts;
} queue;


/*
 * Tasks
 */

/* The earlier is the greater, as the heap gives the greatest first. */
static int
queue_compare(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		due_a = pairingheap_const_container(QueueTask, node, a)->due;
	int64		due_b = pairingheap_const_container(QueueTask, node, b)->due;

	return (due_a < due_b) - (due_a > due_b);
}

void
queue_init(void)
{
	HASHCTL		servers = {
		.keysize = sizeof(NameData),
		.entrysize = sizeof(QueueServer),
	};
	HASHCTL		accounts = {
		.keysize = 2 * sizeof(NameData),
		.entrysize = sizeof(QueueAccount),
	};

	queue.context = AllocSetContextCreate(TopMemoryContext, "anyvod queue",
										  ALLOCSET_DEFAULT_SIZES);
	servers.hcxt = accounts.hcxt = queue.context;
	queue.tasks = queuetable_create(queue.context, 64, NULL);
	queue.servers = hash_create("anyvod servers", 8, &servers,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	queue.accounts = hash_create("anyvod accounts", 8, &accounts,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Tasks that are known. */
uint64
queue_size(void)
{
	return queue.tasks->members;
}

QueueTask *
queue_find(const char *task_id)
{
	QueueEntry *entry = queuetable_lookup(queue.tasks, task_id);

	return entry ? entry->task : NULL;
}

/* The server of that name; what its options say is learned when it is used. */
static QueueServer *
queue_server(const char *name)
{
	NameData	key;
	QueueServer *server;
	bool		found;

	memset(&key, 0, sizeof(key));
	strlcpy(NameStr(key), name, NAMEDATALEN);
	server = hash_search(queue.servers, &key, HASH_ENTER, &found);
	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(queue.context);

		memset((char *) server + sizeof(NameData), 0,
			   sizeof(QueueServer) - sizeof(NameData));
		server->due = pairingheap_allocate(queue_compare, NULL);
		server->max_concurrency = UPSTREAM_MAX_CONCURRENCY;
		server->rate_limit = UPSTREAM_RATE_LIMIT;
		MemoryContextSwitchTo(old);
	}
	return server;
}

/* A task that is not known yet, due now. */
QueueTask *
queue_add(const char *task_id, const char *server, TimestampTz created_at,
		  int64 now)
{
	size_t		len = strlen(task_id) + 1;
	QueueTask  *task;
	QueueEntry *entry;
	bool		found;

	task = MemoryContextAllocZero(queue.context,
								  offsetof(QueueTask, task_id) + len);
	memcpy(task->task_id, task_id, len);
	task->created_at = created_at;
	task->server = queue_server(server);
	entry = queuetable_insert(queue.tasks, task->task_id, &found);
	Assert(!found);
	entry->task = task;
	queue_put(task, now);
	return task;
}

/* Take a task out of its server's queue. */
static void
queue_unqueue(QueueTask *task)
{
	if (task->queued)
		pairingheap_remove(task->server->due, &task->node);
	task->queued = false;
}

/* Forget a task. */
void
queue_remove(QueueTask *task)
{
	queue_unqueue(task);
	queuetable_delete(queue.tasks, task->task_id);
	pfree(task);
}

/* Ask for a task at "due". */
void
queue_put(QueueTask *task, int64 due)
{
	queue_unqueue(task);
	task->due = due;
	task->queued = true;
	pairingheap_add(task->server->due, &task->node);
}

/* A task's row names another server now: ask there, at once. */
void
queue_move(QueueTask *task, const char *server, int64 now)
{
	queue_unqueue(task);
	task->server = queue_server(server);
	queue_put(task, now);
}

/*
 * A row is listed as never answered although its task is known and waits: it
 * may have been changed to be asked elsewhere, or as another role, or again.
 * One whose server or key is in trouble just has no answer yet; it keeps its
 * due time.
 */
void
queue_note_change(QueueTask *task, int64 now)
{
	if (task->queued && !task->held && task->troubles == 0 &&
		task->row_failures == 0 && task->skips == 0 && task->due > now)
		queue_put(task, now);
}

/*
 * Servers, mappings or rights have changed: what was in trouble on account of
 * them is tried at once.
 */
void
queue_forget_trouble(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	QueueAccount *account;
	queuetable_iterator tasks;
	QueueEntry *entry;

	hash_seq_init(&scan, queue.accounts);
	while ((account = hash_seq_search(&scan)) != NULL)
		(void) hash_search(queue.accounts, account, HASH_REMOVE, NULL);
	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
	{
		server->failures = 0;
		server->paused_until = 0;
	}
	queuetable_start_iterate(queue.tasks, &tasks);
	while ((entry = queuetable_iterate(queue.tasks, &tasks)) != NULL)
	{
		if (!entry->task->held || !entry->task->queued)
			continue;
		entry->task->held = false;
		entry->task->failures = 0;
		queue_put(entry->task, now);
	}
}


/*
 * Due times
 */

/* How long after a request to a server the next may follow. */
static int64
queue_spacing(const QueueServer *server)
{
	return (int64) (SECOND / (server->rate_limit * QUEUE_SHARE));
}

/* The task of a server that is due first; there is one. */
static QueueTask *
queue_first(QueueServer *server)
{
	return pairingheap_container(QueueTask, node,
								 pairingheap_first(server->due));
}

/* When pacing lets a server be sent a request that it may not be sent now. */
static int64
queue_next_slot(const QueueServer *server)
{
	return server->next_slot +
		Min(queue_spacing(server) - QUEUE_LOOKAHEAD, 0);
}

/*
 * How many requests a server may be sent now.  After a pause it is probed by
 * a single one.
 */
static int
queue_room(const QueueServer *server, int64 now)
{
	int64		slots;
	int			room = server->max_concurrency - server->in_flight;

	if (now < server->paused_until)
		return 0;
	if (server->failures >= QUEUE_FAILURES)
		room = Min(room, 1 - server->in_flight);
	if (room <= 0)
		return 0;
	if (server->next_slot <= now)
		slots = 1 + QUEUE_LOOKAHEAD / queue_spacing(server);
	else if (server->next_slot <= now + QUEUE_LOOKAHEAD)
		slots = (now + QUEUE_LOOKAHEAD - server->next_slot) /
			queue_spacing(server);
	else
		slots = 0;
	return (int) Min(slots, room);
}

/* Take up to "max" tasks that are due and may be asked for now. */
int
queue_take(QueueTask **tasks, int max, int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	int			n = 0;

	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
	{
		int			room = queue_room(server, now);

		while (room-- > 0 && n < max && !pairingheap_is_empty(server->due))
		{
			QueueTask  *task = queue_first(server);

			if (task->due > now)
				break;
			queue_unqueue(task);
			task->confirmed = false;
			tasks[n++] = task;
		}
	}
	return n;
}

/* When there will be something to take, QUEUE_NEVER if nobody knows. */
int64
queue_next(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	int64		next = QUEUE_NEVER;

	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
	{
		QueueTask  *task;
		int64		when;

		if (pairingheap_is_empty(server->due) ||
			server->in_flight >= server->max_concurrency ||
			(server->failures >= QUEUE_FAILURES && server->in_flight > 0))
			continue;			/* an answer that comes will make room */
		task = queue_first(server);
		when = Max(task->due, server->paused_until);
		if (queue_room(server, Max(when, now)) == 0)
			when = Max(when, queue_next_slot(server));
		next = Min(next, when);
	}
	return next;
}

/* Tell of each task that waits for how long, in microseconds, it still does. */
void
queue_visit_waits(void (*visit)(int64 wait), int64 now)
{
	queuetable_iterator tasks;
	QueueEntry *entry;

	queuetable_start_iterate(queue.tasks, &tasks);
	while ((entry = queuetable_iterate(queue.tasks, &tasks)) != NULL)
	{
		if (entry->task->queued)
			visit(entry->task->due - now);
	}
}


/*
 * Servers
 */

void
queue_note_limits(QueueServer *server, const Upstream *upstream)
{
	server->max_concurrency = upstream->max_concurrency;
	server->rate_limit = upstream->rate_limit;
}

/* A request is on its way. */
void
queue_note_start(QueueServer *server, int64 now)
{
	server->in_flight++;
	server->next_slot = Max(server->next_slot, now) + queue_spacing(server);
}

/*
 * The server has answered as it should.  An answer to what was asked before
 * the latest failure does not outweigh that.
 */
void
queue_note_success(QueueServer *server, int64 started)
{
	if (started < server->failed_at)
		return;
	server->failures = 0;
	server->paused_until = 0;
}

/*
 * The server is in trouble, or wants fewer questions; "retry_after" is in
 * seconds, -1 if it did not say.  Requests that were under way when that was
 * noted are no further failures.
 */
void
queue_note_failure(QueueServer *server, ScheduleRetry why, int retry_after,
				   int64 started, int64 now, double random)
{
	int64		pause = 0;

	if (started >= server->failed_at)
	{
		server->failures = Min(server->failures + 1, 1000);
		server->failed_at = now;
	}
	if (retry_after >= 0)
		pause = retry_after * SECOND;
	else if (why == SCHEDULE_RATE_LIMITED)
		pause = schedule_retry(why, server->failures, random);
	else if (server->failures >= QUEUE_FAILURES)
		pause = schedule_retry(why, server->failures - QUEUE_FAILURES + 1,
							   random);
	if (server->paused_until < now + pause)
	{
		server->paused_until = now + pause;
		server->paused_why = why;
	}
}


/*
 * Accounts
 */

static void
queue_account_key(QueueAccount *key, const char *server, const char *owner)
{
	memset(key, 0, sizeof(QueueAccount));
	strlcpy(NameStr(key->server), server, NAMEDATALEN);
	strlcpy(NameStr(key->owner), owner, NAMEDATALEN);
}

/* The server has refused a role's key: ask nothing with it until then. */
void
queue_pause_account(const char *server, const char *owner,
					uint64		upstream_id, int64 until)
{
	QueueAccount key;
	QueueAccount *account;

	queue_account_key(&key, server, owner);
	account = hash_search(queue.accounts, &key, HASH_ENTER, NULL);
	account->upstream_id = upstream_id;
	account->paused_until = until;
}

/*
 * Until when nothing may be asked with a role's key, 0 if it may.  Another
 * key than the refused one may.
 */
int64
queue_account_paused(const char *server, const char *owner,
					 uint64 upstream_id, int64 now)
{
	QueueAccount key;
	QueueAccount *account;

	if (hash_get_num_entries(queue.accounts) == 0)
		return 0;
	queue_account_key(&key, server, owner);
	account = hash_search(queue.accounts, &key, HASH_FIND, NULL);
	if (account == NULL)
		return 0;
	if (account->upstream_id != upstream_id || account->paused_until <= now)
	{
		(void) hash_search(queue.accounts, &key, HASH_REMOVE, NULL);
		return 0;
	}
	return account->paused_until;
}
