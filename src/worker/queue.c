/*-------------------------------------------------------------------------
 *
 * queue.c
 *		What a worker keeps in memory: which task is due when, and how each
 *		server is doing.
 *
 * The table is the truth; all of this can be lost at any time.  Each server
 * has queues of its own, so that one which is slow, paused or limited holds
 * back no other, and on a server each role has, which are served in turn.
 * Nothing here asks, reads, writes or waits.
 *
 * Whether a failure is the server's or its task's, nobody tells.  A task whose
 * last question failed is a suspect: what happens to it again says nothing
 * about the server while that answers others.  So failures of tasks that have
 * not failed before pause the server as a whole; those of suspects pause the
 * suspects only.  After a pause a single question, about a task that is no
 * suspect if there is one, finds out how the server does.
 *
 * Likewise a refused key may be the key's trouble or the task's.  It pauses
 * its role's tasks on that server, and after that a single question finds out.
 * A task for which the key is refused again while it is accepted for others
 * pauses nothing but itself.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "clock.h"
#include "worker/queue.h"
#include "server/validate.h"

#define SECOND INT64CONST(1000000)

/* So many failures in a row pause a server, or its suspects. */
#define QUEUE_FAILURES 3

/*
 * Tasks that a probe is chosen from, by chance: those that were inserted
 * together are often of a kind, and may all be bad.
 */
#define QUEUE_SAMPLE 1000

/*
 * Where there is no room for all that is due, every so many-th question is
 * about a suspect; and of the requests in flight this part may be.
 */
#define QUEUE_SUSPECT_TURNS 8
#define QUEUE_SUSPECT_SHARE 2

/* Trouble that has lasted for so long will not pass in a moment. */
#define QUEUE_PATIENCE (60 * SECOND)

/* That a key was accepted says something about it for so long. */
#define QUEUE_ACCEPTED (60 * SECOND)

/* Tasks that one look for stuck ones goes through. */
#define QUEUE_SWEEP 10000

/* Sizes of tasks differ by this, and are so many. */
#define QUEUE_CLASS 16
#define QUEUE_CLASSES \
	((sizeof(QueueTask) + MAX_TASK_ID_LENGTH) / QUEUE_CLASS + 1)

/*
 * Pacing looks ahead by this much (microseconds), since a process is woken no
 * oftener than every millisecond: at 5,000 a second it may send 100 at once.
 */
#define QUEUE_LOOKAHEAD (SECOND / 50)

/*
 * Where several roles have tasks, one may have so many times as many requests
 * in flight as others could still begin: three quarters at most.  Answers that
 * are slow to come so leave room for those of others.
 */
#define QUEUE_FREE_TIMES 3

/*
 * Whether a key file or CA file has changed that requests wait for is checked
 * so often.
 */
#define QUEUE_CHECK_EVERY (1 * SECOND)

/* Roles that may be remembered in vain. */
#define QUEUE_IDLE_ACCOUNTS 1000

/* Requests are paced at this share of the limit, to stay below it. */
#define QUEUE_SHARE 0.97

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
	MemoryContext slabs[QUEUE_CLASSES]; /* by size of a task */
	queuetable_hash *tasks;
	QueueTask  *sought;			/* no task: what one is looked for by */
	HTAB	   *servers;
	HTAB	   *accounts;
	int64		check_at;		/* when to check accounts that wait for other
								 * settings */
	uint32		round;			/* number of this queue_take() */
	bool		sweeping;		/* a look for stuck tasks is under way */
	queuetable_iterator sweep;	/* then this far */
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
	queue.check_at = QUEUE_NEVER;
	servers.hcxt = accounts.hcxt = queue.context;
	queue.tasks = queuetable_create(queue.context, 64, NULL);
	queue.sought = MemoryContextAllocZero(queue.context,
										  offsetof(QueueTask, task_id) +
											  MAX_TASK_ID_LENGTH + 1);
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
	QueueEntry *entry;

	if (strlcpy(queue.sought->task_id, task_id, MAX_TASK_ID_LENGTH + 1) >
		MAX_TASK_ID_LENGTH)
		return NULL;
	entry = queuetable_lookup(queue.tasks, queue.sought);
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
		memset((char *) server + sizeof(NameData), 0,
			   sizeof(QueueServer) - sizeof(NameData));
		dlist_init(&server->accounts);
		server->max_concurrency = SERVER_MAX_CONCURRENCY;
		server->rate_limit = SERVER_RATE_LIMIT;
	}
	return server;
}

