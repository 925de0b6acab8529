# A row whose task has already ended is filled in right after COMMIT, and who
# listens is told once.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $count = 50;
my $simulator = start_simulator(keys => ['sk-fill']);
# Fifty in a row come faster than the default of 50 requests a second.
my $node = anyvod_node(
	'filled',
	simulator => $simulator,
	api_key => 'sk-fill',
	options => "rate_limit '1000'");

# Time from COMMIT to the first look that finds the row filled in.  The
# looks are a millisecond apart, to leave a core to those who do the work.
$node->safe_psql('postgres', <<'END');
CREATE TABLE latencies (what text, ms float8);
CREATE PROCEDURE measure_filling(what text, n integer) LANGUAGE plpgsql AS $$
DECLARE
	begun timestamptz;
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO anyvod_tasks (task_id)
			VALUES (format('image-%s-%s', what, i));
		begun := clock_timestamp();
		COMMIT;
		LOOP
			PERFORM FROM anyvod_tasks
				WHERE task_id = format('image-%s-%s', what, i)
					AND state = 'succeeded' AND file_url IS NOT NULL;
			EXIT WHEN FOUND;
			IF clock_timestamp() - begun > interval '60 s' THEN
				RAISE 'row % is not filled in', i;
			END IF;
			PERFORM pg_sleep(0.001);
			COMMIT;
		END LOOP;
		INSERT INTO latencies VALUES (what,
			1000 * extract(epoch FROM clock_timestamp() - begun));
		COMMIT;
	END LOOP;
END $$;
CREATE PROCEDURE measure_asking(n integer) LANGUAGE plpgsql AS $$
DECLARE
	begun timestamptz;
BEGIN
	FOR i IN 1 .. n LOOP
		begun := clock_timestamp();
		PERFORM anyvod_status('image-bare-' || i);
		INSERT INTO latencies VALUES ('bare',
			1000 * extract(epoch FROM clock_timestamp() - begun));
	END LOOP;
END $$;
END

sub median_of
{
	my ($what) = @_;
	return $node->safe_psql('postgres',
		'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)'
		  . " FROM latencies WHERE what = '$what'");
}

is(worker_pid($node), '', 'without tasks there is no worker');
$node->safe_psql('postgres', "CALL measure_filling('first', 1)");
measured('the first row, which starts the worker: %.1f ms after COMMIT',
	median_of('first'));
my $pid = worker_pid($node);
isnt($pid, '', 'a worker has filled the first row in');

$node->safe_psql('postgres',
	"CALL measure_filling('next', $count); CALL measure_asking($count)");
measured(
	'%d further rows: %.1f ms after COMMIT (median); one request: %.1f ms',
	$count, median_of('next'), median_of('bare'));
cmp_ok(median_of('next'), '<', 50,
	'a row is filled in within 50 ms of its COMMIT');
is(worker_pid($node), $pid, 'by the same worker');
is( $node->safe_psql('postgres', 'SELECT DISTINCT polls FROM anyvod_tasks'),
	'1',
	'one question was enough for each');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM anyvod_tasks WHERE settled_at >= created_at'
		  . ' AND updated_at = settled_at AND ended_at < created_at'
		  . " AND response->'Response'->>'Status' = 'FINISH'"),
	$count + 1,
	'times and answer are in the rows');

# Notifications come in the order of commits, so that one of our own, sent
# when all rows are settled, comes after the last of theirs.
my $listener = open_session($node);
$listener->query_safe('LISTEN anyvod_tasks');

sub notifications_until
{
	my ($end) = @_;
	my @payloads;

	$node->safe_psql('postgres', "NOTIFY anyvod_tasks, '$end'");
	wait_until(
		sub {
			my $output = $listener->query('SELECT 1');

			push @payloads, $1
			  while $output =~
			  /notification "anyvod_tasks" with payload "(.*)" received/g;
			return grep { $_ eq $end } @payloads;
		}) or return;
	return sort grep { $_ ne $end } @payloads;
}

$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-told-' || i FROM generate_series(1, 9) AS i;
INSERT INTO anyvod_tasks (task_id) VALUES ('fail-told'), ('t500-progress-told');
END
poll_until($node,
	"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", 0);
is_deeply(
	[ notifications_until('all settled') ],
	[
		sort map({ qq({"task_id": "image-told-$_", "state": "succeeded"}) }
			1 .. 9),
		'{"task_id": "fail-told", "state": "failed"}',
		'{"task_id": "t500-progress-told", "state": "succeeded"}'
	],
	'a listener is told once of each settled row, and of nothing else');

# A server that starts with the setting has no worker with the old one.
$listener->quit;
$node->append_conf('postgresql.conf', 'anyvod.notify = off');
$node->restart;
$listener = open_session($node);
$listener->query_safe('LISTEN anyvod_tasks');
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-untold')");
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-untold'",
		'succeeded'),
	'without notify rows are filled in as well');
is_deeply([ notifications_until('settled') ],
	[], 'and nobody is told');
$listener->quit;

done_testing();
