/*-------------------------------------------------------------------------
 *
 * schedule.c
 *		When to poll a running task again.
 *
 * So that its end is seen, on average, within the delay that the DBA asks
 * for, by the fewest polls.  This file keeps what is known of each key and
 * decides when its plan is made anew; plan.c makes it.  doc/schedule.md has
 * the idea on a page.
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

/* Waits are spread by this part of them to both sides. */
#define SCHEDULE_JITTER 0.05

/* After so many tasks an older one counts half. */
#define SCHEDULE_HALF_LIFE 350.0

/* Plans of two points that differ by more points than this do not mix. */
#define SCHEDULE_JUMP 4

/*
 * A plan is made anew when this share of what it was made from is new, but not
 * more often than so.
 */
#define SCHEDULE_NEW_SHARE 0.1
#define SCHEDULE_BUILD_WAIT (2 * SECOND)

/* The mean delay aimed at is not more than this part of the median. */
#define SCHEDULE_DELAY_PART 12

/*
 * However sure the table seems, a task is polled after this part of the
 * median, or so many seconds if that is longer.
 */
#define SCHEDULE_GAP_PART 2
#define SCHEDULE_GAP_SECONDS 2.0

/* How near to the aim the mean delay must be, and the tries to get there. */
#define SCHEDULE_TOLERANCE 0.02
#define SCHEDULE_TRIES 8
#define SCHEDULE_MOST_C 1e6

/*
 * The points of a plan are apart by 0.27 % of the time, so a delay far below
 * that cannot be had.  A c below this part of the median only makes more polls
 * that come too early.
 */
#define SCHEDULE_FINEST_C 4e-6

/*
 * A throttled server's c is raised by this, once in a second at most and so far
 * at most, which makes polls 100 times fewer; half of that is taken back in a
 * minute.
 */
#define SCHEDULE_THROTTLE 1.5
#define SCHEDULE_THROTTLE_WAIT SECOND
#define SCHEDULE_MOST_THROTTLE 1e4
#define SCHEDULE_THROTTLE_HALF_LIFE (60.0 * SECOND)

/* A plan is made anew when the throttle has changed by this much. */
#define SCHEDULE_THROTTLE_CHANGE 1.25

/* The skew is the least of the latest so many to twice so many ends. */
#define SCHEDULE_SKEW_WINDOW 32

/* A typical duration of each kind of task, until its own are known. */
#define SCHEDULE_KINDS 4

static const struct
{
	const char *word;			/* in the task's type */
	double		median;			/* seconds */
} schedule_kinds[SCHEDULE_KINDS] = {
	{"image", 15},
	{"audio", 20},
	{"video", 120},
	{"", 60},					/* all others */
};

/* A server: by how much it is throttled, and its clock. */
typedef struct ScheduleServer
{
	int			keys;			/* that belong to it, 0: a free slot */
	double		throttle;		/* c is multiplied by this, as of then: */
	int64		throttled_at;
	int64		skew;			/* least in the running window */
	int64		old_skew;		/* in the one before it */
	int			skew_ends;		/* ends in the running window */
	char		name[SCHEDULE_NAME];
} ScheduleServer;

/* What is known of a key, and its plan. */
typedef struct ScheduleEntry
{
	ScheduleKey key;			/* SCHEDULE_NO_KEY: a free slot */
	int64		used;			/* when, by the schedule's own count */
	ScheduleServer *server;
	int			kind;

	/* tasks by bucket: a new one counts 1, older ones less */
	float		ended[PLAN_BUCKETS + 1];
	float		censored[PLAN_BUCKETS + 1];
	double		total;			/* of both */
	int32		running[PLAN_BUCKETS + 1];	/* where they were last seen */
	double		unplanned;		/* tasks since the plan was made */
	int64		tasks_ended;
	int64		tasks_running;
	bool		changed;		/* since it was summed up */

	/* the plan, and what it was made for */
	bool		built;
	int64		built_at;
	ScheduleSettings settings;
	double		throttle;
	double		c;				/* before the throttle */
	double		gap_cap;		/* seconds */
	int			last;			/* see PlanWork */
	uint16		next[PLAN_POINTS];

	char		task_type[SCHEDULE_NAME];
	char		model[SCHEDULE_NAME];
} ScheduleEntry;

