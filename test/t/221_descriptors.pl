# A process that runs out of file descriptors queues its questions: that is no
# trouble of a server, and fails no task.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

# The least that the server starts with.  A third is lent to extensions, and
# some of that is left to others.
my $descriptors = 64;
my $count = 200;
my $simulator = start_simulator(keys => ['sk-few']);
my $node = anyvod_node(
	'descriptors',
	simulator => $simulator,
	api_key => 'sk-few',
	options => "rate_limit '100000', max_concurrency '1000', timeout '1s'",
	conf => "max_files_per_process = $descriptors");

# All questions take several times as long as one may: those that wait for
# a connection have not begun.
$node->safe_psql('postgres',
	'INSERT INTO anyvod_tasks (task_id)'
	  . " SELECT 'image-delay150-' || i FROM generate_series(1, $count) AS i");
ok(wait_until(sub { $simulator->stats->{in_flight} >= 4 }),
	'some questions are on their way');

my $worker = worker_pid($node);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'", $count),
	'with few descriptors all tasks are settled');
my $most = $simulator->stats->{max_in_flight};
measured('%d descriptors: %d questions at once', $descriptors, $most);
cmp_ok($most, '<=', $descriptors / 3, 'no more than a third is used for them');
is(worker_pid($node), $worker, 'by the same worker');
is( $node->safe_psql('postgres',
		'SELECT no_response, transient, last_error IS NULL'
		  . ' FROM anyvod_stat_server'),
	'0|0|t',
	'no trouble of the server was seen');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . ' AND polls = 1 AND error_code IS NULL'),
	$count,
	'each was asked for once');
unlike(slurp_file($node->logfile),
	qr/Too many open files|could not|out of file descriptors/,
	'and nobody complains');

# A session has no more of them.
is( $node->safe_psql('postgres',
		'SELECT count(*), count(response)'
		  . " FROM anyvod_query_many(ARRAY(SELECT 'image-delay150-many-' || i"
		  . ' FROM generate_series(1, 200) AS i))'),
	'200|200',
	'nor does a session that asks for many at once');

done_testing();
