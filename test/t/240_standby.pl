# A standby has no worker, but the functions; once it is promoted, it goes on
# with all pending tasks.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $count = 200;
my $simulator = start_simulator(keys => ['sk-standby']);
my $primary = anyvod_node(
	'primary',
	simulator => $simulator,
	api_key => 'sk-standby',
	options => "rate_limit '5000'",
	allows_streaming => 1,
	conf => "anyvod.detection_delay = '200ms'\nanyvod.poll_floor = '50ms'");

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub processes
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		'SELECT count(*) FROM pg_stat_activity'
		  . " WHERE backend_type LIKE 'anyvod%'");
}

log_settling($primary);
$primary->safe_psql('postgres', <<"END");
INSERT INTO anyvod_tasks (task_id) VALUES ('image-before');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-t6000-failover-' || i FROM generate_series(1, $count) AS i;
END
ok( poll_until(
		$primary,
		"SELECT count(*) FROM anyvod_tasks WHERE status = 'PROCESSING'"
		  . " AND state = 'pending'",
		$count),
	'tasks run');
ok( poll_until(
		$primary,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-before'",
		'succeeded'),
	'one has ended');
$primary->wait_for_catchup($standby);
is( $standby->safe_psql('postgres',
		'SELECT count(*), count(*) FILTER (WHERE state = \'pending\')'
		  . ' FROM anyvod_tasks'),
	($count + 1) . "|$count",
	'the standby has their rows');

# The standby itself
like($standby->safe_psql('postgres', "SELECT anyvod_query('image-asked')"),
	qr/"FINISH"/, 'a task is asked for on the standby');
is( $standby->safe_psql('postgres',
		"SELECT (anyvod_status('image-asked')).state"),
	'succeeded',
	'and its state read');
is(processes($standby), '0', 'there is neither a launcher nor a worker');
unlike(slurp_file($standby->logfile),
	qr/starting background worker process "anyvod/,
	'and there has been none');

# Promotion
my $before = $primary->safe_psql('postgres',
	"SELECT task_id, xmin FROM anyvod_tasks WHERE task_id = 'image-before'");
$primary->stop('immediate');
my $asked = $simulator->stats->{requests};
my $begin = clock_ms();
$standby->promote;
ok(wait_until(sub { $simulator->stats->{requests} > $asked }),
	'once promoted, it asks');
measured('the first question came %.0f ms after promotion began',
	clock_ms() - $begin);
ok( poll_until(
		$standby,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		$count + 1),
	'all pending tasks end');
is( $standby->safe_psql('postgres',
		'SELECT count(*), count(DISTINCT task_id) FROM settlings'),
	($count + 1) . '|' . ($count + 1),
	'each row was settled once');
is( $standby->safe_psql('postgres',
		"SELECT task_id, xmin FROM anyvod_tasks WHERE task_id = 'image-before'"),
	$before,
	'what had been settled is left alone');
$standby->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-after')");
ok( poll_until(
		$standby,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-after'",
		'succeeded'),
	'new ones are noticed');

done_testing();
