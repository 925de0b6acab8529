# What users have added to the table may be slow, may refuse, may make more
# work: the rows that it is not about are written all the same.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'writing',
	simulator => $simulator,
	options => "rate_limit '5000'",
	conf => <<'END');
anyvod.idle_timeout = 1h
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Track so many tasks that have ended.
sub track
{
	my ($name, $count) = @_;

	sql("INSERT INTO anyvod_tasks (task_id) SELECT 'image-$name-' || i"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# So many rows of a name get that state.
sub become
{
	my ($name, $state, $count) = @_;

	return poll_until($node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = '$state'"
		  . " AND task_id LIKE 'image-$name-%'",
		$count);
}

# A trigger on rows of a name, the others being left alone.  How often it was
# called is counted by a sequence, which no rollback takes back.
sub add_trigger
{
	my ($name, $when, $body) = @_;

	sql(<<"END");
CREATE SEQUENCE calls_$name;
GRANT ALL ON SEQUENCE calls_$name TO PUBLIC;
GRANT USAGE ON SCHEMA public TO pg_database_owner;
CREATE FUNCTION $name() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM nextval('public.calls_$name');
	$body
END \$\$;
CREATE TRIGGER $name $when UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id LIKE 'image-$name-%' AND NEW.state <> 'pending')
	EXECUTE FUNCTION $name();
END
	return;
}

sub calls
{
	my ($name) = @_;

	return sql("SELECT last_value * is_called::int FROM calls_$name");
}

sub drop_trigger
{
	my ($name) = @_;

	sql("DROP TRIGGER $name ON anyvod_tasks");
	return;
}

# What the log says of a task.
sub said
{
	my ($task_id) = @_;
	my @lines = slurp_file($node->logfile) =~ /LOG:  (.*"\Q$task_id\E".*)/g;

	return @lines;
}

# A trigger that needs longer than a row is given at first
add_trigger('slow', 'BEFORE', 'PERFORM pg_sleep(1.5); RETURN NEW;');
track('slow', 3);
ok(become('slow', 'succeeded', 3), 'rows whose trigger takes its time are settled');
is( sql("SELECT count(*) FROM anyvod_tasks WHERE error_code IS NOT NULL"),
	0, 'without a complaint');
is_deeply([ said('image-slow-1') ], [], 'nor one in the log');
drop_trigger('slow');

# What is announced while one waits is not lost: pg_sleep() resets the latch
# that says so, as waiting for a lock does.  At its second call it is given more
# time than it takes, and the end of that time would wake the worker.
add_trigger('waits', 'BEFORE', 'PERFORM pg_sleep(2); RETURN NEW;');
track('waits', 1);
ok(wait_until(sub { calls('waits') >= 2 }), 'a trigger waits');
track('meanwhile', 1);
ok(become('waits', 'succeeded', 1), 'its row is settled');
my $begin = clock_ms();
ok(become('meanwhile', 'succeeded', 1), 'and one that has come meanwhile');
my $late = clock_ms() - $begin;
measured('after %d ms', $late);
cmp_ok($late, '<', 1500, 'at once');
drop_trigger('waits');

# One that takes for ever, for many rows: what comes meanwhile is written first.
add_trigger('endless', 'BEFORE', 'PERFORM pg_sleep(60); RETURN NEW;');
track('endless', 20);
ok(wait_until(sub { calls('endless') >= 2 }), 'endless triggers are running');
my @took;
foreach my $i (1 .. 10)
{
	my $begin = clock_ms();

	track("prompt$i", 1);
	ok(become("prompt$i", 'succeeded', 1), 'a row beside them is settled');
	push @took, clock_ms() - $begin;
}
measured('rows beside endless triggers were settled after %.0f ms, at most %.0f ms',
	median(@took), (sort { $a <=> $b } @took)[-1]);
# One attempt may take 5 s; each comes after nine times as long a pause.
cmp_ok(median(@took), '<', 2500, 'most of them at once');
cmp_ok((sort { $a <=> $b } @took)[-1],
	'<', 10_000, 'none of them after two attempts in a row');
ok( poll_until(
		$node,
		"SELECT count(*) > 0 FROM anyvod_tasks WHERE error_code = '57014'"
		  . " AND error_message = 'it took longer than 5000 ms'",
		't'),
	'a row that takes too long says so');
drop_trigger('endless');

# A trigger that makes more work, while nobody else announces any
add_trigger(
	'parent',
	'AFTER', <<'END');
INSERT INTO public.anyvod_tasks (task_id, owner)
		VALUES (replace(NEW.task_id, 'parent', 'child'), NEW.owner);
	RETURN NULL;
END
sql('ALTER FUNCTION parent() SECURITY DEFINER SET search_path = pg_catalog');
track('parent', 5);
ok(become('parent', 'succeeded', 5), 'rows are settled');
ok(become('child', 'succeeded', 5), 'and those that their trigger inserts');
add_trigger(
	'again',
	'AFTER', <<'END');
IF nextval('public.calls_again') < 6 THEN
		UPDATE public.anyvod_tasks SET state = 'pending'
			WHERE task_id = NEW.task_id;
	END IF;
	RETURN NULL;
END
sql('ALTER FUNCTION again() SECURITY DEFINER SET search_path = pg_catalog');
track('again', 1);
ok( poll_until(
		$node,
		'SELECT state, polls FROM anyvod_tasks'
		  . " WHERE task_id = 'image-again-1'",
		'succeeded|3'),
	'a row that its trigger makes pending is asked for again');

# Triggers that do not let a row be settled
foreach my $veto ([ 'kept', "NEW.state := 'pending'; RETURN NEW;" ],
	[ 'skipped', 'RETURN NULL;' ])
{
	my ($name, $body) = @$veto;
	my $begin;

	add_trigger($name, 'BEFORE', $body);
	track($name, 1);
	ok(wait_until(sub { calls($name) >= 1 }), "$name: a row is not settled");
	$begin = clock_ms();
	ok(wait_until(sub { calls($name) >= 4 }), "$name: it is tried again");
	# The waits are 1, 2 and 4 s.
	cmp_ok(clock_ms() - $begin, '>', 5500, "$name: but later each time");
	drop_trigger($name);
	ok(become($name, 'succeeded', 1), "$name: until the trigger is dropped");
}

# A row that a user changes when the worker's statement has begun, and before it
# comes to the row, is written as it is by then: alone, and among others.
add_trigger('counted', 'BEFORE', 'RETURN NEW;');
sql(<<'END');
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(280);
	RETURN NULL;
END $$;
CREATE TRIGGER gate BEFORE UPDATE ON anyvod_tasks
	FOR EACH STATEMENT EXECUTE FUNCTION gate();
END
my $user = open_session($node);
foreach my $count (1, 5)
{
	my $name = "counted-delay1000-$count";
	my $ids = "task_id LIKE 'image-$name-%'";

	# all answers are there before the first is written
	track($name, $count);
	$user->query_safe('BEGIN; LOCK TABLE anyvod_tasks IN SHARE MODE');
	ok( wait_until(
			sub { $simulator->task_requests("image-$name-$count") == 1 })
		  && poll_until(
			$node,
			'SELECT in_flight FROM anyvod_stat_worker'
			  . ' WHERE datname = current_database()',
			0),
		"$count: answers come while nothing can be written");
	$user->query_safe('SELECT pg_advisory_lock(280)');
	$user->query_safe('COMMIT');
	ok( poll_until(
			$node,
			"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
			  . ' AND NOT granted',
			1),
		"$count: the worker's statement has begun");
	$user->query_safe("UPDATE anyvod_tasks SET polls = 41 WHERE $ids");
	$user->query_safe('SELECT pg_advisory_unlock(280)');
	ok(become($name, 'succeeded', $count), "$count: rows are settled");
	is( sql("SELECT string_agg(DISTINCT polls::text, ' ') FROM anyvod_tasks"
			  . " WHERE $ids"),
		'42',
		"$count: and nothing is lost");
	is($simulator->task_requests("image-$name-1"),
		1, "$count: nor asked for again");
}
is(calls('counted'), 6, 'each was written once');
close_session($user);
sql('DROP TRIGGER gate ON anyvod_tasks');
drop_trigger('counted');

done_testing();
