/*-------------------------------------------------------------------------
 *
 * queue.c
 *		The tasks that a worker has in memory, and which is polled next.
 *
 * The table is the truth; all of this can be lost at any time.  Each server has
 * queues of its own, so that one which is slow, paused or limited delays no
 * other, and on a server each role has, which are served in turn.  Nothing here
 * sends, reads, writes or waits.
 *
 * A role may have as many tasks in memory as there is room left.  So one with
 * very many of them takes half of it, the next half of the rest, and there is
 * always room for another.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "clock.h"
#include "server/validate.h"
#include "worker/queue.h"

#define SECOND INT64CONST(1000000)

/*
 * Tasks that a probe is chosen from, by chance: those that were inserted
 * together are often of a kind, and may all be bad.
 */
#define QUEUE_SAMPLE 1000

/*
 * Where there is no room for all that is due, every so many-th request is of a
 * retried task; and of the requests in flight this part may be.
 */
#define QUEUE_RETRYING_TURNS 8
#define QUEUE_RETRYING_SHARE 2

/* Longest id of a task that is kept in the slab; others are rare. */
#define QUEUE_SHORT_ID 63

/*
 * The rate limit looks ahead by this much, since a process is woken no oftener
 * than every millisecond: at 5,000 a second it may send 100 at once.
 */
#define QUEUE_LOOKAHEAD (SECOND / 50)

/*
 * Where several roles have tasks, one may have so many times as many requests
 * in flight as others could still begin: three quarters at most.
 */
#define QUEUE_FREE_TIMES 3

/* Roles without tasks that may be remembered. */
#define QUEUE_IDLE_ROLES 1000

/*
 * Whether settings have changed that something is blocked by is checked when a
 * command may have changed them, soon after something has been blocked, since
 * that may be by older ones, and so often if files are among them.
 */
#define QUEUE_CHECK_EVERY (1 * SECOND)

/* Requests are sent at this share of rate_limit, to stay below it. */
#define QUEUE_RATE_SHARE 0.97

/* The tasks by id, which the task itself has: an entry is no larger for it. */
typedef struct QueueEntry
{
	QueueTask  *task;
	uint32		hash;
	char		status;
} QueueEntry;

#define SH_PREFIX queuetable
#define SH_ELEMENT_TYPE QueueEntry
#define SH_KEY_TYPE QueueTask *
#define SH_KEY task
#define SH_HASH_KEY(tb, key) \
	hash_bytes((const unsigned char *) (key)->task_id, \
			   (int) strlen((key)->task_id))
