# Whatever is killed, and whenever: every task comes to its right end, each
# row is settled once, and none is stuck.
#
#	ANYVOD_TEST_KILLS		how many processes to kill (default 12)
#	ANYVOD_TEST_TASKS		while so many tasks run (default 1,000)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kills = $ENV{ANYVOD_TEST_KILLS} || 12;
my $tasks = $ENV{ANYVOD_TEST_TASKS} || 1000;

# Tasks end one after another, over about as long as all kills take.
my $ms_per_kill = 700;
my $simulator = start_simulator(keys => ['sk-crash']);
my $node = anyvod_node(
	'crash',
	simulator => $simulator,
	api_key => 'sk-crash',
	options => "rate_limit '5000'",
	conf => <<'END');
restart_after_crash = on
anyvod.detection_delay = 200ms
anyvod.poll_floor = 50ms
END

log_settling($node);

# Repeatable, so that a failure can be looked into.
my $seed = $ENV{ANYVOD_TEST_SEED} || 20261122;
srand $seed;
note "seed $seed";

# Every fourth task fails.
my $words = "CASE WHEN i % 4 = 0 THEN 'fail-extCrash' ELSE 'image-progress' END";
$node->safe_psql('postgres',
	'INSERT INTO anyvod_tasks (task_id)'
	  . " SELECT format('%s-t%s-%s', $words,"
	  . " i * $kills * $ms_per_kill / $tasks, i)"
	  . " FROM generate_series(1, $tasks) AS i");

# The process of a kind, 0 if there is none right now.  "session" is that of
# the client itself: a random one.
my %who = (
	worker => "backend_type = 'anyvod worker'",
	launcher => "backend_type = 'anyvod launcher'",
	session => 'pid = pg_backend_pid()',
	other => "backend_type NOT LIKE 'anyvod%' AND pid <> pg_backend_pid()"
	  . " AND backend_type NOT IN ('startup')");

sub pid_of
{
	my ($who) = @_;
	my $pid;

	$node->psql(
		'postgres',
		"SELECT pid FROM pg_stat_activity WHERE $who{$who}"
		  . ' ORDER BY random() LIMIT 1',
		stdout => \$pid,
		stderr => \my $trouble);
	return $pid || 0;
}

my @kinds = qw(worker launcher worker session worker other);
my %killed;
foreach my $i (0 .. $kills - 1)
{
	my $kind = $kinds[ $i % @kinds ];

	# A random instant: after so many more questions have come, or answers
	# have been written, or in the middle of a start.
	my $requests = $simulator->stats->{requests} + int(rand(150));

	wait_until(sub { $simulator->stats->{requests} >= $requests }, 2);
	if ($kind eq 'session')
	{
		$node->psql('postgres',
			'COPY (SELECT pg_backend_pid()) TO PROGRAM '
			  . q('read pid; kill -9 $pid'));
		$killed{$kind}++;
	}
	else
	{
		my $pid = 0;

		wait_until(sub { $pid = pid_of($kind) }) or last;
		$killed{$kind} += kill 'KILL', $pid;
	}
}
note join ', ', map { "$_ $killed{$_}" } sort keys %killed;
my $done = 0;
$done += $_ foreach values %killed;
is($done, $kills, "$kills processes were killed");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", 0, 120),
	'no row is stuck');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'fail%' AND"
		  . " state = 'failed' AND error_code = 'Crash' OR task_id LIKE 'image%'"
		  . " AND state = 'succeeded' AND file_url IS NOT NULL"),
	$tasks,
	'each has come to its right end');
is( $node->safe_psql('postgres',
		'SELECT count(*), count(DISTINCT task_id) FROM settlings'),
	"$tasks|$tasks",
	'each was settled once');
my @restarts = slurp_file($node->logfile) =~
  /all server processes terminated; reinitializing/g;
cmp_ok(scalar @restarts, '>=', $kills / 2,
	'the server has been restarted many times');
cmp_ok(scalar @restarts, '<=', $kills, 'and never on its own account');

# A worker that ends by an error, not a signal, is replaced: at first at once,
# then later each time, so that one which cannot run does not eat the machine.
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-t600000-lasting')");
ok(wait_until(sub { worker_pid($node) ne '' }), 'a worker runs');
my ($pid, @gaps) = worker_pid($node);
foreach my $round (1 .. 4)
{
	my $begin = clock_ms();

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 3000)");
	$pid = wait_for_worker($node, 1, other_than => $pid);
	push @gaps, clock_ms() - $begin;
}
measured('a worker that was ended came back after %.0f, %.0f, %.0f, %.0f ms',
	@gaps);
cmp_ok($gaps[0], '<', 3000, 'a worker that ends is replaced at once');
cmp_ok($gaps[3], '>', 2 * $gaps[0], 'and later each time');
my $launcher = launcher_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher, 3000)");
ok( poll_until(
		$node,
		'SELECT count(*) FROM pg_stat_activity WHERE backend_type ='
		  . " 'anyvod launcher' AND pid <> $launcher",
		1),
	'so is a launcher that is ended');
is(worker_pid($node), $pid, 'and the worker goes on');

done_testing();
