# One slow answer delays no other task; a worker that is ended, or killed with
# the whole server, loses nothing and repeats nothing that was written.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-slow']);
my $node = anyvod_node(
	'slow',
	simulator => $simulator,
	api_key => 'sk-slow',
	options => "rate_limit '5000'",
	conf => "restart_after_crash = on\n"
	  . "anyvod.detection_delay = '100ms'\n"
	  . "anyvod.poll_floor = '50ms'");
my $slow = 'image-delay10000-slow';

log_settling($node);

# What may not change any more: version and time of each settled row.
sub settled_rows
{
	my ($like) = @_;

	return $node->safe_psql('postgres',
		'SELECT task_id, xmin, updated_at, settled_at FROM anyvod_tasks'
		  . " WHERE state <> 'pending' AND task_id LIKE '$like'"
		  . ' ORDER BY task_id');
}

sub insert_tasks
{
	my ($id, $count) = @_;

	$node->safe_psql('postgres',
		"INSERT INTO anyvod_tasks (task_id) SELECT $id"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

sub settled_count
{
	my ($like) = @_;
	my $count;

	$node->psql(
		'postgres',
		"SELECT count(*) FROM anyvod_tasks WHERE state <> 'pending'"
		  . " AND task_id LIKE '$like'",
		stdout => \$count,
		stderr => \my $trouble);
	return $count || 0;
}

# A slow answer
insert_tasks("'$slow'", 1);
ok(wait_until(sub { $simulator->task_requests($slow) == 1 }),
	'the slow task is being asked for');
my $begin = clock_ms();
insert_tasks("'image-quick-' || i", 500);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND task_id LIKE 'image-quick-%'",
		500),
	'500 others are settled');
measured('500 tasks beside a slow one took %.0f ms', clock_ms() - $begin);
is($simulator->stats->{in_flight},
	1, 'while the slow one is still unanswered');
is(settled_count($slow), 0, 'and its row pending');

# A worker that is ended
my $before = settled_rows('image-quick-%');
my $worker = worker_pid($node);

is( $node->safe_psql('postgres', "SELECT pg_terminate_backend($worker, 3000)"),
	't',
	'the worker ends although an answer is missing');
$worker = wait_for_worker($node, 1, other_than => $worker);
ok(defined $worker, 'another takes its place');
ok(wait_until(sub { $simulator->task_requests($slow) == 2 }),
	'and asks for the slow task again');
is(settled_rows('image-quick-%'), $before, 'what was settled is left alone');
is($simulator->stats(tasks => 1)->{tasks}{'image-quick-1'},
	1, 'and not asked for again');

# In the middle of everything, three times.  Tasks end over three seconds.
insert_tasks("'image-t' || i || '-progress-ended'", 3000);
for my $round (1 .. 3)
{
	ok( wait_until(sub { settled_count('%-ended') >= 300 * $round }),
		"round $round: some are settled");
	$before = settled_rows('%-ended');
	# the worker of the moment, whichever it is
	$node->safe_psql('postgres',
		'SELECT pg_terminate_backend(pid) FROM pg_stat_activity'
		  . " WHERE backend_type = 'anyvod worker'");
}
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND task_id LIKE '%-ended'",
		3000),
	'all are settled in the end');
my %rows = map { $_ => 1 } split /\n/, settled_rows('%-ended');
is(scalar(grep { !$rows{$_} } split /\n/, $before),
	0, 'what was settled before is left alone');

# A worker that is killed takes all sessions with it, and the postmaster
# starts everything anew.
insert_tasks("'image-t' || i || '-progress-killed'", 3000);
ok(wait_until(sub { settled_count('%-killed') >= 300 }),
	'some more are settled');
$before = settled_rows('%-killed');
$worker = worker_pid($node);
my $launcher = launcher_pid($node);
kill 'KILL', $worker;
ok( poll_until(
		$node,
		"SELECT count(*) = 1 FROM pg_stat_activity"
		  . " WHERE backend_type = 'anyvod launcher' AND pid <> $launcher"),
	'the server has restarted');
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND task_id LIKE '%-killed'",
		3000),
	'all are settled in the end');
%rows = map { $_ => 1 } split /\n/, settled_rows('%-killed');
is(scalar(grep { !$rows{$_} } split /\n/, $before),
	0, 'what was settled before is left alone');

ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = '$slow'",
		'succeeded'),
	'the slow task succeeds as well');
is( $node->safe_psql('postgres',
		'SELECT count(*), count(DISTINCT task_id) FROM settlings'),
	'6501|6501',
	'each row was settled once');
is($simulator->stats(tasks => 1)->{tasks}{'image-quick-1'},
	1, 'what was settled was never asked for again');

done_testing();
