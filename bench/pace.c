/*-------------------------------------------------------------------------
 *
 * pace.c
 *		What the real worker should need for certain tasks, when nothing
 *		takes it any time.
 *
 *		pace draw SEED TASKS BEGIN SECONDS LONGEST NAME...
 *			draw so many tasks of these distributions in turn, that come by
 *			chance within SECONDS from BEGIN (s) on and run for LONGEST
 *			seconds at most; a line each: name, task type, ms from the start
 *			to its creation, ms it runs
 *		pace predict FILE SINCE UNTIL
 *			ask about the tasks that such lines tell of, as a worker with the
 *			default settings does that knows nothing at first; a line for
 *			each name: tasks, requests a task, mean delay in seconds, of the
 *			tasks that were created from SINCE until UNTIL (ms)
 *
 * Links the extension's own schedule.c and plan.c.  The answers tell times in
 * whole seconds, questions are varied by chance; so figures are means over
 * some runs.  The same arguments give the same lines.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <math.h>

#include "distribution.h"
#include "schedule/schedule.h"

#define SECOND INT64CONST(1000000)
#define MILLISECOND INT64CONST(1000)

/* The settings' defaults. */
static const ScheduleSettings settings = {
	.detection_delay = 2500 * MILLISECOND,
	.poll_floor = 500 * MILLISECOND,
	.poll_cap = 60 * SECOND,
};

#define MOST_TASKS 100000
#define MOST_NAMES 8
#define KEYS 16
#define RUNS 10

typedef struct Task
{
	int			name;
	int64		created;		/* microseconds, as all times here */
	int64		end;
	int64		due;
	int			requests;
	ScheduleRunning running;
} Task;

static Task tasks[MOST_TASKS];
static int	task_count;
static char names[MOST_NAMES][32];
static char task_types[MOST_NAMES][32];
static int	name_count;

/* A heap of the tasks that have not been seen to end, the earliest first. */
static Task *heap[MOST_TASKS];
static int	heap_size;

static void
fail(const char *what)
{
	fprintf(stderr, "pace: %s\n", what);
	exit(1);
}


/*
 * Drawing
 */

static int
compare_numbers(const void *a, const void *b)
{
	double		number_a = *(const double *) a;
	double		number_b = *(const double *) b;

	return (number_a > number_b) - (number_a < number_b);
}

static const Distribution *
find_distribution(const char *name)
{
	for (int i = 0; i < DISTRIBUTIONS; i++)
		if (strcmp(distributions[i].name, name) == 0)
			return &distributions[i];
	fail("no such distribution");
	return NULL;
}

static void
draw_tasks(char **arguments, int n)
{
	static double created[MOST_TASKS];
	int			count = Min(atoi(arguments[1]), MOST_TASKS);
	double		begin = atof(arguments[2]);
	double		seconds = atof(arguments[3]);
	double		longest = atof(arguments[4]);

	random_state = (uint64) atoll(arguments[0]);
	for (int i = 0; i < count; i++)
		created[i] = begin + random_share() * seconds;
	qsort(created, count, sizeof(double), compare_numbers);
	for (int i = 0; i < count; i++)
	{
		const char *name = arguments[5 + i % (n - 5)];
		const Distribution *distribution = find_distribution(name);
		double		time = draw(distribution);

		printf("%s %s %.0f %.0f\n", name, distribution->task_type,
			   created[i] * 1000, Min(time, longest) * 1000);
	}
}


/*
 * Predicting
 */