struct Schedule
{
	int			max_keys;
	int64		uses;
	int64		past_uses;		/* counts down */
	uint32		serial;			/* of the latest key */
	PlanWork	work;
	float		priors[SCHEDULE_KINDS][PLAN_BUCKETS];
	ScheduleServer *servers;	/* max_keys of them */
	uint64	   *hashes;			/* of the entries' names */
	ScheduleEntry entries[FLEXIBLE_ARRAY_MEMBER];
};


/*
 * Keys
 */

/* The bytes that a Schedule of so many keys takes. */
Size
schedule_size(int max_keys)
{
	const Size	of_a_key = sizeof(ScheduleEntry) + sizeof(ScheduleServer) +
		sizeof(uint64);			/* its hash */

	return offsetof(Schedule, entries) + max_keys * of_a_key;
}

/* Make one in memory of that size.  It holds no other memory. */
Schedule *
schedule_init(void *memory, int max_keys)
{
	Schedule   *schedule = memory;

	Assert(max_keys <= SCHEDULE_MOST_KEYS);
	memset(memory, 0, schedule_size(max_keys));
	schedule->max_keys = max_keys;
	schedule->servers = (ScheduleServer *) &schedule->entries[max_keys];
	schedule->hashes = (uint64 *) &schedule->servers[max_keys];
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
static int
schedule_kind(const char *task_type)
{
	for (int kind = 0; kind < SCHEDULE_KINDS - 1; kind++)
		for (const char *at = task_type; *at != '\0'; at++)
			if (pg_strncasecmp(at, schedule_kinds[kind].word,
							   strlen(schedule_kinds[kind].word)) == 0)
				return kind;
	return SCHEDULE_KINDS - 1;
}

/* The server of that name, NULL if no key belongs to it; "make": a new one. */
static ScheduleServer *
schedule_server(Schedule *schedule, const char *name, bool make)
{
	ScheduleServer *unused = NULL;

	for (int i = 0; i < schedule->max_keys; i++)
	{
		ScheduleServer *server = &schedule->servers[i];

		if (server->keys > 0 && schedule_is_name(server->name, name))
			return server;
		if (server->keys == 0)
			unused = server;
	}
	if (!make)
		return NULL;
	memset(unused, 0, sizeof(ScheduleServer));
	unused->throttle = 1;
	unused->skew = unused->old_skew = PG_INT64_MAX;
	schedule_keep_name(unused->name, name);
	return unused;
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

/* A free entry, or the one that was not used for the longest time. */
static ScheduleEntry *
schedule_oldest(Schedule *schedule)
{
	ScheduleEntry *oldest = &schedule->entries[0];

	for (int i = 0; i < schedule->max_keys; i++)
	{
		ScheduleEntry *entry = &schedule->entries[i];

		if (entry->key == SCHEDULE_NO_KEY)
			return entry;
		if (entry->used < oldest->used)
			oldest = entry;
	}
	return oldest;
}

/* Put a new key into an entry, whatever is in it. */
static void
schedule_set_key(Schedule *schedule, ScheduleEntry *entry, uint64 hash,
				 const char *server, const char *task_type, const char *model)
{
	uint32		n = (uint32) (entry - schedule->entries);

	if (entry->key != SCHEDULE_NO_KEY)
		entry->server->keys--;
	memset(entry, 0, sizeof(*entry));
	if (++schedule->serial > PG_UINT32_MAX / SCHEDULE_MOST_KEYS)
		schedule->serial = 1;
	entry->key = schedule->serial * SCHEDULE_MOST_KEYS + n;
	schedule->hashes[n] = hash;
	entry->server = schedule_server(schedule, server, true);
	entry->server->keys++;
	entry->kind = schedule_kind(task_type);
	entry->changed = true;
	schedule_keep_name(entry->task_type, task_type);
	schedule_keep_name(entry->model, model);
}

/*
 * The entry of a task of this server, type and model (NULL: not known).  It is
 * made if there is none; that of a past task, only if there is room.  Else it
 * counts as used now, the one of a past task as used before all others.
 */
static ScheduleEntry *
schedule_find(Schedule *schedule, const char *server, const char *task_type,
			  const char *model, bool past)
{
	uint64		hash = UINT64CONST(0xcbf29ce484222325);
	ScheduleEntry *entry = NULL;

	if (task_type == NULL)
		task_type = "";
	if (model == NULL)
		model = "";
	hash = schedule_hash(hash, server);
	hash = schedule_hash(hash, task_type);
	hash = schedule_hash(hash, model);
	for (int i = 0; i < schedule->max_keys && entry == NULL; i++)
	{
		ScheduleEntry *other = &schedule->entries[i];

		if (schedule->hashes[i] == hash && other->key != SCHEDULE_NO_KEY &&
			schedule_is_name(other->server->name, server) &&
			schedule_is_name(other->task_type, task_type) &&
			schedule_is_name(other->model, model))
			entry = other;
	}
	if (entry == NULL)
	{
		entry = schedule_oldest(schedule);
		if (past && entry->key != SCHEDULE_NO_KEY)
			return NULL;
		schedule_set_key(schedule, entry, hash, server, task_type, model);
		if (past)
			entry->used = --schedule->past_uses;
	}
	if (!past)
		entry->used = ++schedule->uses;
	return entry;
}

/*
 * The key of a task of this server, type and model (NULL: not known).  It is
 * made if there is none, and counts as used now.
 */
ScheduleKey
schedule_key(Schedule *schedule, const char *server, const char *task_type,
			 const char *model)
{
	return schedule_find(schedule, server, task_type, model, false)->key;
}


/*
 * What is known of tasks
 */

/* One more task is known: those before it count a little less. */
static void
schedule_add_task(ScheduleEntry *entry)
{
	float		decay = exp2(-1 / SCHEDULE_HALF_LIFE);

	for (int i = 0; i <= PLAN_BUCKETS; i++)
	{
		entry->ended[i] *= decay;
		entry->censored[i] *= decay;
	}
	entry->total = entry->total * decay + 1;
	entry->unplanned++;
	entry->changed = true;
}

/*
 * Count a task that has ended, by so much.  It counts in all buckets that it
 * may belong to; else, of those narrower than a second, some would hold none
 * and some all of a second's tasks.
 */
static void
schedule_add_end(Schedule *schedule, ScheduleEntry *entry, double weight,
				 int64 duration, int64 precision)
{
	const double *at = schedule->work.at;
	double		wide = Max(precision, 1) / (double) SECOND;
	double		from = duration / (double) SECOND - wide / 2;
	double		upto = Max(from + wide, 0);
	int			bucket = plan_bucket(from);

	entry->tasks_ended++;
	from = Max(from, 0);
	wide = upto - from;
	/* point 1 is where the first bucket starts */
	while (bucket < PLAN_BUCKETS && at[1 + (bucket + 1) * PLAN_STEPS] < upto)
	{
		double		end = at[1 + (bucket + 1) * PLAN_STEPS];

		entry->ended[bucket++] += weight * (end - from) / wide;
		from = end;
	}
	entry->ended[bucket] += wide > 0 ? weight * (upto - from) / wide : weight;
}

/*
 * A task has ended after "duration", known to within "precision": that of
 * times in whole seconds is one second.
 */
void
schedule_record_end(Schedule *schedule, ScheduleKey key, int64 duration,
					int64 precision)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);

	if (entry == NULL)
		return;
	schedule_add_task(entry);
	schedule_add_end(schedule, entry, 1, duration, precision);
}

