# A launcher that was restarted does all that the first one did for workers
# that the first one has started.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node('restarted', simulator => $simulator);

$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-stays')");
my $worker = wait_for_worker($node, 1);
ok(defined $worker, 'there is a worker');
ok( poll_until(
		$node, "SELECT state = 'serving' FROM anyvod_stat_worker"),
	'which serves');

my $launcher = launcher_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( wait_until(
		sub {
			my $pid = launcher_pid($node);

			return $pid ne '' && $pid ne $launcher;
		}),
	'the launcher is restarted');
is(worker_pid($node), $worker, 'the worker stays');

# It yields to its successor, which reads other settings.
$node->safe_psql('postgres',
	"ALTER DATABASE postgres SET anyvod.detection_delay = '3s'");
my $next = wait_for_worker($node, 1, other_than => $worker);
ok(defined $next, 'other settings are read by another worker');

# It ends by force.
$launcher = launcher_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok(wait_until(sub { launcher_pid($node) !~ /^(?:$launcher)?$/ }),
	'the launcher is restarted again');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($next)");
ok(defined wait_for_worker($node, 1, other_than => $next),
	'a worker that was ended by force is replaced');

done_testing();
