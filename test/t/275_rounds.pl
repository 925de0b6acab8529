# Rows of tasks that are due are read in rounds, a few at a time, not one by one
# where a rate limit lets them through so.  But a server that has no room for
# more questions until it has answered does not wait for a round.

use strict;
use warnings;

use AnyvodStatements;
use AnyvodTest;
use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

# A round comes this long after the one before, in milliseconds.
my $pause = 4;

# Tasks wait for this long at last, in milliseconds.
my $wait = 250;

my $simulator = start_simulator(keys => ['sk-rounds']);
my $node = counting_node(
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

# Tasks that a rate limit lets through one after another, 1,600 in a second
sql('DELETE FROM anyvod_tasks');
track('anyapi', 160);
ok( wait_until(
		sub { $simulator->task_requests('image-t6000000-anyapi-160') > 0 }),
	'tasks are asked for');
my @begin = (clock_ms(), rows_read($node), asked());
ok(wait_until(sub { asked() >= $begin[2] + 4000 }), 'again and again');
my @end = (asked(), rows_read($node), clock_ms());
my $took = $end[2] - $begin[0];
my $rounds = $end[1] - $begin[1];

measured('%d questions were asked in %.0f ms in %d rounds',
	$end[0] - $begin[2], $took, $rounds);
cmp_ok($rounds, '>', 0, 'rounds are seen');
cmp_ok($rounds, '<', 10 + 1.1 * $took / $pause,
	'what is due is read in rounds, not one by one');

# Tasks that fall due one after another, 1,600 in a second for a while, since
# that is how they were asked for at first
sql('DELETE FROM anyvod_tasks');
$node->append_conf('postgresql.conf', <<"END");
anyvod.poll_floor = ${wait}ms
anyvod.poll_cap = ${wait}ms
END
$node->reload;
track('anyapi', 200);
my $waiting = 'image-t6000000-anyapi-200';
ok( wait_until(sub { $simulator->task_requests($waiting) > 1 }),
	'tasks are asked for, and wait as long as is allowed');
sql("ALTER SERVER anyapi OPTIONS (SET rate_limit '100000')");
@begin = (asked(), rows_read($node));
ok(wait_until(sub { asked() >= $begin[0] + 2000 }), 'again and again');
@end = (asked(), rows_read($node));
my %last;
my @gaps;
foreach my $request (@{ $simulator->requests(2000) })
{
	my ($id, $ms) = @$request{qw(id ms)};
	push @gaps, $ms - $last{$id} if $last{$id};
	$last{$id} = $ms;
}
measured('%d questions in %d rounds, %d to %d ms after the one before',
	$end[0] - $begin[0], $end[1] - $begin[1], min(@gaps), max(@gaps));
cmp_ok($end[1] - $begin[1], '<', 0.6 * ($end[0] - $begin[0]),
	'rows are read for some tasks at once');
cmp_ok(min(@gaps), '>=', $wait - 1, 'but none is asked for before it is due');

# Those whose rows have been read are asked for as things are when they are due
my $other = start_simulator(keys => ['sk-rounds']);
sql("ALTER SERVER anyapi OPTIONS (SET base_url '@{[ $other->url ]}')");
my $before = asked();
ok( wait_until(sub { $other->stats->{requests} >= 100 }),
	'their server has moved');
cmp_ok(asked() - $before, '<', 100, 'from when that was said');
$before = asked();
ok( wait_until(sub { $other->stats->{requests} >= 600 }),
	'they are asked for there');
is(asked(), $before, 'and nowhere else');
sql('INSERT INTO anyvod_tasks (task_id)'
	  . " VALUES ('http429-ra600-another')");
ok( wait_until(
		sub {
			sql('SELECT paused_until IS NOT NULL FROM anyvod_stat_server'
				  . " WHERE server = 'anyapi'") eq 't';
		}),
	'it wants to be left alone');
$before = $other->stats->{requests};
usleep(2 * 1000 * $wait);
is($other->stats->{requests}, $before, 'and is');

done_testing();
