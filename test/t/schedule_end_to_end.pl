# The worker needs as many questions, and sees ends as late, as its schedule
# promises; and a worker that was killed goes on where it was.
#
# The clocks of the server and of the simulated gateway go twenty times as fast
# (test/clock), so that all settings have their defaults, and times in answers
# are as coarse as ever beside what tasks take.  What takes the machine a
# millisecond takes them 20.  Tasks are drawn by bench/pace.c, which also says
# what the same schedule.c needs for them when asking takes no time.  What the
# worker needs is counted by the simulator.
#
# "make bench-pace" sets ANYVOD_PACE: then 3,000 tasks run twice, the second
# time with a worker that is killed, and bounds are narrow.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Clock;
use File::Basename;
use List::Util qw(max sum);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $bench = $ENV{ANYVOD_PACE};
my $speed = 20;
my $clock = AnyvodTest::Clock->new($speed);
my $build = PostgreSQL::Test::Utils::tempdir();

# Seconds and milliseconds of this file are of the fast clock.
my $tasks = $bench ? 3000 : 400;
my $seconds = $bench ? 2200 : 500;
my $longest = $bench ? 600 : 160;
my @names = $bench ? qw(image12 video90) : qw(image12 narrow100);

# Half of the tasks come in the first so many seconds, the others in the last.
# Before those all have ended, and the worker is killed: what is known then of
# how long tasks take is in the table only, as no running task tells of it.
my $wave = $bench ? 750 : 70;
my $second_wave = $seconds - $wave;
my $killed_after = $second_wave - 30;

system_or_bail('make', '-s', '-C', dirname(__FILE__) . '/../unit',
	"BUILD=$build", "$build/bench_pace");

# Run bench/pace.c; returns its lines, each as an array.
sub pace
{
	my ($output, $trouble) = run_command([ "$build/bench_pace", @_ ]);

	BAIL_OUT("bench_pace: $trouble") if $trouble ne '';
	return map { [split] } split /\n/, $output;
}

# Tasks: name, type, ms from the beginning to its creation, ms that it runs.
my @draws =
  map { pace('draw', 20261122 + $_, $tasks / 2, $_, $wave, $longest, @names) }
  (0, $second_wave);
my $draws_file = "$build/draws";

append_to_file($draws_file, join(' ', @$_) . "\n") foreach @draws;

# By name: requests a task and mean delay, in s, of the tasks that were created
# in this time, as they should be.
sub predicted
{
	my ($from, $upto) = @_;

	return { map { $_->[0] => { requests => $_->[2], delay => $_->[3] } }
		  pace('predict', $draws_file, $from, $upto) };
}

