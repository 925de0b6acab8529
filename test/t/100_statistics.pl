# The statistics views tell what is so: of each database that is served or
# waits to be, of each server and key, also when the worker has left, and to
# nobody more than he may know.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-stat']);
my %server = (
	simulator => $simulator,
	api_key => 'sk-stat',
	options => "rate_limit '5000'");
my $node = anyvod_node(
	'stat', %server,
	conf => <<'END');
anyvod.idle_timeout = 200ms
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
anyvod.max_databases = 3
END

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

sub track
{
	my ($ids, $database) = @_;
	return sql(
		'INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ', map { "('$_')" } ref $ids ? @$ids : $ids),
		$database);
}

# What the view says of a database.
sub worker
{
	my ($columns, $database) = @_;
	return sql("SELECT $columns FROM anyvod_stat_worker WHERE datname = "
		  . quote_literal($database // 'postgres'));
}

# Requests of all servers of a database that ended so.
sub ended
{
	my ($kind, $database) = @_;
	return sql("SELECT coalesce(sum($kind), 0) FROM anyvod_stat_server",
		$database);
}

# Wait until so many have.
sub have_ended
{
	my ($count, $kind, $database) = @_;
	return wait_until(sub { ended($kind, $database) >= $count });
}

# Wait until it says that.
sub worker_says
{
	my ($condition, $database) = @_;
	return poll_until($node,
		"SELECT $condition FROM anyvod_stat_worker WHERE datname = "
		  . quote_literal($database // 'postgres'));
}

# Without preload there is nothing to see, and no error.
my $bare = anyvod_node('bare', %server, preload => 0);
is($bare->safe_psql('postgres', 'SELECT count(*) FROM anyvod_stat_worker'),
	'0', 'without preload no worker is shown');
is($bare->safe_psql('postgres', 'SELECT count(*) FROM anyvod_stat_server'),
	'0', 'nor a server');
is($bare->safe_psql('postgres', 'SELECT anyvod_stat_reset()'),
	'', 'and there is nothing to reset');
$bare->stop;

# A request takes as long as the gateway says.
track([ map { "image-delay3000-$_" } 1 .. 20 ]);
ok(worker_says('state = \'serving\' AND in_flight > 0 AND pending = 20'),
	'requests are seen while they are on their way');
ok(have_ended(20, 'succeeded'), 'and counted when they have ended');
my ($p50, $p95, $p99) = split /\|/,
  worker('request_p50_ms, request_p95_ms, request_p99_ms');
measured('requests of 3 s: p50 %.0f ms, p95 %.0f ms, p99 %.0f ms',
	$p50, $p95, $p99);
cmp_ok($p50, '>=', 2500, 'the median is not below the bucket of the truth');
cmp_ok($p50, '<=', $p95, 'percentiles are in order');
cmp_ok($p95, '<=', $p99, 'all of them');
is(worker('detection_p50_ms'),
	'', 'tasks that had ended before they were asked for tell no delay');
cmp_ok(
	sql('SELECT connections FROM anyvod_stat_server'),
	'<=', $simulator->stats->{connections},
	'no more connections are counted than the gateway has seen');
cmp_ok(sql('SELECT connections FROM anyvod_stat_server'),
	'>', 0, 'and some are');

# Figures outlive the worker.
ok(worker_says("state = 'ended'"), 'an idle worker ends');
is( worker(
		'pid IS NULL AND pending IS NULL AND in_flight IS NULL'
		  . ' AND started_at IS NULL'),
	't',
	'and keeps no gauge');
is(ended('succeeded'), '20', 'its figures are still there');
is( worker('polls'),
	$simulator->stats->{requests},
	'the gateway has counted as many requests');

# Tasks that are watched until they end
sql('SELECT anyvod_stat_reset()');
track([ map { "image-t2000-$_" } 1 .. 20 ]);
ok(have_ended(20, 'running'), 'running tasks are seen');
ok( poll_until(
		$node,
		"SELECT query LIKE 'waiting %' FROM pg_stat_activity"
		  . " WHERE backend_type = 'anyvod worker' AND datname = 'postgres'"
		  . " AND state = 'idle'"),
	'pg_stat_activity says what the worker waits for');
ok(have_ended(20, 'succeeded') && worker_says('changes_written = 40'),
	'they end; two changes were written of each: that it runs, that it ended');
my ($delay50, $delay95) = split /\|/,
  worker('detection_p50_ms, detection_p95_ms');
my ($true50, $true95) = split /\|/, sql(<<'END');
SELECT 1000 * percentile_disc(0.5) WITHIN GROUP (ORDER BY delay),
	1000 * percentile_disc(0.95) WITHIN GROUP (ORDER BY delay)
FROM (SELECT extract(epoch FROM updated_at - ended_at)::float8 AS delay
	FROM anyvod_tasks WHERE task_id LIKE '%t2000%') AS rows
END
measured('detection delay: p50 %.0f ms, p95 %.0f ms; of the rows %.0f, %.0f ms',
	$delay50, $delay95, $true50, $true95);
# a quarter for the buckets, and what lies between a row and its commit
cmp_ok($delay50, '>=', $true50 * 0.75, 'the delay is that of the rows');
cmp_ok($delay50, '<=', $true50 * 1.25 + 100, 'and no other');
is(worker('unchanged'), ended('running') - 20,
	'all other responses changed nothing');

# Who sees what
anyvod_database($node, 'other', %server);
track('image-other', 'other');
ok(worker_says('changes_written = 1', 'other'), 'another database is seen');
sql('CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE app LOGIN');
foreach my $who ([ 'monitor', 'other,postgres' ], [ 'app', 'postgres' ])
{
	my ($role, $expected) = @$who;
	my $session = open_session($node, user => $role);

	is( (   run_query(
				$session,
				"SELECT string_agg(datname, ',' ORDER BY datname)"
				  . ' FROM anyvod_stat_worker'))[1],
		$expected,
		"$role sees $expected");
	is((run_query($session, 'SELECT anyvod_stat_reset()'))[0],
		'42501', "$role cannot reset anything");
	close_session($session);
}

# A server that is paused: what waits for it is overdue, and more so with time,
# although its worker sleeps.  A task that runs is due in a while.
sql('SELECT anyvod_stat_reset()');
sql("ALTER SYSTEM SET anyvod.detection_delay = '30s'");
$node->reload;
track('image-t600000-calm');
ok(have_ended(1, 'running') && worker_says('oldest_due > now()'),
	'a task that runs is due later');
sql("ALTER SYSTEM RESET anyvod.detection_delay");
$node->reload;
sql("DELETE FROM anyvod_tasks WHERE task_id LIKE '%calm'");
track('image-http429-ra60-rest');
ok(worker_says("oldest_due < now() - interval '2 s'"),
	'a task is overdue while its worker sleeps');
is(sql('SELECT state, paused_why, rate_limited FROM anyvod_stat_server'),
	'paused|rate_limited|1', 'since the server is paused');
sql("DELETE FROM anyvod_tasks WHERE task_id LIKE '%rest';"
	  . " ALTER SERVER anyapi OPTIONS (ADD timeout '20s')");
ok(worker_says("state = 'ended' OR pending = 0"), 'a change ends that');

# A worker that is ended by force
track('image-t600000-long');
ok(have_ended(1, 'running') && worker_says('pending = 1'), 'a task runs');
my $pid = worker_pid($node);
is(worker('pid'), $pid, 'the worker is shown by its pid');
sql("SELECT pg_terminate_backend($pid)");
ok(worker_says("restarts = 1 AND pid <> $pid AND state = 'serving'"),
	'a worker that was ended by force is counted and replaced');

# Switched off
sql('ALTER SYSTEM SET anyvod.worker = off');
$node->reload;
ok(worker_says("state = 'off' AND pid IS NULL"), 'switched off, it says so');
sql('ALTER SYSTEM RESET anyvod.worker');
$node->reload;
ok(worker_says("state = 'serving'"), 'switched on, it serves');

# A command that wants the database for itself
track('image-t600000-way', 'other');
ok(worker_says("state = 'serving'", 'other'), 'a second worker serves');
my $session = open_session($node);
$session->query_safe('BEGIN');
$session->query_safe('ALTER DATABASE other RENAME TO renamed');
is(worker('state', 'other'), 'yielding', 'it yields to a command');
$session->query_safe('ROLLBACK');
ok(worker_says("state = 'serving'", 'other'), 'and comes back');
close_session($session);

# A database that is gone
is(sql("SELECT count(*) FROM anyvod_stat_worker WHERE datname = 'other'"),
	'1', 'a database is shown');
sql('DROP DATABASE other');
is(sql('SELECT count(*) FROM anyvod_stat_worker'),
	'1', 'until it is dropped');

# Figures of several databases are kept.
sql('DELETE FROM anyvod_tasks');
ok(worker_says("state = 'ended'"), 'the first database has nothing to do');
foreach my $database (qw(alpha beta gamma))
{
	anyvod_database($node, $database, %server);
	track("image-$database", $database);
	ok(worker_says("changes_written = 1 AND state = 'ended'", $database),
		"database $database is served");
}

# More servers than there is room for
sql(<<"END", 'gamma');
SELECT format('CREATE SERVER %I FOREIGN DATA WRAPPER anyvod OPTIONS (base_url %L)',
	's' || n, '@{[ $simulator->url ]}') FROM generate_series(1, 40) n \\gexec
INSERT INTO anyvod_tasks (task_id, server)
	SELECT 'image-s-' || n, 's' || n FROM generate_series(1, 40) n;
END
ok( worker_says('polls >= 41 AND in_flight = 0', 'gamma'),
	'forty servers refuse to be asked without a key');
is( sql(
		"SELECT count(*), sum(auth), count(*) FILTER (WHERE state = 'paused')"
		  . " FROM anyvod_stat_server WHERE server <> 'anyapi'",
		'gamma'),
	'32|32|32',
	'the latest of them are kept');
sql('DELETE FROM anyvod_tasks', 'gamma');

# A gateway that is not there
sql("DROP SERVER anyapi CASCADE;"
	  . " CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url 'http://127.0.0.1:1')"
);
track([ map { "image-nobody-$_" } 1 .. 3 ]);
ok( poll_until(
		$node,
		"SELECT state = 'paused' AND paused_why = 'failures' AND no_response >= 3"
		  . " AND last_error = 'no_response'"
		  . " AND last_error_detail = 'no connection while connecting'"
		  . ' AND paused_until > now() FROM anyvod_stat_server'),
	'a server that cannot be reached is paused for its failures');
is(worker('last_error'), 'no_response', 'and is the last error');

# A single task that fails again and again waits as long
sql("CREATE SERVER alone FOREIGN DATA WRAPPER anyvod OPTIONS (base_url 'http://127.0.0.1:1');"
	  . " INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-alone', 'alone')");
ok( poll_until(
		$node,
		"SELECT state = 'paused' AND paused_why = 'failures' AND no_response >= 3"
		  . " AND paused_until > now() FROM anyvod_stat_server"
		  . " WHERE server = 'alone'"),
	'a server is paused for the failures of its only task');
ok( poll_until(
		$node,
		"SELECT why ~ '^server paused until [0-9:]+: failures\$' FROM anyvod_dashboard"
		  . " WHERE task_id = 'image-alone'"),
	'the dashboard says so');
sql('DELETE FROM anyvod_tasks');

# No process slot: PostgreSQL itself takes one, for logical replication, and the
# launcher another.
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
track('image-t600000-slot', 'alpha');
ok(worker_says("state = 'serving'", 'alpha'), 'one database is served');
track('image-t600000-slot', 'beta');
ok( worker_says(
		"state = 'waiting for a process slot' AND pid IS NULL"
		  . " AND hint = 'Raise \"max_worker_processes\".'",
		'beta'),
	'another waits for a process slot');
sql('DELETE FROM anyvod_tasks', 'alpha');
ok(worker_says("state = 'serving'", 'beta'), 'until there is one');

done_testing();
