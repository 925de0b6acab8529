# A command that wants a database without its worker keeps workers away until
# its end, whichever way it ends, and no longer: not for the rest of a session,
# nor, where it failed, for the rest of a transaction.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'commands',
	extension => 0,
	conf => "anyvod.detection_delay = 100ms\nanyvod.poll_floor = 50ms\n");

anyvod_database($node, $_, simulator => $simulator) foreach qw(shop shop_new);

my $tracked = 0;

# Is a new row of a database filled in?
sub is_served
{
	my ($database, $what) = @_;
	my $task = 'image-' . ++$tracked;

	$node->safe_psql($database,
		"INSERT INTO anyvod_tasks (task_id) VALUES ('$task')");
	return ok(
		poll_until(
			$node,
			"SELECT state FROM anyvod_tasks WHERE task_id = '$task'",
			'succeeded', 30, $database),
		$what);
}

# The state of a database in the view.
sub state_is
{
	my ($database, $state, $what) = @_;

	return ok(
		poll_until(
			$node,
			'SELECT state FROM anyvod_stat_worker WHERE datname = '
			  . quote_literal($database),
			$state, 30, 'viewer'),
		$what);
}

anyvod_database($node, 'viewer');
foreach my $database (qw(shop shop_new))
{
	$node->safe_psql($database,
		"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-stays')");
	state_is($database, 'serving', "$database is served");
}

# Two names are swapped, by a session that stays connected.
my $session = open_session($node);
$session->query_safe('BEGIN;'
	  . ' ALTER DATABASE shop RENAME TO shop_old;'
	  . ' ALTER DATABASE shop_new RENAME TO shop;');
is(worker_pid($node, $_), '', "$_ has no worker meanwhile")
  foreach qw(shop shop_new);
$session->query_safe('COMMIT');
is_served('shop_old', 'after a swap of names the one is served');
is_served('shop', 'and the other');

# A command that fails in a block of its own
my ($state) = run_query($session, <<'END');
BEGIN;
DO $$
BEGIN
	ALTER DATABASE shop RENAME TO shop_old;
EXCEPTION WHEN duplicate_database THEN
	NULL;
END $$
END
is($state, '00000', 'a command fails in a block that catches it');
is_served('shop', 'and the database is served before the transaction ends');
$session->query_safe('COMMIT');

# One that is undone by a savepoint
$session->query_safe('BEGIN; SAVEPOINT s;'
	  . ' ALTER DATABASE shop RENAME TO gone');
state_is('shop', 'yielding', 'a command that goes on keeps the worker away');
$session->query_safe('ROLLBACK TO s');
is_served('shop', 'one that is undone does not');
$session->query_safe('COMMIT');

# Two sessions want one database; that the first has what it wants does not
# end the other's wish.
$session->query_safe('BEGIN; ALTER DATABASE shop RENAME TO mart');
my $other = open_session($node);
begin_query($other, 'ALTER DATABASE shop RENAME TO store');
ok( poll_until(
		$node,
		"SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'object'",
		'1'),
	'another command waits for the first');
$session->query_safe('ROLLBACK');
is((end_query($other))[0], '00000', 'and goes on when that is undone');
is_served('store', 'afterwards the database is served');

# A session that ends while it keeps the worker away
$session->query_safe('BEGIN; ALTER DATABASE store RENAME TO shop');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
is_served('store', 'a session that is ended keeps nothing');
close_session($session);
close_session($other);

done_testing();
