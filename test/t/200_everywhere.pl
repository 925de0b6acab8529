# Every database is served, however its rows came, and however few processes
# or places there are.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @databases = map { "d$_" } 1 .. 10;
my $simulator = start_simulator(keys => ['sk-everywhere']);

# Of six slots the launchers, ours and that of logical replication, take two.
my $node = anyvod_node(
	'everywhere',
	extension => 0,
	allows_streaming => 'logical',
	conf => <<'END');
max_worker_processes = 6
max_prepared_transactions = 5
anyvod.idle_timeout = 200ms
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
END
my $slots = 4;

anyvod_database(
	$node, 'model',
	simulator => $simulator,
	api_key => 'sk-everywhere',
	options => "rate_limit '5000'");
$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE model")
  foreach @databases;

sub track
{
	my ($database, $task_id) = @_;

	$node->safe_psql($database,
		"INSERT INTO anyvod_tasks (task_id) VALUES ('$task_id')");
	return;
}

sub settled
{
	my ($database, $task_id) = @_;

	return poll_until($node,
		"SELECT state FROM anyvod_tasks WHERE task_id = '$task_id'",
		'succeeded', undef, $database);
}

sub workers
{
	return $node->safe_psql('postgres',
		'SELECT count(*) FROM pg_stat_activity'
		  . " WHERE backend_type = 'anyvod worker'");
}

# How often does the log say something, from an offset on?
sub said
{
	my ($pattern, $offset) = @_;
	my @found = slurp_file($node->logfile, $offset // 0) =~ /$pattern/g;

	return scalar @found;
}

# The databases whose row of a kind has not been settled.
sub unsettled
{
	my ($kind) = @_;

	return join ' ', grep { !settled($_, "image-$kind-$_") } @databases;
}

# More databases than processes
foreach my $database (@databases[ 0 .. $slots - 1 ])
{
	track($database, "image-t600000-$database");
}
ok(wait_until(sub { workers() == $slots }), 'all slots are taken');
track($_, "image-waiting-$_") foreach @databases[ $slots .. 9 ];
my $no_slot = qr/no background worker slot is free for anyvod/;
ok(wait_until(sub { said($no_slot) }),
	'the log says that databases wait for one');
like(
	slurp_file($node->logfile),
	qr/HINT:  Consider raising "max_worker_processes"/,
	'and which setting to raise');
is(workers(), $slots, 'there are as many workers as can be');
is($simulator->task_requests('image-waiting-d9'), 0,
	'others wait for a slot');
$node->safe_psql($_, 'DELETE FROM anyvod_tasks')
  foreach @databases[ 0 .. $slots - 1 ];
track($_, "image-waiting-$_") foreach @databases[ 0 .. $slots - 1 ];
is(unsettled('waiting'), '', 'when slots become free none is forgotten');
is(said($no_slot), 1, 'the log has said so once');

# More databases than places, found when the server starts
$node->append_conf('postgresql.conf',
	"max_worker_processes = 32\nanyvod.max_databases = 3\n"
	  . "anyvod.worker = off");
$node->restart;
track($_, "image-crowd-$_") foreach @databases;
$node->append_conf('postgresql.conf', 'anyvod.worker = on');
my $offset = -s $node->logfile;
$node->restart;
is(unsettled('crowd'), '',
	'with fewer places than databases none is forgotten at a start');
foreach my $database (@databases)
{
	track($database, "image-t3000-late-$database");
}
is(unsettled('t3000-late'), '', 'nor later');
is( said(
		qr/all 3 databases that anyvod serves at once have pending tasks/,
		$offset) > 0,
	1,
	'the log says that there are more');
like(
	slurp_file($node->logfile, $offset),
	qr/HINT:  Consider raising "anyvod.max_databases"/,
	'and which setting to raise');

# All at once, when the server starts
$node->append_conf('postgresql.conf',
	"anyvod.max_databases = 64\nanyvod.worker = off");
$node->restart;
track($_, "image-t1000-start-$_") foreach @databases;
$node->append_conf('postgresql.conf', 'anyvod.worker = on');
$node->restart;
is(unsettled('t1000-start'), '',
	'what is pending in ten databases when the server starts is asked for');
ok(wait_until(sub { workers() == 0 }), 'idle, all workers end');

# A copy of a database with pending rows
track('model', 'image-t4000-copied');
ok( poll_until(
		$node,
		'SELECT status FROM anyvod_tasks WHERE task_id'
		  . " = 'image-t4000-copied'",
		'PROCESSING', undef, 'model'),
	'a task runs in a database');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE model');
is( $node->safe_psql('copy', 'SELECT state FROM anyvod_tasks'),
	'pending',
	'a copy of the database has its pending row');
ok(settled('copy', 'image-t4000-copied'), 'which is filled in there');
ok(settled('model', 'image-t4000-copied'), 'and in the original');

# A dump of a database with pending rows
track('model', 'image-t600000-dumped');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok(
	[ 'pg_dump', '-d', $node->connstr('model'), '-f', $dump ],
	'a database with a pending row is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1',
		'-d', $node->connstr('restored'), '-f', $dump
	],
	'and restored');
