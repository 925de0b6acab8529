/*-------------------------------------------------------------------------
 *
 * client.c
 *		Times that a client of the database sees, by libpq.
 *
 *		client filled PREFIX	from the commit of an INSERT into anyvod_tasks
 *								to the notification that its row is settled
 *		client commit TABLE		an INSERT into a plain table and its commit
 *		client select			a SELECT 1
 *
 *		-n N		times (default 500)
 *		-w MIN,MAX	wait that long before each, by chance (milliseconds)
 *		-a PREFIX	before, insert a row of that name, and before every
 *					second's first another
 *
 * The notification leaves the server once the row is durable.  Prints each
 * time, in microseconds.  The environment says where the database is.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Longer than any row takes, in milliseconds. */
#define PATIENCE 30000

static PGconn *session;
static int	times = 500;
static double least_wait;		/* milliseconds */
static double most_wait;
static const char *beside;		/* NULL: nothing */

static void
die(const char *what)
{
	fprintf(stderr, "client: %s: %s\n", what, PQerrorMessage(session));
	exit(1);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void
run(const char *sql)
{
	PGresult   *result = PQexec(session, sql);

	if (PQresultStatus(result) != PGRES_COMMAND_OK &&
		PQresultStatus(result) != PGRES_TUPLES_OK)
		die(sql);
	PQclear(result);
}

/* Prepare a statement of one parameter, text. */
static void
prepare(const char *name, const char *sql)
{
	PGresult   *result = PQprepare(session, name, sql, 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(sql);
	PQclear(result);
}

static void
insert(const char *statement, const char *prefix, const char *what, int i)
{
	char		id[256];
	const char *values[] = {id};
	PGresult   *result;

	snprintf(id, sizeof(id), "%s-%d-%s-%d", prefix, (int) getpid(), what, i);
	result = PQexecPrepared(session, statement, 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("could not insert");
	PQclear(result);
}

/* Wait for the notification of a row of ours. */
static void
await(const char *prefix, int i)
{
	char		id[256];
	PGnotify   *notify;
	bool		found = false;

	snprintf(id, sizeof(id), "\"%s-%d-row-%d\"", prefix, (int) getpid(), i);
	while (!found)
	{
		struct pollfd wait = {.fd = PQsocket(session), .events = POLLIN};

		while (!found && (notify = PQnotifies(session)) != NULL)
		{
			found = strstr(notify->extra, id) != NULL;
			PQfreemem(notify);
		}
		if (found)
			break;
		if (poll(&wait, 1, PATIENCE) <= 0 || !PQconsumeInput(session))
			die("no notification");
	}
}

/* Wait before a measurement, as -w says. */
static void
pause_between(void)
{
	double		ms = least_wait +
		(most_wait - least_wait) * (random() / (double) RAND_MAX);

	if (ms > 0)
		usleep((useconds_t) (ms * 1000));
}

static void
measure_filled(const char *prefix)
{
	double		last = 0;

	run("LISTEN anyvod_tasks");
	prepare("insert", "INSERT INTO anyvod_tasks (task_id) VALUES ($1)");
	for (int i = 0; i < times; i++)
	{
		double		begin;

		if (beside != NULL && now() - last > 1)
		{
			insert("insert", beside, "beside", i);
			last = now();
		}
		pause_between();
		insert("insert", prefix, "row", i);
		begin = now();
		await(prefix, i);
		printf("%.1f\n", (now() - begin) * 1e6);
	}
}

static void
measure_commit(const char *table)
{
	char		sql[256];

	snprintf(sql, sizeof(sql), "INSERT INTO %s (task_id) VALUES ($1)", table);
	prepare("insert", sql);
	for (int i = 0; i < times; i++)
	{
		double		begin;

		pause_between();
		begin = now();
		insert("insert", "plain", "row", i);
		printf("%.1f\n", (now() - begin) * 1e6);
	}
}

static void
measure_select(void)
{
	for (int i = 0; i < times; i++)
	{
		double		begin = now();

		run("SELECT 1");
		printf("%.1f\n", (now() - begin) * 1e6);
	}
}

int
main(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "n:w:a:")) != -1)
	{
		if (option == 'n')
			times = atoi(optarg);
		else if (option == 'a')
			beside = optarg;
		else if (option != 'w' ||
				 sscanf(optarg, "%lf,%lf", &least_wait, &most_wait) != 2)
			exit(2);
	}
	session = PQconnectdb("");
	if (PQstatus(session) != CONNECTION_OK)
		die("could not connect");
	if (optind + 2 == argc && strcmp(argv[optind], "filled") == 0)
		measure_filled(argv[optind + 1]);
	else if (optind + 2 == argc && strcmp(argv[optind], "commit") == 0)
		measure_commit(argv[optind + 1]);
	else if (optind + 1 == argc && strcmp(argv[optind], "select") == 0)
		measure_select();
	else
	{
		fprintf(stderr, "usage: client [options] filled|commit NAME | select\n");
		return 2;
	}
	PQfinish(session);
	return 0;
}