#define SH_EQUAL(tb, a, b) (strcmp((a)->task_id, (b)->task_id) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static struct
{
	MemoryContext context;
	MemoryContext slab;			/* tasks with short ids */
	queuetable_hash *tasks;
	QueueTask  *sought;			/* no task: what one is looked for by */
	HTAB	   *servers;
	HTAB	   *roles;
	uint32		round;			/* number of this queue_take() */
	int64		check_at;		/* when to check settings */
	int64		checked_at;		/* when they were last */
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
	HASHCTL		roles = {
		.keysize = 2 * sizeof(NameData),
		.entrysize = sizeof(QueueRole),
	};

	queue.context = AllocSetContextCreate(TopMemoryContext, "anyvod queue",
										  ALLOCSET_DEFAULT_SIZES);
	/* palloc would round each up to the next power of two */
	queue.slab = SlabContextCreate(queue.context, "anyvod tasks",
								   SLAB_DEFAULT_BLOCK_SIZE,
								   offsetof(QueueTask, task_id) +
									   QUEUE_SHORT_ID + 1);
	queue.check_at = QUEUE_NEVER;
	servers.hcxt = roles.hcxt = queue.context;
	queue.tasks = queuetable_create(queue.context, 64, NULL);
	queue.sought = MemoryContextAllocZero(queue.context,
										  offsetof(QueueTask, task_id) +
											  MAX_TASK_ID_LENGTH + 1);
	queue.servers = hash_create("anyvod servers", 8, &servers,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	queue.roles = hash_create("anyvod roles", 8, &roles,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Tasks in memory. */
uint64
queue_size(void)
{
	return queue.tasks->members;
}

/* The task of that id, NULL if it is not in memory. */
QueueTask *
queue_find(const char *task_id)
{
	QueueEntry *entry;

	if (strlcpy(queue.sought->task_id, task_id, MAX_TASK_ID_LENGTH + 1) >
		MAX_TASK_ID_LENGTH)
		return NULL;
	entry = queuetable_lookup(queue.tasks, queue.sought);
	return entry ? entry->task : NULL;
}

/* The server of that name; its options are known when it is used. */
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
		memset((char *) server + sizeof(NameData), 0,
			   sizeof(QueueServer) - sizeof(NameData));
		dlist_init(&server->roles);
		server->max_concurrency = SERVER_MAX_CONCURRENCY;
		server->rate_limit = SERVER_RATE_LIMIT;
	}
	return server;
}

/* Forget roles that have no tasks any more, once there are many roles. */
static void
queue_trim_roles(void)
{
	static long next_trim = QUEUE_IDLE_ROLES;
	HASH_SEQ_STATUS scan;
	QueueRole  *role;

	if (hash_get_num_entries(queue.roles) < next_trim)
		return;
	hash_seq_init(&scan, queue.roles);
	while ((role = hash_seq_search(&scan)) != NULL)
	{
		if (role->tasks > 0)
			continue;
		pairingheap_free(role->healthy);
		pairingheap_free(role->retrying);
		(void) hash_search(queue.roles, role, HASH_REMOVE, NULL);
	}
	next_trim = hash_get_num_entries(queue.roles) + QUEUE_IDLE_ROLES;
}

/* The role and server of a row; NULL if no task of theirs was in memory. */
QueueRole *
queue_find_role(const TableRow *row)
{
	QueueRole	key;

	memset(&key, 0, sizeof(key));
	strlcpy(NameStr(key.server_name), row->server, NAMEDATALEN);
	strlcpy(NameStr(key.owner), row->owner, NAMEDATALEN);
	return hash_search(queue.roles, &key, HASH_FIND, NULL);
}

/* A role on a server. */
static QueueRole *
queue_role(const char *server, const char *owner)
{
	QueueRole	key;
	QueueRole  *role;
	bool		found;

	memset(&key, 0, sizeof(key));
	strlcpy(NameStr(key.server_name), server, NAMEDATALEN);
	strlcpy(NameStr(key.owner), owner, NAMEDATALEN);
	queue_trim_roles();
	role = hash_search(queue.roles, &key, HASH_ENTER, &found);
	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(queue.context);

		*role = key;
		role->server = queue_server(server);
		role->healthy = pairingheap_allocate(queue_compare, NULL);
		role->retrying = pairingheap_allocate(queue_compare, NULL);
		MemoryContextSwitchTo(old);
	}
	return role;
}

/* A task belongs to a role from now on. */
static void
queue_join(QueueTask *task, QueueRole *role)
{
	task->role = role;
	if (role->tasks++ == 0)
		role->server->peers++;
}

/* It does no longer. */
static void
queue_part(QueueTask *task)
{
	QueueRole  *role = task->role;

	if (--role->tasks == 0)
		role->server->peers--;
}

/* Does any task of a role wait? */
static bool
queue_has_waiting(const QueueRole *role)
{
	return !pairingheap_is_empty(role->healthy) ||
		!pairingheap_is_empty(role->retrying);
}

/* Has the last poll of a task failed? */
bool
queue_is_retrying(const QueueTask *task)
{
	return task->failures > 0;
}

/* Where a task waits. */
static pairingheap *
queue_heap(const QueueTask *task)
{
	return queue_is_retrying(task) ? task->role->retrying :
									 task->role->healthy;
}

/* Take a task out of its heap. */
static void
queue_unqueue(QueueTask *task)
{
	if (task->state != TASK_WAITING)
		return;
	task->state = TASK_SELECTED;
	pairingheap_remove(queue_heap(task), &task->node);
	if (!queue_has_waiting(task->role))
		dlist_delete(&task->role->node);
}

/* A task that was taken is back, or forgotten. */
static void
queue_end_probe(QueueTask *task)
{
	if (task->role->probe == task)
		task->role->probe = NULL;
}

