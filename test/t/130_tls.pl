# One connection carries many questions: over HTTP/2 where the gateway offers
# it, one after the other elsewhere.  No question is sent to a gateway whose
# certificate is not the right one, and a proxy sees no key.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Peer;
use Test::More;

AnyvodTest::Front::need();

my $key = 'sk-SecretOfTheTlsTest';
my $simulator = start_simulator(keys => [$key]);
my $front = AnyvodTest::Front->new(
	$simulator,
	h2 => { http2 => 1 },
	short => { http2 => 1, requests => 200 },
	h1 => {},
	expired => { http2 => 1, certificate => 'expired' },
	elsewhere => { http2 => 1, certificate => 'elsewhere' },
	unknown => { http2 => 1, certificate => 'unknown' });
my $node = anyvod_node('tls', simulator => $simulator, api_key => $key);

sub add_server
{
	my ($name, $url, $options) = @_;

	$node->safe_psql('postgres', <<"END");
CREATE SERVER $name FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '$url',
	ca_file '@{[ $front->ca_file ]}' @{[ defined $options ? ", $options" : '' ]});
CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (api_key '$key');
END
	return;
}
add_server($_, $front->url($_), "max_concurrency '100'")
  foreach qw(h2 h1 expired elsewhere unknown);

add_server('short', $front->url('short'), "max_concurrency '100'");
add_server('crowd', $front->url('h2'), "max_concurrency '300'");

# Distinct connections among requests.
sub connections
{
	my %seen = map { $_->{connection} => 1 } @_;

	return scalar keys %seen;
}

sub ids
{
	my ($words, $count) = @_;

	return "ARRAY(SELECT '$words-' || n FROM generate_series(1, $count) AS n)";
}

# The backend's own sockets of TCP.
sub sockets
{
	my ($pid) = @_;
	my @mine = map { readlink =~ /^socket:\[(\d+)\]/ ? $1 : () }
	  glob "/proc/$pid/fd/*";
	my %tcp = map { $_ => 1 }
	  PostgreSQL::Test::Utils::slurp_file('/proc/net/tcp') =~
	  /^\s*\d+:(?: \S+){3}(?:\s+\S+){5}\s+(\d+) /mg;

	return scalar grep { $tcp{$_} } @mine;
}

# HTTP/2: a hundred questions at once on one connection.
my $session = open_session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
begin_query($session, 'SELECT count(*), count(response) FROM anyvod_query_many('
	  . ids('delay1000', 100) . ", 'h2')");
ok(wait_until(sub { $simulator->stats->{in_flight} == 100 }),
	'100 questions are on their way at once');
is(sockets($pid), 1, 'the session has one socket for them');
is($front->open_connections('h2'), 1, 'and nginx one connection');
my ($state, $output) = end_query($session);
is("$state $output", '00000 100|100', 'all are answered');
my @requests = $front->requests('h2');
is_deeply([ scalar @requests, connections(@requests) ], [ 100, 1 ],
	'by that one connection');
is_deeply([ grep { $_->{protocol} ne 'HTTP/2.0' } @requests ],
	[], 'over HTTP/2');

my $ideal = 1000;
(undef, undef, undef, my $took) = run_query($session,
	'SELECT count(*) FROM anyvod_query_many('
	  . ids('delay100', 1000) . ", 'h2')");
measured('1,000 answers of 100 ms, 100 at a time over HTTP/2, take %.2f times'
	  . ' the ideal', $took / $ideal);
cmp_ok($took, '<', 3 * $ideal, '1,000 take little longer than they must');
is(connections($front->requests('h2')), 1, 'and still use that connection');

# More at once than a connection carries, and connections that the gateway
# ends: no question is lost, and no connection is opened without need.
foreach ([ 'crowd', 'h2', 3, 'a connection carries 100 at once' ],
	[ 'short', 'short', 12, 'each connection is good for 200' ])
{
	my ($server, $port, $most, $why) = @$_;
	my $fresh = open_session($node);

	foreach my $round (1 .. 6)
	{
		$front->reset;
		is( $fresh->query_safe(
				'SELECT count(*), error_message FROM anyvod_query_many('
				  . ids('delay20', 2000)
				  . ", '$server') GROUP BY error_message"),
			'2000|', "$server: 2,000 questions are answered");
		cmp_ok(connections($front->requests($port)), '<=', $most, $why);
	}
	close_session($fresh);
}