/* Forget roles that have no tasks any more, once there are many roles. */
static void
queue_trim_accounts(void)
{
	static long next_trim = QUEUE_IDLE_ACCOUNTS;
	HASH_SEQ_STATUS scan;
	QueueAccount *account;

	if (hash_get_num_entries(queue.accounts) < next_trim)
		return;
	hash_seq_init(&scan, queue.accounts);
	while ((account = hash_seq_search(&scan)) != NULL)
	{
		if (account->tasks > 0)
			continue;
		pairingheap_free(account->fresh);
		pairingheap_free(account->suspects);
		(void) hash_search(queue.accounts, account, HASH_REMOVE, NULL);
	}
	next_trim = hash_get_num_entries(queue.accounts) + QUEUE_IDLE_ACCOUNTS;
}

/* A role on a server. */
static QueueAccount *
queue_account(const char *server, const char *owner)
{
	QueueAccount key;
	QueueAccount *account;
	bool		found;

	memset(&key, 0, sizeof(key));
	strlcpy(NameStr(key.server_name), server, NAMEDATALEN);
	strlcpy(NameStr(key.owner), owner, NAMEDATALEN);
	queue_trim_accounts();
	account = hash_search(queue.accounts, &key, HASH_ENTER, &found);
	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(queue.context);

		*account = key;
		account->server = queue_server(server);
		account->fresh = pairingheap_allocate(queue_compare, NULL);
		account->suspects = pairingheap_allocate(queue_compare, NULL);
		MemoryContextSwitchTo(old);
	}
	return account;
}

/* A task belongs to an account from now on. */
static void
queue_join(QueueTask *task, QueueAccount *account)
{
	task->account = account;
	if (account->tasks++ == 0)
		account->server->peers++;
}

/* It does no longer. */
static void
queue_part(QueueTask *task)
{
	QueueAccount *account = task->account;

	if (--account->tasks == 0)
		account->server->peers--;
}

/* Does any task of an account wait? */
static bool
queue_has_waiting(const QueueAccount *account)
{
	return !pairingheap_is_empty(account->fresh) ||
		!pairingheap_is_empty(account->suspects);
}

/* Has the last question about a task failed? */
static bool
queue_is_suspect(const QueueTask *task)
{
	return task->failures > 0;
}

/* Where a task waits. */
static pairingheap *
queue_heap(const QueueTask *task)
{
	return queue_is_suspect(task) ? task->account->suspects :
									task->account->fresh;
}

/*
 * Memory for a task, all zeroes.  There may be a million, whose ids differ in
 * length by a little: each class of sizes has slabs of its own, since palloc
 * would round them up to the next power of two.
 */
static QueueTask *
queue_alloc(size_t size)
{
	size_t		class = (size - 1) / QUEUE_CLASS;
	size_t		chunk = (class + 1) * QUEUE_CLASS;

	Assert(class < lengthof(queue.slabs));
	if (queue.slabs[class] == NULL)
		queue.slabs[class] = SlabContextCreate(queue.context, "anyvod tasks",
											   SLAB_DEFAULT_BLOCK_SIZE, chunk);
	return MemoryContextAllocZero(queue.slabs[class], chunk);
}

/* A task that is not known yet, due now. */
QueueTask *
queue_add(const char *task_id, const char *server, const char *owner,
		  TimestampTz created_at, int64 now)
{
	size_t		len = strlen(task_id) + 1;
	QueueTask  *task;
	bool		found;

	task = queue_alloc(offsetof(QueueTask, task_id) + len);
	memcpy(task->task_id, task_id, len);
	task->created_at = created_at;
	task->known_at = (uint32) (now / SECOND) + 1;
	queue_join(task, queue_account(server, owner));
	(void) queuetable_insert(queue.tasks, task, &found);
	Assert(!found);
	queue_put(task, now);
	return task;
}

/* Take a task out of its queue. */
static void
queue_unqueue(QueueTask *task)
{
	if (!task->queued)
		return;
	task->queued = false;
	pairingheap_remove(queue_heap(task), &task->node);
	if (!queue_has_waiting(task->account))
		dlist_delete(&task->account->node);
}

