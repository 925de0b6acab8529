# Names that cannot be resolved, addresses that are dead, an environment that
# would lead elsewhere, and a front that restarts all the time.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use AnyvodTest::Fault;
use AnyvodTest::Front;
use AnyvodTest::Trouble;
use IO::Socket::IP;
use PostgreSQL::Test::Utils;
use Socket qw(:DEFAULT IPPROTO_IPV6 IPV6_V6ONLY);
use Test::More;
use Time::HiRes;

my $build = build_shim();

my $simulator = start_simulator();
my $proxy = AnyvodTest::Trouble->new($simulator);
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_HANG} = "$build/hang";
	local $ENV{SHIM_NAMES} = "$build/names";
	local @ENV{qw(http_proxy HTTP_PROXY all_proxy ALL_PROXY)} =
	  ($proxy->url) x 4;

	append_to_file("$build/names", "hang.invalid 127.0.0.1\n");
	$node = anyvod_node(
		'names',
		simulator => $simulator,
		options => "timeout '1500ms', connect_timeout '1s',"
		  . " rate_limit '1000', max_concurrency '10'",
		conf => <<'END');
anyvod.detection_delay = 500ms
anyvod.poll_floor = 200ms
anyvod.idle_timeout = 1h
END
}
log_settling($node);

# How long a fault lasts, in seconds.
my $lasts = 4;

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# A database like the first, whose server is elsewhere.
sub prepare
{
	my ($name, $database, $url, $options) = @_;

	$node->safe_psql('template1', "CREATE DATABASE $database TEMPLATE postgres");
	sql('ALTER SERVER anyapi OPTIONS (SET base_url '
		  . quote_literal($url)
		  . ($options // '') . ')', $database);
	return AnyvodTest::Fault->new($node, $name, database => $database);
}

# What anyvod_query raises in a database now.
sub state_of
{
	my ($database) = @_;
	my $session = open_session($node, database => $database);
	my ($state) = run_query($session, "SELECT anyvod_query('image-now')");

	close_session($session);
	return $state;
}

sub finish
{
	my ($fault) = @_;
	my $worker = worker_pid($node, $fault->database);

	$fault->settle;
	is(worker_pid($node, $fault->database),
		$worker, $fault->name . ': the worker lives');
	return;
}

# How many questions came to nothing.
sub unanswered
{
	my ($database) = @_;
	return sql('SELECT sum(no_response) FROM anyvod_stat_server', $database);
}

# A name that is not known, and one whose resolver hangs, for some time
my $port = $simulator->port;
my $nameless =
  prepare('name that does not resolve', 'nameless', "http://late.invalid:$port");
my $hanging =
  prepare('resolver that hangs', 'hanging', "http://hang.invalid:$port");
append_to_file("$build/hang", '');
$_->track(48) foreach $nameless, $hanging;
is(state_of('nameless'), 'HV00N', 'no name: a function says so');
is(state_of('hanging'), 'HV000', 'no resolver: a function says so');
Time::HiRes::sleep($lasts);
$nameless->count(unanswered('nameless'));
$hanging->count(unanswered('hanging'));
append_to_file("$build/names", "late.invalid 127.0.0.1\n");
unlink "$build/hang";
$_->heal foreach $nameless, $hanging;
finish($_) foreach $nameless, $hanging;

# IPv6 is dead, IPv4 alive: a hole on one port of both
SKIP:
{
	socket my $hole, PF_INET6, SOCK_STREAM, 0 or skip 'no IPv6', 1;
	setsockopt $hole, IPPROTO_IPV6, IPV6_V6ONLY, 1;
	bind $hole, pack_sockaddr_in6($port, Socket::IN6ADDR_LOOPBACK)
	  or skip 'no IPv6 on loopback', 1;
	listen $hole, 0;
	my @filling = map {
		IO::Socket::IP->new(PeerHost => '::1', PeerPort => $port, Blocking => 0)
	} 1 .. 4;

	append_to_file("$build/names", "dual.invalid ::1 127.0.0.1\n");
	my $dual = prepare('IPv6 dead, IPv4 alive', 'dual',
		"http://dual.invalid:$port");
	$dual->track(48);
	is(state_of('dual'), '00000', 'with IPv6 dead a function is answered');
	$dual->count(1);
	$dual->heal;
	finish($dual);
	is(unanswered('dual'), 0, 'and every question is answered');
}

# A proxy of the environment is never asked.
my $environment = AnyvodTest::Fault->new($node, 'http_proxy in the environment');
$environment->track(48);
is(state_of('postgres'), '00000', 'a function asks the gateway itself');
$environment->count(1);
$environment->heal;
finish($environment);
is($simulator->stats->{proxied}, 0, 'nobody asks through the proxy');

# nginx, which speaks HTTP/2, restarts every second: at once, or after the
# requests that are under way.
SKIP:
{
	skip 'needs nginx and openssl', 1
	  unless AnyvodTest::Front::program('nginx')
	  && AnyvodTest::Front::program('openssl');
	my $front = AnyvodTest::Front->new(
		$simulator,
		h2 => { http2 => 1 },
		h1 => {});

	foreach my $version ('h1', 'h2')
	{
		my $fault = prepare(
			"nginx restarts every second, $version",
			"front_$version",
			$front->url($version),
			", ADD ca_file '" . $front->ca_file . "'");

		$fault->track(48);
		foreach my $i (1 .. 10)
		{
			$front->restart($i % 2 ? 'TERM' : 'QUIT');
			$fault->track(24);
			Time::HiRes::sleep(1);
		}
		$fault->count(10);
		$fault->heal;
		finish($fault);
	}
}

unlike(slurp_file($node->logfile),
	qr/terminated by signal|PANIC|exited with exit code/,
	'no process has ended badly');

done_testing();
