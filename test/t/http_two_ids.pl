# A gateway may know one task by two ids, of which its responses name one: either
# is asked for, in any order, and the response is read.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use Test::More;

# Whatever it is asked for, it is task zz.
my $peer = AnyvodTest::Peer->new(
	gateway(sub { return response(succeeded('zz')) }));
my $node = anyvod_node(
	'two_ids',
	base_url => $peer->url,
	conf => "anyvod.detection_delay = '50ms'\nanyvod.poll_floor = '50ms'");
my $session = open_session($node);

foreach my $task ('zz', 'alias', 'zz', 'alias')
{
	my ($state, $output) = run_query($session,
		"SELECT state, file_url FROM anyvod_status('$task')");
	is("$state $output", '00000 succeeded|http://files.example/zz.png',
		"A session gets the response of $task.");
}
is(join('|', query_many($session, "'{zz,alias,other}'", 'anyapi')),
	'3|0|', 'So does anyvod_query_many for three ids at once.');

$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('zz'), ('alias'), ('other')");
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND file_url = 'http://files.example/zz.png'",
		3, 20),
	'So does the worker.');

close_session($session);
done_testing();