/*
 * The same of a task that ended before all whose ends were recorded; those of
 * one key are recorded latest first.
 */
void
schedule_record_past(Schedule *schedule, const char *server,
					 const char *task_type, const char *model, int64 duration,
					 int64 precision)
{
	ScheduleEntry *entry = schedule_find(schedule, server, task_type, model,
										 true);
	double		weight;

	if (entry == NULL)
		return;
	weight = exp2(-entry->tasks_ended / SCHEDULE_HALF_LIFE);
	entry->total += weight;
	entry->unplanned++;
	entry->changed = true;
	schedule_add_end(schedule, entry, weight, duration, precision);
}

/* A task is no longer running, or no longer known to. */
void
schedule_record_gone(Schedule *schedule, ScheduleRunning *running)
{
	ScheduleEntry *entry = schedule_entry(schedule, running->key);

	if (entry != NULL)
	{
		entry->running[running->bucket]--;
		entry->tasks_running--;
		entry->changed = true;
	}
	running->key = SCHEDULE_NO_KEY;
}

/*
 * A task was given up, or its row is gone: nobody knows when it will end, but
 * it ran for as long as it was seen to.
 */
void
schedule_record_lost(Schedule *schedule, ScheduleRunning *running)
{
	ScheduleEntry *entry = schedule_entry(schedule, running->key);

	if (entry != NULL)
	{
		schedule_add_task(entry);
		entry->censored[running->bucket]++;
	}
	schedule_record_gone(schedule, running);
}

