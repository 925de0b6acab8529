# Where the launcher has no process slot, who inserts, waits or looks is told
# so, and which setting to raise.  While it is only being restarted nobody is.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'no_launcher',
	simulator => $simulator,
	conf => "anyvod.poll_cap = 500ms\n");

my $number = 0;

# The warning of an INSERT in a session of its own
sub warning
{
	my $session = open_session($node);
	my (undef, undef, $warning) = run_query($session,
		"INSERT INTO anyvod_tasks (task_id) VALUES ('image-@{[ ++$number ]}')");

	close_session($session);
	return $warning;
}

is(warning(), '', 'INSERT does not warn');
my $launcher = launcher_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher, 10000)");
is(warning(), '', 'nor while the launcher is restarted');

# The one slot is for logical replication.
$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
$node->restart;
is(launcher_pid($node), '', 'without a process slot there is no launcher');
my $warning = '';
ok(wait_until(sub { ($warning = warning()) ne '' }, 30), 'INSERT warns');
like($warning, qr/nothing will fill in the rows/, 'of what happens');
like($warning, qr/HINT:.*max_worker_processes/, 'and says what to raise');
like(
	$node->safe_psql('postgres',
		'SELECT state, hint FROM anyvod_stat_worker'),
	qr/^no launcher\|.*max_worker_processes/,
	'so does the view');
my $session = open_session($node);
my ($state, undef, $error) =
  run_query($session, "CALL anyvod_wait_all(ARRAY['image-$number'], '1 min')");
is($state, '55000', 'anyvod_wait_all does not wait in vain');
like($error, qr/HINT:.*max_worker_processes/, 'and says what to raise');
($state) =
  run_query($session, "SELECT anyvod_wait('image-$number', '1 min')");
is($state, '00000', 'anyvod_wait polls by itself');
close_session($session);

done_testing();
