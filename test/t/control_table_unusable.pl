# A table that was moved out of the extension's schema, or that a session has
# locked, is no silence: INSERT warns, and the view says what is the matter.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'unusable',
	simulator => $simulator,
	conf => "anyvod.poll_cap = 500ms\n");

sub state_is
{
	my ($state, $what) = @_;

	return ok(
		poll_until(
			$node,
			'SELECT state FROM anyvod_stat_worker', $state, 30),
		$what);
}

$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-stays')");
state_is('serving', 'a table is served');

my $session = open_session($node);
$session->query_safe('BEGIN; LOCK TABLE anyvod_tasks');
state_is('table locked', 'that it is locked is shown');
like($node->safe_psql('postgres', 'SELECT hint FROM anyvod_stat_worker'),
	qr/locked "anyvod_tasks"/, 'with a hint');
$session->query_safe('COMMIT');
state_is('serving', 'until it is not');

$session->query_safe(
	'CREATE SCHEMA elsewhere; ALTER TABLE anyvod_tasks SET SCHEMA elsewhere');
state_is('table missing', 'that it was moved is shown');
like($node->safe_psql('postgres', 'SELECT hint FROM anyvod_stat_worker'),
	qr/SET SCHEMA/, 'with a hint');
my (undef, undef, $warning) = run_query($session,
	"INSERT INTO elsewhere.anyvod_tasks (task_id) VALUES ('image-moved')");
like($warning, qr/WARNING:.*nothing will fill in.*SET SCHEMA/s,
	'INSERT warns');
$session->query_safe('ALTER TABLE elsewhere.anyvod_tasks SET SCHEMA public');
$session->query_safe(
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-back')");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		'2', 30),
	'where it belongs it is served again');
state_is('serving', 'and the view says so');
close_session($session);

done_testing();
