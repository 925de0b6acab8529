# A session that has asked and been cancelled many times is as large as one
# that has not: memory, descriptors, sockets and threads.
#
# ANYVOD_CALLS says how many calls there are (default 12,000, with which 100
# bytes a call would show; a tenth as many are cancelled); "make soak-calls"
# makes 200,000.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if $^O ne 'linux';

my $calls = $ENV{ANYVOD_CALLS} || 12_000;
my $simulator = start_simulator();
my $node = anyvod_node('calls', simulator => $simulator);
my @servers = ('anyapi');
my $front;

if (defined AnyvodTest::Front::program('nginx'))
{
	$front = AnyvodTest::Front->new($simulator, h2 => { http2 => 1 });
	$node->safe_psql('postgres', <<"END");
CREATE SERVER h2 FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '@{[ $front->url('h2') ]}', ca_file '@{[ $front->ca_file ]}');
END
	push @servers, 'h2';
}

my $session = open_session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');

# Many calls: a third each of anyvod_query, anyvod_status, anyvod_query_many.
sub call
{
	my ($server, $count) = @_;

	for (; $count > 0; $count -= 3000)
	{
		my $rounds = ($count > 3000 ? 3000 : $count) / 3;

		$session->query_safe(<<"END");
DO \$\$
BEGIN
	FOR i IN 1 .. $rounds LOOP
		PERFORM anyvod_query('image-' || i, '$server');
		PERFORM anyvod_status('video-' || i, '$server');
		PERFORM anyvod_query_many(ARRAY['a-' || i, 'b-' || i, 'c-' || i],
								  '$server');
	END LOOP;
END \$\$
END
	}
	return;
}

# Calls that are cancelled while they wait for an answer or read it.
sub cancel
{
	my ($server, $count) = @_;
	my $cancelled = 0;

	$session->query_safe("SET statement_timeout = '1ms'");
	while ($count > 0)
	{
		my $now = $count > 500 ? 500 : $count;
		my $script = join '', map {
			my $words = $_ % 2 ? 'delay' : 'dribble';

			"SELECT anyvod_query('${words}5000-$_', '$server');\n"
			  . "\\echo :SQLSTATE\n"
		} 1 .. $now;
		my $output = $session->query($script);

		$session->{stderr} = '';
		$cancelled += () = $output =~ /^57014$/mg;
		$count -= $now;
	}
	$session->query_safe('RESET statement_timeout');
	return $cancelled;
}

sub size
{
	my ($rss) = slurp_file("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m;

	return (
		contexts => $session->query_safe(
			'SELECT sum(total_bytes) FROM pg_backend_memory_contexts'),
		rss => $rss,
		sockets => scalar(
			grep { (readlink // '') =~ /^socket:/ } glob "/proc/$pid/fd/*"),
		descriptors =>
		  scalar(grep { (readlink // '') !~ m{^/} } glob "/proc/$pid/fd/*"),
		threads => scalar(my @threads = glob "/proc/$pid/task/*"));
}

foreach my $server (@servers)
{
	# what is kept on purpose
	call($server, $calls / 10);
	cancel($server, 50);
	call($server, 30);

	my %before = size();
	my $to_cancel = $calls / 10;
	my $begin = clock_ms();

	call($server, $calls);
	is(cancel($server, $to_cancel),
		$to_cancel, "$server: $calls calls, and $to_cancel that are cancelled");
	call($server, 30);
	measured('%s: %d calls and %d cancelled ones took %.1f s',
		$server, $calls, $to_cancel, (clock_ms() - $begin) / 1000);

	my %after = size();

	measured('%s: %s before %d, after %d', $server, $_, $before{$_}, $after{$_})
	  foreach sort keys %before;
	cmp_ok($after{contexts} - $before{contexts},
		'<', 65536, 'memory contexts do not grow');
	cmp_ok($after{rss} - $before{rss}, '<', 2048, 'nor does the process');
	is($after{threads}, $before{threads}, 'it has no other thread');
	# three at once have up to three connections, which are kept
	cmp_ok($after{$_}, '<=', $before{$_} + 2, "nor more $_ than three need")
	  foreach 'sockets', 'descriptors';
}
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'no question is left at the gateway');
close_session($session);

done_testing();
