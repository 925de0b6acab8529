# Workers that are switched off and on again while the launcher is busy, so
# that it learns of neither, come back; and while they are off none stays.  A
# database whose turn it is to be looked at, and which somebody wants for
# himself, keeps no other waiting.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'off_and_on',
	simulator => $simulator,
	conf => "anyvod.detection_delay = 100ms\nanyvod.poll_floor = 50ms\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub switch
{
	my ($value) = @_;

	sql("ALTER SYSTEM SET anyvod.worker = $value");
	sql('SELECT pg_reload_conf()');
	return;
}

my $launcher = launcher_pid($node);

sql("INSERT INTO anyvod_tasks (task_id) VALUES ('t600000-before')");
ok(defined wait_for_worker($node, 1), 'there is a worker');

# The launcher sees nothing of this.
kill 'STOP', $launcher;
switch('off');
my $ended = wait_for_worker($node, 0);
switch('on');
kill 'CONT', $launcher;
ok(defined $ended, 'it ends when workers are off');
ok(defined wait_for_worker($node, 1), 'and one comes back when they are on');

# A launcher that has not heard of it starts one, which does not stay.
my $old = worker_pid($node);
kill 'STOP', $launcher;
switch('off');
ok(defined wait_for_worker($node, 0), 'off again');
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-meanwhile')");
kill 'CONT', $launcher;
ok( poll_until(
		$node, 'SELECT state FROM anyvod_stat_worker', 'off'),
	'the view says so');
is($simulator->task_requests('image-meanwhile'),
	0, 'nothing is asked for while they are off');
is(worker_pid($node), '', 'and no worker stays');
switch('on');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-meanwhile'",
		'succeeded'),
	'what came meanwhile is filled in');

# At its start the launcher visits one database after the other.
foreach my $database ('held', 'behind')
{
	anyvod_database($node, $database, simulator => $simulator);
}
switch('off');
ok(defined wait_for_worker($node, 0), 'off again');
$node->safe_psql('behind',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-behind')");
$node->restart;
$node->safe_psql('held',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-held')");
my $session = open_session($node);
$session->query_safe('BEGIN; ALTER DATABASE held RENAME TO had');
switch('on');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-behind'",
		'succeeded', undef, 'behind'),
	'a database that has to be left alone keeps no other from being visited');
is($simulator->task_requests('image-held'), 0, 'and is left alone');
$session->query_safe('COMMIT');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-held'",
		'succeeded', undef, 'had'),
	'until it is free');
close_session($session);

done_testing();
