# Many TLS handshakes at once, with a ca_file of 140 authorities, keep nobody
# waiting: neither a cancel nor statement_timeout, nor a DROP DATABASE of another
# database, which every process has to notice.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use Test::More;

AnyvodTest::Front::need();

# Requests at once, each of which needs a connection over HTTP/1.1.
my $count = 300;

# The longest wait that is allowed, in milliseconds: ten times what is promised.
my $prompt = 1000;

# The moments of the cancels: connections that there are by then.
srand 7;
my @moments = (0, map { 1 + int rand 60 } 1 .. 3);

my $simulator = start_simulator();
my $front = AnyvodTest::Front->new($simulator, h1 => {});
my $ca_file = $front->large_ca_file;
plan skip_all => 'needs /etc/ssl/certs/ca-certificates.crt'
  unless defined $ca_file;

my $node = anyvod_node(
	'interrupts',
	simulator => $simulator,
	conf => "max_connections = 30\nanyvod.detection_delay = '100ms'");
add_server($node, 'tls', $front->url('h1'), "ca_file '$ca_file', timeout '1h',"
	  . " connect_timeout '1h', max_concurrency '$count', rate_limit '100000'");
my $admin = open_session($node);

# Wait until so many connections have come about.
sub connected
{
	my ($at_least) = @_;

	return wait_until(sub { $front->open_connections('h1') >= $at_least });
}

# What one test leaves must not slow the next one down.
sub disconnected
{
	return wait_until(
		sub {
			return $front->open_connections('h1') == 0
			  && $simulator->stats->{in_flight} == 0;
		});
}

my $statement =
  'SELECT count(*) FROM anyvod_query_many(' . ids('delay600000', $count)
  . ", 'tls')";
my @took;
foreach my $moment (@moments)
{
	# one that has no connection, and no authority in its memory
	my $session = open_session($node);
	my $pid = backend_pid($session);

	begin_query($session, $statement);
	ok(connected($moment), "a session has at least $moment connections");
	my ($took, $state) = cancel($admin, $pid, $session);
	is($state, '57014', 'The statement is cancelled.');
	cmp_ok($took, '<', $prompt, 'The cancel takes effect at once.');
	push @took, $took;
	close_session($session);
	ok(disconnected(), 'Its connections have been closed.');
}
measured('cancels took %s ms', join ', ', map { sprintf '%.0f', $_ } @took);

my $session = open_session($node);
$session->query_safe("SET statement_timeout = '300ms'");
my ($state, undef, undef, $took) = run_query($session, $statement);
is($state, '57014', 'statement_timeout ends the statement.');
cmp_ok($took, '<', 300 + $prompt, 'statement_timeout takes effect at once.');
measured('statement_timeout of 300 ms took %.0f ms', $took);
close_session($session);
ok(disconnected(), 'Its connections have been closed.');

$admin->query_safe("CREATE DATABASE other$_") foreach 1 .. 2;
track($node, 'delay600000', $count, 'tls');
foreach my $database (1 .. 2)
{
	ok( connected($database == 1 ? 1 : 1 + int rand 60),
		'the worker makes connections');
	my $begin = clock_ms();
	$admin->query_safe("DROP DATABASE other$database");
	$took = clock_ms() - $begin;
	cmp_ok($took, '<', 2 * $prompt,
		'DROP DATABASE of another database does not wait for the worker.');
	measured('DROP DATABASE elsewhere took %.0f ms', $took);
}
ok( wait_until(sub { $simulator->stats->{in_flight} == $count }),
	'All requests of the worker are sent in the end.');

close_session($admin);
done_testing();
