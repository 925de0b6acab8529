# Each new row is noticed, however it comes, how many come at once, and how
# long their ids are.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'new_rows',
	simulator => $simulator,
	options => "rate_limit '5000'",
	conf => "anyvod.detection_delay = 100ms\nanyvod.poll_floor = 50ms\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Are so many rows of a kind filled in?
sub are_settled
{
	my ($kind, $count, $what) = @_;

	return ok(
		poll_until(
			$node,
			"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'image-$kind-%'"
			  . " AND state = 'succeeded'",
			$count),
		$what);
}

# The worker is there and has nothing to look for.
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-stays')");
ok( poll_until(
		$node, "SELECT status FROM anyvod_tasks", 'PROCESSING'),
	'a task runs');

sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-one-1')");
are_settled('one', 1, 'one row');
sql("INSERT INTO anyvod_tasks (task_id)"
	  . " SELECT 'image-long-' || i || repeat('x', 230)"
	  . ' FROM generate_series(1, 200) i');
are_settled('long', 200, 'more ids than are handed over');
sql("DO 'BEGIN FOR i IN 1 .. 300 LOOP"
	  . " INSERT INTO anyvod_tasks (task_id) VALUES (''image-each-'' || i);"
	  . " COMMIT; END LOOP; END'");
are_settled('each', 300, 'one after the other, each with its commit');
sql("COPY anyvod_tasks (task_id) FROM PROGRAM 'echo image-copy-1'");
are_settled('copy', 1, 'COPY');
sql("SET session_replication_role = replica;"
	  . " INSERT INTO anyvod_tasks (task_id) VALUES ('image-replica-1')");
are_settled('replica', 1, 'where other triggers do not fire');
sql(<<'END');
BEGIN;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-sub-1');
SAVEPOINT s;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-sub-2');
ROLLBACK TO s;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-sub-3');
COMMIT;
END
are_settled('sub', 2, 'beside one that was undone');
sql("UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'image-one-1'");
are_settled('one', 1, 'one that is pending again');
sql("INSERT INTO anyvod_tasks (task_id, state) VALUES ('image-set-1', 'failed');"
	  . " UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'image-set-1'"
);
are_settled('set', 1, 'one that was settled before it was pending');

# What users have added to the table makes rows while the worker writes.
sql(<<'END');
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.anyvod_tasks (task_id, owner)
		VALUES (replace(NEW.task_id, 'first', 'second'), NEW.owner);
	RETURN NULL;
END $$;
CREATE TRIGGER follow AFTER UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.state = 'succeeded' AND NEW.task_id LIKE 'image-first-%')
	EXECUTE FUNCTION follow();
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-first-' || i FROM generate_series(1, 50) i;
END
are_settled('second', 50, 'those that a trigger inserts in the worker');

# Sessions that wait hear of a row that another session settles.
my $session = open_session($node);
begin_query($session, "CALL anyvod_wait_all('{t3600000-stays}', '1 min')");
ok( poll_until(
		$node,
		"SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL anyvod%'"
		  . " AND wait_event_type = 'Extension'",
		'1'),
	'a session waits');
my $begin = clock_ms();
sql("UPDATE anyvod_tasks SET state = 'abandoned'"
	  . " WHERE task_id = 't3600000-stays'");
is((end_query($session))[0], '00000', 'it hears that a row is settled by hand');
cmp_ok(clock_ms() - $begin, '<', 5000, 'at once');
close_session($session);

done_testing();
