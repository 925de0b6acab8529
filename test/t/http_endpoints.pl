# Two servers may lead to one URL and differ in whom they trust or how long they
# wait for a connection: a failure of the one is no failure of the other.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use Test::More;

AnyvodTest::Front::need();

my $simulator = start_simulator();
my $front =
  AnyvodTest::Front->new($simulator, h2 => { http2 => 1 }, h1 => {});
my $node = anyvod_node(
	'endpoints',
	simulator => $simulator,
	conf => "anyvod.detection_delay = '50ms'");

# A connection takes 300 ms before anything can be said on it.
my %far = map { $_ => AnyvodTest::Peer->new(forward($front->port($_), 0.3)) }
  'h2', 'h1';
my $trusted = $front->ca_file;
my $foreign = $front->other_ca_file;
my @right;
my @wrong;

# Right ones before and after the wrong ones, and in between: whichever a
# worker serves first, some follow.
foreach my $protocol ('h2', 'h1')
{
	my $url = 'https://localhost:' . $far{$protocol}->port;

	foreach my $i (1 .. 3)
	{
		add_server($node, "${protocol}_right$i", $url, "ca_file '$trusted'");
		add_server($node, "${protocol}_untrusting$i", $url,
			"ca_file '$foreign', max_concurrency '2'");
		add_server($node, "${protocol}_hasty$i", $url,
			"ca_file '$trusted', connect_timeout '100ms', max_concurrency '2'");
		push @right, "${protocol}_right$i";
		push @wrong, map { "${protocol}_$_$i" } 'untrusting', 'hasty';
	}
}

# In a session: a cursor has requests of the one under way while those of the
# other begin.
foreach my $protocol ('h2', 'h1')
{
	foreach my $wrong ('untrusting', 'hasty')
	{
		foreach my $rows (1 .. 3)
		{
			my $session = open_session($node);

			$session->query_safe('BEGIN; DECLARE wrong CURSOR FOR SELECT'
				  . " anyvod_query_many(@{[ ids(qq(image-$wrong), 20) ]},"
				  . " '${protocol}_${wrong}1'); FETCH $rows FROM wrong");
			is( join('|', query_many($session, ids('image', 5),
						"${protocol}_right1")),
				'5|0|',
				"$protocol, after $rows: No request fails because of a server"
				  . " that is $wrong.");
			close_session($session);
		}
	}
}

# In the worker
track($node, "image-$_", 3, $_) foreach @wrong, @right;
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE server ~ 'right' AND state = 'succeeded'",
		3 * @right),
	'All tasks of the right servers are filled in.');
is( $node->safe_psql('postgres',
		"SELECT sum(no_response) FROM anyvod_stat_server WHERE server ~ 'right'"),
	'0',
	'No request of theirs has failed.');
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_stat_server'
		  . " WHERE server ~ 'untrusting' AND no_response > 0",
		scalar grep { /untrusting/ } @wrong),
	'Those of the untrusting servers have failed.');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE server ~ 'right' AND polls <> 1"),
	'0',
	'Each task of the right servers was asked about once.');

done_testing();
