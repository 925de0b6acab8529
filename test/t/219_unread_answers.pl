# A task waits for its next question from when its answer came, however long
# that lay unread: here as long as the answers before it cannot be written.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

# More than the changes that a worker collects before it reads no more.
my $ended = 1100;

# Between two questions about a task, in milliseconds.
my $wait = 6000;

needs_descriptors(4500);

my $simulator = start_simulator(keys => ['sk-unread']);
my $node = anyvod_node(
	'unread',
	simulator => $simulator,
	api_key => 'sk-unread',
	options => "rate_limit '100000', max_concurrency '1200'",
	conf => <<"END");
max_files_per_process = 4500
anyvod.poll_floor = ${wait}ms
anyvod.poll_cap = ${wait}ms
END
my $runs = 'image-t600000-delay5000-runs';

$node->safe_psql('postgres', <<"END");
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-delay3000-' || i FROM generate_series(1, $ended) AS i
	UNION ALL SELECT '$runs';
END
ok(wait_until(sub { $simulator->stats->{in_flight} == $ended + 1 }),
	'all tasks are asked about');
my $session = open_session($node);
$session->query_safe('BEGIN; LOCK TABLE anyvod_tasks IN SHARE MODE');
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'all are answered while nothing can be written');
my $due = clock_ms() + $wait;
ok(wait_until(sub { clock_ms() > $due }), 'and one is due again by then');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'"),
	$ended + 1,
	'though none was written');

my $free = clock_ms();
$session->query_safe('COMMIT');
ok(wait_until(sub { $simulator->task_requests($runs) == 2 }),
	'it is asked about again when its answer can be read');
my $late = clock_ms() - $free;
measured('a task whose answer lay unread was asked about after %d ms', $late);
cmp_ok($late, '<', $wait / 2, 'at once, not after another wait');
close_session($session);
$node->stop;

done_testing();