static int
find_name(const char *name, const char *task_type)
{
	for (int i = 0; i < name_count; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	if (name_count == MOST_NAMES)
		fail("too many names");
	strlcpy(names[name_count], name, sizeof(names[0]));
	strlcpy(task_types[name_count], task_type, sizeof(task_types[0]));
	return name_count++;
}

static void
read_tasks(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char		name[32];
	char		task_type[32];
	long		created;
	long		duration;

	if (file == NULL)
		fail("could not open the file");
	while (task_count < MOST_TASKS &&
		   fscanf(file, "%31s %31s %ld %ld", name, task_type, &created,
				  &duration) == 4)
	{
		Task	   *task = &tasks[task_count++];

		task->name = find_name(name, task_type);
		task->created = created * MILLISECOND;
		task->end = task->created + duration * MILLISECOND;
	}
	if (!feof(file) || task_count == 0)
		fail("could not read the file");
	fclose(file);
}

static void
heap_put(Task *task)
{
	int			at = heap_size++;

	for (; at > 0 && heap[(at - 1) / 2]->due > task->due; at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = task;
}

static Task *
heap_take(void)
{
	Task	   *first = heap[0];
	Task	   *last = heap[--heap_size];
	int			at = 0;
	int			next;

	while ((next = 2 * at + 1) < heap_size)
	{
		if (next + 1 < heap_size && heap[next + 1]->due < heap[next]->due)
			next++;
		if (heap[next]->due >= last->due)
			break;
		heap[at] = heap[next];
		at = next;
	}
	heap[at] = last;
	return first;
}

/* A time as the upstream tells it. */
static int64
told(int64 time)
{
	return time / SECOND * SECOND;
}

/* One question and its answer: see the head of schedule.h. */
static void
ask(Schedule *schedule, Task *task)
{
	int64		now = task->due;
	ScheduleKey key = schedule_key(schedule, "anyapi",
								   task_types[task->name], names[task->name]);
	int64		elapsed;

	task->requests++;
	if (now >= task->end)
	{
		if (task->running.key == key)
			schedule_record_finish(schedule, key, now, told(task->end));
		schedule_record_gone(schedule, &task->running);
		schedule_record_end(schedule, key,
						  told(task->end) - told(task->created), SECOND);
		return;
	}
	elapsed = now - schedule_skew(schedule, key) - told(task->created) -
		SECOND / 2;
	schedule_record_running(schedule, &task->running, key, elapsed);
	task->due = now + schedule_next(schedule, &settings, key, elapsed, now,
									random_share());
	heap_put(task);
}

static void
run(Schedule *schedule)
{
	for (int i = 0; i < task_count; i++)
	{
		Task	   *task = &tasks[i];

		task->requests = 0;
		task->running.key = SCHEDULE_NO_KEY;
		task->due = task->created;
		heap_put(task);
	}
	while (heap_size > 0)
		ask(schedule, heap_take());
}

static void
predict(int64 since, int64 until)
{
	void	   *memory = malloc(schedule_size(KEYS));
	int			counted[MOST_NAMES] = {0};
	double		requests[MOST_NAMES] = {0};
	double		delay[MOST_NAMES] = {0};

	random_state = 1;
	for (int i = 0; i < RUNS; i++)
	{
		run(schedule_init(memory, KEYS));
		for (int j = 0; j < task_count; j++)
		{
			const Task *task = &tasks[j];

			if (task->created < since || task->created >= until)
				continue;
			counted[task->name]++;
			requests[task->name] += task->requests;
			delay[task->name] += (task->due - task->end) / (double) SECOND;
		}
	}
	free(memory);
	for (int i = 0; i < name_count; i++)
		printf("%s %d %.6f %.6f\n", names[i], counted[i] / RUNS,
			   requests[i] / Max(counted[i], 1),
			   delay[i] / Max(counted[i], 1));
}

int
main(int argc, char **argv)
{
	if (argc > 7 && strcmp(argv[1], "draw") == 0)
		draw_tasks(argv + 2, argc - 2);
	else if (argc == 5 && strcmp(argv[1], "predict") == 0)
	{
		read_tasks(argv[2]);
		predict(atoll(argv[3]) * MILLISECOND, atoll(argv[4]) * MILLISECOND);
	}
	else
		fail("see the head of bench/pace.c for the arguments");
	return 0;
}
