# A gateway that ends each HTTP/2 connection after some requests (GOAWAY) loses
# none of them, or hardly any, and is not asked to bear many connections.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use Test::More;

AnyvodTest::Front::need();

my $count = 2000;

# How many requests a connection carries, and how many of all may fail.
my %may_fail = (
	10 => $count * 0.005,
	20 => $count * 0.005,
	200 => 0,
	1000 => 0);

my $simulator = start_simulator();
my $front = AnyvodTest::Front->new($simulator,
	map { $_ => { http2 => 1, requests => $_ } } keys %may_fail);
my $node = anyvod_node('goaway', simulator => $simulator);
my $ca_file = $front->ca_file;

foreach my $requests (sort { $a <=> $b } keys %may_fail)
{
	my $session = open_session($node);

	add_server($node, "each$requests", $front->url($requests),
		"ca_file '$ca_file', max_concurrency '100', timeout '60s',"
		  . " connect_timeout '60s'");
	my ($answered, $failed, $error) =
	  query_many($session, ids("image-$requests", $count), "each$requests");
	is($answered + $failed, $count, "$requests a connection: Each has a row.");
	cmp_ok($failed, '<=', $may_fail{$requests},
		"$requests a connection: At most $may_fail{$requests} requests fail.");
	diag("first error: $error") if $failed;
	my $connections = $front->connections($requests);
	cmp_ok($connections, '<=', $count / 5 + 100,
		"$requests a connection: They take few connections.");
	measured(
		'%d requests a connection: %d of %d failed, %d connections',
		$requests, $failed, $count, $connections);
	close_session($session);
}

done_testing();
