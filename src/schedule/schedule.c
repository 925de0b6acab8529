/*-------------------------------------------------------------------------
 *
 * schedule.c
 *		When to ask again.
 *
 * For a running task: so that its end is seen, on average, within the delay
 * that the DBA asks for, by the fewest questions.  Here is what is kept of
 * each key and when its plan is made anew; plan.c makes it.  doc/schedule.md
 * has the idea on a page.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <math.h>

#include "schedule/plan.h"
#include "schedule/schedule.h"

#define SECOND INT64CONST(1000000)

/* Bytes of a character at most. */
#define MAX_UTF8_BYTES 4

/* Questions about running tasks are spread by this much to both sides. */
#define SCHEDULE_JITTER 0.05

/*
 * After so many tasks an older one counts half: for as long as nothing seems
 * to have changed, for the memory that tells whether something has, and by
 * how much a task the first grows to its own again after a change.
 */
#define SCHEDULE_LONG_HALF_LIFE 2000.0
#define SCHEDULE_SHORT_HALF_LIFE 50.0
#define SCHEDULE_HALF_LIFE_GROWTH 0.5

/*
 * The short memory differs from the long one if their distance is that many
 * times what chance makes of it; it does so once in a million.
 */
#define SCHEDULE_CHANGE 2.7

/*
 * The weight of a new task grows instead of that of the old ones falling;
 * now and then all are brought down.
 */
#define SCHEDULE_HEAVIEST 1e6

/* Plans of two points that differ by more points than this do not mix. */
#define SCHEDULE_JUMP 4

/* A plan is made anew when this share of what it knows is new, but not more
 * often than so. */
#define SCHEDULE_NEWS 0.1
#define SCHEDULE_BUILD_WAIT (2 * SECOND)

/* The mean delay aimed at is not more than this part of the median. */
#define SCHEDULE_DELAY_PART 12

/*
 * However sure the table seems, a question is asked after this part of the
 * median, or so many seconds if that is longer.
 */
#define SCHEDULE_GAP_PART 2
#define SCHEDULE_GAP_SECONDS 2.0

/* How near to the aim the mean delay must be, and the tries to get there. */
#define SCHEDULE_TOLERANCE 0.02
#define SCHEDULE_TRIES 16
#define SCHEDULE_LEAST_C 1e-6
#define SCHEDULE_MOST_C 1e6

/*
 * The points of a plan are apart by 0.27 % of the time, so a delay far below
 * that cannot be had.  A c below this part of the median only makes questions
 * more that come before.
 */
#define SCHEDULE_FINEST_C 4e-6

/*
 * A server that pushes back raises c by this, once in a second at most and
 * so far at most, which makes questions 100 times fewer; half of that is
 * taken back in a minute.
 */
#define SCHEDULE_PUSH 1.5
#define SCHEDULE_PUSH_WAIT SECOND
#define SCHEDULE_MOST_PRESSURE 1e4
#define SCHEDULE_PRESSURE_HALF_LIFE (60.0 * SECOND)

/* A plan is made anew when the pressure has changed by this much. */
#define SCHEDULE_PRESSURE_CHANGE 1.25

/* Bounds of a skew are near when they differ by no more than this. */
#define SCHEDULE_SKEW_NEAR (2 * SECOND)

/* Bounds of a skew are kept for so many, and at most twice as many, answers. */
#define SCHEDULE_SKEW_WINDOW 256

/* A typical duration of each kind of task, until its own are known. */
typedef enum ScheduleKind
{
	SCHEDULE_IMAGE,
	SCHEDULE_AUDIO,
	SCHEDULE_VIDEO,
	SCHEDULE_OTHER,
	SCHEDULE_KINDS,
} ScheduleKind;

static const struct
{
	const char *word;			/* in the task's type */
	double		median;			/* seconds */
} schedule_kinds[SCHEDULE_KINDS] = {
	[SCHEDULE_IMAGE] = {"image", 15},
	[SCHEDULE_AUDIO] = {"audio", 20},
	[SCHEDULE_VIDEO] = {"video", 120},
	[SCHEDULE_OTHER] = {"", 60},
};

/* Bounds of how far our clock is ahead of an upstream's. */
typedef struct ScheduleBounds
{
	int64		least;
	int64		most;
} ScheduleBounds;