# A question a row, over both protocols, in one statement and in several.
foreach my $server ('h2', 'h1')
{
	my $rows = open_session($node);

	$front->reset;
	$rows->query_safe("SELECT anyvod_query('image-' || n, '$server')"
		  . ' FROM generate_series(1, 50) AS n')
	  foreach 1 .. 3;
	# it is noted after the answer has left
	wait_until(
		sub {
			@requests = $front->requests($server);
			return @requests >= 150;
		});
	is_deeply([ scalar @requests, connections(@requests) ], [ 150, 1 ],
		"$server: a question a row, three times, keeps one connection");
	close_session($rows);
}
is($requests[0]{protocol}, 'HTTP/1.1', 'h1 speaks HTTP/1.1');

# And so does the worker.
$front->reset;
$node->safe_psql('postgres', 'INSERT INTO anyvod_tasks (task_id, server)'
	  . " SELECT 'image-' || n, 'h2' FROM generate_series(1, 100) AS n");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'", 100),
	'100 tasks are tracked');
is(connections($front->requests('h2')), 1, 'over one connection');

# Certificates
$session->query_safe('\set VERBOSITY verbose');
my %hints = (
	unknown => qr/authority in the server's option "ca_file"/,
	expired => qr/renewed, if the clock/,
	elsewhere => qr/host name .* in the server's option "base_url"/);
$simulator->reset;
foreach my $server (sort keys %hints)
{
	my (undef, undef, $error) = run_query($session,
		"SELECT anyvod_query('image-1', '$server')");

	like($error, qr/HV00N: could not connect to server "$server"/,
		"$server: is not connected to");
	like($error, qr/DETAIL:  TLS could not be negotiated: \S/, 'says where');
	like($error, qr/HINT:  .*$hints{$server}/, 'and what to do');
	is($session->query_safe(
			"SELECT error_code FROM anyvod_query_many('{image-1}', '$server')"),
		'HV00N', 'so is a row of many');
	is_deeply([ $front->requests($server) ], [], 'nothing was sent to it');
}
# The system's authorities do not know ours.
$node->safe_psql('postgres', 'ALTER SERVER h1 OPTIONS (DROP ca_file)');
(undef, undef, my $error) =
  run_query($session, "SELECT anyvod_query('image-1', 'h1')");
like($error, qr/HV00N.*HINT:  .*"ca_file"/s, 'without ca_file none is trusted');
is($simulator->stats->{requests}, 0, 'the gateway has heard of none of them');
$node->safe_psql('postgres',
	"ALTER SERVER h1 OPTIONS (ADD ca_file '@{[ $front->ca_file ]}')");
is((run_query($session, "SELECT anyvod_query('image-1', 'h1')"))[0],
	'00000', 'with it the same session asks');

# A proxy
my $proxy = AnyvodTest::Peer->new(tunnel());
add_server('proxied', $front->url('h2'), "proxy '@{[ $proxy->url ]}'");
$front->reset;
is( $session->query_safe('SELECT count(response) FROM anyvod_query_many('
		  . ids('image', 100)
		  . ", 'proxied')"),
	'100', 'through a proxy 100 questions are answered');
is(connections($front->requests('h2')), 1, 'over one connection');
like($proxy->heard, qr/^CONNECT localhost:\d+ HTTP/, 'the proxy was asked');
unlike($proxy->heard, qr/$key|Authorization|tencent-vod/i,
	'and saw neither key nor path');

# A connection that is dead without having been closed costs one timeout.
my $firewall = AnyvodTest::Peer->new(tunnel());
add_server('forgotten', $front->url('h2'),
	"timeout '500ms', proxy '@{[ $firewall->url ]}'");
is((run_query($session, "SELECT anyvod_query('image-1', 'forgotten')"))[0],
	'00000', 'a connection comes about');
cmp_ok($firewall->freeze, '>', 0, 'and is forgotten on the way');
is((run_query($session, "SELECT anyvod_query('image-2', 'forgotten')"))[0],
	'HV000', 'the next question is not answered');
is((run_query($session, "SELECT anyvod_query('image-3', 'forgotten')"))[0],
	'00000', 'the one after it takes another connection');

# A slow answer ends no connection on which others arrive.
add_server('patient', $front->url('h2'), "timeout '500ms'");
is( $session->query_safe(
		'SELECT count(response), count(error_code) FROM anyvod_query_many('
		  . "ARRAY(SELECT CASE n WHEN 1 THEN 'delay5000' ELSE 'delay100-' || n"
		  . " END FROM generate_series(1, 200) AS n), 'patient')"),
	'199|1', 'a slow answer ends no other');

# Where a connection carries one at a time, they are opened side by side.
my $slow = AnyvodTest::Peer->new(tunnel(1));
add_server('slow', $front->url('h1'),
	"max_concurrency '20', proxy '@{[ $slow->url ]}'");
(undef, $output, undef, $took) = run_query($session,
	'SELECT count(response) FROM anyvod_query_many('
	  . ids('image', 20)
	  . ", 'slow')");
is($output, '20', '20 questions are answered by HTTP/1.1');
measured('20 connections of a second each took %d ms', $took);
cmp_ok($took, '<', 10000, 'and do not wait for a connection each');

my %refusals = (
	forbids => "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n",
	wants_user => "HTTP/1.1 407 Proxy Authentication Required\r\n"
	  . "Proxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
	fails => "HTTP/1.1 502 Bad Gateway\r\nRetry-After: 7\r\n\r\n",
	talks_garbage => "\x00\x01garbage\r\n\r\n",
	hangs_up => '');
my %said = (
	forbids => qr/403/,
	wants_user => qr/407/,
	fails => qr/502/,
	talks_garbage => qr/\S/,
	hangs_up => qr/\S/);
my %peers;
foreach my $name (sort keys %refusals)
{
	$peers{$name} = AnyvodTest::Peer->new(answer($refusals{$name}));
	add_server($name, $front->url('h2'), "proxy '@{[ $peers{$name}->url ]}'");
}
$peers{is_mute} = AnyvodTest::Peer->new(silence());
add_server('is_mute', $front->url('h2'),
	"proxy '@{[ $peers{is_mute}->url ]}', connect_timeout '300ms'");
add_server('is_down', $front->url('h2'), "proxy 'http://127.0.0.1:1'");
$front->reset;
foreach my $name (sort keys %refusals)
{
	(undef, undef, $error) =
	  run_query($session, "SELECT anyvod_query('image-1', '$name')");
	like($error, qr/HV00N: could not connect to server "$name"/,
		"a proxy that $name: is no connection");
	like($error, qr/DETAIL:  The proxy did not open a connection: .*$said{$name}/,
		'says where and what');
	like($error, qr/HINT:  .*"proxy"/, 'and what to look at');
}
(undef, undef, $error) =
  run_query($session, "SELECT anyvod_query('image-1', 'is_down')");
like($error, qr/HV00N.*DETAIL:  The connection could not be opened.*HINT:  .*"proxy"/s,
	'a proxy that is down is no connection');
(undef, undef, $error) =
  run_query($session, "SELECT anyvod_query('image-1', 'is_mute')");
like($error, qr/HV000.*DETAIL:  The proxy did not open a connection within \d+ ms/s,
	'a proxy that says nothing is a timeout');
# (The slow one of before may still come to its end.)
is_deeply([ grep { $_->{path} =~ /image-1$/ } $front->requests('h2') ],
	[], 'nothing came to the gateway');
unlike($_->heard, qr/$key|Authorization|tencent-vod/i,
	'and the proxy saw neither key nor path')
  foreach map { $peers{$_} } sort keys %peers;

close_session($session);
done_testing();