/* Poll a task at "due". */
void
queue_put(QueueTask *task, int64 due)
{
	QueueRole  *role = task->role;

	queue_end_probe(task);
	queue_unqueue(task);
	if (!queue_has_waiting(role))
		dlist_push_tail(&role->server->roles, &role->node);
	task->due = due;
	task->state = TASK_WAITING;
	pairingheap_add(queue_heap(task), &task->node);
}

/*
 * Take in the task of a row, which is not in memory, due now; NULL if its role
 * has as many as it may.
 */
QueueTask *
queue_add(const TableRow *row, int64 now)
{
	size_t		len = strlen(row->task_id);
	size_t		size = offsetof(QueueTask, task_id) + len + 1;
	QueueRole  *role = queue_role(row->server, row->owner);
	QueueTask  *task;
	bool		found;

	if (role->tasks + queue_size() >= QUEUE_MAX_TASKS)
		return NULL;
	if (len <= QUEUE_SHORT_ID)
		size = offsetof(QueueTask, task_id) + QUEUE_SHORT_ID + 1;
	task = MemoryContextAllocZero(len <= QUEUE_SHORT_ID ? queue.slab :
														  queue.context,
								  size);
	memcpy(task->task_id, row->task_id, len + 1);
	task->created_at = row->created_at;
	task->state = TASK_SELECTED;
	queue_join(task, role);
	(void) queuetable_insert(queue.tasks, task, &found);
	Assert(!found);
	queue_put(task, now);
	return task;
}

/* Forget a task. */
void
queue_remove(QueueTask *task)
{
	queue_end_probe(task);
	queue_unqueue(task);
	queue_part(task);
	queuetable_delete(queue.tasks, task);
	pfree(task);
}

/* Is a task in memory for the server and role of that row? */
bool
queue_is_of(const QueueTask *task, const TableRow *row)
{
	return strcmp(NameStr(task->role->server_name), row->server) == 0 &&
		strcmp(NameStr(task->role->owner), row->owner) == 0;
}

/* A task's row names another server or role now: poll it there, at once. */
void
queue_move(QueueTask *task, const TableRow *row, int64 now)
{
	queue_end_probe(task);
	queue_unqueue(task);
	queue_part(task);
	queue_join(task, queue_role(row->server, row->owner));
	task->failures = task->doubts = 0;
	task->blocked = task->refused = false;
	queue_put(task, now);
}

/* One more in one of a task's counters, up to what there is room for. */
int
queue_count(uint16 *counter)
{
	if (*counter < PG_UINT16_MAX)
		(*counter)++;
	return *counter;
}


/*
 * Which task is next
 */

/* How long after a request to a server the next may follow. */
static int64
queue_spacing(const QueueServer *server)
{
	return (int64) (SECOND / (server->rate_limit * QUEUE_RATE_SHARE));
}

/* How many requests rate_limit lets a server be sent now. */
static int64
queue_allowance(const QueueServer *server, int64 now)
{
	if (server->next_request <= now)
		return 1 + QUEUE_LOOKAHEAD / queue_spacing(server);
	if (server->next_request <= now + QUEUE_LOOKAHEAD)
		return (now + QUEUE_LOOKAHEAD - server->next_request) /
			queue_spacing(server);
	return 0;
}

/* When it lets a server be sent one that it may not be sent now. */
static int64
queue_next_allowance(const QueueServer *server)
{
	return server->next_request +
		Min(queue_spacing(server) - QUEUE_LOOKAHEAD, 0);
}

/* May a server be sent one more request now, as far as its limits say? */
bool
queue_has_slot(const QueueServer *server, int64 now)
{
	return server->in_flight < server->max_concurrency &&
		queue_allowance(server, now) > 0;
}

/*
 * May a server be polled for one more retried task, or one more other task,
 * besides those in flight and those that have just been taken?
 */
