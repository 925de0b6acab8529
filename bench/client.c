/*-------------------------------------------------------------------------
 *
 * client.c
 *		Times that a client of the database sees, by libpq.
 *
 *		client filled PREFIX	from the commit of an INSERT into anyvod_tasks
 *								to the notification that its row is settled, and
 *								to the commit that settles it
 *		client commit TABLE		an INSERT into a plain table and its commit
 *		client select			a SELECT 1
 *
 *		-n N		times (default 500)
 *		-w MIN,MAX	wait that long before each, by chance (milliseconds)
 *		-a PREFIX	before, insert a row of that name, and before every
 *					second's first another
 *
 * Prints each time, in microseconds.  The environment says where the database
 * is.
 *
 * The notification leaves the server once the row is durable.  Its time begins
 * when this program knows of the commit, and ends when it knows of the other.
 * What lies between the commits themselves is told by their timestamps, which
 * the server keeps (track_commit_timestamp): it takes each before it flushes,
 * so one flush is in that time too, the INSERT's instead of the other.
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

#define ID_SIZE 256
#define XID_SIZE 16

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

static void
prepare(const char *name, const char *sql)
{
	PGresult   *result = PQprepare(session, name, sql, 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(sql);
	PQclear(result);
}

static void
make_id(char *id, const char *prefix, const char *what, int i)
{
	snprintf(id, ID_SIZE, "%s-%d-%s-%d", prefix, (int) getpid(), what, i);
}

/* Insert a row; "xid" gets its transaction, unless it is NULL. */
static void
insert(const char *prefix, const char *what, int i, char *xid)
{
	char		id[ID_SIZE];
	const char *values[] = {id};
	PGresult   *result;

	make_id(id, prefix, what, i);
	result = PQexecPrepared(session, "insert", 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		die("could not insert");
	if (xid != NULL)
		snprintf(xid, XID_SIZE, "%s", PQgetvalue(result, 0, 0));
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

	make_id(id, prefix, "row", i);
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
prepare_insert(const char *table)
{
	char		sql[ID_SIZE];

	snprintf(sql, sizeof(sql),
			 "INSERT INTO %s (task_id) VALUES ($1) RETURNING xmin", table);
	prepare("insert", sql);
}

/* Print what lies between the commits of a row's INSERT and of its end. */
static void
print_between(const char *prefix, int i, const char *xid)
{
	char		id[ID_SIZE];
	const char *values[] = {id, xid};
	PGresult   *result;

	make_id(id, prefix, "row", i);
	result = PQexecPrepared(session, "between", 2, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
		die("could not read a row");
	printf("%s\n", PQgetvalue(result, 0, 0));
	PQclear(result);
}

static void
measure_filled(const char *prefix)
{
	char		(*xids)[XID_SIZE] = calloc(times, XID_SIZE);
	double	   *noticed = calloc(times, sizeof(double));
	double		last = 0;

	run("LISTEN anyvod_tasks");
	prepare_insert("anyvod_tasks");
	prepare("between",
			"SELECT round(extract(epoch FROM pg_xact_commit_timestamp(xmin) -"
			" pg_xact_commit_timestamp($2::xid)) * 1e6)"
			" FROM anyvod_tasks WHERE task_id = $1");
	for (int i = 0; i < times; i++)
	{
		double		begin;

		if (beside != NULL && now() - last > 1)
		{
			insert(beside, "beside", i, NULL);
			last = now();
		}
		pause_between();
		insert(prefix, "row", i, xids[i]);
		begin = now();
		await(prefix, i);
		noticed[i] = (now() - begin) * 1e6;
	}
	for (int i = 0; i < times; i++)
	{
		printf("%.1f ", noticed[i]);
		print_between(prefix, i, xids[i]);
	}
	free(xids);
	free(noticed);
}

static void
measure_commit(const char *table)
{
	prepare_insert(table);
	for (int i = 0; i < times; i++)
	{
		double		begin;

		pause_between();
		begin = now();
		insert("plain", "row", i, NULL);
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
