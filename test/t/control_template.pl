# CREATE DATABASE copies template1 unless it says otherwise, and never fails
# since a worker is connected there.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'template',
	simulator => $simulator,
	conf => "anyvod.poll_cap = 500ms\n");

anyvod_database($node, 'template1', simulator => $simulator);
$node->safe_psql('template1',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-template')");

sub requests
{
	return $simulator->task_requests('t3600000-template');
}

sub is_served
{
	my ($what) = @_;
	my $requests = requests();

	return ok(wait_until(sub { requests() > $requests }, 30), $what);
}

# A template is not served.
ok( poll_until(
		$node,
		"SELECT state || ': ' || hint FROM anyvod_stat_worker"
		  . " WHERE datname = 'template1'",
		'no connections allowed: A template database is not served.', 30),
	'the view says of a template that it is not served');
is(requests(), 0, 'and nothing was asked for');
is($node->psql('postgres', 'CREATE DATABASE copy_1'),
	0, 'it can be copied');
is_served('its copy is');
$node->safe_psql('postgres', 'DROP DATABASE copy_1');

# One that is a database like others is.
$node->safe_psql('postgres',
	'ALTER DATABASE template1 IS_TEMPLATE false');
is_served('what is a template no more is served');
ok(worker_pid($node, 'template1') ne '', 'by a worker');
is($node->psql('postgres', 'CREATE DATABASE copy_2'),
	0, 'which yields to CREATE DATABASE');
$node->safe_psql('postgres', 'DROP DATABASE copy_2');
is_served('and comes back');

done_testing();
