# Each task is polled when it is due itself and as its row says then, takes no
# place of one that is due before, and is not polled when its server, role or row
# has changed meanwhile.

use strict;
use warnings;

use AnyvodTest;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# Tasks wait for this long, in milliseconds.
my $wait = 250;

my $simulator = start_simulator(keys => ['sk-ahead']);
my $other = start_simulator(keys => ['sk-ahead']);
my $node = anyvod_node(
	'ahead',
	simulator => $simulator,
	api_key => 'sk-ahead',
	options => "rate_limit '1600', max_concurrency '1000'",
	conf => <<"END");
anyvod.idle_timeout = 1h
anyvod.detection_delay = 25ms
anyvod.poll_floor = ${wait}ms
anyvod.poll_cap = ${wait}ms
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Track so many tasks of a role, which will run for long.
sub track
{
	my ($owner, $count, $server) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, owner, server)'
		  . " SELECT 'image-t6000000-$owner-' || i, '$owner', '$server'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

sub asked
{
	my ($which) = @_;

	return $which->stats(tasks => 0)->{requests};
}

# Wait until so many more questions have come.
sub wait_for
{
	my ($which, $count) = @_;
	my $before = asked($which);

	return wait_until(sub { asked($which) >= $before + $count });
}

sql(<<"END");
CREATE ROLE alice;
CREATE ROLE bob;
CREATE SERVER narrow FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}', max_concurrency '1',
	rate_limit '100000');
CREATE USER MAPPING FOR PUBLIC SERVER narrow OPTIONS (api_key 'sk-ahead');
GRANT USAGE ON FOREIGN SERVER anyapi, narrow TO alice, bob;
END

# Tasks that fall due one after another for a while, since that is how they were
# asked for at first.
track('alice', 200, 'anyapi');
my $last = 'image-t6000000-alice-200';
ok(wait_until(sub { $simulator->task_requests($last) > 1 }),
	'tasks are asked for, and wait as long as is allowed');
sql("ALTER SERVER anyapi OPTIONS (SET rate_limit '100000')");
my $polled = asked($simulator);
ok(wait_for($simulator, 1000), 'again and again');
my (%last, @gaps);
foreach my $request (@{ $simulator->requests(asked($simulator) - $polled) })
{
	my ($id, $ms) = @$request{qw(id ms)};

	push @gaps, $ms - $last{$id} if $last{$id};
	$last{$id} = $ms;
}
measured('%d polls, %d ms later at least', scalar @gaps, min(@gaps));
cmp_ok(min(@gaps), '>=', $wait - 1, 'none before its task is due');

# Their server moves, their role may not use it any more, it is to be left alone
sql("ALTER SERVER anyapi OPTIONS (SET base_url '@{[ $other->url ]}')");
my $before = asked($simulator);
ok(wait_until(sub { asked($other) >= 100 }), 'their server has moved');
cmp_ok(asked($simulator) - $before, '<', 100, 'from when that was said');
$before = asked($simulator);
ok(wait_for($other, 500), 'they are asked for there');
is(asked($simulator), $before, 'and nowhere else');

sql('REVOKE USAGE ON FOREIGN SERVER anyapi FROM alice');
$before = asked($other);
ok( wait_until(
		sub {
			sql('SELECT bool_and(error_code IS NOT NULL) FROM anyvod_tasks') eq
			  't';
		}),
	'their role may not use it any more');
cmp_ok(asked($other) - $before, '<', 100, 'from when that was said');
$before = asked($other);
usleep(2 * 1000 * $wait);
is(asked($other), $before, 'and does not');

sql('GRANT USAGE ON FOREIGN SERVER anyapi TO alice');
ok(wait_for($other, 500), 'it may again');
sql('INSERT INTO anyvod_tasks (task_id, owner)'
	  . " VALUES ('http429-ra600-ahead', 'alice')");
ok( wait_until(
		sub {
			sql('SELECT paused_until IS NOT NULL FROM anyvod_stat_server'
				  . " WHERE server = 'anyapi'") eq 't';
		}),
	'the server wants to be left alone');
$before = asked($other);
usleep(2 * 1000 * $wait);
is(asked($other), $before, 'and is');

# The worker is held up by a trigger while rows are deleted that it has read
sql(<<"SETUP");
DELETE FROM anyvod_tasks;
CREATE SERVER wide FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $other->url ]}', rate_limit '1600');
CREATE USER MAPPING FOR PUBLIC SERVER wide OPTIONS (api_key 'sk-ahead');
GRANT USAGE ON FOREIGN SERVER wide TO alice;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
	PERFORM pg_sleep(0.7);
	RETURN new;
END';
CREATE TRIGGER hold BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (new.task_id LIKE 'image-held-%') EXECUTE FUNCTION hold();
SETUP
my $is_held = "SELECT count(*) > 0 FROM pg_stat_activity"
  . " WHERE wait_event = 'PgSleep' AND backend_type LIKE 'anyvod%'";
my $held = 0;
foreach my $time (1 .. 20)
{
	last if $held == 3;
	track('alice', 400, 'wide');
	wait_for($other, 800);
	sql("ALTER SERVER wide OPTIONS (SET rate_limit '100000')");
	wait_for($other, 800);		# as fast as they want
	sql('INSERT INTO anyvod_tasks (task_id, owner, server)'
		  . " VALUES ('image-held-$time', 'alice', 'wide')");
	wait_until(
		sub {
			sql("SELECT ($is_held) OR state <> 'pending' FROM anyvod_tasks"
				  . " WHERE task_id = 'image-held-$time'") eq 't';
		});
	sql("DELETE FROM anyvod_tasks WHERE task_id LIKE 'image-t6000000-%'");
	$before = asked($other);
	if (sql($is_held) eq 't')	# else this machine is too slow just now
	{
		$held++;
		ok(wait_until(sub { sql($is_held) eq 'f' }),
			'the worker goes on after all its rows were deleted');
		usleep(2 * 1000 * $wait);
		is(asked($other), $before, 'and asks for none of them');
	}
	sql("ALTER SERVER wide OPTIONS (SET rate_limit '1600')");
}
is($held, 3, 'it was held up meanwhile');

# A server that is asked one question at a time, and has more tasks than that
sql('DELETE FROM anyvod_tasks');

# How long 3,000 questions take, in ms.
sub time_taken
{
	my $begin = clock_ms();

	wait_for($simulator, 3000);
	return clock_ms() - $begin;
}

track('alice', 3000, 'narrow');
ok(wait_for($simulator, 6000), 'a narrow server has many tasks');
my $alone = time_taken();
# a task of another role falls due every 2 ms
sql(<<'TASKS');
DO $$
BEGIN
	FOR i IN 1 .. 125 LOOP
		INSERT INTO anyvod_tasks (task_id, owner, server)
			VALUES ('image-t6000000-bob-' || i, 'bob', 'narrow');
		COMMIT;
		PERFORM pg_sleep(0.002);
	END LOOP;
END
$$
TASKS
ok( wait_until(
		sub { $simulator->task_requests('image-t6000000-bob-125') > 1 }),
	'tasks of another role are waited for');
my $beside = time_taken();
measured('3,000 questions took %.0f ms, %.0f ms beside tasks that wait',
	$alone, $beside);
cmp_ok($beside, '<', 2 * $alone, 'and take no place meanwhile');

done_testing();
