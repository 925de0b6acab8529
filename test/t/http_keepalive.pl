# A kept connection serves the next request only if nothing has come on it
# meanwhile, whatever version of HTTP keeps it; and a session that asks no more
# closes its connections in the end.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use PostgreSQL::Test::Utils;
use Test::More;

# Longest time until an idle connection is closed, in seconds: after 60, and
# what a busy machine may add.
my $longest = 100;

my $simulator = start_simulator();
my $node = anyvod_node('keepalive', simulator => $simulator);
my $folder = PostgreSQL::Test::Utils::tempdir();

# Peers that close a kept connection when its file is there, and one that does
# nothing of that kind.
my $leave = "$folder/leave";
my $leaving = AnyvodTest::Peer->new(
	sub {
		my ($client, $note) = @_;

		AnyvodTest::Peer::read_head($client, sub { });
		AnyvodTest::Peer::send_all($client, response(waiting()));
		wait_until(sub { -e $leave });
		# it goes on answering the system's keepalive probes
		shutdown $client, 1;
		$note->("left\n");
		sysread $client, my $end, 1;
	});
my $staying = AnyvodTest::Peer->new(gateway(sub { return response(waiting()) }));
add_server($node, 'leaving', $leaving->url);
add_server($node, 'staying', $staying->url);

# Connections to a port that are not closed at this end.
sub connected
{
	my ($port) = @_;

	return sockets(remote => $port, state => 'ESTABLISHED') +
	  sockets(remote => $port, state => 'CLOSE_WAIT');
}

my $idle = open_session($node);
foreach my $peer ([ 'leaving', $leaving->port ], [ 'staying', $staying->port ])
{
	my ($server, $port) = @$peer;

	is(sqlstate($idle, 'image-1', $server),
		'00000', "$server: A request of a session is answered.");
	is(connected($port), 1, "$server: Its connection is kept.");
}
append_to_file($leave, '');
ok(wait_until(sub { $leaving->heard =~ /left/ }), 'Its peer has closed one.');

# Meanwhile: a response that nobody has asked for.
foreach my $version ('1.0', '1.1')
{
	my %options = (version => $version, header => ['Connection: keep-alive']);
	my $surplus = "$folder/surplus-$version";
	my $peer = AnyvodTest::Peer->new(
		gateway(
			sub {
				my ($head, $client, $note) = @_;
				my $task = task_of($head);

				$note->("request $task\n");
				return response(succeeded($task), %options)
				  if $task ne 'first';
				AnyvodTest::Peer::send_all($client,
					response(succeeded($task), %options));
				wait_until(sub { -e $surplus });
				$note->("surplus\n");
				# it names no task
				return response(
					succeeded('other') =~ s/"TaskId":"other",//r, %options);
			}));
	my $session = open_session($node);
	my $server = 'http_' . $version =~ tr/./_/r;
	my $url = sub {
		my ($task) = @_;

		return (run_query($session,
				"SELECT file_url FROM anyvod_status('$task', '$server')"))[1];
	};

	add_server($node, $server, $peer->url);
	is($url->('first'), 'http://files.example/first.png',
		"HTTP/$version: A request is answered, and the connection kept.");
	append_to_file($surplus, '');
	ok( wait_until(sub { $peer->heard =~ /surplus/ })
		  && sent($peer),
		"HTTP/$version: A response comes that nobody has asked for.");
	is($url->('next'), 'http://files.example/next.png',
		"HTTP/$version: The next request does not take it.");
	close_session($session);
}

# Has the peer nothing under way any more?  Its sockets have all been read, or
# what they have got stands in the receiver's queue.
sub sent
{
	my ($peer) = @_;
	my $port = sprintf '%04X', $peer->port;

	return wait_until(
		sub {
			# local and remote address, state, bytes to send : bytes to read
			return slurp_file('/proc/net/tcp') =~
			  /^\s*\d+: \S+ \S+:$port 0[18] \S+:(?!0{8})/m
			  || sockets(remote => $peer->port, state => 'ESTABLISHED') == 0;
		});
}

# Once a second is enough, and leaves the processor to the tests beside this.
wait_until(
	sub {
		sleep 1;
		return connected($leaving->port) + connected($staying->port) == 0;
	},
	$longest);
is(connected($leaving->port), 0,
	'An idle session does not keep a connection that its peer has closed.');
is(connected($staying->port), 0,
	'An idle session does not keep a connection for ever.');
is(sqlstate($idle, 'image-2', 'staying'),
	'00000', 'The session can still send requests.');
is($simulator->stats->{requests}, 0, 'No request has gone elsewhere.');

close_session($idle);
done_testing();