ok(defined wait_for_worker($node, 1, database => 'restored'),
	'a worker goes on with what was restored');
is( $node->safe_psql(
		'restored', "SELECT state FROM anyvod_tasks WHERE task_id LIKE '%copied'"),
	'succeeded',
	'what had ended has ended there, too');
$node->safe_psql($_, 'DELETE FROM anyvod_tasks') foreach qw(model restored);

# Rows that logical replication brings
$node->safe_psql('model',
	"CREATE PUBLICATION tasks FOR TABLE anyvod_tasks WITH (publish = 'insert');"
	  . " SELECT pg_create_logical_replication_slot('tasks', 'pgoutput')");
$node->safe_psql('d1',
	'CREATE SUBSCRIPTION tasks CONNECTION '
	  . quote_literal($node->connstr('model'))
	  . ' PUBLICATION tasks'
	  . ' WITH (create_slot = false, copy_data = false)');
ok(wait_until(sub { worker_pid($node, 'd1') eq '' }),
	'a subscriber has no worker');
track('model', 'image-replicated');
ok(settled('d1', 'image-replicated'), 'a replicated row is filled in');
$node->safe_psql('d1', 'ALTER SUBSCRIPTION tasks DISABLE');
$node->safe_psql('d1',
	'ALTER SUBSCRIPTION tasks SET (slot_name = NONE); DROP SUBSCRIPTION tasks');
ok( poll_until(
		$node, "SELECT active FROM pg_replication_slots", 'f'),
	'the subscription ends');
$node->safe_psql('model', "SELECT pg_drop_replication_slot('tasks')");

# A transaction that is committed in two phases, at last by another session
ok(defined wait_for_worker($node, 0, database => 'd2'), 'nothing is to do');
$node->safe_psql('d2',
	"BEGIN; INSERT INTO anyvod_tasks (task_id) VALUES ('image-prepared');"
	  . " PREPARE TRANSACTION 'p'");
track('d3', 'image-marker');
ok(settled('d3', 'image-marker'), 'others are served');
is($simulator->task_requests('image-prepared'),
	0, 'what is prepared is not asked for');
$node->safe_psql('d2', "COMMIT PREPARED 'p'");
ok(settled('d2', 'image-prepared'), 'COMMIT PREPARED is noticed');

# Servers and mappings that come later
$node->safe_psql('d4', 'DROP SERVER anyapi CASCADE');
track('d4', 'image-t1-early');
ok( poll_until(
		$node,
		"SELECT error_code FROM anyvod_tasks WHERE task_id = 'image-t1-early'",
		'42704', undef, 'd4'),
	'a row whose server is not there says so');
my $begin = clock_ms();
$node->safe_psql('d4',
	'CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '
	  . quote_literal($simulator->url)
	  . '); CREATE USER MAPPING FOR PUBLIC SERVER anyapi'
	  . " OPTIONS (api_key 'sk-everywhere')");
ok(settled('d4', 'image-t1-early'), 'a server that is created is noticed');
my $took = clock_ms() - $begin;
measured('a row was filled in %.0f ms after its server was created', $took);
cmp_ok($took, '<', 10_000, 'at once, not when its wait is over');

is(said(qr/terminated by signal|PANIC|TRAP/), 0, 'nothing has crashed');

done_testing();
