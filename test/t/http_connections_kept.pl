# Many requests at once over HTTP/1.1: each has a connection, which is used
# again; what one gateway does to its connections costs no others.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Peer;
use PostgreSQL::Test::Utils;
use Test::More;

needs_descriptors(2500);

my $build = PostgreSQL::Test::Utils::tempdir();

my $at_once = 300;
my $at_other = 100;
my $simulator = start_simulator(keys => [ 'sk-kept', 'sk-tenant' ]);
my $other = start_simulator(keys => ['sk-kept']);
my $other_url = quote_literal($other->url);
# a third of the descriptors, less some, is for connections
my $node = anyvod_node(
	'kept',
	simulator => $simulator,
	api_key => 'sk-kept',
	options => "rate_limit '100000', max_concurrency '$at_once'",
	conf => <<'END');
max_files_per_process = 2500
statement_timeout = 60s
anyvod.poll_floor = 10ms
anyvod.poll_cap = 10ms
END
$node->safe_psql('postgres', <<"END");
CREATE SERVER other FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url $other_url, rate_limit '100000', max_concurrency '$at_other');
CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (api_key 'sk-kept');
CREATE ROLE tenant;
GRANT USAGE ON FOREIGN SERVER anyapi TO tenant;
CREATE USER MAPPING FOR tenant SERVER anyapi OPTIONS (api_key 'sk-tenant');
END

# Sockets that a process has open.
sub sockets
{
	my ($pid) = @_;

	return
	  scalar grep { (readlink($_) // '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
}

# Ask about so many tasks at once, in a session; returns how many answers came.
sub ask_many
{
	my ($session, $words, $count) = @_;

	return $session->query_safe('SELECT count(response) FROM'
		  . " anyvod_query_many(ARRAY(SELECT '$words-' || i"
		  . " FROM generate_series(1, $count) AS i))");
}

my $session = open_session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe("SELECT anyvod_query('image', 'other')");
my $before = sockets($pid);

is(ask_many($session, 'image-delay2000', $at_once),
	$at_once, 'many requests in a session are answered');
is($simulator->stats->{max_in_flight}, $at_once, 'all were asked at once');
is($simulator->stats->{connections},
	$at_once, 'each over a connection of its own');
is(ask_many($session, 'image-delay500', $at_once),
	$at_once, 'as many are answered again');
is($simulator->stats->{connections}, $at_once, 'over the same connections');

# Keys share connections.
foreach my $role ('tenant', 'NONE')
{
	$session->query_safe("SET ROLE $role");
	is(ask_many($session, 'image', $at_once),
		$at_once, "another key's requests are answered: role $role");
}
is($simulator->stats->{connections}, $at_once, 'over the same connections');

# The one to the other gateway may have made room.
cmp_ok(sockets($pid) - $before, '>=', $at_once - 1, 'connections are kept');
cmp_ok(sockets($pid) - $before, '<=', $at_once, 'and no more');
$session->quit;

# One that its peer closes takes no others with it.  (None is answered before
# all have asked, so that each asks on a connection of its own.)
my $crowd_size = 70;
my $asked = "$build/asked";
my $leave = "$build/leave";
my $crowd = AnyvodTest::Peer->new(
	sub {
		my ($client, $note) = @_;
		my $body =
		  '{"Response":{"Status":"WAITING","TaskType":"AigcImageTask"}}';

		$note->("connection\n");
		while (AnyvodTest::Peer::read_head($client, sub { }) =~
			m{/query/crowd-(\d+) })
		{
			append_to_file($asked, '.');
			wait_until(sub { -s $asked && (-s _) % $crowd_size == 0 });
			syswrite $client, "HTTP/1.1 200 OK\r\nContent-Length: "
			  . length($body) . "\r\n\r\n$body";
			next if $1 != $crowd_size;
			wait_until(sub { -e $leave });
			close $client;
			$note->("left\n");
			return;
		}
	});
my $crowd_url = quote_literal($crowd->url);
$node->safe_psql('postgres',
	"ALTER SERVER anyapi OPTIONS (SET base_url $crowd_url)");
$session = open_session($node);
is(ask_many($session, 'crowd', $crowd_size),
	$crowd_size, 'as many requests at once are answered');
append_to_file($leave, '');
ok(wait_until(sub { $crowd->heard =~ /left/ }),
	'one of their connections is closed');
$session->query_safe("SELECT anyvod_query('image', 'other')");
is(ask_many($session, 'crowd', $crowd_size), $crowd_size,
	'as many are answered again');
# (libcurl 8.23 sends one request to the closed one before it opens another.)
cmp_ok(
	scalar(() = $crowd->heard =~ /connection/g),
	'<=',
	$crowd_size + 2,
	'over the connections that are left, and one or two new ones');
$session->quit;
$crowd->stop;

# Two gateways whose requests take turns take no connections from each other.
my $gateway = start_simulator(keys => ['sk-kept']);
my $gateway_url = quote_literal($gateway->url);
$node->safe_psql('postgres', <<"END");
ALTER SERVER anyapi OPTIONS (SET base_url $gateway_url, SET max_concurrency '100');
END
my $made = $other->stats->{connections};
$node->safe_psql('postgres',
	'INSERT INTO anyvod_tasks (task_id, server)'
	  . " SELECT format('image-t600000-delay%s-%s', 50 + 2 * i, s), s"
	  . " FROM generate_series(1, 100) AS i, (VALUES ('anyapi'), ('other')) AS v (s)"
);
ok( wait_until(
		sub {
			$gateway->stats->{requests} >= 2000
			  && $other->stats->{requests} >= 2000;
		}),
	'the worker asks two gateways at once, again and again');
cmp_ok($gateway->stats->{connections},
	'<=', 200, 'with few more connections than requests at once to the one');
cmp_ok($other->stats->{connections} - $made, '<=', 200, 'and to the other');
measured(
	'connections of 100 at once each: %d and %d',
	$gateway->stats->{connections},
	$other->stats->{connections} - $made);
$node->safe_psql('postgres', 'DELETE FROM anyvod_tasks');

# With fewer descriptors.
$node->append_conf('postgresql.conf', 'max_files_per_process = 1000');
$node->restart;
$node->safe_psql('postgres',
	"ALTER SERVER anyapi OPTIONS (SET max_concurrency '$at_once')");
$gateway->reset;
$session = open_session($node);
is(ask_many($session, 'image-delay2000', $at_once),
	$at_once, 'with fewer descriptors all are answered, too');
is($gateway->stats->{max_in_flight}, $at_once, 'and asked at once');

# Descriptors come back when a gateway does.
foreach my $i (1 .. 3)
{
	$gateway->stop;
	$session->query_safe("SELECT anyvod_query('image', 'other')")
	  foreach 1 .. 3;
	$gateway =
	  start_simulator(keys => ['sk-kept'], port => $gateway->port);
	is(ask_many($session, "image-$i", $at_once),
		$at_once, "so they are after interruption $i");
}
$session->quit;
$node->stop;

done_testing();
