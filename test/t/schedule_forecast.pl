# What was learned of durations is shown to those who may see it, and says how
# long a pending task will run on.

use strict;
use warnings;

use AnyvodTest;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $simulator = start_simulator(keys => ['sk-seen']);
my $node = anyvod_node(
	'forecast',
	simulator => $simulator,
	api_key => 'sk-seen');

sub sql
{
	my ($sql, $role) = @_;
	$sql = "SET ROLE $role; $sql" if defined $role;
	return $node->safe_psql('postgres', $sql);
}

# Tasks of 100 s, which is known to within a bucket's width, 9 % of the time,
# and one that has been running for 40 s of them.
my $task = 'video-t1000000-b' . int(1000 * Time::HiRes::time() - 40_000);

sql(<<"END");
CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol;
GRANT USAGE ON FOREIGN SERVER anyapi TO alice, carol;
INSERT INTO anyvod_tasks (task_id, state, task_type, model, started_at,
	ended_at, settled_at)
SELECT 'came-' || i, 'succeeded', 'AigcVideoTask', 'Kling 2.1',
	now() - interval '1 day', now() - interval '1 day' + interval '100 s',
	now() - i * interval '1 s'
FROM generate_series(1, 1500) AS i;
SET ROLE alice;
INSERT INTO anyvod_tasks (task_id) VALUES ('$task');
END

ok( poll_until(
		$node,
		'SELECT ended = 1500 AND running = 1 FROM anyvod_stat_schedule'),
	'the settled rows were learned from');
is( sql("SELECT datname, server, task_type, model,"
		  . " duration_p50_ms BETWEEN 92000 AND 109000,"
		  . " duration_p95_ms BETWEEN duration_p50_ms AND 120000"
		  . " FROM anyvod_stat_schedule"),
	'postgres|anyapi|AigcVideoTask|Kling 2.1|t|t',
	'and the view says what');

my $forecast =
  "SELECT extract(epoch FROM elapsed) BETWEEN 38 AND 59,"
  . " abs(extract(epoch FROM elapsed + remaining) - 100) < 9,"
  . " remaining_p90 BETWEEN remaining AND remaining + interval '15 s',"
  . " learned_from BETWEEN 300 AND 1500"
  . " FROM anyvod_forecast('$task')";

is(sql($forecast), 't|t|t|t', 'a running task will end 100 s after its start');
is(sql($forecast, 'alice'), 't|t|t|t', 'its owner is told');
is(sql($forecast, 'bob'), '|||', 'another role is not');
is(sql($forecast, 'carol'), '|||', 'not even one that may use the server');

my $dashboard =
  "SELECT abs(extract(epoch FROM elapsed + time_left) - 100) < 9"
  . " FROM anyvod_dashboard WHERE task_id = '$task'";

is(sql($dashboard), 't', 'the dashboard says how much time is left');
is(sql($dashboard, 'alice'), 't', 'to its owner, too');
is(sql("SELECT count(*) FROM anyvod_dashboard WHERE task_id LIKE 'came-%' AND time_left IS NOT NULL"),
	0, 'of settled tasks it does not');
{
	my ($page) = run_command([ 'psql', '-XAt', '-d', $node->connstr('postgres'),
			'-f', "$FindBin::RealBin/../../extras/gallery.sql" ]);

	like($page, qr{<span class="number" data-about="\d{10}">about (?:[3-6][05]) s left</span>},
		'the gallery says so, too');
}
is(sql("SELECT * FROM anyvod_forecast('came-1')"), '|||',
	'nothing is said of a settled task');
is(sql("SELECT * FROM anyvod_forecast('nowhere')"), '|||',
	'nor of one that there is not');
is(sql('SELECT count(*) FROM anyvod_stat_schedule', 'alice'),
	1, 'who may use the server sees what was learned of it');
is(sql('SELECT count(*) FROM anyvod_stat_schedule', 'bob'),
	0, 'who may not does not');
is( sql("SELECT remaining IS NULL AND elapsed IS NOT NULL"
		  . " FROM anyvod_forecast_of('anyapi', 'AigcVideoTask', 'Kling 2.1',"
		  . ' now())', 'bob'),
	't', 'by no way');

# What was learned is there when the worker is not.
sql("DELETE FROM anyvod_tasks WHERE task_id = '$task'");
sql('SELECT pg_terminate_backend(pid) FROM pg_stat_activity'
	  . " WHERE backend_type = 'anyvod worker'");
wait_for_worker($node, 0);
is(sql('SELECT ended FROM anyvod_stat_schedule'),
	1500, 'it outlives the worker');

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION anyvod');
is( $node->safe_psql('other', 'SELECT datname FROM anyvod_stat_schedule'),
	'postgres', 'who sees all statistics sees all databases');
is( $node->safe_psql(
		'other',
		'SET ROLE alice; SELECT count(*) FROM anyvod_stat_schedule'),
	0, 'others see only their own');

done_testing();