/* A server: how hard it pushes back, and its clock. */
typedef struct ScheduleServer
{
	int			keys;			/* that belong to it, 0: a free place */
	double		pressure;		/* c is multiplied by this, as of then: */
	int64		pressed_at;
	ScheduleBounds skew;		/* of the running window */
	ScheduleBounds old_skew;	/* of the one before it */
	int			skew_seen;		/* answers in the running window */
	char		name[SCHEDULE_NAME];
} ScheduleServer;

/* Tasks by bucket, of which older ones count less. */
typedef struct ScheduleMemory
{
	float		ended[PLAN_BUCKETS + 1];
	float		censored[PLAN_BUCKETS + 1];
	double		half_life;		/* in tasks */
	double		weight;			/* of a new task */
	double		total;			/* all tasks, in new ones */
	double		squares;		/* sum of squared weights, likewise */
} ScheduleMemory;

/* What is known of a key, and its plan. */
typedef struct ScheduleEntry
{
	ScheduleKey key;			/* SCHEDULE_NO_KEY: a free place */
	uint64		hash;
	uint64		used;			/* when, by the schedule's own count */
	int			next_entry;		/* in its chain, -1: none */
	int			server;
	ScheduleKind kind;

	ScheduleMemory memory;		/* that plans are made from */
	ScheduleMemory latest;		/* a short one */
	int32		running[PLAN_BUCKETS + 1];	/* where they were last seen */
	double		news;			/* tasks since the plan was made */
	int64		tasks_ended;
	int64		tasks_censored;
	int64		tasks_running;

	/* the plan, and what it was made for */
	bool		built;
	int64		built_at;
	ScheduleSettings settings;
	double		pressure;
	double		c;				/* before the pressure */
	double		gap_cap;		/* seconds */
	int			last;			/* see PlanWork */
	PlanFigures figures;
	double		p95_delay;		/* negative: not worked out yet */
	float		survival[PLAN_BUCKETS + 1]; /* that it was made for */
	uint16		next[PLAN_POINTS];

	char		task_type[SCHEDULE_NAME];
	char		model[SCHEDULE_NAME];
} ScheduleEntry;

struct Schedule
{
	int			max_keys;
	uint64		uses;
	uint32		serial;			/* of the latest key */
	PlanWork	work;
	float		priors[SCHEDULE_KINDS][PLAN_BUCKETS];
	ScheduleServer *servers;	/* max_keys of them */
	int		   *chains;			/* max_keys heads of chains of entries */
	ScheduleEntry entries[FLEXIBLE_ARRAY_MEMBER];
};


/*
 * Keys
 */

static Size
schedule_entries_size(int max_keys)
{
	return MAXALIGN(offsetof(Schedule, entries) +
					max_keys * sizeof(ScheduleEntry));
}

/* The bytes that a Schedule of so many keys takes. */
Size
schedule_size(int max_keys)
{
	return schedule_entries_size(max_keys) +
		max_keys * (sizeof(ScheduleServer) + sizeof(int));
}

/* Make one in memory of that size.  It holds no other memory. */
Schedule *
schedule_init(void *memory, int max_keys)
{
	Schedule   *schedule = memory;

	Assert(max_keys <= SCHEDULE_MOST_KEYS);
	memset(memory, 0, schedule_size(max_keys));
	schedule->max_keys = max_keys;
	memory = (char *) memory + schedule_entries_size(max_keys);
	schedule->servers = (ScheduleServer *) memory;
	schedule->chains = (int *) (schedule->servers + max_keys);
	for (int i = 0; i < max_keys; i++)
		schedule->chains[i] = -1;
	plan_init(&schedule->work);
	for (int kind = 0; kind < SCHEDULE_KINDS; kind++)
		plan_prior(schedule_kinds[kind].median, schedule->priors[kind]);
	return schedule;
}

/* FNV-1a, of the string and its end. */
static uint64
schedule_hash(uint64 hash, const char *string)
{
	do
		hash = (hash ^ (unsigned char) *string) * UINT64CONST(0x100000001b3);
	while (*string++ != '\0');
	return hash;
}

