# After trouble a task is asked for again by the kind of trouble, each with a
# clock of its own; a server is asked as often as it likes, and one that is in
# trouble holds up no other.

use strict;
use warnings;

use AnyvodTest;
use List::Util qw(max min);
use Test::More;

my $simulator = start_simulator(keys => [ 'sk-retry', 'sk-late' ]);
my $node = anyvod_node(
	'retry',
	simulator => $simulator,
	api_key => 'sk-retry',
	options => "rate_limit '5000'",
	conf => <<'END');
autovacuum = off
anyvod.detection_delay = 50ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# A server with a mapping for all.
sub make_server
{
	my ($name, $url, $options) = @_;

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER anyvod OPTIONS (base_url "
		  . quote_literal($url)
		  . ($options // '')
		  . "); CREATE USER MAPPING FOR PUBLIC SERVER $name"
		  . " OPTIONS (api_key 'sk-retry')");
	return;
}

# Track tasks image-NAME-1 and so on with a server.
sub track
{
	my ($server, $words, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, server)'
		  . " SELECT '$words-' || i, '$server'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

sub settled
{
	my ($server, $count) = @_;

	return poll_until($node,
		'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE server = '$server' AND state = 'succeeded'",
		$count);
}

# The times, in seconds, at which a simulator was asked for tasks.
sub times_of
{
	my ($gateway, $pattern) = @_;

	return map { $_->{ms} / 1000 }
	  grep { ($_->{id} // '') =~ $pattern } @{ $gateway->requests(10_000) };
}

# What nobody's polling may move: row versions, and attempts to make more.
sub written
{
	my ($server) = @_;

	return sql(
		'SELECT md5(string_agg(concat(task_id, ctid, xmin, xmax), \',\''
		  . ' ORDER BY task_id)),'
		  . " bool_and(state = 'pending'), bool_or(error_code IS NOT NULL)"
		  . " FROM anyvod_tasks WHERE server = '$server'");
}

# Kinds of trouble, each with a server of its own, since a server has one
# state: words of the task, and the least and most time to each further
# question, in seconds.  Waits are spread by a quarter; the upper bounds have
# a second to spare, in which a server that is paused may be probed late.
my @kinds = (
	[ transient => 'http503', [ 0.75, 2.5 ], [ 1.5, 3.5 ], [ 3, 6 ] ],
	[ broken => 'cut', [ 0.75, 2.5 ], [ 1.5, 3.5 ], [ 3, 6 ] ],
	[ unreadable => 'notjson', [ 3.75, 7.5 ] ],
	[ rejected => 'html', [ 7.5, 13.5 ] ],
	[ unknown => 'unknown', [ 20, 22.5 ] ],
	[ no_output => 'nofile', [ 10, 12 ], [ 10, 12 ] ],
	[ limited => 'http429', [ 0.75, 2.5 ], [ 1.5, 3.5 ] ],
	# of the date whole seconds are told
	[ limited_seconds => 'http429-ra4', [ 4, 5.5 ], [ 4, 5.5 ] ],
	[ limited_date => 'http429-rad5', [ 4, 6.5 ], [ 4, 6.5 ] ],
	[ unavailable => 'http503-ra5', [ 5, 6.5 ] ],
	[ unavailable_date => 'http503-rad5', [ 4, 6.5 ] ]);

# Other gateways: one that is asked little at once, one that never answers, one
# that is gone, one that keeps failing.
my ($narrow, $silent, $gone, $failing) =
  map { start_simulator(keys => ['sk-retry']) } 1 .. 4;
my $gone_port = $gone->port;
$silent->pause;
$gone->stop;

# All servers are made now: a new one ends what others are in trouble for.
my $fast = ", rate_limit '5000'";
make_server($_->[0], $simulator->url) foreach @kinds;
make_server('refused', $simulator->url);
make_server('paced', $simulator->url, ", rate_limit '100'");
make_server('narrow', $narrow->url, "$fast, max_concurrency '5'");
make_server('slow', $simulator->url, $fast);
make_server('silent', $silent->url, $fast);
make_server('gone', $gone->url, $fast);
make_server('astray', $simulator->url . '/elsewhere', $fast);
make_server('failing', $failing->url, $fast);
make_server('dead', 'http://127.0.0.1:1');
make_server('doomed', $simulator->url);
sql("ALTER USER MAPPING FOR PUBLIC SERVER refused OPTIONS (SET api_key 'sk-bad')"
);
foreach my $kind (@kinds)
{
	my ($server, $words) = @$kind;

	track($server, "$words-$server", 1);
}
track('refused', 'image-refused', 10);

# Meanwhile: tasks that a server may be asked for at this pace
track('paced', 'image-paced', 400);
ok(settled('paced', 400), 'tasks of a server with a rate limit are settled');
my @times = times_of($simulator, qr/^image-paced-/);
my $most = 0;
foreach my $begin (@times)
{
	# two seconds, so that an arrival some milliseconds late is no trespass
	$most = max($most, scalar grep { $_ >= $begin && $_ < $begin + 2 } @times);
}
measured('rate_limit 100: at most %d in two seconds, 400 in %.1f s',
	$most, max(@times) - min(@times));
cmp_ok($most, '<=', 200, 'in no two seconds is it asked more often');
cmp_ok(max(@times) - min(@times), '<', 5, 'nor much less often');

# ... and of one that wants few at once
track('narrow', 'image-delay200-narrow', 50);
ok(settled('narrow', 50), 'tasks of a server with a limit are settled');
is($narrow->stats->{max_in_flight}, 5, 'five questions at once, and no more');

# ... and of servers that are slow, silent or gone, beside one that is well
track($_, "image-delay20000-$_", 100) foreach qw(slow silent gone);
ok(wait_until(sub { $simulator->stats->{in_flight} >= 32 }),
	'a slow server has as many questions as it may');
my $begin = clock_ms();
track('anyapi', 'image-good', 500);
ok(settled('anyapi', 500), 'tasks of a good server are settled');
my $took = clock_ms() - $begin;
measured('500 tasks beside three servers in trouble took %.0f ms', $took);
cmp_ok($took, '<', 5000,
	'no slow, silent or dead server holds them up');
cmp_ok($simulator->stats->{in_flight}, '>=', 32, 'the slow ones still wait');
sql("DELETE FROM anyvod_tasks WHERE server IN ('slow', 'silent')");
$silent->resume;

# A wrong base URL and a dead port: nothing fails, nothing is written
track('astray', 'image-astray', 100);
my @before = map { written($_) } qw(astray gone);
like($before[0], qr/\|t\|f/, 'with a wrong base URL all tasks are pending');
like($before[1], qr/\|t\|f/, 'with a dead port, too');

# By now each kind has been asked again.
ok( wait_until(
		sub { scalar(times_of($simulator, qr/^unknown-unknown-1$/)) >= 2 }),
	'20 s later');
foreach my $kind (@kinds)
{
	my ($server, $words, @bounds) = @$kind;
	my $came = wait_until(
		sub { times_of($simulator, qr/^\Q$words-$server\E-1$/) > @bounds });
	my @asked = times_of($simulator, qr/^\Q$words-$server\E-1$/);
	my @waits = map { $asked[ $_ + 1 ] - $asked[$_] } 0 .. $#bounds;
	my $wrong = grep {
		     $waits[$_] < $bounds[$_][0] - 0.01
		  || $waits[$_] > $bounds[$_][1]
	} 0 .. $#bounds;

	ok($came && !$wrong, "$server: asked again when it should be")
	  or diag(join ' ', map { sprintf '%.2f', $_ } @waits);
}
my @after = map { written($_) } qw(astray gone);
is($after[0], $before[0], 'a wrong base URL writes no row');
is($after[1], $before[1], 'a dead port writes no row');

# A key that is refused pauses its role on that server
cmp_ok(scalar(times_of($simulator, qr/^image-refused-/)),
	'<=', 10, 'with a key that is refused nothing more is asked');
is( sql("SELECT count(*) FROM anyvod_tasks WHERE server = 'refused'"
		  . " AND state = 'pending' AND error_code IS NULL"),
	'10',
	'and no task fails');
$begin = clock_ms();
sql("ALTER USER MAPPING FOR PUBLIC SERVER refused OPTIONS (SET api_key 'sk-late')"
);
ok(settled('refused', 10), 'another key ends that');
measured('10 tasks were settled %.0f ms after their key was altered',
	clock_ms() - $begin);
cmp_ok(clock_ms() - $begin, '<', 3000, 'at once');

# A server that comes back is probed by a single question first.  Its answer
# takes long enough to be waited for.
is( sql("SELECT count(*) FROM anyvod_tasks WHERE server = 'gone'"
		  . " AND state = 'pending'"),
	'100',
	'a server that is gone fails no task');
sql("DELETE FROM anyvod_tasks WHERE server = 'gone'");
track('gone', 'image-delay400-back', 50);
$gone = start_simulator(keys => ['sk-retry'], port => $gone_port);
sql('SELECT anyvod_wake()');
ok(settled('gone', 50), 'when it is back its tasks are settled');
@times = sort { $a <=> $b } times_of($gone, qr/^image-delay400-back-/);
cmp_ok($times[1] - $times[0], '>=', 0.35,
	'a single question goes ahead of the others');

# One that keeps failing is probed singly, later each time
track('failing', 'http503-failing', 60);
ok( wait_until(
		sub {
			@times = sort { $a <=> $b } times_of($failing, qr/failing/);
			return @times && $times[-1] - $times[0] > 8;
		}),
	'a server fails for 8 s');
measured('60 tasks of a server that fails: %d questions in 8 s',
	scalar @times);
cmp_ok(scalar @times, '<', 130, 'it is not asked for all of them each time');
my @late = grep { $_ > $times[0] + 4 } @times;
is(scalar(grep { $late[$_] - $late[ $_ - 1 ] < 0.5 } 1 .. $#late),
	0, 'but probed singly');

# Rows too old for the upstream to know are given up, with the last error.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, server, created_at) VALUES
	('image-old-dead', 'dead', now() - interval '4 days'),
	('http502-old', 'doomed', now() - interval '4 days'),
	('image-t600000-old', 'anyapi', now() - interval '4 days'),
	('image-t600000-oldest', 'anyapi', '-infinity'),
	('image-t600000-young', 'anyapi', now() - interval '2 days'),
	('image-nowhere-old', 'nowhere', now() - interval '4 days');
END
ok( poll_until(
		$node,
		"SELECT string_agg(concat(task_id, ' ', error_code), ', '"
		  . ' ORDER BY task_id) FROM anyvod_tasks'
		  . " WHERE state = 'abandoned' AND settled_at IS NOT NULL",
		'http502-old transient, image-nowhere-old 42704,'
		  . ' image-old-dead unreachable'),
	'rows that are too old are abandoned, with the last error');
is( sql("SELECT string_agg(DISTINCT concat(state, ' ', status), ',')"
		  . " FROM anyvod_tasks WHERE task_id ~ '^image-t600000-(old|young)'"),
	'pending PROCESSING',
	'others are not, nor those whose tasks run, however old they seem');
is( sql('SELECT count(*) FROM anyvod_tasks WHERE server IN '
		  . "('astray', 'failing', 'transient', 'broken', 'unreadable',"
		  . " 'rejected', 'unknown', 'no_output', 'limited',"
		  . " 'limited_seconds', 'limited_date', 'unavailable',"
		  . " 'unavailable_date')"
		  . " AND state <> 'pending' AND task_id <> 'http502-old'"
		  . " AND task_id !~ '^(nofile|unknown)'"),
	'0',
	'trouble of a server has failed no task');

done_testing();
