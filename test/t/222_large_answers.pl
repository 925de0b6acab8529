# Answers of 200 MB are neither downloaded nor kept, are not asked for again
# and again, and other tasks go on.  Those of 1 MB are written together, but
# their memory as jsonb is that of one.  Rows are read to no greater length than
# answers have.

use strict;
use warnings;

use AnyvodTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $size = 200_000_000;
my $limit = 16 * 1024 * 1024;
my $simulator = start_simulator(keys => ['sk-large']);
my $node = anyvod_node(
	'large',
	simulator => $simulator,
	api_key => 'sk-large',
	options => "rate_limit '5000'",
	conf => "anyvod.detection_delay = 250ms\nanyvod.poll_floor = 50ms\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# The most memory of its own that a process has ever had, in MB.
sub peak
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;

	return $kb / 1024;
}

sub track
{
	my ($words, $count) = @_;

	sql("INSERT INTO anyvod_tasks (task_id) SELECT '$words-' || i"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# A gateway that does not say how long its answer will be: it sends $size bytes
# in chunks, and notes for each question how many it got rid of.
my $notes = PostgreSQL::Test::Utils::tempdir() . '/sent';
my $gateway = fork_gateway();

sub fork_gateway
{
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Listen => 100,
		Proto => 'tcp') or die "could not listen: $@\n";
	my $pid = fork() // die "could not fork: $!\n";

	if ($pid == 0)
	{
		local $SIG{TERM} = 'DEFAULT';
		local $SIG{PIPE} = 'IGNORE';
		local $SIG{CHLD} = 'IGNORE';
		while (my $client = $listener->accept)
		{
			fork() or send_endlessly($client);
			close $client;
		}
		POSIX::_exit(0);
	}
	return { pid => $pid, url => 'http://127.0.0.1:' . $listener->sockport };
}

sub send_endlessly
{
	my ($client) = @_;
	my $piece = 'x' x 65_536;
	my $sent = 0;

	# buffers of the system's hold little of it
	setsockopt $client, Socket::SOL_SOCKET(), Socket::SO_SNDBUF(), 65_536;
	while (defined(my $line = <$client>))
	{
		last if $line eq "\r\n";
	}
	syswrite $client, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	  . "Transfer-Encoding: chunked\r\n\r\n";
	while ($sent < $size)
	{
		syswrite($client, "10000\r\n$piece\r\n") or last;
		$sent += length $piece;
	}
	append_to_file($notes, "$sent\n");
	POSIX::_exit(0);
}

END
{
	local ($?, $!);
	kill 'TERM', $gateway->{pid} if defined $gateway;
	waitpid $gateway->{pid}, 0 if defined $gateway;
}

# What each of its questions was sent.
sub sent
{
	return -e $notes ? split /\n/, slurp_file($notes) : ();
}

sub asked_for_large
{
	my $asked = sent();

	$asked += $simulator->task_requests("image-huge$size-$_") foreach 1 .. 4;
	return $asked;
}

# A worker that has asked before
track('image-t600000-ordinary', 100);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE status = 'PROCESSING'", 100),
	'ordinary tasks run');
my $worker = worker_pid($node);

# Rows in which somebody has written what no answer says, all in one round
my $together = 30;
my $before = peak($worker);
sql("INSERT INTO anyvod_tasks (task_id, model)"
	  . " SELECT 'image-long-' || i, repeat(chr(228), 1000000)"
	  . " FROM generate_series(1, $together) AS i");
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE task_id LIKE 'image-long-%' AND state = 'succeeded'",
		$together),
	'rows with texts of 2 MB are filled in');
my $read = peak($worker) - $before;
measured("reading $together rows with texts of 2 MB grew the worker by %.0f MB",
	$read);
cmp_ok($read, '<', $together / 2, 'by the memory of some of them');

# Results that are kept, all in one batch
track('image-delay5000-huge1000000', $together);
ok(wait_until(sub { $simulator->stats->{in_flight} == $together }),
	"$together answers of 1 MB are on their way");
my $session = open_session($node);
$session->query_safe('BEGIN; LOCK TABLE anyvod_tasks IN SHARE MODE');
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }), 'they are sent');
ok( poll_until(
		$node, 'SELECT in_flight FROM anyvod_stat_worker'
		  . ' WHERE datname = current_database()', 0),
	'and taken while they cannot be written');
$before = peak($worker);
$session->query_safe('COMMIT');
close_session($session);
ok( poll_until(
		$node,
		'SELECT count(response) FROM anyvod_tasks'
		  . " WHERE task_id LIKE 'image-delay%' AND state = 'succeeded'",
		$together),
	'they are written');
my $written = peak($worker) - $before;
measured("writing $together answers of 1 MB grew the worker by %.0f MB",
	$written);
cmp_ok($written, '<', $together / 2, 'by the memory of some of them');

$before = peak($worker);

sql('CREATE SERVER endless FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '
	  . quote_literal($gateway->{url})
	  . ", rate_limit '5000')");
sql('INSERT INTO anyvod_tasks (task_id, server) SELECT'
	  . " 'endless-' || i, 'endless' FROM generate_series(1, 4) AS i");
track("image-huge$size", 4);
ok(wait_until(sub { sent() >= 4 && asked_for_large() >= 8 }),
	'eight answers of 200 MB come, four of them do not say how long they are');
track('image-beside', 100);
my $begin = clock_ms();
ok( poll_until(
		$node,
		'SELECT count(*) FROM anyvod_tasks'
		  . " WHERE task_id LIKE 'image-beside%' AND state = 'succeeded'",
		100),
	'others are settled');
measured('100 tasks beside eight answers of 200 MB took %.1f s',
	(clock_ms() - $begin) / 1000);
is( sql('SELECT count(*) FROM anyvod_tasks'
		  . " WHERE task_id ~ 'huge|endless' AND state = 'pending'"),
	'8',
	'these are asked for again');
is(worker_pid($node), $worker, 'by the same worker');
my $grown = peak($worker) - $before;
measured('eight answers of 200 MB grew the worker by %.0f MB', $grown);

# Four of up to 16 MB, and a copy of a large piece here or there
cmp_ok($grown, '<', 150, 'its memory is bounded');

# Each waits 5 s, then 10 s, and so on.
my $end = clock_ms() + 6000;
ok(wait_until(sub { clock_ms() > $end }), 'a while later');
measured('in %.0f s eight tasks were asked for %d times',
	(clock_ms() - $begin) / 1000, asked_for_large());
cmp_ok(asked_for_large(), '<=', 24, 'but not again and again');
my $most = (sort { $b <=> $a } sent())[0];
measured('at most %.0f MB were taken of one', $most / 1e6);
cmp_ok($most, '<', 2 * $limit, 'they are cut off at max_response_size');

done_testing();