/* Is this what is kept of a name?  (The hash of a key has all of it.) */
bool
schedule_is_name(const char *kept, const char *name)
{
	size_t		len = strlen(kept);

	/* a shorter one was not cut */
	return strncmp(kept, name, len) == 0 &&
		(name[len] == '\0' || len > SCHEDULE_NAME - MAX_UTF8_BYTES - 1);
}

/* Keep a name, cut between characters of UTF-8 if it is too long. */
static void
schedule_keep_name(char *kept, const char *name)
{
	size_t		len = strnlen(name, SCHEDULE_NAME - 1);

	while (len > 0 && name[len] != '\0' && (name[len] & 0xc0) == 0x80)
		len--;
	memcpy(kept, name, len);
	kept[len] = '\0';
}

/* The kind whose word is in a task's type, whatever its case. */
static ScheduleKind
schedule_kind(const char *task_type)
{
	for (const char *at = task_type; *at != '\0'; at++)
		for (int kind = 0; kind < SCHEDULE_OTHER; kind++)
			if (pg_strncasecmp(at, schedule_kinds[kind].word,
							   strlen(schedule_kinds[kind].word)) == 0)
				return kind;
	return SCHEDULE_OTHER;
}

/* The server's place; it gets one if it has none. */
static int
schedule_server(Schedule *schedule, const char *name, bool make)
{
	int			place = -1;

	for (int i = 0; i < schedule->max_keys; i++)
	{
		ScheduleServer *server = &schedule->servers[i];

		if (server->keys > 0 && schedule_is_name(server->name, name))
			return i;
		if (server->keys == 0 && place < 0)
			place = i;
	}
	if (!make)
		return -1;
	memset(&schedule->servers[place], 0, sizeof(ScheduleServer));
	schedule->servers[place].pressure = 1;
	schedule->servers[place].skew.least = PG_INT64_MIN;
	schedule->servers[place].skew.most = PG_INT64_MAX;
	schedule->servers[place].old_skew = schedule->servers[place].skew;
	schedule_keep_name(schedule->servers[place].name, name);
	return place;
}

static int *
schedule_chain(Schedule *schedule, uint64 hash)
{
	return &schedule->chains[hash % schedule->max_keys];
}

/* Forget the entry that was not used for the longest time. */
static ScheduleEntry *
schedule_evict(Schedule *schedule)
{
	ScheduleEntry *oldest = &schedule->entries[0];
	int		   *link;

	for (int i = 0; i < schedule->max_keys; i++)
	{
		ScheduleEntry *entry = &schedule->entries[i];

		if (entry->key == SCHEDULE_NO_KEY)
			return entry;
		if (entry->used < oldest->used)
			oldest = entry;
	}
	link = schedule_chain(schedule, oldest->hash);
	while (&schedule->entries[*link] != oldest)
		link = &schedule->entries[*link].next_entry;
	*link = oldest->next_entry;
	schedule->servers[oldest->server].keys--;
	return oldest;
}

/* The entry that a key names, NULL if it is forgotten. */
static ScheduleEntry *
schedule_entry(const Schedule *schedule, ScheduleKey key)
{
	ScheduleEntry *entry = unconstify(ScheduleEntry *,
									  &schedule->entries[key %
														 SCHEDULE_MOST_KEYS]);

	return key != SCHEDULE_NO_KEY && entry->key == key ? entry : NULL;
}

static ScheduleKey
schedule_add_key(Schedule *schedule, uint64 hash, const char *server,
				 const char *task_type, const char *model)
{
	ScheduleEntry *entry = schedule_evict(schedule);
	int		   *chain = schedule_chain(schedule, hash);

	memset(entry, 0, sizeof(*entry));
	if (++schedule->serial > PG_UINT32_MAX / SCHEDULE_MOST_KEYS)
		schedule->serial = 1;
	entry->key = schedule->serial * SCHEDULE_MOST_KEYS +
		(uint32) (entry - schedule->entries);
	entry->hash = hash;
	entry->used = ++schedule->uses;
	entry->next_entry = *chain;
	*chain = entry - schedule->entries;
	entry->server = schedule_server(schedule, server, true);
	schedule->servers[entry->server].keys++;
	entry->kind = schedule_kind(task_type);
	entry->memory.half_life = SCHEDULE_LONG_HALF_LIFE;
	entry->latest.half_life = SCHEDULE_SHORT_HALF_LIFE;
	entry->memory.weight = entry->latest.weight = 1;
	schedule_keep_name(entry->task_type, task_type);
	schedule_keep_name(entry->model, model);
	return entry->key;
}

