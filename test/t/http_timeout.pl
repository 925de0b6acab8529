# A request takes no longer than "timeout", however often it is sent again.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use AnyvodTest::Http2;
use Test::More;

AnyvodTest::Front::need();

# The timeout of the servers, and what it takes for a first attempt to fail, in
# milliseconds.
my $timeout = 3000;
my $attempt = 2500;

my $simulator = start_simulator();
my $front = AnyvodTest::Front->new(
	$simulator,
	# the gateway's connection breaks after some time: so does the stream
	slow_reset => {
		http2 => 1,
		location => 'proxy_pass http://gateway; proxy_next_upstream off;'
		  . ' error_page 502 = @reset;',
		more => 'location @reset { return 444; }'
	});
my $node = anyvod_node('timeout', simulator => $simulator);
my $ca_file = $front->ca_file;
my %peers = map {
	my ($name, @plan) = @$_;

	$name => AnyvodTest::Http2->new($front, @plan);
  }[ 'refuse_then_hang', 'answer', "$attempt-refuse", 'hang' ],
  [ 'goaway_then_hang', 'answer', "$attempt-goaway", 'hang' ],
  [ 'always_refuse', 'answer', "$attempt-refuse" ];
my %urls = (
	slow_reset => $front->url('slow_reset'),
	map { $_ => $peers{$_}->url } keys %peers);

# All at once: each mostly waits.
my %sessions;
foreach my $name (sort keys %urls)
{
	my $session = open_session($node);

	add_server($node, $name, $urls{$name},
		"ca_file '$ca_file', timeout '$timeout', connect_timeout '$timeout'");
	is(sqlstate($session, 'image-1', $name),
		'00000', "$name: There is a connection over HTTP/2.");
	$sessions{$name} = $session;
}
foreach my $name (sort keys %sessions)
{
	begin_query($sessions{$name}, <<"END");
SELECT extract(epoch FROM clock_timestamp()) AS begin \\gset
SELECT anyvod_query('image-delay$attempt-reset-2', '$name');
SELECT 'took ' || round(1000 * (extract(epoch FROM clock_timestamp()) - :begin))
END
}
foreach my $name (sort keys %sessions)
{
	my (undef, $output, $error) = end_query($sessions{$name});
	my ($took) = $output =~ /^took (\d+)$/m;

	like($error, qr/ERROR/, "$name: The request fails.");
	cmp_ok($took, '<', 1.5 * $timeout,
		"$name: All attempts together take no longer than timeout.");
	measured('%s: %d ms of %d', $name, $took, $timeout);
	close_session($sessions{$name});
}

done_testing();
