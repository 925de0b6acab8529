# Locks that users' code takes for the session, in the process that writes, end
# with the transaction.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'left_behind',
	simulator => $simulator,
	options => "rate_limit '5000'",
	conf => "anyvod.detection_delay = 100ms\nanyvod.poll_floor = 50ms\n"
	  . "anyvod.idle_timeout = 1h\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# A trigger takes a session's advisory lock, and fails for one row.
sql(<<'END');
CREATE FUNCTION take_lock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_lock(42);
	IF NEW.task_id = 'image-bad' THEN
		RAISE 'no';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER take_lock AFTER UPDATE ON anyvod_tasks FOR EACH ROW
	EXECUTE FUNCTION take_lock();
INSERT INTO anyvod_tasks (task_id) VALUES ('image-good'), ('image-bad');
END
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-good'",
		'succeeded'),
	'a row is written under a trigger that takes a lock');
ok( wait_until(
		sub { $node->log_contains(qr/could not write task "image-bad"/) }),
	'another is not');
ok(worker_pid($node) ne '', 'the worker stays');
ok( poll_until(
		$node,
		"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", '0', 20),
	'and holds none of those locks');
done_testing();
