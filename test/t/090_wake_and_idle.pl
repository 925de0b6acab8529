# Work is noticed at COMMIT, whatever way it came; what is not there costs
# nothing: no process, no wake-up, no write.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-wake']);
my %server = (
	simulator => $simulator,
	api_key => 'sk-wake',
	options => "rate_limit '5000'");
my $node = anyvod_node(
	'wake', %server,
	conf => <<'END');
autovacuum = off
checkpoint_timeout = 1h
log_min_messages = debug1
anyvod.idle_timeout = 500ms
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
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

# Wait until these rows are settled.
sub settled
{
	my ($like, $count, $database) = @_;
	return poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '$like'"
		  . " AND state = 'succeeded'",
		$count // 1, undef, $database);
}

sub asked_for
{
	my ($task_id) = @_;
	return $simulator->task_requests($task_id);
}

# How often has a worker been started for a database?
sub starts
{
	my ($database) = @_;
	my $oid = sql("SELECT oid FROM pg_database WHERE datname = '$database'");
	my @found = slurp_file($node->logfile) =~
	  /starting background worker process "anyvod worker for database $oid"/g;

	return scalar @found;
}

# A setting of the configuration file, in force.
sub set_and_reload
{
	my ($line) = @_;

	$node->append_conf('postgresql.conf', $line);
	$node->reload;
	return;
}

# A condition that has nothing to do with anyvod's processes: a task of the
# simulator ends, that many milliseconds after it is first asked for.
sub wait_for_something_else
{
	my ($ms) = @_;

	return wait_until(
		sub {
			return $simulator->get(
				"/_stats?task=image-t$ms-else")->{requests} && (
				$simulator->get("/_stats?task=image-t$ms-else")->{end_ms} <
				  1000 * Time::HiRes::time());
		});
}

# A fresh database
anyvod_database($node, 'fresh', %server);
track('image-fresh', 'fresh');
ok(settled('image-fresh', 1, 'fresh'),
	'a fresh extension is noticed without a restart');
ok(defined wait_for_worker($node, 0, database => 'fresh'),
	'its worker ends when it is idle');

# Transactions that come to nothing.  A database that does have work shows
# that the launcher has been round.
my $before = starts('postgres');
sql("BEGIN; INSERT INTO anyvod_tasks (task_id) VALUES ('image-undone');"
	  . ' ROLLBACK');
track('image-marker', 'fresh');
ok(settled('image-marker', 1, 'fresh'), 'another database has work');
is(starts('postgres'), $before, 'ROLLBACK starts no worker');
is(asked_for('image-undone'), 0, 'and nothing is asked');

sql(<<'END');
BEGIN;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-savepoint-1');
SAVEPOINT s;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-savepoint-2');
ROLLBACK TO s;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-savepoint-3');
COMMIT;
END
ok(settled('image-savepoint-%', 2), 'what is left of a transaction is filled');
is(asked_for('image-savepoint-2'), 0, 'what was undone is not asked for');

# A transaction that takes its time
my $session = open_session($node);
$session->query_safe('BEGIN');
$session->query_safe(
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-later')");
track('image-meanwhile');
ok(settled('image-meanwhile'), 'others are filled meanwhile');
is(asked_for('image-later'), 0, 'before COMMIT nothing is asked');
$session->query_safe('COMMIT');
ok(settled('image-later'), 'after it the row is filled');
$session->quit;

# A burst
sql(<<'END');
CREATE PROCEDURE burst(n integer) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO anyvod_tasks (task_id) VALUES ('image-burst-' || i);
		COMMIT;
	END LOOP;
END $$;
END
my $begin = clock_ms();
sql('CALL burst(1000)');
ok(settled('image-burst-%', 1000), 'a thousand transactions are all filled');
measured('1000 commits of a row each were filled within %.0f ms',
	clock_ms() - $begin);
is( sql("SELECT DISTINCT polls FROM anyvod_tasks WHERE task_id LIKE '%burst%'"),
	'1',
	'with one question each');

# Waking by hand, where triggers did not fire
sql('ALTER TABLE anyvod_tasks DISABLE TRIGGER ALL;'
	  . " INSERT INTO anyvod_tasks (task_id) VALUES ('image-by-hand');"
	  . ' ALTER TABLE anyvod_tasks ENABLE TRIGGER ALL;'
	  . ' ALTER TABLE anyvod_tasks ENABLE ALWAYS TRIGGER anyvod_tasks_changed');
sql('SELECT anyvod_wake()');
ok(settled('image-by-hand'), 'anyvod_wake() finds what no trigger saw');

# A settled row that is made pending again
sql("UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'image-later'");
ok(settled('image-later'), 'a row that is made pending again is filled again');
is(asked_for('image-later'), 2, 'after another question');

# Nothing to do
ok(defined wait_for_worker($node, 0), 'an idle worker ends');
ok(defined wait_for_worker($node, 0, database => 'fresh'), 'so does the other');

SKIP:
{
	my $status = '/proc/' . launcher_pid($node) . '/status';

	skip 'needs /proc of Linux', 2 if !-e $status;

	my $switches = sub {
		slurp_file($status) =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
		return $1;
	};

	# The first time lets the launcher see the worker off.
	foreach my $ms (500, 3000)
	{
		my $switched = $switches->();

		$simulator->{http}
		  ->get($simulator->url . "/tencent-vod/v1/query/image-t$ms-else",
			{ headers => { Authorization => 'Bearer sk-wake' } });
		wait_for_something_else($ms) or BAIL_OUT('nothing else happened');
		is($switches->(), $switched, 'in 3 s the launcher does not wake once')
		  if $ms == 3000;
	}
	is(worker_pid($node), '', 'and there is no worker');
}

# Answers that change nothing
track([ map { "image-t600000-same-$_" } 1 .. 50 ]);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '%same%'"
		  . " AND status = 'PROCESSING'",
		50),
	'fifty tasks run');

