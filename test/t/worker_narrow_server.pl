# A server that is sent one request at a time, and has more tasks than that, gets
# the next one as soon as it has responded, also while another is paused.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $simulator = start_simulator(keys => ['sk-rounds']);
my $node = anyvod_node(
	'rounds',
	simulator => $simulator,
	api_key => 'sk-rounds',
	options => "rate_limit '1600', max_concurrency '1000'",
	conf => <<'END');
anyvod.idle_timeout = 1h
anyvod.detection_delay = 25ms
anyvod.poll_floor = 50ms
anyvod.poll_cap = 50ms
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Track so many tasks of a server, which will run for long.
sub track
{
	my ($server, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, server)'
		  . " SELECT 'image-t6000000-$server-' || i, '$server'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

sub asked
{
	return $simulator->stats(tasks => 0)->{requests};
}

# How often a process has gone to sleep.
sub sleeps
{
	my ($pid) = @_;
	my ($count) = slurp_file("/proc/$pid/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $count;
}

# A server that answers at once, is asked a question at a time, and has more
# tasks than it can be asked about
sql(<<"END");
CREATE SERVER narrow FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}', max_concurrency '1',
	rate_limit '5000');
CREATE SERVER resting FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}');
CREATE USER MAPPING FOR PUBLIC SERVER narrow OPTIONS (api_key 'sk-rounds');
CREATE USER MAPPING FOR PUBLIC SERVER resting OPTIONS (api_key 'sk-rounds');
END
track('narrow', 200);
ok(wait_until(sub { asked() > 1000 }), 'its tasks are known to run');

foreach my $what ('it is alone', 'another is not asked for long')
{
	if ($what =~ /another/)
	{
		sql('INSERT INTO anyvod_tasks (task_id, server)'
			  . " VALUES ('http429-ra600-other', 'resting')");
		ok( wait_until(
				sub { $simulator->task_requests('http429-ra600-other') > 0 }),
			'another server wants to be left alone');
	}
	my $pid = worker_pid($node);
	my ($asked, $slept) = (asked(), sleeps($pid));
	ok(wait_until(sub { asked() >= $asked + 1000 }), 'a narrow server is asked');
	$slept = sleeps($pid) - $slept;
	$asked = asked() - $asked;
	measured('%s: %d questions, %d sleeps', $what, $asked, $slept);
	# It sleeps for the answer, if that takes its time; and again where it
	# pauses, if that is not over by then.
	cmp_ok($slept, '<', 1.5 * $asked,
		"without a pause after each answer: $what");
}

done_testing();
