# When a gateway's name gets another address, requests go there within 65 seconds,
# also if the old address still answers, or answers 503, and requests are under
# way all the time.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

AnyvodTest::Front::need();

# From the change to the last request to the old address, in seconds.
my $within = 65;

# Requests under way at once for each server.
my $tasks = 8;

my $build = build_shim();
my $names = "$build/names";
my $moved = "$build/moved";
my $simulator = start_simulator();

# Each has an old and a new address, and the same port at both.
my %ports;
foreach my $protocol ('h1', 'h2')
{
	foreach my $old ('answers', '503')
	{
		my $name = "${protocol}_$old";
		my %port =
		  (certificate => 'moving', http2 => $protocol eq 'h2' ? 1 : 0);

		$ports{$name} = {
			%port,
			address => '127.0.0.2',
			location => 'proxy_pass http://gateway;'
			  . ($old eq '503' ? " if (-f $moved) { return 503; }" : '')
		};
		$ports{"new_$name"} =
		  { %port, address => '127.0.0.3', port_of => $name };
	}
}
my $front = AnyvodTest::Front->new($simulator, %ports);
my @servers = grep { !/^new_/ } sort keys %ports;

append_to_file($names, "moving.invalid 127.0.0.2\n");
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_NAMES} = $names;

	$node = anyvod_node(
		'moved',
		simulator => $simulator,
		conf => <<'END');
anyvod.detection_delay = 50ms
anyvod.poll_floor = 100ms
anyvod.poll_cap = 200ms
END
}
my $ca_file = $front->ca_file;
foreach my $server (@servers)
{
	add_server($node, $server,
		'https://moving.invalid:' . $front->port($server),
		"ca_file '$ca_file', rate_limit '100000'");
	track($node, "t3600000-delay300-$server", $tasks, $server);
}

# Requests to a port so far, and when the last of them was over.
sub requests
{
	my ($port) = @_;
	my @requests = $front->requests($port);

	return (scalar @requests, @requests ? $requests[-1]{at} : 0);
}

# At once for all
my %came;
ok( wait_until(
		sub {
			sleep 1;
			return !grep { (requests($_))[0] < 5 * $tasks } @servers;
		}),
	'The worker sends requests to the old address of each server.');
append_to_file("$names.new", "moving.invalid 127.0.0.3\n");
append_to_file($moved, '');
rename "$names.new", $names or die "could not rename: $!";
my $begin = Time::HiRes::time();

my $session = open_session($node);
foreach my $server (@servers)
{
	my ($before) = requests("new_$server");

	sqlstate($session, 'image', $server);
	ok(wait_until(sub { (requests("new_$server"))[0] > $before }),
		"$server: A session that begins now sends its request there.");
}
close_session($session);

# A server is there when the new address has had two rounds of requests after
# the last one to the old address.  (A server that has failed is asked again
# after a minute at most.)  To look once a second leaves the processor to the
# tests beside this.
wait_until(
	sub {
		sleep 1;
		foreach my $server (@servers)
		{
			my (undef, $last) = requests($server);

			$came{$server} = $last - $begin
			  if 2 * $tasks <=
			  grep { $_->{at} > $last + 1 } $front->requests("new_$server");
		}
		return keys %came == @servers;
	},
	$within + 70);
foreach my $server (@servers)
{
	ok(defined $came{$server}, "$server: All requests go to the new address.");
	cmp_ok((requests($server))[1] - $begin,
		'<=', $within, "$server: That is so within $within seconds.");
	measured('%s: the last request to the old address after %.1f s, to the new'
		  . ' one %d requests', $server, (requests($server))[1] - $begin,
		(requests("new_$server"))[0]);
}

done_testing();