static bool
queue_has_room(const QueueServer *server, bool retrying, const int taken[2],
			   int max, int64 now)
{
	const ServerHealth *health = &server->health;
	int			retried = server->retrying_in_flight + taken[true];
	int			others = server->in_flight - server->retrying_in_flight +
		taken[false];

	if (retried + others >= max || now < health->all.paused_until)
		return false;
	if (!retrying)
		return others == 0 || !health_is_probed(&health->all);
	if (now < health->retrying.paused_until ||
		retried >= Max(max / QUEUE_RETRYING_SHARE, 1))
		return false;
	if (health_is_probed(&health->all) && retried + others > 0)
		return false;
	return retried == 0 || !health_is_probed(&health->retrying);
}

/*
 * May one more task of a role be polled, besides those that have just been
 * taken, if its server may be sent so many requests?
 */
static bool
queue_has_share(const QueueRole *role, int taken, int free)
{
	return role->server->peers < 2 ||
		role->in_flight + taken < QUEUE_FREE_TIMES * free;
}

/* Tasks of a role that have been taken in this round. */
static int
queue_count_taken(const QueueRole *role)
{
	return role->round == queue.round ? role->taken : 0;
}

/* The task of a role that comes first, NULL if none waits. */
static QueueTask *
queue_first(const QueueRole *role, bool retrying)
{
	pairingheap *heap = retrying ? role->retrying : role->healthy;

	if (pairingheap_is_empty(heap))
		return NULL;
	return pairingheap_container(QueueTask, node, pairingheap_first(heap));
}

/*
 * When a task of a role may be taken, if its server can be polled, and which;
 * QUEUE_NEVER if none may, for now.  While its key counts as refused that is
 * one task at a time, and a retried one only if no other is due first.
 */
static int64
queue_ready(const QueueRole *role, bool retrying, QueueTask **task)
{
	int64		retry_at = role->key.retry_at;
	const QueueTask *other;

	*task = queue_first(role, retrying);
	if (*task == NULL)
		return QUEUE_NEVER;
	if (!role->key.refused)
		return (*task)->due;
	if (role->probe != NULL)
		return QUEUE_NEVER;
	other = queue_first(role, false);
	if (retrying && other != NULL &&
		Max(other->due, retry_at) <= Max((*task)->due, retry_at))
		return QUEUE_NEVER;
	return Max((*task)->due, retry_at);
}

/* Any task of the same role that is not retried and due, too. */
static QueueTask *
queue_any_like(QueueTask *task, int64 now)
{
	queuetable_iterator sample;
	QueueEntry *entry;

	queuetable_start_iterate_at(queue.tasks, &sample,
								murmurhash32((uint32) now));
	for (int i = 0; i < QUEUE_SAMPLE; i++)
	{
		entry = queuetable_iterate(queue.tasks, &sample);
		if (entry == NULL)
			break;
		if (entry->task->state == TASK_WAITING &&
			entry->task->role == task->role &&
			!queue_is_retrying(entry->task) && entry->task->due <= now)
			return entry->task;
	}
	return task;
}

/* The next due task of a server that may be sent so many: of roles in turn. */
static QueueTask *
queue_pick(QueueServer *server, bool retrying, int free, int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &server->roles)
	{
		QueueRole  *role = dlist_container(QueueRole, node, iter.cur);
		QueueTask  *task;

		if (queue_ready(role, retrying, &task) > now ||
			!queue_has_share(role, queue_count_taken(role), free))
			continue;
		dlist_move_tail(&server->roles, &role->node);
		if (!retrying &&
			(role->key.refused || health_is_probed(&server->health.all)))
			task = queue_any_like(task, now);
		return task;
	}
	return NULL;
}

/* Take a task that was picked. */
static void
queue_select(QueueTask *task)
{
	QueueRole  *role = task->role;

	queue_unqueue(task);
	role->taken = queue_count_taken(role) + 1;
	role->round = queue.round;
	if (role->key.refused)
		role->probe = task;
	role->server->taken++;
}

/* Take up to "max" tasks of a server, which may be sent so many requests. */
static int
queue_take_from(QueueServer *server, QueueTask **tasks, int max,
				int			max_in_flight, int64 now)
{
	int			taken[2] = {0, 0};
	int			n = 0;

	while (n < max)
	{
		bool		retrying = !health_is_probed(&server->health.all) &&
			server->taken % QUEUE_RETRYING_TURNS == QUEUE_RETRYING_TURNS - 1;
		int			free = max_in_flight - server->in_flight - n;
		QueueTask  *task = NULL;

		for (int i = 0; i < 2 && task == NULL; i++, retrying = !retrying)
		{
			if (queue_has_room(server, retrying, taken, max_in_flight, now))
				task = queue_pick(server, retrying, free, now);
		}
		if (task == NULL)
			break;
		taken[queue_is_retrying(task)]++;
		queue_select(task);
		tasks[n++] = task;
	}
	return n;
}

