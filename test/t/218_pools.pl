# Many questions at once over HTTP/1.1: each has a connection, which is used
# again, and libcurl is never given more of them at a time than it bears well.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use AnyvodTest::Peer;
use PostgreSQL::Test::Utils;
use Test::More;

needs_descriptors(2500);

my $build = build_shim();

# As in src/pool.c: connections of a multi handle other than the first, and
# sockets that it has for itself.
my $pool = 64;
my $own = 2;
my $at_once = 300;
my $at_other = 100;
my $simulator = start_simulator(keys => [ 'sk-pools', 'sk-tenant' ]);
my $other = start_simulator(keys => ['sk-pools']);
my $other_url = quote_literal($other->url);
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_LOG} = "$build/log";

	# a third of the descriptors, less some, is for connections
	$node = anyvod_node(
		'pools',
		simulator => $simulator,
		api_key => 'sk-pools',
		options => "rate_limit '100000', max_concurrency '$at_once'",
		conf => <<'END');
max_files_per_process = 2500
statement_timeout = 60s
anyvod.poll_floor = 10ms
anyvod.poll_cap = 10ms
END
}
$node->safe_psql('postgres', <<"END");
CREATE SERVER other FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url $other_url, rate_limit '100000', max_concurrency '$at_other');
CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (api_key 'sk-pools');
CREATE ROLE tenant;
GRANT USAGE ON FOREIGN SERVER anyapi TO tenant;
CREATE USER MAPPING FOR tenant SERVER anyapi OPTIONS (api_key 'sk-tenant');
END

# How many handles of a kind, easy or multi, a process has made.
sub handles_made
{
	my ($kind, $pid) = @_;

	return shim_callers("$build/log", "curl_${kind}_init")->{$pid};
}

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
	$at_once, 'many questions in a session are answered');
is($simulator->stats->{max_in_flight}, $at_once, 'all were asked at once');
is($simulator->stats->{connections},
	$at_once, 'each over a connection of its own');
my $pools = int(($at_once + $pool - 1) / $pool);
is(handles_made('multi', $pid), $pools, "no multi handle has more than $pool");

my $easy = handles_made('easy', $pid);
is(ask_many($session, 'image-delay500', $at_once),
	$at_once, 'as many are answered again');
is(handles_made('easy', $pid), $easy, 'by the same easy handles');
is($simulator->stats->{connections}, $at_once, 'over the same connections');

# As many easy handles are kept as there may be questions at once.
foreach my $role ('tenant', 'NONE')
{
	$session->query_safe("SET ROLE $role");
	is(ask_many($session, 'image', $at_once),
		$at_once, "another key's questions are answered: role $role");
}
is( handles_made('easy', $pid) - $easy,
	$at_once + $at_once - $at_other,
	'handles that were used long ago have gone');
is($simulator->stats->{connections}, $at_once, 'and no connection');

# Idle connections that the peer closes do not stay until they are wanted.
cmp_ok(sockets($pid) - $before, '>=', $at_once, 'connections are kept');
cmp_ok(sockets($pid) - $before,
	'<=', $at_once + $own * $pools, 'and hardly more');
$simulator->stop;
ok( wait_until(
		sub {
			$session->query_safe("SELECT anyvod_query('image', 'other')");
			return sockets($pid) - $before <= $pool;
		}),
	'those that the peer has closed are given up');
$session->quit;

# One that its peer closes takes no others with it.  (None is answered before
# all have asked, so that each asks on a connection of its own.)
my $crowd_size = $pool + 6;
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
	$crowd_size, 'more questions than one pool takes are answered');
append_to_file($leave, '');
ok(wait_until(sub { $crowd->heard =~ /left/ }),
	'one of their connections is closed');
$session->query_safe("SELECT anyvod_query('image', 'other')");
is(ask_many($session, 'crowd', $crowd_size), $crowd_size,
	'as many are answered again');
is( scalar(() = $crowd->heard =~ /connection/g),
	$crowd_size + 1,
	'over the connections that are left, and a new one');
$session->quit;
$crowd->stop;

# Two gateways whose questions take turns take no connections from each other.
my $gateway = start_simulator(keys => ['sk-pools']);
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
	'<=', 200, 'with few more connections than questions at once to the one');
cmp_ok($other->stats->{connections} - $made, '<=', 200, 'and to the other');
measured(
	'connections of 100 at once each: %d and %d',
	$gateway->stats->{connections},
	$other->stats->{connections} - $made);
$node->safe_psql('postgres', 'DELETE FROM anyvod_tasks');

# Where there are few descriptors the first multi handle takes the rest.
$node->append_conf('postgresql.conf', 'max_files_per_process = 1000');
$node->restart;
$node->safe_psql('postgres',
	"ALTER SERVER anyapi OPTIONS (SET max_concurrency '$at_once')");
$gateway->reset;
$session = open_session($node);
is(ask_many($session, 'image-delay2000', $at_once),
	$at_once, 'with fewer descriptors all are answered, too');
is($gateway->stats->{max_in_flight}, $at_once, 'and asked at once');

# Each has some for itself, and gives them back when it is closed.
foreach my $i (1 .. 8)
{
	$gateway->stop;
	$session->query_safe("SELECT anyvod_query('image', 'other')")
	  foreach 1 .. 3;
	$gateway =
	  start_simulator(keys => ['sk-pools'], port => $gateway->port);
	is(ask_many($session, "image-$i", $at_once),
		$at_once, "so they are after interruption $i");
}
$session->quit;
$node->stop;

done_testing();