# The same as counted by the simulator.
sub counted
{
	my ($seen, $from, $upto) = @_;
	my %sums;
	my %figures;

	foreach my $n (0 .. $#draws)
	{
		my ($name, undef, $created) = @{ $draws[$n] };

		next if $created < $from || $created >= $upto;
		push @{ $sums{$name} }, $seen->[$n];
	}
	foreach my $name (@names)
	{
		my @of_name = @{ $sums{$name} };

		$figures{$name} = {
			requests => sum(map { $_->{requests} } @of_name) / @of_name,
			delay => sum(map { $_->{last_ms} - $_->{end_ms} } @of_name) /
			  @of_name / 1000 };
	}
	return \%figures;
}

# Requests a task at a fixed interval, the first one at the beginning, at which
# the same tasks are seen with this mean delay.  Worked out from the draws.
sub fixed_requests
{
	my ($delay, $name) = @_;
	my @times = map { $_->[3] / 1000 } grep { $_->[0] eq $name } @draws;
	my ($low, $high) = (0.01, 1000);
	my $requests;

	foreach (1 .. 40)
	{
		my $interval = sqrt($low * $high);
		my @questions = map { POSIX::ceil($_ / $interval) } @times;
		my $late = $interval * sum(@questions) - sum(@times);

		$requests = 1 + sum(@questions) / @times;
		if ($late / @times < $delay) { $low = $interval }
		else { $high = $interval }
	}
	return $requests;
}

# A server and a gateway; the limits do not bind, and the worker stays.
sub start_all
{
	my ($name) = @_;
	my ($simulator, $node) = $clock->start(
		$name,
		options => "rate_limit '5000'",
		conf => "restart_after_crash = on\nanyvod.idle_timeout = 1h");

	$node->safe_psql('postgres', <<'END');
CREATE TABLE draws (n int PRIMARY KEY, task_id text, created timestamptz);
CREATE PROCEDURE insert_draws() LANGUAGE plpgsql AS $$
DECLARE
	draw draws;
BEGIN
	FOR draw IN SELECT * FROM draws AS d WHERE NOT EXISTS (
			SELECT FROM anyvod_tasks AS t WHERE t.task_id = d.task_id)
		ORDER BY created
	LOOP
		PERFORM pg_sleep_until(draw.created);
		INSERT INTO anyvod_tasks (task_id) VALUES (draw.task_id);
		COMMIT;
	END LOOP;
END $$;
END
	return ($simulator, $node);
}

# The id of the n-th task, if tasks come from then on.
sub task_id
{
	my ($n, $begin) = @_;
	my ($name, $type, $created, $runs) = @{ $draws[$n] };

	return "$type-m\u$name-v1-t$runs-b" . ($begin + $created) . "-$n";
}

# Kill the worker.  Returns when the next one may begin.
sub kill_worker
{
	my ($node) = @_;
	my $pid = worker_pid($node);

	kill 'KILL', $pid or BAIL_OUT("no worker to kill");
	# its end takes all sessions with it
	wait_until(sub { !-e "/proc/$pid" }) or BAIL_OUT("the worker lives on");
	poll_until($node, 'SELECT true') or BAIL_OUT("never came back");
	return $clock->now_ms;
}

# Have all tasks tracked as they are drawn; kill the worker after so many ms
# (undef: never).  Returns what the simulator saw of each, and how many ms
# from the beginning the next worker came.
sub run_tasks
{
	my ($run, $kill_after) = @_;
	my ($simulator, $node) = start_all($run);
	# a whole second, so that times are cut as in the prediction
	my $begin = 1000 * int($clock->now_ms / 1000 + 10);
	my $back;

	$node->safe_psql('postgres',
		'INSERT INTO draws VALUES '
		  . join(
			', ',
			map {
				"($_, '" . task_id($_, $begin) . "', to_timestamp("
				  . ($begin + $draws[$_][2]) / 1000 . '))'
			} 0 .. $#draws));

	my $session = open_session($node);

	begin_query($session, 'CALL insert_draws()');
	if (defined $kill_after)
	{
		$clock->wait_until_ms($begin + $kill_after);
		$back = kill_worker($node) - $begin;
		close_session($session);
		$session = open_session($node);
		begin_query($session, 'CALL insert_draws()');
	}
	$clock->wait_until_ms($begin + 1000 * $seconds);
	end_query($session);
	close_session($session);
	poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		$tasks, 60 + $longest / $speed)
	  or BAIL_OUT("never ended");

	my %seen = map { $_->{id} => $_ } @{ $simulator->get('/_tasks') };

	# the next worker counts anew
	is($node->safe_psql('postgres', 'SELECT sum(no_response) FROM anyvod_stat_server'),
		0, "$run: each question was answered");
	$node->stop;
	$simulator->stop;
	name_latest([ values %seen ]);
	return ([ map { $seen{ task_id($_, $begin) } } 0 .. $#draws ], $back);
}

# Name the tasks that were seen latest, by their delay: a mean does not tell one
# that was forgotten from many that are late.
sub name_latest
{
	my ($seen) = @_;
	my %delay = map { $_->{id} => $_->{last_ms} - $_->{end_ms} } @$seen;
	my @latest = sort { $delay{$b} <=> $delay{$a} } keys %delay;

	measured('%6.2f s late: %s', $delay{$_} / 1000, $_) foreach @latest[ 0 .. 4 ];
	return;
}

# The one beside the other; returns by how much it is more, as parts of one,
# for each name's requests and delay.
sub compare
{
	my ($one, $what, $other) = @_;
	my @more;

	foreach my $name (@names)
	{
		foreach my $figure (qw(requests delay))
		{
			my ($a, $b) = map { $_->{$name}{$figure} } $one, $other;

			push @more, $a / $b - 1;
			measured('%-9s %-8s %6.2f, %s %6.2f: %+.1f %%',
				$name, $figure, $a, $what, $b, 100 * $more[-1]);
		}
	}
	return @more;
}

# How many of the requests at fixed intervals, each name's own, these are.
sub compare_fixed
{
	my ($figures) = @_;
	my ($requests, $fixed) = (0, 0);

	foreach my $name (@names)
	{
		my $one = $figures->{$name}{requests};
		my $other = fixed_requests($figures->{$name}{delay}, $name);

		measured(
			'%-9s requests %6.2f, fixed interval of that mean delay %6.2f:'
			  . ' %.2f times as many',
			$name, $one, $other, $other / $one);
		# there are as many tasks of each name
		$requests += $one;
		$fixed += $other;
	}
	return $requests / $fixed;
}

my @always = (0, 1000 * $seconds + 1);

if ($bench)
{
	my ($whole) = run_tasks('whole');
	my $counted = counted($whole, @always);
	my @off = compare($counted, 'predicted', predicted(@always));

	cmp_ok(max(map { abs } @off),
		'<', 0.1, 'requests and delays are those predicted');
	cmp_ok(compare_fixed($counted), '<', 0.8, 'and less than at intervals');

	my ($killed, $back) = run_tasks('killed', 1000 * $killed_after);

	measured('killed after %.0f s, back after %.1f s',
		$killed_after, $back / 1000 - $killed_after);
	foreach my $of ([ $wave, 0.05 ], [ 100, 0.1 ])
	{
		my ($first, $bound) = @$of;
		my @after = (1000 * $second_wave, 1000 * ($second_wave + $first));

		@off = compare(counted($killed, @after),
			'not killed', counted($whole, @after));
		cmp_ok(max(map { abs $off[ 2 * $_ ] } 0 .. $#names),
			'<', $bound,
			"a worker that was killed has forgotten nothing, first $first s");
	}
}
else
{
	my ($killed, $back) = run_tasks('killed', 1000 * $killed_after);
	my @after = (1000 * $second_wave, $always[1]);
	my @off = compare(counted($killed, @after),
		'predicted', predicted(@after));

	cmp_ok($back, '<', 1000 * $second_wave, 'another worker is there in time');

	cmp_ok(compare_fixed(counted($killed, @always)),
		'<', 0.8, 'fewer requests than at fixed intervals');
	cmp_ok(max(map { $off[ 2 * $_ ] } 0 .. $#names),
		'<', 0.3, 'a worker that was killed has forgotten nothing');
}
done_testing();
