# With fewer processes or places than databases that have long work, all are
# served in turn: each waits for a bounded time, and nobody is moved on before
# he has had his.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $turn = 10;					# seconds, LAUNCHER_TURN
my @databases = map { "d$_" } 1 .. 5;
my $simulator = start_simulator(keys => ['sk-turns']);

# Of four slots the launchers, ours and that of logical replication, take two.
my $slots = 2;
my $node = anyvod_node(
	'turns',
	extension => 0,
	conf => <<'END');
max_worker_processes = 4
anyvod.idle_timeout = 1h
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
END
anyvod_database(
	$node, 'model',
	simulator => $simulator,
	api_key => 'sk-turns',
	options => "rate_limit '5000'");
$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE model")
  foreach @databases;
# of this database the views are read, which has nothing to do
anyvod_database($node, 'postgres');

sub track
{
	my ($database, @ids) = @_;

	$node->safe_psql($database,
		'INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ', map { "('$_')" } @ids));
	return;
}

sub settled
{
	my ($database, $task_id) = @_;

	return $node->safe_psql($database,
		"SELECT state FROM anyvod_tasks WHERE task_id = '$task_id'") eq
	  'succeeded';
}

# How often does the log say something, from an offset on?
sub said
{
	my ($pattern, $offset) = @_;
	my @found = slurp_file($node->logfile, $offset // 0) =~ /$pattern/g;

	return scalar @found;
}

# Until a task of a kind has been settled in each database, note which workers
# there have been.  Returns how many, how long it took in seconds, and whether
# it came to pass.
sub watch_workers
{
	my ($kind) = @_;
	my $begin = clock_ms();
	my %workers;
	my @left = @databases;
	my $all = wait_until(
		sub {
			$workers{$_} = 1
			  foreach split /\n/,
			  $node->safe_psql('postgres',
				'SELECT pid FROM pg_stat_activity'
				  . " WHERE backend_type = 'anyvod worker'");
			@left = grep { !settled($_, "$kind-$_") } @left;
			return !@left;
		});

	diag("left: @left") unless $all;
	return (scalar(keys %workers), (clock_ms() - $begin) / 1000, $all);
}

# A worker that has nothing to do makes room long before its idle_timeout.
foreach my $database (@databases)
{
	track($database, "image-first-$database");
	ok(wait_until(sub { settled($database, "image-first-$database") }),
		"$database is served, though others keep idle workers");
}

# Long work everywhere
foreach my $database (@databases)
{
	track(
		$database,
		"image-t600000-long-$database",
		"image-t3000-short-$database");
}
my ($workers, $took, $all) = watch_workers('image-t3000-short');
ok($all, 'what ends soon is settled in each database');
measured('%d databases on %d slots: %.0f s, %d workers',
	scalar @databases, $slots, $took, $workers);
# two idle ones may have made room at the beginning
cmp_ok($workers, '<=', $slots * (2 + $took / $turn),
	'no worker is moved on before its turn is over');
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_stat_worker'
		  . " WHERE state = 'waiting for a process slot'"
		  . " AND hint LIKE '%\"max_worker_processes\"%'",
		@databases - $slots),
	'those that wait are shown, with the setting to raise');
my $no_slot = qr/no background worker slot is free for anyvod/;
is(said($no_slot), 1, 'the log has said so once');

# Nobody waits: the launcher sleeps.
$node->safe_psql($_, 'DELETE FROM anyvod_tasks') foreach @databases;
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_stat_worker'
		  . " WHERE state LIKE 'waiting%' OR state = 'starting'",
		0),
	'without work nobody waits');
my $launcher = launcher_pid($node);
my $sleeps = sub {
	slurp_file("/proc/$launcher/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;
	return $1;
};
my $before = $sleeps->();
my $begin = clock_ms();
wait_until(sub { clock_ms() - $begin > 4000 });
cmp_ok($sleeps->() - $before, '<=', 1,
	'and the launcher does not look again and again');

# Fewer places than databases, found at a start
$node->append_conf('postgresql.conf',
	"max_worker_processes = 32\nanyvod.max_databases = 2\n");
$node->restart;
foreach my $database (@databases)
{
	track(
		$database,
		"image-t600000-crowd-$database",
		"image-t3000-place-$database");
}
my $offset = -s $node->logfile;
$node->restart;
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_stat_worker'
		  . " WHERE state = 'waiting for a slot'"
		  . " AND datname LIKE 'd_'"
		  . " AND hint LIKE '%\"anyvod.max_databases\"%'",
		@databases - 2),
	'databases without a place are shown, with the setting to raise');
($workers, $took, $all) = watch_workers('image-t3000-place');
ok($all, 'none of them is forgotten');
measured('%d databases on %d places: %.0f s, %d workers',
	scalar @databases, 2, $took, $workers);
# that many more have been visited, among them databases without work
cmp_ok($workers, '<=', 2 * (1 + $took / $turn) + 3,
	'no worker is moved on before its turn is over');
is( said(
		qr/all 2 databases that anyvod serves at once have pending tasks/,
		$offset),
	1,
	'the log says so once');

# A place becomes free when its database is dropped.
my $one = $node->safe_psql('postgres',
	'SELECT datname FROM anyvod_stat_worker WHERE pid IS NOT NULL LIMIT 1');
my $waiting = $node->safe_psql('postgres',
	"SELECT datname FROM anyvod_stat_worker WHERE state = 'waiting for a slot'"
	  . ' LIMIT 1');
my $gone = $node->safe_psql('postgres',
	"SELECT string_agg(oid::text, ',') FROM pg_database"
	  . " WHERE datname IN ('$one', '$waiting')");
$node->safe_psql('postgres', "DROP DATABASE $waiting");
$node->safe_psql('postgres', "DROP DATABASE $one");
@databases = grep { $_ ne $one && $_ ne $waiting } @databases;
track($_, "image-dropped-$_") foreach @databases;
(undef, undef, $all) = watch_workers('image-dropped');
ok($all, 'those that are left have their places');
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_stat_get_workers() WHERE datid IN ($gone)",
		0),
	'and nobody waits for those that were dropped');
is(said(qr/terminated by signal|PANIC|TRAP/), 0, 'nothing has crashed');

done_testing();