/*
 * The key of a task of this server, type and model (NULL: not known).  It is
 * made if there is none, and counts as used now.
 */
ScheduleKey
schedule_key(Schedule *schedule, const char *server, const char *task_type,
			 const char *model)
{
	uint64		hash = UINT64CONST(0xcbf29ce484222325);

	if (task_type == NULL)
		task_type = "";
	if (model == NULL)
		model = "";
	hash = schedule_hash(hash, server);
	hash = schedule_hash(hash, task_type);
	hash = schedule_hash(hash, model);
	for (int i = *schedule_chain(schedule, hash); i >= 0;
		 i = schedule->entries[i].next_entry)
	{
		ScheduleEntry *entry = &schedule->entries[i];

		if (entry->hash == hash &&
			schedule_is_name(schedule->servers[entry->server].name, server) &&
			schedule_is_name(entry->task_type, task_type) &&
			schedule_is_name(entry->model, model))
		{
			entry->used = ++schedule->uses;
			return entry->key;
		}
	}
	return schedule_add_key(schedule, hash, server, task_type, model);
}


/*
 * What is noted of tasks
 */

/* Bring the counts down before they lose precision. */
static void
schedule_lighten(ScheduleMemory *memory)
{
	for (int i = 0; i <= PLAN_BUCKETS; i++)
	{
		memory->ended[i] /= memory->weight;
		memory->censored[i] /= memory->weight;
	}
	memory->weight = 1;
}

/* One more task is known: those before it count a little less. */
static void
schedule_forget(ScheduleMemory *memory)
{
	double		growth = exp2(1 / memory->half_life);

	memory->weight *= growth;
	if (memory->weight > SCHEDULE_HEAVIEST)
		schedule_lighten(memory);
	memory->total = memory->total / growth + 1;
	memory->squares = memory->squares / (growth * growth) + 1;
}

/* Note this part of an ended task. */
static void
schedule_add_ended(ScheduleEntry *entry, int bucket, double part)
{
	entry->memory.ended[bucket] += entry->memory.weight * part;
	entry->latest.ended[bucket] += entry->latest.weight * part;
}

/* A task is known whose end, or last sight, is noted next. */
static void
schedule_add_task(ScheduleEntry *entry)
{
	schedule_forget(&entry->memory);
	schedule_forget(&entry->latest);
	entry->memory.half_life = Min(entry->memory.half_life +
									  SCHEDULE_HALF_LIFE_GROWTH,
								  SCHEDULE_LONG_HALF_LIFE);
	entry->news++;
}

/*
 * A task has ended after "duration", known to within "precision": that of
 * times in whole seconds is one second, that of a task whose end was only
 * seen the time between the last two questions.  It counts in all buckets
 * that it may belong to; else, of those narrower than a second, some would
 * hold none and some all of a second's tasks.
 */
void
schedule_note_end(Schedule *schedule, ScheduleKey key, int64 duration,
				  int64 precision)
{
	const double *at = schedule->work.at;
	ScheduleEntry *entry = schedule_entry(schedule, key);
	double		wide = Max(precision, 1) / (double) SECOND;
	double		from = duration / (double) SECOND - wide / 2;
	double		upto = Max(from + wide, 0);
	int			bucket = plan_bucket(from);

	if (entry == NULL)
		return;
	schedule_add_task(entry);
	entry->tasks_ended++;
	from = Max(from, 0);
	wide = upto - from;
	/* point 1 is where the first bucket starts */
	while (bucket < PLAN_BUCKETS && at[1 + (bucket + 1) * PLAN_STEPS] < upto)
	{
		double		end = at[1 + (bucket + 1) * PLAN_STEPS];

		schedule_add_ended(entry, bucket++, (end - from) / wide);
		from = end;
	}
	schedule_add_ended(entry, bucket, wide > 0 ? (upto - from) / wide : 1);
}