/* A task has been seen running after "elapsed". */
void
schedule_record_running(Schedule *schedule, ScheduleRunning *running,
						ScheduleKey key, int64 elapsed)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	int			bucket = plan_bucket(elapsed / (double) SECOND);

	if (running->key == key && running->bucket == bucket)
		return;
	schedule_record_gone(schedule, running);
	if (entry == NULL)
		return;
	running->key = key;
	running->bucket = bucket;
	entry->running[bucket]++;
	entry->tasks_running++;
	entry->unplanned++;
	entry->changed = true;
}


/*
 * Servers
 */

/* By how much c is raised now. */
static double
schedule_throttled(const ScheduleServer *server, int64 now)
{
	double		since = Max((double) now - server->throttled_at, 0);

	return Max(server->throttle * exp2(-since / SCHEDULE_THROTTLE_HALF_LIFE),
			   1);
}

/*
 * A server refuses because it gets too many requests, or its rate limit makes
 * polls late: poll all its tasks more seldom for a while.
 */
void
schedule_throttle(Schedule *schedule, const char *name, int64 now)
{
	ScheduleServer *server = schedule_server(schedule, name, false);

	if (server == NULL ||
		(server->throttle > 1 &&
		 now - server->throttled_at < SCHEDULE_THROTTLE_WAIT))
		return;
	server->throttle = Min(schedule_throttled(server, now) * SCHEDULE_THROTTLE,
						   SCHEDULE_MOST_THROTTLE);
	server->throttled_at = now;
}

/*
 * A task that was seen running has ended, at "finished" by the upstream's
 * clock, as a response says that came at "received" by ours.  That is the
 * clocks' skew and the time from one to the other.
 */
void
schedule_record_finish(Schedule *schedule, ScheduleKey key, int64 received,
					   int64 finished)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	ScheduleServer *server;

	if (entry == NULL)
		return;
	server = entry->server;
	if (++server->skew_ends > SCHEDULE_SKEW_WINDOW)
	{
		server->old_skew = server->skew;
		server->skew = PG_INT64_MAX;
		server->skew_ends = 1;
	}
	server->skew = Min(server->skew, received - finished);
}

/*
 * How far our clock is ahead of that of a key's upstream: the least that the
 * latest ends say; 0 before there is one.  A wrong FinishTime counts, if it is
 * too late, for 64 ends at most, and not at all if it is too early.
 */
int64
schedule_skew(const Schedule *schedule, ScheduleKey key)
{
	const ScheduleEntry *entry = schedule_entry(schedule, key);
	int64		skew = PG_INT64_MAX;

	if (entry != NULL)
		skew = Min(entry->server->skew, entry->server->old_skew);
	return skew == PG_INT64_MAX ? 0 : skew;
}


/*
 * Plans
 */

/*
 * Work out the share of tasks that run for longer than each time.  Those that
 * still run are censored where they were last seen.
 */
