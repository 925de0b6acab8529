# A database that cannot be entered when the server starts keeps no other from
# being visited.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'stuck',
	simulator => $simulator,
	conf => "max_prepared_transactions = 5\nanyvod.poll_cap = 500ms\n"
	  . "anyvod.worker = off\n");

anyvod_database($node, $_, simulator => $simulator) foreach qw(aaa bbb);
$node->safe_psql('bbb',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-b')");
$node->safe_psql('aaa',
	'BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE;'
	  . " PREPARE TRANSACTION 'stuck'");
$node->append_conf('postgresql.conf', 'anyvod.worker = on');
$node->restart;
ok(wait_until(sub { $simulator->task_requests('t3600000-b') > 0 }, 30),
	'a database after one that cannot be entered is served');
$node->stop('immediate');

done_testing();
