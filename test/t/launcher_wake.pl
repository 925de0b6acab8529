# anyvod_wake(), which anybody may call, starts no worker a commit in a
# database that has nothing to do; a new row is not kept waiting by that.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'wake',
	simulator => $simulator,
	conf => "log_min_messages = debug1\n");

sub starts
{
	my @found = slurp_file($node->logfile) =~
	  /starting background worker process "anyvod worker for/g;

	return scalar @found;
}

my $session = open_session($node);
my $before = starts();
my $begin = clock_ms();
my $calls = 0;

while (clock_ms() - $begin < 3000)
{
	$session->query_safe('SELECT anyvod_wake()');
	$calls++;
}
measured('%d calls started %d workers', $calls, starts() - $before);
cmp_ok(starts() - $before, '<=', 6, 'one a second is started, or so');
cmp_ok(starts() - $before, '>=', 1, 'but some are');
$session->query_safe(
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-new')");
ok( poll_until(
		$node, "SELECT state FROM anyvod_tasks", 'succeeded', 30),
	'a new row is filled in');
close_session($session);

done_testing();