# The least number of questions that any of them has been asked.
sub least_polls
{
	my $tasks = $simulator->stats(tasks => 1)->{tasks};
	my @counts = sort { $a <=> $b }
	  map { $tasks->{"image-t600000-same-$_"} // 0 } 1 .. 50;

	return $counts[0];
}

# Hint bits and pruning by the first reader are none of the worker's writes.
sql('VACUUM FREEZE anyvod_tasks');
sql('SELECT count(*) FROM anyvod_tasks');
sql('CHECKPOINT');
my $polls = least_polls();
ok(wait_until(sub { least_polls() > $polls }), 'they are asked for');
my $look = "SELECT pg_current_wal_insert_lsn(), md5(string_agg("
  . "concat(task_id, ctid, xmin, polls), ',' ORDER BY task_id))"
  . ' FROM anyvod_tasks';
my $written = 'SELECT n_tup_upd FROM pg_stat_user_tables'
  . " WHERE relname = 'anyvod_tasks'";
my $state = sql($look);
my $updates = sql($written);
$polls = least_polls();
ok(wait_until(sub { least_polls() >= $polls + 5 }),
	'and five times more, each');
is(sql($look), $state, 'neither WAL nor a row version has been written');
is(sql($written), $updates, 'and no update counted');

# The worker's switch
my $worker = worker_pid($node);
isnt($worker, '', 'there is a worker');
set_and_reload('anyvod.worker = off');
ok(defined wait_for_worker($node, 0), 'switched off, it ends');
$session = open_session($node);
my (undef, undef, $warning) = run_query($session,
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-off')");
like($warning, qr/WARNING:.*nothing will fill in/,
	'INSERT warns that nothing will fill the row');
$session->quit;
is(worker_pid($node), '', 'and no worker is started');
is(asked_for('image-off'), 0, 'nor anything asked');
set_and_reload('anyvod.worker = on');
ok(settled('image-off'), 'switched on, it goes on');
sql("DELETE FROM anyvod_tasks WHERE task_id LIKE '%same%'");
ok(defined wait_for_worker($node, 0),
	'a worker whose rows are deleted forgets them and ends');

# A row deleted while its question is on its way
track('image-delay1000-deleted');
ok(wait_until(sub { asked_for('image-delay1000-deleted') == 1 }),
	'a question is on its way');
sql('DELETE FROM anyvod_tasks');
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'its row is deleted before the answer comes');
ok(defined wait_for_worker($node, 0), 'the worker forgets it');
is(sql('SELECT count(*) FROM anyvod_tasks'), '0', 'and writes nothing');
is(asked_for('image-delay1000-deleted'), 1, 'nor asks again');

# A table that somebody has locked, and a task that keeps the worker there
track([ 'image-delay1000-locked', 'image-t600000-stays' ]);
ok(wait_until(sub { asked_for('image-delay1000-locked') == 1 }),
	'a question is on its way');
$session = open_session($node);
$session->query_safe('BEGIN');
$session->query_safe('LOCK TABLE anyvod_tasks IN ACCESS EXCLUSIVE MODE');
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'the answer comes while the table is locked');
$worker = worker_pid($node);
$simulator->{http}
  ->get($simulator->url . '/tencent-vod/v1/query/image-t2000-else',
	{ headers => { Authorization => 'Bearer sk-wake' } });
my $waited = 0;
ok( wait_until(
		sub {
			$waited ||= sql("SELECT cardinality(pg_blocking_pids($worker))");
			return wait_for_something_else(2000);
		}),
	'two seconds pass');
is($waited, 0, 'the worker does not wait for the lock');
$session->query_safe('COMMIT');
$session->quit;
ok(settled('image-delay1000-locked'), 'and writes the answer afterwards');
is(asked_for('image-delay1000-locked'),
	1, 'without having asked again');
is(worker_pid($node), $worker, 'it is still the same worker');

# A restart of the server
track([ 'image-t2000-restarted', 'image-t600000-restarted' ]);
ok(wait_until(sub { asked_for('image-t2000-restarted') > 0 }),
	'tasks are being asked for');
$node->restart;
ok(settled('image-t2000-restarted'), 'a restart goes on with them');
my $asked = asked_for('image-t600000-restarted');
ok(wait_until(sub { asked_for('image-t600000-restarted') > $asked }),
	'with all of them');

# DROP EXTENSION
track('image-delay25000-dropped');
ok(wait_until(sub { asked_for('image-delay25000-dropped') == 1 }),
	'a slow question is on its way');
$session = open_session($node);
$session->query_safe("SET lock_timeout = '10s'");
is((run_query($session, 'DROP EXTENSION anyvod CASCADE'))[0],
	'00000', 'DROP EXTENSION goes on meanwhile');
$session->quit;
ok(defined wait_for_worker($node, 0), 'and the worker ends');
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'and its question');
$before = starts('postgres');
track('image-marker-2', 'fresh');
ok(settled('image-marker-2', 1, 'fresh'), 'another database has work');
is(starts('postgres'), $before, 'but this has no worker any more');
sql('CREATE EXTENSION anyvod; CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod'
	  . " OPTIONS (base_url '@{[ $simulator->url ]}');"
	  . " CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key 'sk-wake')");
track('image-anew');
ok(settled('image-anew'), 'created anew, the extension works');

my @crashes = slurp_file($node->logfile) =~
  /(?:was terminated by signal|PANIC|exited with exit code [2-9]).*/g;
is_deeply(\@crashes, [], 'nothing has crashed');

done_testing();