static void
schedule_learn(const Schedule *schedule, const ScheduleEntry *entry,
			   float *survival)
{
	PlanTable	table;

	for (int i = 0; i <= PLAN_BUCKETS; i++)
	{
		table.ended[i] = entry->ended[i];
		table.censored[i] = entry->censored[i] + entry->running[i];
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
	double		low = SCHEDULE_FINEST_C * median;
	double		high = SCHEDULE_MOST_C;
	double		c = Max(entry->c, low);

	for (int i = 0; i < SCHEDULE_TRIES && high > low * 1.0001; i++)
	{
		double		ratio;

		entry->c = c;
		plan_solve(&schedule->work, c, bounds, entry->next);
		ratio = aim /
			Max(plan_mean_delay(&schedule->work, c, entry->next), 1e-9);
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
			   const ScheduleSettings *settings, double throttle, int64 now)
{
	PlanWork   *work = &schedule->work;
	float		survival[PLAN_BUCKETS + 1];
	double		median;
	double		aim;
	PlanBounds	bounds;

	schedule_learn(schedule, entry, survival);
	plan_spread(work, survival);
	median = plan_quantile(survival, 0.5);
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
	if (throttle > 1)
		plan_solve(work, entry->c * throttle, &bounds, entry->next);
	entry->last = work->last;
	entry->throttle = throttle;
	entry->settings = *settings;
	entry->built_at = now;
	entry->built = true;
	entry->unplanned = 0;
}

/* Is it time to make the plan of a key anew? */
static bool
schedule_is_stale(const ScheduleEntry *entry,
				  const ScheduleSettings *settings, double throttle,
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
	return (entry->unplanned > 0 &&
			entry->unplanned >= SCHEDULE_NEW_SHARE *
					(entry->total + entry->tasks_running)) ||
		throttle > entry->throttle * SCHEDULE_THROTTLE_CHANGE ||
		throttle < entry->throttle / SCHEDULE_THROTTLE_CHANGE;
}

/* How long to wait, in seconds, with a task that has run for so long. */
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
	return plan_tail_gap(entry->c * entry->throttle, elapsed);
}

/* "wait" made longer or shorter by chance; "random" is in [0, 1). */
static int64
schedule_jitter(int64 wait, double random)
{
	return (int64) (wait * (1.0 + SCHEDULE_JITTER * (2.0 * random - 1.0)));
}

/*
 * How long to wait before a running task is polled again.  The plan is made
 * anew if enough was learned since.  "random" is in [0, 1).
 */
int64
schedule_next(Schedule *schedule, const ScheduleSettings *settings,
			  ScheduleKey key, int64 elapsed, int64 now, double random)
{
	ScheduleEntry *entry = schedule_entry(schedule, key);
	double		throttle;
	int64		wait;

	if (entry == NULL)
		return schedule_fixed(settings, random);
	throttle = schedule_throttled(entry->server, now);
	if (schedule_is_stale(entry, settings, throttle, now))
		schedule_build(schedule, entry, settings, throttle, now);
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

/*
 * How much longer a task will run that has been running for "elapsed", as far
 * as its key's summary says.
 */
void
schedule_forecast(const ScheduleSummary *summary, int64 elapsed,
				  ScheduleForecast *forecast)
{
	const float *shares = summary->shares;
	double		seconds = Max(elapsed, 0) / (double) SECOND;
	double		now = plan_survival_at(shares, seconds);

	forecast->median =
		schedule_microseconds(plan_quantile(shares, now * 0.5) - seconds);
	forecast->p90 =
		schedule_microseconds(plan_quantile(shares, now * 0.1) - seconds);
	forecast->p90 = Max(forecast->p90, forecast->median);
	forecast->learned = summary->learned;
}

/*
 * Sum up the n-th key, from 0.  False if there is no such key, or nothing was
 * recorded of it since.
 */
bool
schedule_summarize(Schedule *schedule, int n, ScheduleSummary *summary)
{
	ScheduleEntry *entry;

	if (n < 0 || n >= schedule->max_keys)
		return false;
	entry = &schedule->entries[n];
	if (!entry->changed)
		return false;
	StaticAssertStmt(lengthof(summary->shares) == PLAN_BUCKETS + 1,
					 "a share a bucket");
	memset(summary, 0, sizeof(*summary));
	schedule_keep_name(summary->server, entry->server->name);
	schedule_keep_name(summary->task_type, entry->task_type);
	schedule_keep_name(summary->model, entry->model);
	summary->ended = entry->tasks_ended;
	summary->running = entry->tasks_running;
	schedule_learn(schedule, entry, summary->shares);
	summary->median =
		schedule_microseconds(plan_quantile(summary->shares, 0.5));
	summary->p95 = schedule_microseconds(plan_quantile(summary->shares, 0.05));
	summary->skew = schedule_skew(schedule, entry->key);
	summary->learned = entry->total;
	entry->changed = false;
	return true;
}