/* A task that was taken is back, or forgotten. */
static void
queue_end_probe(QueueTask *task)
{
	if (task->account->probe == task)
		task->account->probe = NULL;
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

/* Poll a task at "due". */
void
queue_put(QueueTask *task, int64 due)
{
	QueueAccount *account = task->account;

	queue_end_probe(task);
	queue_unqueue(task);
	if (!queue_has_waiting(account))
		dlist_push_tail(&account->server->accounts, &account->node);
	task->due = due;
	task->queued = true;
	pairingheap_add(queue_heap(task), &task->node);
}

/* Does a task belong to that server and role? */
bool
queue_is_of(const QueueTask *task, const char *server, const char *owner)
{
	return strcmp(NameStr(task->account->server_name), server) == 0 &&
		strcmp(NameStr(task->account->owner), owner) == 0;
}

/* A task's row names another server or role now: ask so, at once. */
void
queue_move(QueueTask *task, const char *server, const char *owner, int64 now)
{
	queue_end_probe(task);
	queue_unqueue(task);
	queue_part(task);
	queue_join(task, queue_account(server, owner));
	task->failures = 0;
	task->held = task->refused = false;
	task->known_at = (uint32) (now / SECOND) + 1;
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

/* One more in one of a task's counters, up to what there is room for. */
int
queue_count(uint16 *counter)
{
	if (*counter < PG_UINT16_MAX)
		(*counter)++;
	return *counter;
}

/* Let a server be asked as if it had never failed. */
static void
queue_recover(QueueServer *server)
{
	server->health.failures = server->suspects.failures = 0;
	server->health.paused_until = server->suspects.paused_until = 0;
}

/* No key counts as refused any more. */
static void
queue_forget_accounts(void)
{
	HASH_SEQ_STATUS scan;
	QueueAccount *account;

	hash_seq_init(&scan, queue.accounts);
	while ((account = hash_seq_search(&scan)) != NULL)
	{
		account->paused_until = account->rests_until = 0;
		account->check_until = 0;
		account->accepted_at = account->trouble.since = 0;
		account->refused = false;
	}
}

/*
 * What stood in the way of asking for tasks, or of reading and writing their
 * rows, may be gone: those are tried at once.  Servers that rest go on doing
 * so.  With an account, only its tasks that wait for a key or right.
 */
void
queue_retry(const QueueAccount *account, int64 now)
{
	queuetable_iterator tasks;
	QueueEntry *entry;

	queuetable_start_iterate(queue.tasks, &tasks);
	while ((entry = queuetable_iterate(queue.tasks, &tasks)) != NULL)
	{
		QueueTask  *task = entry->task;

		if (!task->queued || !(task->barred || task->row_failures > 0))
			continue;
		if (account != NULL && (task->account != account || !task->barred))
			continue;
		queue_unqueue(task);
		task->held = task->held && !task->barred;
		task->barred = false;
		task->failures = task->row_failures = 0;
		queue_put(task, Min(task->due, now));
	}
}

/*
 * Servers or mappings have changed: what was in trouble on account of them is
 * tried at once.
 */
void
queue_forget_trouble(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	queuetable_iterator tasks;
	QueueEntry *entry;

	queue_forget_accounts();
	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
	{
		queue_recover(server);
		server->trouble.since = 0;
	}
	queuetable_start_iterate(queue.tasks, &tasks);
	while ((entry = queuetable_iterate(queue.tasks, &tasks)) != NULL)
	{
		if (!entry->task->held || !entry->task->queued)
			continue;
		queue_unqueue(entry->task);
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

/* When pacing lets a server be sent a request that it may not be sent now. */
static int64
queue_next_slot(const QueueServer *server)
{
	return server->next_slot +
		Min(queue_spacing(server) - QUEUE_LOOKAHEAD, 0);
}

/* How many requests pacing lets a server be sent now. */
static int64
queue_slots(const QueueServer *server, int64 now)
{
	if (server->next_slot <= now)
		return 1 + QUEUE_LOOKAHEAD / queue_spacing(server);
	if (server->next_slot <= now + QUEUE_LOOKAHEAD)
		return (now + QUEUE_LOOKAHEAD - server->next_slot) /
			queue_spacing(server);
	return 0;
}

/* Has it to be found out by a single question whether things go well again? */
static bool
queue_is_probed(const QueueHealth *health)
{
	return health->failures >= QUEUE_FAILURES;
}

/*
 * May a server be asked about one more suspect, or one more other task,
 * besides those in flight and those that have just been taken?
 */
static bool
queue_has_room(const QueueServer *server, bool suspect, const int taken[2],
			   int64 now)
{
	int			suspects = server->suspects_in_flight + taken[true];
	int			others = server->in_flight - server->suspects_in_flight +
		taken[false];

	if (suspects + others >= server->max_concurrency ||
		now < server->health.paused_until)
		return false;
	if (!suspect)
		return others == 0 || !queue_is_probed(&server->health);
	if (now < server->suspects.paused_until ||
		suspects >= Max(server->max_concurrency / QUEUE_SUSPECT_SHARE, 1))
		return false;
	if (queue_is_probed(&server->health) && suspects + others > 0)
		return false;
	return suspects == 0 || !queue_is_probed(&server->suspects);
}

/*
 * May an account be asked for one more, besides those that have just been
 * taken, if its server may be asked for so many?
 */
static bool
queue_has_share(const QueueAccount *account, int taken, int free)
{
	return account->server->peers < 2 ||
		account->in_flight + taken < QUEUE_FREE_TIMES * free;
}

/* Tasks of an account that have been taken in this round. */
static int
queue_count_taken(const QueueAccount *account)
{
	return account->round == queue.round ? account->taken : 0;
}

/* One more has. */
static void
queue_note_taken(QueueAccount *account)
{
	account->taken = queue_count_taken(account) + 1;
	account->round = queue.round;
}

/* The task of an account that is to be asked for first, NULL if none waits. */
static QueueTask *
queue_first(const QueueAccount *account, bool suspect)
{
	pairingheap *heap = suspect ? account->suspects : account->fresh;

	if (pairingheap_is_empty(heap))
		return NULL;
	return pairingheap_container(QueueTask, node, pairingheap_first(heap));
}

/*
 * When a task of an account may be taken, if its server can be asked, and
 * which; QUEUE_NEVER if none may, for now.  While its key counts as refused
 * that is one task at a time, and a suspect only if no other is due first.
 */
static int64
queue_ready(const QueueAccount *account, bool suspect, QueueTask **task)
{
	int64		rest = account->rests_until;
	const QueueTask *other;

	*task = queue_first(account, suspect);
	if (*task == NULL)
		return QUEUE_NEVER;
	if (!account->refused)
		return (*task)->due;
	if (account->probe != NULL)
		return QUEUE_NEVER;
	other = queue_first(account, false);
	if (suspect && other != NULL &&
		Max(other->due, rest) <= Max((*task)->due, rest))
		return QUEUE_NEVER;
	return Max((*task)->due, rest);
}

/* Any task of the same account that is no suspect and due, too. */
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
		if (entry->task->queued && entry->task->account == task->account &&
			!queue_is_suspect(entry->task) && entry->task->due <= now)
			return entry->task;
	}
	return task;
}

/* Does nothing keep an account from being asked for one task after another? */
bool
queue_is_well(const QueueAccount *account, int64 now)
{
	const QueueHealth *health = &account->server->health;

	return !account->refused && !queue_is_probed(health) &&
		now >= health->paused_until;
}

/*
 * The next task of a server, which may be asked so many, that is due: of the
 * accounts in turn.  Where all is well it may also be one that will be due by
 * "until".
 */
static QueueTask *
queue_pick(QueueServer *server, bool suspect, int free, int64 until, int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &server->accounts)
	{
		QueueAccount *account = dlist_container(QueueAccount, node, iter.cur);
		bool		ahead = !suspect && queue_is_well(account, now);
		QueueTask  *task;

		if (queue_ready(account, suspect, &task) > (ahead ? until : now) ||
			!queue_has_share(account, queue_count_taken(account), free))
			continue;
		dlist_move_tail(&server->accounts, &account->node);
		if (!suspect &&
			(account->refused || queue_is_probed(&server->health)))
			task = queue_any_like(task, now);
		return task;
	}
	return NULL;
}

/* Take up to "max" tasks of a server. */
static int
queue_take_from(QueueServer *server, QueueTask **tasks, int max, int64 until,
				int64 now)
{
	int			taken[2] = {0, 0};
	int64		last = now;
	int			n = 0;

	while (n < max)
	{
		bool		suspect = !queue_is_probed(&server->health) &&
			server->turns % QUEUE_SUSPECT_TURNS == QUEUE_SUSPECT_TURNS - 1;
		QueueTask  *task = NULL;

		for (int i = 0; i < 2 && task == NULL; i++, suspect = !suspect)
		{
			if (queue_has_room(server, suspect, taken, now))
				task = queue_pick(server, suspect,
								  server->max_concurrency - server->in_flight -
									  taken[false] - taken[true],
								  last, now);
		}
		if (task == NULL && last < until)
		{
			/* What is not due yet takes no place of what is. */
			last = until;
			continue;
		}
		if (task == NULL)
			break;
		queue_unqueue(task);
		task->confirmed = false;
		taken[queue_is_suspect(task)]++;
		queue_note_taken(task->account);
		if (task->account->refused)
			task->account->probe = task;
		server->turns++;
		tasks[n++] = task;
	}
	return n;
}

/*
 * Take up to "max" tasks that are due and may be asked for now; and, if there is
 * room for more, of those that will be due by "until".
 */
int
queue_take(QueueTask **tasks, int max, int64 until, int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	int			n = 0;

	queue.round++;
	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
		n += queue_take_from(server, tasks + n,
							 (int) Min(queue_slots(server, now), max - n),
							 until, now);
	return n;
}

/* When a server's next suspect, or other task, may be asked for. */
static int64
queue_next_of(QueueServer *server, bool suspect, int64 now)
{
	static const int none[2] = {0, 0};
	int			free = server->max_concurrency - server->in_flight;
	int64		next = QUEUE_NEVER;
	dlist_iter	iter;

	dlist_foreach(iter, &server->accounts)
	{
		QueueAccount *account = dlist_container(QueueAccount, node, iter.cur);
		QueueTask  *task;

		if (queue_has_share(account, 0, free))
			next = Min(next, queue_ready(account, suspect, &task));
	}
	if (next == QUEUE_NEVER)
		return next;			/* an answer that comes will make room */
	next = Max(next, server->health.paused_until);
	if (suspect)
		next = Max(next, server->suspects.paused_until);
	if (!queue_has_room(server, suspect, none, Max(next, now)))
		return QUEUE_NEVER;		/* likewise */
	if (queue_slots(server, Max(next, now)) == 0)
		next = Max(next, queue_next_slot(server));
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

/*
 * When the first of the tasks that wait is due, QUEUE_NEVER if none does; of
 * suspects, the one whose turn is next.
 */
int64
queue_first_due(void)
{
	HASH_SEQ_STATUS scan;
	QueueAccount *account;
	int64		first = QUEUE_NEVER;

	hash_seq_init(&scan, queue.accounts);
	while ((account = hash_seq_search(&scan)) != NULL)
	{
		for (int suspect = 0; suspect < 2; suspect++)
		{
			const QueueTask *task = queue_first(account, suspect);

			if (task != NULL)
				first = Min(first, task->due);
		}
	}
	return first;
}


/*
 * Servers
 */

void
queue_note_limits(QueueServer *server, const ServerSettings *settings)
{
	server->max_concurrency = settings->max_concurrency;
	server->rate_limit = settings->rate_limit;
}

/* A question about a task is on its way, or will be when the task is due. */
void
queue_note_start(QueueTask *task, int64 now)
{
	QueueServer *server = task->account->server;

	server->in_flight++;
	task->account->in_flight++;
	server->suspects_in_flight += queue_is_suspect(task);
	server->next_slot = Max(server->next_slot, now) + queue_spacing(server);
}

/*
 * It is over, and was sent again so many times.  What came of it is noted
 * after this.
 */
void
queue_note_end(QueueTask *task, int retries)
{
	QueueServer *server = task->account->server;

	task->polls += retries;
	server->next_slot += retries * queue_spacing(server);
	server->in_flight--;
	task->account->in_flight--;
	server->suspects_in_flight -= queue_is_suspect(task);
}

/* It has not been asked after all: the task waits again. */
void
queue_take_back(QueueTask *task)
{
	QueueServer *server = task->account->server;

	queue_note_end(task, 0);
	server->next_slot -= queue_spacing(server);
	queue_put(task, task->due);
}

/*
 * The server has answered as it should.  It is alive, then; but a wish for
 * fewer questions, from later than this was asked, still holds.
 */
void
queue_note_success(QueueServer *server, int64 started)
{
	server->trouble.since = 0;
	if (server->health.wanted && started < server->health.failed_at)
		return;
	queue_recover(server);
}

/* The server has told something about a task. */
void
queue_note_answer(QueueTask *task, int64 started)
{
	queue_note_success(task->account->server, started);
	task->account->trouble.since = 0;
	task->failures = 0;
	task->refused = false;
	queue_note_accepted(task->account, started);
}

/* How long to ask nothing after a failure. */
static int64
queue_pause(const QueueHealth *health, const QueueTask *task,
			RetryKind	why, int retry_after, double random)
{
	if (retry_after >= 0)
		return retry_after * SECOND;
	if (why == RETRY_RATE_LIMITED)
		return retry_delay(why, Max(health->failures, task->failures + 1),
						   random);
	if (queue_is_probed(health))
		return retry_delay(why, health->failures - QUEUE_FAILURES + 1,
						   random);
	return 0;
}

/*
 * A question about a task was the server's trouble, or it wants fewer of them;
 * "retry_after" is in seconds, -1 if it did not say.  Requests that were under
 * way when that was noted are no further failures.
 */
void
queue_note_failure(QueueTask *task, RetryKind why, int retry_after,
				   int64 started, int64 now, double random)
{
	QueueServer *server = task->account->server;
	QueueHealth *health = &server->health;
	int64		until;

	if (queue_is_suspect(task) && !queue_is_probed(health))
		health = &server->suspects;
	if (started >= health->failed_at)
	{
		health->failures = Min(health->failures + 1, 1000);
		health->failed_at = now;
	}
	until = now + queue_pause(health, task, why, retry_after, random);
	if (health->paused_until < until)
	{
		health->paused_until = until;
		health->paused_why = why;
		health->wanted = retry_after >= 0 || why == RETRY_RATE_LIMITED;
	}
}

/*
 * What a server rests for, itself or its suspects.  These do only while
 * nothing has been answered as it should since they began to fail.
 */
const QueueHealth *
queue_resting(const QueueServer *server)
{
	return server->suspects.paused_until > server->health.paused_until ?
		&server->suspects :
		&server->health;
}

/* The last that was heard of some trouble. */
void
queue_note_trouble(QueueTrouble *trouble, const char *code,
				   const char *message, int64 now)
{
	int			len;

	if (trouble->since == 0)
		trouble->since = now;
	strlcpy(trouble->code, code, sizeof(trouble->code));
	if (message == NULL)
		message = "";
	len = pg_encoding_mbcliplen(PG_UTF8, message, (int) strlen(message),
								sizeof(trouble->message) - 1);
	memcpy(trouble->message, message, len);
	trouble->message[len] = '\0';
}


/*
 * Accounts
 */

/*
 * The server has refused a role's key when it was asked for a task.  Returns
 * false if that is the task's own trouble: the key was accepted for another
 * that was asked no earlier, or shortly before and this is not the first time.
 */
bool
queue_note_refusal(QueueTask *task, int64 started)
{
	QueueAccount *account = task->account;
	bool		again = task->refused;

	task->refused = true;
	if (account->accepted_at != 0 &&
		account->accepted_at > started - (again ? QUEUE_ACCEPTED : 1))
		return false;
	account->refused = true;
	account->refused_at = started;
	account->accepted_at = 0;
	return true;
}

/*
 * The server has accepted a role's key.  That ends its pause; but what was
 * asked before a question that was refused tells nothing.
 */
void
queue_note_accepted(QueueAccount *account, int64 started)
{
	if (account->refused && started < account->refused_at)
		return;
	account->accepted_at = Max(account->accepted_at, started);
	account->paused_until = account->rests_until = account->check_until = 0;
	account->refused = false;
}

/* Send nothing with a key that was refused until then. */
void
queue_pause_account(QueueAccount *account, uint64 settings_id, int64 until)
{
	account->settings_id = settings_id;
	account->paused_until = until;
	queue_check_account(account, until);
}

/*
 * Check now and then, until that time, whether the settings of an account have
 * changed, so that what waits for that can be tried.
 */
void
queue_check_account(QueueAccount *account, int64 until)
{
	account->check_until = until;
	queue.check_at = Min(queue.check_at, monotonic_us() + QUEUE_CHECK_EVERY);
}

/* When queue_check_accounts() has something to do; QUEUE_NEVER: it has not. */
int64
queue_next_check(void)
{
	return queue.check_at;
}

/*
 * Where the settings of an account have changed its tasks are due.  That ends
 * no pause: it is ended when they are looked up.  Runs in a transaction.
 */
void
queue_check_accounts(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueAccount *account;
	bool		waiting = false;

	if (now < queue.check_at)
		return;
	queue.check_at = now + QUEUE_CHECK_EVERY;	/* also if that fails */
	hash_seq_init(&scan, queue.accounts);
	while ((account = hash_seq_search(&scan)) != NULL)
	{
		if (account->check_until <= now)
			continue;
		if (!server_settings_changed(account->serverid, account->userid,
									 account->settings_id))
			waiting = true;
		else
		{
			account->check_until = account->rests_until = 0;
			queue_retry(account, now);
		}
	}
	if (!waiting)
		queue.check_at = QUEUE_NEVER;
}

/*
 * Until when nothing may be asked with a role's key, 0 if it may.  Another
 * key than the refused one may.
 */
int64
queue_account_paused(QueueAccount *account, const ServerSettings *settings,
					 int64 now)
{
	if (account->settings_id != settings->id ||
		account->serverid != settings->serverid ||
		account->userid != settings->userid || account->paused_until <= now)
		account->paused_until = 0;
	else
		queue_check_account(account, account->paused_until);
	account->rests_until = account->paused_until;
	return account->paused_until;
}


/*
 * Stuck tasks
 */

static bool
queue_lasts(const QueueTrouble *trouble, int64 now)
{
	return trouble->since != 0 && now - trouble->since >= QUEUE_PATIENCE;
}

/*
 * The trouble that has kept a task from being asked for, and still does; NULL
 * if there is none, or not for long.
 */
const QueueTrouble *
queue_trouble(const QueueTask *task, int64 now)
{
	const QueueAccount *account = task->account;
	const QueueServer *server = account->server;

	if (queue_lasts(&account->trouble, now))
		return &account->trouble;
	if (queue_lasts(&server->trouble, now) &&
		(queue_is_suspect(task) || queue_is_probed(&server->health) ||
		 now < server->health.paused_until))
		return &server->trouble;
	return NULL;
}

/* May there be tasks that are stuck? */
bool
queue_is_stuck(int64 now)
{
	HASH_SEQ_STATUS scan;
	QueueServer *server;
	QueueAccount *account;
	bool		stuck = false;

	hash_seq_init(&scan, queue.servers);
	while ((server = hash_seq_search(&scan)) != NULL)
		stuck |= queue_lasts(&server->trouble, now);
	hash_seq_init(&scan, queue.accounts);
	while ((account = hash_seq_search(&scan)) != NULL)
		stuck |= queue_lasts(&account->trouble, now);
	return stuck;
}

/*
 * Take up to "max" tasks that wait because of some lasting trouble, and whose
 * rows were created before a certain time.  One that was never asked for since
 * it is known must have got that old meanwhile, or have waited for "grace":
 * whoever has turned an old row back to pending wants it asked for.
 *
 * Each call goes through a part of the tasks; "more" says whether there are
 * others.
 */
int
queue_take_stuck(QueueTask **tasks, int max, TimestampTz born_before,
				 int64 grace, int64 now, bool *more)
{
	int			n = 0;

	if (!queue.sweeping)
		queuetable_start_iterate(queue.tasks, &queue.sweep);
	queue.sweeping = true;
	for (int i = 0; i < QUEUE_SWEEP && n < max; i++)
	{
		QueueEntry *entry = queuetable_iterate(queue.tasks, &queue.sweep);
		QueueTask  *task;
		int64		waited;
		int64		patience;

		if (entry == NULL)
		{
			queue.sweeping = false;
			break;
		}
		task = entry->task;
		waited = (int32) ((uint32) (now / SECOND) - task->known_at) * SECOND;
		if (!task->queued || task->created_at >= born_before ||
			queue_trouble(task, now) == NULL)
			continue;
		patience = task->created_at < born_before - grace ?
			grace :				/* it may be -infinity */
			born_before - task->created_at;
		if (!queue_is_suspect(task) && waited < patience)
			continue;
		queue_unqueue(task);
		task->confirmed = false;
		tasks[n++] = task;
	}
	*more = queue.sweeping;
	return n;
}