/* A task was last seen running in a bucket. */
static void
schedule_add_censored(ScheduleEntry *entry, int bucket)
{
	if (entry == NULL)
		return;
	schedule_add_task(entry);
	entry->tasks_censored++;
	entry->memory.censored[bucket] += entry->memory.weight;
	entry->latest.censored[bucket] += entry->latest.weight;
}

/* A task was given up; it was last seen running after "elapsed". */
void
schedule_note_censored(Schedule *schedule, ScheduleKey key, int64 elapsed)
{
	schedule_add_censored(schedule_entry(schedule, key),
						  plan_bucket(elapsed / (double) SECOND));
}

/* A task is no longer running, or no longer known to. */
void
schedule_note_gone(Schedule *schedule, ScheduleRunning *running)
{
	ScheduleEntry *entry = schedule_entry(schedule, running->key);

	if (entry != NULL)
	{
		entry->running[running->bucket]--;
		entry->tasks_running--;
	}
	running->key = SCHEDULE_NO_KEY;
}

/* A task was given up, or its row is gone: nobody knows when it will end. */
void
schedule_note_lost(Schedule *schedule, ScheduleRunning *running)
{
	schedule_add_censored(schedule_entry(schedule, running->key),
						  running->bucket);
	schedule_note_gone(schedule, running);
}

/* A task has been seen running after "elapsed". */
void
schedule_note_running(Schedule *schedule, ScheduleRunning *running,
					  ScheduleKey key, int64 elapsed)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	int			bucket = plan_bucket(elapsed / (double) SECOND);

	if (running->key == key && running->bucket == bucket)
		return;
	schedule_note_gone(schedule, running);
	if (entry == NULL)
		return;
	running->key = key;
	running->bucket = bucket;
	entry->running[bucket]++;
	entry->tasks_running++;
	entry->news++;
}


/*
 * Servers that push back
 */

/* By how much c is raised now. */
static double
schedule_pressure(const ScheduleServer *server, int64 now)
{
	double		since = Max((double) now - server->pressed_at, 0);

	if (server->pressure <= 1)
		return 1;
	return Max(server->pressure *
				   exp2(-since / SCHEDULE_PRESSURE_HALF_LIFE),
			   1);
}

/*
 * A server refuses for being asked too much, or its rate limit makes
 * questions late: ask about all its tasks more seldom for a while.
 */
void
schedule_push_back(Schedule *schedule, const char *name, int64 now)
{
	int			place = schedule_server(schedule, name, false);
	ScheduleServer *server;

	if (place < 0)
		return;
	server = &schedule->servers[place];
	if (server->pressure > 1 && now - server->pressed_at < SCHEDULE_PUSH_WAIT)
		return;
	server->pressure = Min(schedule_pressure(server, now) * SCHEDULE_PUSH,
						   SCHEDULE_MOST_PRESSURE);
	server->pressed_at = now;
}


/*
 * The upstream's clock
 */

/* Tighten a server's bounds by what one answer says. */
static void
schedule_bound_skew(Schedule *schedule, ScheduleKey key, int64 least,
					int64 most)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	ScheduleServer *server;

	if (entry == NULL)
		return;
	server = &schedule->servers[entry->server];
	if (++server->skew_seen > SCHEDULE_SKEW_WINDOW)
	{
		server->old_skew = server->skew;
		server->skew.least = PG_INT64_MIN;
		server->skew.most = PG_INT64_MAX;
		server->skew_seen = 1;
	}
	/* a clock that was set makes what was known of it void */
	if (least > Min(server->skew.most, server->old_skew.most) ||
		most < Max(server->skew.least, server->old_skew.least))
	{
		server->old_skew.least = server->skew.least = PG_INT64_MIN;
		server->old_skew.most = server->skew.most = PG_INT64_MAX;
	}
	server->skew.least = Max(server->skew.least, least);
	server->skew.most = Min(server->skew.most, most);
}

/*
 * An answer received at "received" by our clock names a time of the
 * upstream's that was past then, cut to a whole second.
 */
void
schedule_note_past(Schedule *schedule, ScheduleKey key, int64 received,
				   int64 time)
{
	schedule_bound_skew(schedule, key, PG_INT64_MIN, received - time);
}

/*
 * The same of the end of a task that was still running when it was asked
 * about at "asked", so that its end was after that.
 */
