# Tasks that always fail, and the owners of such tasks, hold up no others of
# their server; a server that is really dead is still probed singly; and rows
# of a server that is paused for long are given up when they are too old.

use strict;
use warnings;

use AnyvodTest;
use List::Util qw(max);
use Test::More;

my $simulator = start_simulator(keys => ['sk-probe']);
my $node = anyvod_node(
	'probe',
	simulator => $simulator,
	api_key => 'sk-probe',
	conf => <<'END');
autovacuum = off
anyvod.detection_delay = 50ms
anyvod.poll_floor = 50ms
anyvod.idle_timeout = 1h
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# A server for everybody, and some roles.
sub make_server
{
	my ($name, $gateway, $options) = @_;

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER anyvod OPTIONS (base_url "
		  . quote_literal($gateway->url)
		  . ($options // '')
		  . "); CREATE USER MAPPING FOR PUBLIC SERVER $name"
		  . " OPTIONS (api_key 'sk-probe');"
		  . " GRANT USAGE ON FOREIGN SERVER $name TO PUBLIC");
	return;
}

# Track tasks WORDS-SERVER-1 and so on.
sub track
{
	my ($server, $owner, $words, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, server, owner)'
		  . " SELECT '$words-$server-' || i, '$server', '$owner'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# How long it takes until all tasks of these words are settled, in ms.
sub time_to_settle
{
	my ($server, $words, $count, $what) = @_;
	my $begin = clock_ms();

	ok( poll_until(
			$node,
			'SELECT count(*) FROM anyvod_tasks'
			  . " WHERE server = '$server' AND state = 'succeeded'"
			  . " AND task_id LIKE '$words-%'",
			$count,
			120),
		"$what are settled");
	my $took = clock_ms() - $begin;

	measured('%s: %.0f ms', $what, $took);
	return $took;
}

# How many of these tasks have been asked for.
sub asked
{
	my ($gateway, $pattern) = @_;
	my $tasks = $gateway->stats(tasks => 1)->{tasks};

	return scalar grep { /$pattern/ } keys %$tasks;
}

# Wait until a server is paused.
sub is_paused
{
	my ($server) = @_;

	ok( poll_until(
			$node,
			"SELECT state FROM anyvod_stat_server WHERE server = '$server'",
			'paused'),
		'tasks fail until their server is paused');
	return;
}

# The servers are made now: a new one ends what others are in trouble for.
my ($dead, $resting) = map { start_simulator(keys => ['sk-probe']) } 1 .. 2;
sql("CREATE ROLE $_") foreach qw(alice bob carol);
my $narrow = ", rate_limit '5000', max_concurrency '4'";
make_server('shared', $simulator, $narrow);
make_server('single', $simulator, $narrow);
make_server('slow', $simulator, "$narrow, timeout '1s'");
make_server('dead', $dead, ", rate_limit '5000'");
make_server('resting', $resting, $narrow);
make_server('healthy', $simulator, $narrow);

# Meanwhile: a server that wants to be left alone for an hour
track('resting', 'carol', 'http503-ra3600', 3000);
track('dead', $_, "http503-$_", 100) foreach qw(alice bob carol);

# One owner's tasks fail, all of them and for ever
track('shared', 'alice', 'http500', 50);
is_paused('shared');
track('shared', 'bob', 'image', 200);
cmp_ok(time_to_settle('shared', 'image', 200, 'tasks of another owner'),
	'<', 20_000, 'without waiting for those that fail');

# The same for one owner who has both
track('single', 'alice', 'http500', 50);
is_paused('single');
track('single', 'alice', 'image', 200);
cmp_ok(time_to_settle('single', 'image', 200, 'other tasks of an owner'),
	'<', 40_000, 'without waiting for those that fail');

# Tasks that fail by taking too long
track('slow', 'alice', 'image-delay60000', 30);
ok(wait_until(sub { asked($simulator, qr/delay60000/) >= 4 }),
	'tasks take too long');
track('slow', 'bob', 'image-t0', 100);
cmp_ok(time_to_settle('slow', 'image-t0', 100, 'tasks beside slow ones'),
	'<', 60_000, 'without waiting for those that are slow');

# When all of them have failed, a new task is not held up at all
ok( wait_until(sub { asked($simulator, qr/^http500-shared-/) == 50 }),
	'all bad tasks have been asked for');
ok( wait_until(
		sub {
			my $tasks = $simulator->stats(tasks => 1)->{tasks};
			my $asked = 0;

			$asked += $tasks->{$_}
			  foreach grep { /^http500-shared-/ } keys %$tasks;
			return $asked >= 56;
		}),
	'and some of them again');
track('shared', 'alice', 'image-late', 1);
cmp_ok(time_to_settle('shared', 'image-late', 1, 'a late task'),
	'<', 3000, 'at once');

# A dead server: a single question a pause, whosever tasks are due
my @times;
ok( wait_until(
		sub {
			@times = sort { $a <=> $b }
			  map { $_->{ms} / 1000 } @{ $dead->requests(10_000) };
			return @times && $times[-1] - $times[0] > 10;
		}),
	'a server is dead for 10 s');
my @late = grep { $_ > $times[0] + 4 } @times;
measured('300 tasks of 3 owners, dead: %d questions in %.0f s, %d after 4 s',
	scalar @times, $times[-1] - $times[0], scalar @late);
is(scalar(grep { $late[$_] - $late[ $_ - 1 ] < 0.5 } 1 .. $#late),
	0, 'and is asked a single question at a time');
is( sql("SELECT count(*) FROM anyvod_tasks WHERE server IN ('dead',"
		  . " 'resting') AND (state <> 'pending' OR updated_at IS NOT NULL)"),
	'0',
	'while no row of it is written');

# Too old.  Those that are asked when they are old, and those that cannot be.
my $known = $resting->stats->{requests};
sql("ALTER SYSTEM SET anyvod.give_up_after = '20s'");
$node->reload;
my $settled = "SELECT string_agg(DISTINCT concat(state, ' ', error_code), ',')"
  . " || ' ' || count(*) FROM anyvod_tasks WHERE server = 'resting'";
ok(poll_until($node, $settled, 'abandoned model_not_found 3000', 150),
	'old rows of a server that rests are abandoned, with the last error');
is($resting->stats->{requests}, $known, 'without a question');
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE server = 'dead' AND state = 'abandoned'",
		300),
	'and those of a dead server');

# An old row that is turned back is given time to be asked for, however old
my $begin = clock_ms();
sql("UPDATE anyvod_tasks SET state = 'pending', created_at = '-infinity'"
	  . " WHERE task_id = 'http503-ra3600-resting-7'");
sql("INSERT INTO anyvod_tasks (task_id, server, created_at)"
	  . " VALUES ('unknown-old', 'healthy', now() - interval '1 day')");
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'unknown-old'",
		'abandoned'),
	'an old row of a server that is well is asked for once more');
is($simulator->task_requests('unknown-old'), 1, 'once');
ok( poll_until(
		$node,
		'SELECT state FROM anyvod_tasks'
		  . " WHERE task_id = 'http503-ra3600-resting-7'",
		'abandoned', 120),
	'one of a server that rests is abandoned at last');
measured('an old row was given %.0f s', (clock_ms() - $begin) / 1000);
cmp_ok(clock_ms() - $begin, '>=', 20_000, 'but not at once');

sql("UPDATE anyvod_tasks SET state = 'pending'"
	  . " WHERE task_id = 'http503-ra3600-resting-7'");
sql("ALTER SERVER resting OPTIONS (SET max_concurrency '5')");
ok( poll_until(
		$node,
		'SELECT state FROM anyvod_tasks'
		  . " WHERE task_id = 'http503-ra3600-resting-7'",
		'abandoned'),
	'when its server may be asked again');
is($resting->task_requests('http503-ra3600-resting-7'),
	1, 'it is, and then abandoned');

done_testing();