/*
 * Take up to "max" tasks that are due and whose servers may be sent a request;
 * and so many more of each server, for whose rows there may be no task any
 * more.
 */
int
queue_take(QueueTask **tasks, int max, int surplus, int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	int			n = 0;

	queue.round++;
	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
	{
		int64		allowed = queue_allowance(server, now);

		if (allowed > 0)
			n += queue_take_from(server, tasks + n,
								 (int) Min(allowed + surplus, max - n),
								 server->max_concurrency + surplus, now);
	}
	return n;
}

/* When a server's next retried task, or other task, may be taken. */
static int64
queue_next_of(QueueServer *server, bool retrying, int64 now)
{
	static const int none[2] = {0, 0};
	int			free = server->max_concurrency - server->in_flight;
	int64		next = QUEUE_NEVER;
	dlist_iter	iter;

	dlist_foreach(iter, &server->roles)
	{
		QueueRole  *role = dlist_container(QueueRole, node, iter.cur);
		QueueTask  *task;

		if (queue_has_share(role, 0, free))
			next = Min(next, queue_ready(role, retrying, &task));
	}
	if (next == QUEUE_NEVER)
		return next;			/* a response that comes will make room */
	next = Max(next, server->health.all.paused_until);
	if (retrying)
		next = Max(next, server->health.retrying.paused_until);
	if (!queue_has_room(server, retrying, none, server->max_concurrency,
						Max(next, now)))
		return QUEUE_NEVER;		/* likewise */
	if (queue_allowance(server, Max(next, now)) == 0)
		next = Max(next, queue_next_allowance(server));
	return next;
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
		next = Min(next, queue_next_of(server, false, now));
		next = Min(next, queue_next_of(server, true, now));
	}
	return next;
}

/* The earliest due time of tasks that wait, QUEUE_NEVER if none does. */
int64
queue_oldest_due(void)
{
	HASH_SEQ_STATUS scan;
	QueueRole  *role;
	int64		oldest = QUEUE_NEVER;

	hash_seq_init(&scan, queue.roles);
	while ((role = hash_seq_search(&scan)) != NULL)
	{
		for (int retrying = 0; retrying < 2; retrying++)
		{
			const QueueTask *task = queue_first(role, retrying);

			if (task != NULL)
				oldest = Min(oldest, task->due);
		}
	}
	return oldest;
}


/*
 * Requests
 */

void
queue_set_limits(QueueServer *server, const ServerSettings *settings)
{
	server->max_concurrency = settings->max_concurrency;
	server->rate_limit = settings->rate_limit;
}

/* A request of a task begins. */
void
queue_start(QueueTask *task, int64 now)
{
	QueueServer *server = task->role->server;

	task->state = TASK_IN_FLIGHT;
	task->polls++;
	server->in_flight++;
	task->role->in_flight++;
	server->retrying_in_flight += queue_is_retrying(task);
	server->next_request = Max(server->next_request, now) +
		queue_spacing(server);
}

/*
 * It has ended, and was sent again so many times.  What it means is noted after
 * this.
 */
void
queue_end(QueueTask *task, int retries)
{
	QueueServer *server = task->role->server;

	task->polls += retries;
	server->next_request += retries * queue_spacing(server);
	server->in_flight--;
	task->role->in_flight--;
	server->retrying_in_flight -= queue_is_retrying(task);
}

/* The server has told something about a task, in a request that began then. */
void
queue_response(QueueTask *task, int64 started)
{
	health_success(&task->role->server->health, started);
	health_key_accepted(&task->role->key, started);
	task->failures = 0;
	task->blocked = task->refused = false;
}


/*
 * What is blocked by settings
 */

