# What the worker's schedule learns from: tasks that run on, servers whose rate
# limit binds, and the settled rows, of which there may be very many.
#
# Clocks go twenty times as fast (test/clock); all times here are theirs.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Clock;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;

my $clock = AnyvodTest::Clock->new(20);
my ($simulator, $node) =
  $clock->start('learned', options => "rate_limit '5000'");

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

sub end_worker
{
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE backend_type = 'anyvod worker'");
	defined wait_for_worker($node, 0) or BAIL_OUT('the worker never ended');
	return;
}

# Settled rows of a model that took so many seconds, so many at a time and
# each lot a second older than the one before.
sub settle
{
	my ($model, $rows, $lot, $took, $newest) = @_;

	sql(<<"END");
INSERT INTO anyvod_tasks (task_id, state, task_type, model, started_at,
	ended_at, settled_at)
SELECT '$model-' || i, 'succeeded', 'AigcVideoTask', '$model 1',
	now() - interval '1 day', now() - interval '1 day' + interval '$took s',
	now() - interval '$newest s' - i / $lot * interval '1 s'
FROM generate_series(0, $rows - 1) AS i;
END
	return;
}

# Tasks of that model that began some seconds ago and will not end soon.
sub track
{
	my ($model, $count, $age, $server) = @_;
	my $began = int($clock->now_ms - 1000 * $age);

	$server //= 'anyapi';
	sql("INSERT INTO anyvod_tasks (task_id, server)"
		  . " SELECT 'video-m$model-v1-t9000000-b$began-' || i, '$server'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

sub seen
{
	my ($model, $condition) = @_;

	return "SELECT $condition FROM anyvod_stat_schedule"
	  . " WHERE model = '$model 1'";
}

# Surge: what has always taken 60 s takes longer than that, and is known to
# while none of it has ended.
settle('Surge', 150, 1, 60, 0);
track('Surge', 300, 20);
ok( poll_until(
		$node,
		seen(
			'Surge', 'ended = 150 AND running = 300 AND duration_p50_ms < 70000')),
	'300 tasks run that are expected to take 60 s');
ok( poll_until(
		$node,
		seen('Surge', 'ended = 150 AND duration_p50_ms > 90000')),
	'when they have not ended by then, they are expected to take longer');
my ($surge) = sql('SELECT min(task_id) FROM anyvod_tasks'
	  . " WHERE state = 'pending'");
is(sql("SELECT remaining > interval '10 s' FROM anyvod_forecast('$surge')"),
	't', 'and that is what is forecast');
sql("DELETE FROM anyvod_tasks");

# A server whose limit binds: all are polled, the one that waits longest first,
# and the schedule polls them more seldom.
my $tasks = 200;
my $limit = 2;
sql("CREATE SERVER narrow FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '"
	  . $simulator->url
	  . "', rate_limit '$limit', timeout '600s', connect_timeout '100s');"
	  . 'CREATE USER MAPPING FOR PUBLIC SERVER narrow'
	  . " OPTIONS (api_key 'sk-clock')");
$simulator->reset;
track('Wide', 20, 100);
track('Narrow', $tasks, 100, 'narrow');

# Between two questions about a task there is one about each other; counted,
# not timed, since the machine may be busy.
my @asked;
ok( wait_until(
		sub {
			@asked = grep { /Narrow/ }
			  map { $_->{id} } @{ $simulator->requests(10000) };
			return @asked >= 5 * $tasks;
		}),
	'the server is asked');
my %last;
my $longest = 0;
foreach my $n (0 .. $#asked)
{
	$longest = max($longest, $n - ($last{ $asked[$n] } // 0));
	$last{ $asked[$n] } = $n;
}
# it may also be one that is not asked any more
$longest = max($longest, map { $#asked - $_ } values %last);
is(scalar keys %last, $tasks, 'each is asked about');
measured('longest wait for a turn: %d questions about %d tasks',
	$longest, $tasks);
cmp_ok($longest, '<', 2 * $tasks, 'and again in its turn');

# When the limit is gone these tasks are polled more seldom than others at
# first, as their schedule was throttled while it was there.
sub polls
{
	my ($model) = @_;

	return scalar grep { $_->{id} =~ /$model/ } @{ $simulator->requests(10000) };
}

sql("ALTER SERVER narrow OPTIONS (SET rate_limit '5000')");
$simulator->reset;
ok(wait_until(sub { polls('Narrow') >= $tasks }), 'the limit is lifted');
$simulator->reset;
ok(wait_until(sub { polls('Wide') >= 100 }), 'others are polled 5 times each');
my $narrow = polls('Narrow') / $tasks;
measured('meanwhile a throttled task is polled %.1f times', $narrow);
cmp_ok($narrow, '<', 3.5, 'those of the throttled server are less often');
sql('DELETE FROM anyvod_tasks');

# Very many settled rows, in lots of the same time: the latest 20,000 are
# learned from, to whole lots, each once.
end_worker();
settle('Latest', 21000, 300, 100, 0);
settle('Earlier', 3000, 300, 10, 1000);
track('Latest', 1, 10);
ok(poll_until($node, seen('Latest', 'ended >= 20000 AND running = 1')),
	'the latest rows are learned from');
is(sql(seen('Latest', 'ended')), 20400, 'those of a time all or none');
is(sql(seen('Earlier', 'count(*)')), 0, 'and none before them');
sql('DELETE FROM anyvod_tasks');
end_worker();

# More models than there is room for: the latest used are kept.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, state, task_type, model, started_at,
	ended_at, settled_at)
SELECT 'many-' || i, 'succeeded', 'AigcVideoTask', 'Many ' || i,
	now() - interval '100 s', now(), now() - (300 - i) * interval '1 s'
FROM generate_series(1, 300) AS i;
END
track('Last', 1, 10);
ok( poll_until(
		$node,
		"SELECT array_agg(model) @> '{Many 300,Last 1}'"
		  . ' FROM anyvod_stat_schedule'),
	'many models are learned from');
is( sql("SELECT min(substr(model, 6)::int) BETWEEN 172 AND 175, count(*)"
		  . " BETWEEN 126 AND 128 FROM anyvod_stat_schedule"
		  . " WHERE model LIKE 'Many %'"),
	't|t', 'the latest of them are kept');
sql('DELETE FROM anyvod_tasks');

# While no task is due the schedule wakes nobody.
sub sleeps
{
	my ($pid) = @_;
	my ($switches) = slurp_file("/proc/$pid/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $switches;
}

$node->append_conf('postgresql.conf',
	"anyvod.poll_floor = 1h\nanyvod.poll_cap = 1h");
$node->reload;
track('Idle', 50, 10);
ok(poll_until($node, seen('Idle', 'running = 50')), 'tasks are not due');
my $pid = worker_pid($node);
# what it did last may not be over
ok( wait_until(
		sub {
			my $before = sleeps($pid);

			$clock->wait_until_ms($clock->now_ms + 100_000);
			return sleeps($pid) == $before;
		}),
	'and the worker sleeps for 100 s');
done_testing();
