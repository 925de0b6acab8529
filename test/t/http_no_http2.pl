# With a libcurl that was built without HTTP/2, https works over HTTP/1.1.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use Test::More;

AnyvodTest::Front::need();

my $build = build_shim();
my $simulator = start_simulator();
my $front = AnyvodTest::Front->new($simulator, h2 => { http2 => 1 }, h1 => {});
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_NO_HTTP2} = 1;

	$node = anyvod_node('no_http2', simulator => $simulator);
}
my $session = open_session($node);
my $ca_file = $front->ca_file;

foreach my $port ('h2', 'h1')
{
	add_server($node, $port, $front->url($port), "ca_file '$ca_file'");
	is(join('|', query_many($session, ids('image', 10), $port)),
		'10|0|', "$port: Ten requests are answered.");
	track($node, "image-$port", 10, $port);
	ok( poll_until(
			$node, "SELECT count(*) FROM anyvod_tasks WHERE server = '$port'"
			  . " AND state = 'succeeded'",
			10, 10),
		"$port: Ten tasks are filled in.");
	is_deeply(
		[ grep { $_->{protocol} ne 'HTTP/1.1' } $front->requests($port) ],
		[], "$port: All of that goes over HTTP/1.1.");
}
is(sqlstate($session, 'image-1', 'anyapi'),
	'00000', 'http works as ever.');

close_session($session);
done_testing();
