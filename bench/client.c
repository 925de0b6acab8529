/*-------------------------------------------------------------------------
 *
 * client.c
 *		Times that a client of the database sees, by libpq.
 *
 *		client filled PREFIX	from the commit of an INSERT into anyvod_tasks
 *								to the notification that its row is settled
 *		client commit TABLE		an INSERT into a plain table and its commit
 *
 *		-n N		times (default 500)
 *
 * Prints each time, in microseconds.  The environment says where the database
 * is.  The notification leaves the server once the row is durable; a time
 * begins when this program knows of the INSERT's commit.
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
#define PATIENCE 120000

#define ID_SIZE 256

static PGconn *session;
static int	times = 500;

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

static void
prepare(const char *name, const char *sql)
{
	PGresult   *result = PQprepare(session, name, sql, 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(sql);
	PQclear(result);
}

static void
make_id(char *id, const char *prefix, int i)
{
	snprintf(id, ID_SIZE, "%s-%d-%d", prefix, (int) getpid(), i);
}

static void
insert(const char *prefix, int i)
{
	char		id[ID_SIZE];
	const char *values[] = {id};
	PGresult   *result;

	make_id(id, prefix, i);
	result = PQexecPrepared(session, "insert", 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("could not insert");
	PQclear(result);
}

/* Wait for the notification of a row of ours. */
static void
await(const char *prefix, int i)
{
	char		id[ID_SIZE];
	char		quoted[ID_SIZE + 2];
	PGnotify   *notify;
	bool		found = false;

	make_id(id, prefix, i);
	snprintf(quoted, sizeof(quoted), "\"%s\"", id);
	while (!found)
	{
		struct pollfd wait = {.fd = PQsocket(session), .events = POLLIN};

		while (!found && (notify = PQnotifies(session)) != NULL)
		{
			found = strstr(notify->extra, quoted) != NULL;
			PQfreemem(notify);
		}
		if (found)
			break;
		if (poll(&wait, 1, PATIENCE) <= 0 || !PQconsumeInput(session))
			die("no notification");
	}
}

static void
prepare_insert(const char *table)
{
	char		sql[ID_SIZE];

	snprintf(sql, sizeof(sql),
			 "INSERT INTO %s (task_id) VALUES ($1)", table);
	prepare("insert", sql);
}

static void
measure_filled(const char *prefix)
{
	run("LISTEN anyvod_tasks");
	prepare_insert("anyvod_tasks");
	for (int i = 0; i < times; i++)
	{
		double		begin;

		insert(prefix, i);
		begin = now();
		await(prefix, i);
		printf("%.1f\n", (now() - begin) * 1e6);
	}
}

static void
measure_commit(const char *table)
{
	prepare_insert(table);
	for (int i = 0; i < times; i++)
	{
		double		begin = now();

		insert("plain", i);
		printf("%.1f\n", (now() - begin) * 1e6);
	}
}

int
main(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "n:")) != -1)
	{
		if (option != 'n')
			exit(2);
		times = atoi(optarg);
	}
	session = PQconnectdb("");
	if (PQstatus(session) != CONNECTION_OK)
		die("could not connect");
	if (optind + 2 == argc && strcmp(argv[optind], "filled") == 0)
		measure_filled(argv[optind + 1]);
	else if (optind + 2 == argc && strcmp(argv[optind], "commit") == 0)
		measure_commit(argv[optind + 1]);
	else
	{
		fprintf(stderr, "usage: client [-n N] filled|commit NAME\n");
		return 2;
	}
	PQfinish(session);
	return 0;
}
