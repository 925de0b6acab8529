# pg_stat_statements is not polluted: a worker that waits runs nothing, and one
# that asks for many tasks runs a handful of statements.

use strict;
use warnings;

use AnyvodStatements;
use AnyvodTest;
use Test::More;

my $tasks = 300;
my $simulator = start_simulator(keys => ['sk-statements']);
my $node = counting_node(
	'statements',
	simulator => $simulator,
	api_key => 'sk-statements',
	options => "rate_limit '5000'",
	conf => <<'END');
anyvod.detection_delay = 250ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Tasks that run unchanged
sql("INSERT INTO anyvod_tasks (task_id)"
	  . " SELECT 'image-t6000000-' || i FROM generate_series(1, $tasks) AS i");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks"
		  . " WHERE status = 'PROCESSING'",
		$tasks),
	'tasks run');
my $asked = $simulator->stats->{requests};
ok(wait_until(sub { $simulator->stats->{requests} >= $asked + $tasks }),
	'and are asked for');
my ($kinds, $runs) = statements_run($node);
$asked = $simulator->stats->{requests};
ok(wait_until(sub { $simulator->stats->{requests} >= $asked + 5 * $tasks }),
	'five times more');
my ($kinds_now, $runs_now) = statements_run($node);
measured('%d unchanged answers: %d statements, run %d times',
	5 * $tasks, $kinds_now, $runs_now - $runs);
cmp_ok($kinds_now, '>', 0, 'what the worker runs is seen');
# It has eight: two that list, two that learn from what has been settled, two
# that write (one row, or many), one each that confirms and removes.
cmp_ok($kinds_now, '<=', 8, 'it is a handful of statements');
is($kinds_now, $kinds, 'and no more as time goes by');

# A worker that waits: its server wants to be left alone
sql('DELETE FROM anyvod_tasks');
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('http429-ra600-1')");
ok(wait_until(sub { $simulator->task_requests('http429-ra600-1') == 1 }),
	'a server wants to be left alone');
ok( poll_until(
		$node,
		"SELECT state = 'paused' FROM anyvod_stat_server"),
	'which is noted');
$simulator->{http}
  ->get($simulator->url . '/tencent-vod/v1/query/image-t1000-else',
	{ headers => { Authorization => 'Bearer sk-statements' } });
sub else_ended
{
	my ($id) = @_;
	my $end = $simulator->task($id)->{end_ms};

	return wait_until(sub { 1000 * Time::HiRes::time() > $end });
}
ok(else_ended('image-t1000-else'), 'a second later');
($kinds, $runs) = statements_run($node);
$simulator->{http}
  ->get($simulator->url . '/tencent-vod/v1/query/image-t3000-else',
	{ headers => { Authorization => 'Bearer sk-statements' } });
ok(else_ended('image-t3000-else'), 'and three more');
isnt(worker_pid($node), '', 'there is a worker');
is(join(' ', statements_run($node)), "$kinds $runs", 'which has run nothing');

done_testing();
