# Commands that have nothing to do with a server end no pause that its gateway
# has asked for.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'commands',
	simulator => $simulator,
	conf => "max_prepared_transactions = 5\n");

anyvod_database($node, 'other');
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-http429-ra3600-1')");
ok( poll_until(
		$node, "SELECT state = 'paused' FROM anyvod_stat_server"),
	'a server is paused');
my $requests = $simulator->stats->{requests};

$node->safe_psql('postgres', 'CREATE SCHEMA s; DROP SCHEMA s')
  foreach 1 .. 10;
$node->safe_psql('other',
	"BEGIN; CREATE ROLE r; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'");
$node->safe_psql('other',
	"CREATE TABLE t (); BEGIN; DROP TABLE t; PREPARE TRANSACTION 'p';"
	  . " COMMIT PREPARED 'p'")
  foreach 1 .. 10;

my $begin = clock_ms();
wait_until(sub { clock_ms() - $begin > 2000 });
is($simulator->stats->{requests}, $requests, 'no command ends its pause');
is($node->safe_psql('postgres', 'SELECT state FROM anyvod_stat_server'),
	'paused', 'it is shown as paused');

done_testing();
