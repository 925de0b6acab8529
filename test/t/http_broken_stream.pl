# A request that the gateway has not processed, as it says, is sent once more; one
# whose HTTP/2 stream breaks is a failed request.  What is counted, and what
# rate_limit allows, is what the gateway gets.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use AnyvodTest::Http2;
use Test::More;

AnyvodTest::Front::need();

my $rate = 10;
my $simulator = start_simulator();

# "return 444" resets the stream.  Other tasks are answered, so that there is a
# connection over HTTP/2.
my $front = AnyvodTest::Front->new(
	$simulator,
	map {
		$_ => {
			http2 => 1,
			location => 'return 444;',
			more => 'location ~ good { proxy_pass http://gateway; }'
		}
	} qw(session worker));
my $node = anyvod_node(
	'broken_stream',
	simulator => $simulator,
	conf => "anyvod.detection_delay = '50ms'");
my $ca_file = $front->ca_file;

add_server($node, $_, $front->url($_),
	"ca_file '$ca_file', rate_limit '$rate'") foreach qw(session worker);
track($node, 'good', 1, 'worker');
track($node, 'image', 6, 'worker');

# Requests about tasks whose ids begin so, once there are at least so many.
sub requests
{
	my ($words, $at_least) = @_;
	my @requests;

	wait_until(
		sub {
			@requests = grep { $_->{path} =~ m{/$words-\d+$} }
			  $front->requests('session');
			return @requests >= $at_least;
		});
	return scalar @requests;
}

my $session = open_session($node);
is(sqlstate($session, 'good-1', 'session'),
	'00000', 'There is a connection over HTTP/2.');
isnt(sqlstate($session, 'one-1', 'session'),
	'00000', 'A request whose stream is reset has failed.');
is(requests('one', 1), 1, 'The gateway got it once.');
is((query_many($session, ids('many', 50), 'session'))[1],
	50, 'Fifty of them have failed.');
is(requests('many', 50), 50, 'The gateway got each of them once.');

# In the worker; its counters are shown a moment later.
ok( poll_until(
		$node, 'SELECT requests >= 7 FROM anyvod_stat_server'
		  . " WHERE server = 'worker'"),
	'The worker has asked about its tasks.');
$node->safe_psql('postgres', "DELETE FROM anyvod_tasks WHERE server = 'worker'");
my ($counted, $seen);
ok( wait_until(
		sub {
			$counted = $node->safe_psql('postgres',
				"SELECT requests FROM anyvod_stat_server WHERE server = 'worker'"
			);
			$seen = () = $front->requests('worker');
			return $counted == $seen;
		},
		10),
	'anyvod_stat_server counts the requests that the gateway has got.');
diag("$counted are counted, the gateway has got $seen") if $counted != $seen;

# The requests in any second, but for those that rate_limit lets go at once.
my @at = map { $_->{at} } $front->requests('worker');
my $most = 0;
foreach my $i (0 .. $#at)
{
	my $within = grep { $_ < $at[$i] + 1 } @at[ $i .. $#at ];

	$most = $within if $within > $most;
}
cmp_ok($most, '<=', 2 * $rate, 'No second has many more than rate_limit.');

# A gateway that says that it has not processed a request: one more attempt is
# ours, libcurl makes up to five more by itself where all are refused.
my %plans = (
	refused_once => [ 'refuse', 'answer' ],
	goaway_once => [ 'goaway', 'answer' ],
	refused_always => ['refuse'],
	goaway_always => ['goaway'],
	reset => [ 'reset', 'answer' ]);
my %ends = (
	refused_once => [ 1, 2 ],
	goaway_once => [ 1, 2 ],
	refused_always => [ 0, 6 ],
	goaway_always => [ 0, 6 ],
	reset => [ 0, 1 ]);
foreach my $name (sort keys %plans)
{
	my $peer = AnyvodTest::Http2->new($front, @{ $plans{$name} });

	add_server($node, $name, $peer->url, "ca_file '$ca_file', timeout '10s'");
	my $answered = sqlstate($session, 'image-1', $name) eq '00000' ? 1 : 0;
	is($answered, $ends{$name}[0],
		$ends{$name}[0]
		? "$name: The request is sent again and answered."
		: "$name: The request has failed.");
	cmp_ok($peer->requests, '<=', $ends{$name}[1],
		"$name: The gateway got it at most $ends{$name}[1] times.");
	$peer->stop;
}

close_session($session);
done_testing();
