# anyvod_stat_server counts the connections that were opened: as many as the
# gateway has accepted, however many requests each carries.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use Test::More;

my $with_tls = defined AnyvodTest::Front::program('nginx')
  && defined AnyvodTest::Front::program('openssl');
AnyvodTest::Front::need() if $ENV{CI};

# Tasks of a server, each of which is polled several times.
my %tasks = (http_50 => 50, http_200 => 200);
my %gateways = map { $_ => start_simulator() } keys %tasks;
my $simulator = start_simulator();
my $node = anyvod_node(
	'connections',
	simulator => $simulator,
	conf => <<'END');
anyvod.detection_delay = 50ms
anyvod.poll_floor = 100ms
anyvod.poll_cap = 500ms
END
my $limits = "max_concurrency '100', rate_limit '100000'";
my $front;

add_server($node, $_, $gateways{$_}->url, $limits) foreach keys %gateways;
if ($with_tls)
{
	$front =
	  AnyvodTest::Front->new($simulator, h2 => { http2 => 1 }, h1 => {});
	my $ca_file = $front->ca_file;

	%tasks = (%tasks, https_h1 => 50, https_h2 => 100);
	add_server($node, "https_$_", $front->url($_), "ca_file '$ca_file', $limits")
	  foreach 'h1', 'h2';
}

# What the gateway has seen: requests and connections.
sub seen
{
	my ($server) = @_;

	if (my $gateway = $gateways{$server})
	{
		my $stats = $gateway->stats;

		return "$stats->{requests}|$stats->{connections}";
	}
	my ($port) = $server =~ /_(\w+)$/;
	return join '|', scalar(my @all = $front->requests($port)),
	  $front->connections($port);
}

# Some end at once, and others after some polls.
foreach my $server (sort keys %tasks)
{
	track($node, "t3000-run-$server", $tasks{$server}, $server);
}
ok( poll_until(
		$node, 'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE state <> 'succeeded' OR polls < 3", 0),
	'All tasks were asked about several times.');

foreach my $server (sort keys %tasks)
{
	my ($counted, $seen);

	ok( wait_until(
			sub {
				$counted = $node->safe_psql('postgres',
					'SELECT requests, connections FROM anyvod_stat_server'
					  . " WHERE server = '$server'");
				$seen = seen($server);
				return $counted eq $seen;
			},
			5),
		"$server: As many requests and connections are counted as there were.");
	diag("$server: counted $counted, seen $seen") if $counted ne $seen;
}

done_testing();
