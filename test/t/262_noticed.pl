# Whichever way rows come into a database, their work is noticed, and what was
# undone is not.  (More ways are in 090_wake_and_idle.pl and 200_everywhere.pl.)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-noticed']);
my %server = (
	simulator => $simulator,
	api_key => 'sk-noticed',
	options => "rate_limit '5000'");
my $node = anyvod_node(
	'noticed', %server,
	conf => <<'END');
max_prepared_transactions = 5
autovacuum = off
anyvod.idle_timeout = 100ms
anyvod.detection_delay = 250ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

sub settled
{
	my ($task_id, $database) = @_;

	return poll_until($node,
		"SELECT state FROM anyvod_tasks WHERE task_id = '$task_id'",
		'succeeded', undef, $database);
}

sub idle
{
	my ($database) = @_;

	return defined wait_for_worker($node, 0,
		database => $database // 'postgres');
}

# Two phases
ok(idle(), 'nothing is to do');
sql("BEGIN; INSERT INTO anyvod_tasks (task_id) VALUES ('image-rolled-back');"
	  . " PREPARE TRANSACTION 'undone'");
sql("BEGIN; INSERT INTO anyvod_tasks (task_id) VALUES ('image-prepared');"
	  . " PREPARE TRANSACTION 'done'");
sql("ROLLBACK PREPARED 'undone'");
sql("COMMIT PREPARED 'done'");
ok(settled('image-prepared'), 'COMMIT PREPARED is noticed');
is($simulator->task_requests('image-rolled-back'),
	0, 'what ROLLBACK PREPARED undid is not asked for');

# One that outlives a restart, committed by a session that knows nothing of it
sql("BEGIN; INSERT INTO anyvod_tasks (task_id) VALUES ('image-outlived');"
	  . " PREPARE TRANSACTION 'outlived'");
$node->restart;
ok(idle(), 'after a restart nothing is to do');
sql("COMMIT PREPARED 'outlived'");
ok(settled('image-outlived'), 'a restart does not hide what it prepared');

# pg_restore, with one process and with several
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-t6000000-dumped')");
my $dump = $node->basedir . '/dump';
$node->command_ok(
	[ 'pg_dump', '-Fd', '-d', $node->connstr('postgres'), '-f', $dump ],
	'a database with a pending row is dumped');
sql('DELETE FROM anyvod_tasks');
foreach my $jobs (1, 3)
{
	my $database = "restored$jobs";
	my $asked = $simulator->task_requests('image-t6000000-dumped');

	ok(idle(), 'the original has nothing to do');
	sql("CREATE DATABASE $database");
	$node->command_ok(
		[
			'pg_restore', '-j', $jobs, '-d', $node->connstr($database), $dump
		],
		"pg_restore with $jobs processes");
	ok( wait_until(
			sub {
				$simulator->task_requests('image-t6000000-dumped') > $asked;
			}),
		'its pending row is asked for');
	sql('DELETE FROM anyvod_tasks', $database);
}

# Both ways to copy a database, with a row that was settled and made pending
# while nobody looked
anyvod_database($node, 'model', %server);
foreach my $strategy (qw(wal_log file_copy))
{
	sql('ALTER TABLE anyvod_tasks DISABLE TRIGGER ALL;'
		  . " INSERT INTO anyvod_tasks (task_id) VALUES ('image-$strategy');"
		  . ' ALTER TABLE anyvod_tasks ENABLE TRIGGER ALL;'
		  . ' ALTER TABLE anyvod_tasks ENABLE ALWAYS TRIGGER anyvod_tasks_changed',
		'model');
	sql("CREATE DATABASE copy_$strategy TEMPLATE model STRATEGY $strategy");
	ok(settled("image-$strategy", "copy_$strategy"),
		"the copy made by $strategy has its row filled in");
}

# Servers and mappings, each of which is what is wanting
ok(idle(), 'nothing is to do');
sql('CREATE ROLE tenant LOGIN; GRANT USAGE ON FOREIGN SERVER anyapi TO tenant');
sql('DROP USER MAPPING FOR PUBLIC SERVER anyapi');
sub asked_again
{
	my ($what, $change) = @_;
	my $task = 'image-' . $what =~ s/\W+/-/gr;
	my $begin;

	sql("SET SESSION AUTHORIZATION tenant;"
		  . " INSERT INTO anyvod_tasks (task_id) VALUES ('$task')");
	ok( poll_until(
			$node,
			"SELECT count(*) > 0 FROM anyvod_stat_server WHERE state = 'paused'"
		),
		"$what: the key is refused");
	$begin = clock_ms();
	sql($change);
	ok(settled($task), "$what is noticed");
	cmp_ok(clock_ms() - $begin, '<', 10_000, 'long before a minute is over');
	return;
}
asked_again('CREATE USER MAPPING',
	"CREATE USER MAPPING FOR tenant SERVER anyapi OPTIONS (api_key 'sk-noticed')"
);
sql("ALTER USER MAPPING FOR tenant SERVER anyapi OPTIONS (SET api_key 'sk-bad');"
	  . " CREATE USER MAPPING FOR PUBLIC SERVER anyapi"
	  . " OPTIONS (api_key 'sk-noticed')");
asked_again('DROP USER MAPPING', 'DROP USER MAPPING FOR tenant SERVER anyapi');
# ... a server that wants to be left alone for an hour
my $busy = start_simulator(keys => ['sk-noticed']);
sql('ALTER SERVER anyapi OPTIONS (SET base_url '
	  . quote_literal($busy->url) . ')');
sql("SET SESSION AUTHORIZATION tenant;"
	  . " INSERT INTO anyvod_tasks (task_id) VALUES ('http503-ra3600')");
ok( poll_until(
		$node,
		'SELECT bool_or(paused_until > now() + \'1 min\')'
		  . ' FROM anyvod_stat_server'),
	'ALTER SERVER: the server is not to be asked');
sql('DELETE FROM anyvod_tasks; SET SESSION AUTHORIZATION tenant;'
	  . " INSERT INTO anyvod_tasks (task_id) VALUES ('image-1'), ('image-2'), ('image-3')"
);
my $begin = clock_ms();
sql('ALTER SERVER anyapi OPTIONS (SET base_url '
	  . quote_literal($simulator->url) . ')');
ok(settled("image-$_"), 'ALTER SERVER is noticed') foreach 1 .. 3;
cmp_ok(clock_ms() - $begin, '<', 10_000, 'long before an hour is over');

# A row whose server is dropped, and made again
sql("INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-later', 'later')");
ok( poll_until(
		$node,
		'SELECT error_code FROM anyvod_tasks WHERE'
		  . " task_id = 'image-later'",
		'42704'),
	'a row whose server is not there says so');
$begin = clock_ms();
sql('ALTER SERVER anyapi RENAME TO later');
ok(settled('image-later'), 'ALTER SERVER RENAME is noticed');
cmp_ok(clock_ms() - $begin, '<', 10_000, 'long before a minute is over');

done_testing();