/* The settings of a role on a server have changed: its tasks are due. */
void
queue_unblock(QueueRole *role, int64 now)
{
	queuetable_iterator tasks;
	QueueEntry *entry;

	queuetable_start_iterate(queue.tasks, &tasks);
	while ((entry = queuetable_iterate(queue.tasks, &tasks)) != NULL)
	{
		QueueTask  *task = entry->task;

		if (task->role != role || !task->blocked)
			continue;
		task->blocked = false;
		if (task->state != TASK_WAITING)
			continue;
		queue_unqueue(task);	/* from the heap that its failures name */
		task->failures = 0;
		queue_put(task, Min(task->due, now));
	}
}

/* Is anything blocked that a command could unblock? */
bool
queue_has_blocked(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	QueueRole  *role;
	bool		blocked = false;

	hash_seq_init(&scan, queue.roles);
	while ((role = hash_seq_search(&scan)) != NULL)
		blocked |= role->key.blocked && role->tasks > 0;
	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
		blocked |= health_is_failing(&server->health, now);
	return blocked;
}

/* Something has been blocked: check soon whether its settings are old. */
void
queue_check_soon(void)
{
	queue.check_at = Min(queue.check_at, queue.checked_at + QUEUE_CHECK_EVERY);
}

/* When to call queue_check_settings(), QUEUE_NEVER: when a command says so. */
int64
queue_next_check(void)
{
	return queue.check_at;
}

/*
 * Have the settings changed of a role (NULL: of the one for whom they were
 * looked up) on a server since they blocked something?  Either may have been
 * made since.
 */
static bool
queue_settings_changed(const HealthSettings *settings, const char *server,
					   const char *owner)
{
	Oid			serverid = get_foreign_server_oid(server, true);
	Oid			userid = owner ? get_role_oid(owner, true) : settings->userid;

	if (serverid != settings->serverid || userid != settings->userid)
		return OidIsValid(serverid) && OidIsValid(userid);
	return server_settings_changed(serverid, userid, settings->id);
}

/* A server has other settings: its tasks are due. */
static void
queue_unblock_server(QueueServer *server, int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueRole  *role;

	health_recover(&server->health);
	hash_seq_init(&scan, queue.roles);
	while ((role = hash_seq_search(&scan)) != NULL)
	{
		if (role->server == server && role->tasks > 0)
			queue_unblock(role, now);
	}
}

/*
 * Make tasks due whose role's or server's settings have changed since they were
 * blocked; nothing else ends a pause early.  Runs in a transaction.
 */
void
queue_check_settings(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	QueueRole  *role;
	int64		check_at = QUEUE_NEVER;

	queue.checked_at = now;
	queue.check_at = now + QUEUE_CHECK_EVERY;	/* should this fail */
	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
	{
		if (health_is_failing(&server->health, now) &&
			queue_settings_changed(&server->health.settings,
								   NameStr(server->name), NULL))
			queue_unblock_server(server, now);
	}
	hash_seq_init(&scan, queue.roles);
	while ((role = hash_seq_search(&scan)) != NULL)
	{
		if (role->tasks == 0 || !role->key.blocked)
			continue;
		if (queue_settings_changed(&role->key.settings,
								   NameStr(role->server_name),
								   NameStr(role->owner)))
		{
			health_key_recover(&role->key);
			queue_unblock(role, now);
		}
		else if (role->key.has_files)
			check_at = now + QUEUE_CHECK_EVERY;
	}
	queue.check_at = check_at;
}

/* The error that has kept a role's tasks from being polled for longest. */
const HealthError *
queue_lasting_error(const QueueRole *role)
{
	const HealthError *key = &role->key.error;
	const HealthError *server = &role->server->health.error;

	return health_error_lasts_at(key) <= health_error_lasts_at(server) ? key :
																		 server;
}

/* When such an error has lasted for long, QUEUE_NEVER if there is none. */
int64
queue_error_lasts_at(void)
{
	HASH_SEQ_STATUS scan;
	QueueRole  *role;
	int64		at = QUEUE_NEVER;

	hash_seq_init(&scan, queue.roles);
	while ((role = hash_seq_search(&scan)) != NULL)
	{
		if (role->tasks > 0)
			at = Min(at, health_error_lasts_at(queue_lasting_error(role)));
	}
	return at;
}
