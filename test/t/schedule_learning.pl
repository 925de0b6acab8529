# When a running task is asked about follows from how long others took: those
# that this worker has seen end, and those that are in the table since before.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $tasks = 200;
my $simulator = start_simulator(keys => ['sk-pace']);
my $node = anyvod_node(
	'pace',
	simulator => $simulator,
	api_key => 'sk-pace',
	options => "rate_limit '5000'",
	conf => "anyvod.detection_delay = 150ms\nanyvod.poll_floor = 50ms");

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Have tasks of so many ms tracked, created in the last second, until they
# have ended.  Returns requests a task.
sub run_batch
{
	my ($words, $time, $age) = @_;
	my $now = int(1000 * Time::HiRes::time());
	my $requests;

	$simulator->reset;
	sql('INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ',
			map { "('$words-t$time-b" . ($now - $age - 5 * $_) . "-$_')" }
			  1 .. $tasks));
	poll_until($node,
		"SELECT NOT EXISTS (SELECT FROM anyvod_tasks WHERE state = 'pending')")
	  or BAIL_OUT("never ended");
	$requests = $simulator->stats->{requests} / $tasks;
	measured('%s, %d ms: %.2f requests a task', $words, $time, $requests);
	return $requests;
}

# Learned from what has ended.
my $untaught = run_batch('image', 4000, 0);
my $taught = run_batch('image', 4000, 0);

cmp_ok($taught, '<', 0.85 * $untaught, 'a second batch is asked less');

# Another model is another matter.
cmp_ok(run_batch('image-mHunyuan', 4000, 0),
	'>', 1.1 * $taught, 'a model that nothing is known of is not');

# A worker that begins anew has the settled rows.
sub end_worker
{
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE backend_type = 'anyvod worker'");
	wait_for_worker($node, 0);
	return;
}

end_worker();
cmp_ok(run_batch('image', 4000, 0),
	'<', 0.85 * $untaught, 'nor is a batch after a restart asked more');

# Rows that come from elsewhere teach as well.  Of the tasks of 30 s none ends
# before; without them a question would be asked every half second or so.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, state, task_type, model, started_at,
	ended_at, settled_at)
SELECT 'came-' || i, 'succeeded', 'AigcVideoTask', 'Vidu q2',
	now() - interval '1 day', now() - interval '1 day' + interval '30 s',
	now() - i * interval '1 s'
FROM generate_series(1, 2500) AS i;
END
end_worker();
my $came = run_batch('video-mVidu-vq2', 30000, 24000);

cmp_ok($came, '<', 0.85 * run_batch('video-mOther-v1', 30000, 24000),
	'settled rows of whatever origin teach');

done_testing();