void
schedule_note_finish(Schedule *schedule, ScheduleKey key, int64 asked,
					 int64 received, int64 time)
{
	schedule_bound_skew(schedule, key, asked - time - SECOND,
						received - time);
}

/*
 * How far our clock is ahead of that of a key's upstream, as well as answers
 * tell.  Their smallest (received - FinishTime) is what it is at most; the
 * middle between that and what it is at least errs to neither side.  As long
 * as they are far apart, or one is not known, most clocks being right is the
 * better guess: the first answer may be about a task of an hour ago.
 */
int64
schedule_skew(const Schedule *schedule, ScheduleKey key)
{
	const ScheduleEntry *entry = schedule_entry(schedule, key);
	const ScheduleServer *server;
	int64		least;
	int64		most;

	if (entry == NULL)
		return 0;
	server = &schedule->servers[entry->server];
	least = Max(server->skew.least, server->old_skew.least);
	most = Min(server->skew.most, server->old_skew.most);
	if (least >= most - SCHEDULE_SKEW_NEAR)
		return least + (most - least) / 2;
	return Min(Max(least, 0), most);
}


/*
 * Plans
 */

/* The tasks of a memory, and those that still run as censored. */
static void
schedule_recall(const ScheduleEntry *entry, const ScheduleMemory *memory,
				PlanTable *table)
{
	for (int i = 0; i <= PLAN_BUCKETS; i++)
	{
		table->ended[i] = memory->ended[i] / memory->weight;
		table->censored[i] = memory->censored[i] / memory->weight +
			entry->running[i];
	}
}

/*
 * Work out the share of tasks that run for longer than each time.
 *
 * A long memory tells more of what has not changed, a short one of what has.
 * So the long one is used until the short one contradicts it, and then
 * begins anew with what the short one has; which it forgets, too, as more
 * tasks come, since part of it was before the change.
 */
static void
schedule_learn(const Schedule *schedule, ScheduleEntry *entry,
			   float *survival)
{
	PlanTable	table;
	PlanTable	latest;

	schedule_recall(entry, &entry->memory, &table);
	schedule_recall(entry, &entry->latest, &latest);
	if (plan_distance(&table, &latest) * entry->latest.total >
		SCHEDULE_CHANGE * sqrt(entry->latest.squares))
	{
		entry->memory = entry->latest;
		table = latest;
	}
	plan_smooth(table.ended);
	plan_survival(&table, schedule->priors[entry->kind], survival);
}

/*
 * Find the c at which the mean delay is "aim", and leave its plan.  The delay
 * grows with c, about as its square root.
 */
static void
schedule_aim(Schedule *schedule, ScheduleEntry *entry, double aim,
			 double median, const PlanBounds *bounds)
{
	double		low = Max(SCHEDULE_LEAST_C, SCHEDULE_FINEST_C * median);
	double		high = SCHEDULE_MOST_C;
	double		c = Max(entry->c, low);

	for (int i = 0; i < SCHEDULE_TRIES && high > low * 1.0001; i++)
	{
		double		ratio;

		entry->c = c;
		plan_solve(&schedule->work, c, bounds, entry->next);
		entry->figures = plan_measure(&schedule->work, c, entry->next);
		ratio = aim / Max(entry->figures.mean_delay, 1e-9);
		if (fabs(ratio - 1) < SCHEDULE_TOLERANCE)
			break;
		if (ratio > 1)
			low = c;
		else
			high = c;
		c *= ratio * ratio;
		if (c <= low || c >= high)
			c = sqrt(low * high);
	}
}

/* Make the plan of a key anew. */
static void
schedule_build(Schedule *schedule, ScheduleEntry *entry,
			   const ScheduleSettings *settings, double pressure, int64 now)
{
	PlanWork   *work = &schedule->work;
	double		median;
	double		aim;
	PlanBounds	bounds;

	schedule_learn(schedule, entry, entry->survival);
	plan_spread(work, entry->survival);
	median = plan_quantile(entry->survival, 0.5);
	aim = Min(settings->detection_delay / (double) SECOND,
			  median / SCHEDULE_DELAY_PART);
	aim = Max(aim, 0.001);
	entry->gap_cap = settings->poll_cap / (double) SECOND;
	if (!settings->unguarded)
		entry->gap_cap = Min(entry->gap_cap,
							 Max(median / SCHEDULE_GAP_PART,
								 SCHEDULE_GAP_SECONDS));
	bounds.least = settings->poll_floor / (double) SECOND;
	bounds.most = Max(entry->gap_cap, bounds.least);
	if (entry->c <= 0)
		entry->c = 2 * aim * aim / median;
	schedule_aim(schedule, entry, aim, median, &bounds);
	if (pressure > 1)
	{
		plan_solve(work, entry->c * pressure, &bounds, entry->next);
		entry->figures = plan_measure(work, entry->c * pressure, entry->next);
	}
	entry->last = work->last;
	entry->pressure = pressure;
	entry->settings = *settings;
	entry->built_at = now;
	entry->built = true;
	entry->p95_delay = -1;
	entry->news = 0;
}

/* Tasks that must be new before a plan is made anew. */
static double
schedule_news_wanted(const ScheduleEntry *entry)
{
	return SCHEDULE_NEWS * (entry->latest.total + entry->tasks_running);
}

/* Is it time to make the plan of a key anew? */
static bool
schedule_is_stale(const ScheduleEntry *entry,
				  const ScheduleSettings *settings, double pressure,
				  int64 now)
{
	if (!entry->built ||
		entry->settings.detection_delay != settings->detection_delay ||
		entry->settings.poll_floor != settings->poll_floor ||
		entry->settings.poll_cap != settings->poll_cap ||
		entry->settings.unguarded != settings->unguarded)
		return true;
	if (now - entry->built_at < SCHEDULE_BUILD_WAIT)
		return false;
	return (entry->news > 0 && entry->news >= schedule_news_wanted(entry)) ||
		pressure > entry->pressure * SCHEDULE_PRESSURE_CHANGE ||
		pressure < entry->pressure / SCHEDULE_PRESSURE_CHANGE;
}

/* Much was learned at once: make the plans that are in use anew. */
void
schedule_replan(Schedule *schedule, const ScheduleSettings *settings,
				int64 now)
{
	for (int i = 0; i < schedule->max_keys; i++)
	{
		ScheduleEntry *entry = &schedule->entries[i];

		if (entry->key != SCHEDULE_NO_KEY && entry->built)
			schedule_build(schedule, entry, settings,
						   schedule_pressure(&schedule->servers[entry->server],
											 now),
						   now);
	}
}

/* When a task that has been running for so long is to be asked about. */
static double
schedule_look_up(const Schedule *schedule, const ScheduleEntry *entry,
				 double elapsed)
{
	const double *at = schedule->work.at;
	int			point = plan_point(elapsed);

	if (point < entry->last)
	{
		double		part = (elapsed - at[point]) / (at[point + 1] - at[point]);
		int			next = entry->next[point];
		int			after = entry->next[point + 1];

		/* between two points the plan is in between, unless it jumps */
		if (after - next > SCHEDULE_JUMP)
			part = 0;
		return at[next] + part * (at[after] - at[next]) - elapsed;
	}
	return plan_tail_gap(entry->c * entry->pressure, elapsed);
}

/* "wait" made longer or shorter by chance; "random" is in [0, 1). */
static int64
schedule_jitter(int64 wait, double random)
{
	return (int64) (wait * (1.0 + SCHEDULE_JITTER * (2.0 * random - 1.0)));
}

/*
 * How long to wait before a running task is asked about again.  The plan is
 * made anew if enough was learned since.
 */
int64
schedule_next(Schedule *schedule, const ScheduleSettings *settings,
			  ScheduleKey key, int64 elapsed, int64 now, double random)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	double		pressure;
	int64		wait;

	if (entry == NULL)
		return schedule_fixed(settings, random);
	pressure = schedule_pressure(&schedule->servers[entry->server], now);
	if (schedule_is_stale(entry, settings, pressure, now))
		schedule_build(schedule, entry, settings, pressure, now);
	/* rounded up, so as not to arrive a moment before the planned point */
	wait = (int64) ceil(schedule_look_up(schedule, entry,
										 Max(elapsed, 0) / (double) SECOND) *
						SECOND);
	wait = schedule_jitter(wait, random);
	wait = Min(wait, (int64) Min(entry->gap_cap * SECOND, 9e18));
	return Max(wait, settings->poll_floor);
}

/*
 * The same without anything learned.  At a fixed interval a task's end is
 * seen half an interval late on average.
 */
int64
schedule_fixed(const ScheduleSettings *settings, double random)
{
	int64		interval = 2 * settings->detection_delay;

	interval = schedule_jitter(interval, random);
	return Max(Min(interval, settings->poll_cap), settings->poll_floor);
}

/*
 * What is expected
 */

/* "seconds" from now on, as microseconds. */
static int64
schedule_microseconds(double seconds)
{
	return (int64) (Min(Max(seconds, 0), 1e12) * SECOND);
}

/* A forecast from the shares of tasks that run for longer than each time. */
static void
schedule_look_ahead(const float *survival, double learned, int64 elapsed,
					ScheduleForecast *forecast)
{
	double		seconds = Max(elapsed, 0) / (double) SECOND;

	forecast->median =
		schedule_microseconds(plan_remaining(survival, seconds, 0.5));
	forecast->p90 =
		schedule_microseconds(plan_remaining(survival, seconds, 0.1));
	forecast->p90 = Max(forecast->p90, forecast->median);
	forecast->learned = learned;
}

/*
 * How much longer a task will run that has been running for "elapsed".  False
 * if the key is forgotten.
 */
bool
schedule_forecast(Schedule *schedule, ScheduleKey key, int64 elapsed,
				  ScheduleForecast *forecast)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	float		survival[PLAN_BUCKETS + 1];

	if (entry == NULL)
		return false;
	schedule_learn(schedule, entry, survival);
	schedule_look_ahead(survival, entry->memory.total, elapsed, forecast);
	return true;
}

/* The same from a summary of the key. */
void
schedule_forecast_from(const ScheduleSummary *summary, int64 elapsed,
					   ScheduleForecast *forecast)
{
	schedule_look_ahead(summary->shares, summary->learned, elapsed, forecast);
}

/* The delay that few questions of a plan exceed; worked out once. */
static double
schedule_p95_delay(Schedule *schedule, ScheduleEntry *entry)
{
	if (entry->p95_delay < 0)
	{
		plan_spread(&schedule->work, entry->survival);
		entry->p95_delay = plan_delay_quantile(&schedule->work, entry->next,
											   0.95);
	}
	return entry->p95_delay;
}

/* Sum up the n-th key, from 0.  False if there is no such key. */
bool
schedule_summarize(Schedule *schedule, int n, ScheduleSummary *summary)
{
	ScheduleEntry *entry;

	if (n < 0 || n >= schedule->max_keys)
		return false;
	entry = &schedule->entries[n];
	if (entry->key == SCHEDULE_NO_KEY)
		return false;
	if (!entry->built)
		schedule_learn(schedule, entry, entry->survival);
	memset(summary, 0, sizeof(*summary));
	schedule_keep_name(summary->server, schedule->servers[entry->server].name);
	schedule_keep_name(summary->task_type, entry->task_type);
	schedule_keep_name(summary->model, entry->model);
	summary->ended = entry->tasks_ended;
	summary->censored = entry->tasks_censored;
	summary->running = entry->tasks_running;
	summary->median =
		schedule_microseconds(plan_quantile(entry->survival, 0.5));
	summary->p95 =
		schedule_microseconds(plan_quantile(entry->survival, 0.05));
	if (entry->built)
	{
		summary->requests = entry->figures.requests;
		summary->mean_delay =
			schedule_microseconds(entry->figures.mean_delay);
		summary->p95_delay =
			schedule_microseconds(schedule_p95_delay(schedule, entry));
	}
	summary->built = entry->built;
	summary->built_at = entry->built_at;
	summary->next_build =
		Max((int) ceil(schedule_news_wanted(entry) - entry->news), 0);
	summary->c = entry->c;
	summary->pressure = Max(entry->pressure, 1);
	summary->skew = schedule_skew(schedule, entry->key);
	summary->learned = entry->memory.total;
	StaticAssertStmt(sizeof(summary->shares) == sizeof(entry->survival),
					 "a share a bucket");
	memcpy(summary->shares, entry->survival, sizeof(summary->shares));
	return true;
}
