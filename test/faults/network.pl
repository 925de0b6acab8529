# Whatever goes wrong between anyvod and a gateway, and in the gateway's
# answers, no task is lost, stuck or wrong, and the worker that met it goes on.
#
#	ANYVOD_FAULTS=short		only those that differ most from each other
#	ANYVOD_FAULTS=header	only those whose name matches this
#
# Each trouble has a database, a gateway and a worker of its own, so that many
# go on at once.  Tasks are tracked before it begins, and while it lasts.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Fault;
use AnyvodTest::Trouble;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $wanted = $ENV{ANYVOD_FAULTS} // '';

# How many go on at once, tasks of each before and while it lasts, and how
# long that is, in seconds.
my $wave = 12;
my $tasks = 24;
my $lasts = 4;

# Longest that a function may take while a trouble lasts, in milliseconds: ten
# times the server's timeout.
my $patience = 15_000;

# Memory that a worker may take more meanwhile, in kB: what bodies in flight
# may have, and a fourth.
my $most_memory = 80 * 1024;
my $most_grown = 0;

# The name of the fault, the trouble of AnyvodTest::Trouble, and what
# anyvod_query raises meanwhile: SQLSTATEs, any if several answers are right,
# 00000 where it does no harm.
my @faults = (
	[ 'connection refused', 'refuse', qr/HV00N/, 1 ],
	[ 'SYN to a black hole', 'black_hole', qr/HV000/, 1 ],
	# by an RST; it may arrive before libcurl has seen that it is connected
	[ 'connections beyond 4 refused', 'limit', qr/00000|HV000|HV00N/, 1 ],
	[ 'RST before the request', 'reset_accept', qr/HV000|HV00N/, 1 ],
	[ 'closed before the request', 'close_accept', qr/HV000/ ],
	[ 'RST before the header', 'reset_request', qr/HV000/ ],
	[ 'RST in the header', 'reset_header', qr/HV000/ ],
	[ 'RST in the body', 'reset_body', qr/HV000/, 1 ],
	[ 'RST after the answer', 'reset_after', qr/00000|HV000/ ],
	[ 'stall before the request is read', 'stall_accept', qr/HV000/ ],
	[ 'stall before the header', 'stall_header', qr/HV000/, 1 ],
	[ 'stall in the header', 'stall_half_header', qr/HV000/ ],
	[ 'stall in the body', 'stall_body', qr/HV000/ ],
	[ 'one byte a second', 'byte_a_second', qr/HV000/ ],
	[ 'body cut off', 'cut_body', qr/HV000/, 1 ],
	[ 'Content-Length too large', 'length_large', qr/HV000/ ],
	[ 'Content-Length too small', 'length_small', qr/22P02/, 1 ],
	[ 'two Content-Lengths', 'length_twice', qr/HV000|22P02/ ],
	[ 'negative Content-Length', 'length_negative', qr/HV000|22P02|00000/ ],
	[ 'two answers to one question', 'surplus_answer', qr/00000/, 1 ],
	[ 'answers one question late', 'answer_late', qr/00000/, 1 ],
	[ 'chunked garbage', 'chunked_garbage', qr/HV000/ ],
	[ 'chunk of 2^68 bytes', 'chunk_too_large', qr/HV000/ ],
	[ 'gzip when not asked', 'gzip', qr/22P02/ ],
	[ '100-continue before answers', 'continue', qr/00000/ ],
	[ '100-continue without end', 'continue_flood', qr/HV000|54000/ ],
	[ '10,000 header lines', 'headers_10000', qr/00000|HV000|54000/ ],
	[ 'header lines without end', 'header_flood', qr/HV000|54000/, 1 ],
	[ 'a header line without end', 'header_line', qr/HV000|54000/ ],
	[ 'NUL in the header', 'header_nul', qr/HV000/ ],
	[ '2 GB body', 'body_2gb', qr/54000/ ],
	[ '2 GB body, unannounced', 'body_2gb_unannounced', qr/54000|HV000/, 1 ],
	[ '2 GB body, chunked', 'body_2gb_chunked', qr/54000|HV000/ ],
	[ 'redirect loop', 'redirect_loop', qr/58030/ ],
	[ 'redirect to another host', 'redirect_elsewhere', qr/58030/ ],
	[ 'HTTP/0.9', 'http09', qr/HV000/ ],
	[ 'noise', 'noise', qr/HV000/ ],
	[ '101 switching protocols', 'switching', qr/HV000|22P02|58030/ ],
	[ '304 without being asked', 'status_304', qr/58030/ ],
	[ 'status 000', 'status_000', qr/HV000|22P02|58030/ ],
	[ 'early close of keepalive connections', 'keepalive_close', qr/00000/, 1 ],
	[ 'RST of keepalive connections', 'keepalive_reset', qr/00000/ ],);

@faults = grep { $wanted eq 'short' ? $_->[3] : $_->[0] =~ /$wanted/ } @faults;

my $simulator = start_simulator();
my $stranger = start_simulator();
my $node = anyvod_node(
	'network',
	simulator => $simulator,
	options => "timeout '1500ms', connect_timeout '1s', rate_limit '1000',"
	  . " max_concurrency '10'",
	conf => <<'END');
max_worker_processes = 40
max_connections = 200
anyvod.detection_delay = 500ms
anyvod.poll_floor = 200ms
anyvod.idle_timeout = 1h
END
log_settling($node);
my $last = '';

# A database like the first, whose gateway can be told to make trouble.
sub prepare
{
	my ($name, $mode, $states) = @{ $_[0] };
	my $gateway = AnyvodTest::Trouble->new($simulator);
	my $database = "trouble_$mode";

	$node->safe_psql('template1',
		"CREATE DATABASE $database TEMPLATE postgres");
	$node->safe_psql($database, 'ALTER SERVER anyapi OPTIONS (SET base_url '
		  . quote_literal($gateway->url) . ')');
	return {
		mode => $mode,
		states => $states,
		gateway => $gateway,
		database => $database,
		fault => AnyvodTest::Fault->new($node, $name, database => $database)
	};
}

# What anyvod_query raises now, and how long it takes.
sub ask
{
	my ($case, $words) = @_;
	my $session = open_session($node, database => $case->{database});
	my ($state, undef, undef, $took) =
	  run_query($session, "SELECT anyvod_query('$words')");

	close_session($session);
	return ($state, $took);
}

# The most memory that a process has had, without what it shares, in kB.
sub memory
{
	my ($pid) = @_;
	my ($anonymous) =
	  slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;

	return $anonymous;
}

sub run_wave
{
	my (@cases) = map { prepare($_) } @_;
	my $begin = clock_ms();

	foreach my $case (@cases)
	{
		$case->{fault}->track($tasks);
	}
	foreach my $case (@cases)
	{
		ok( wait_until(sub { $case->{fault}->asked > 0 }),
			$case->{fault}->name . ': tasks run');
		$case->{worker} = worker_pid($node, $case->{database});
		$case->{memory} = memory($case->{worker});
	}
	my $since = Time::HiRes::time();
	foreach my $case (@cases)
	{
		$case->{gateway}->begin($case->{mode}, $stranger->url);
		$case->{fault}->track($tasks);
	}
	foreach my $case (@cases)
	{
		my $name = $case->{fault}->name;
		my ($state, $took) = ask($case, 'image-now');

		like($state, qr/^(?:$case->{states})$/, "$name: a function says so");
		cmp_ok($took, '<', $patience, "$name: in time");
	}
	my $left = $since + $lasts - Time::HiRes::time();
	Time::HiRes::sleep($left) if $left > 0;
	foreach my $case (@cases)
	{
		my $name = $case->{fault}->name;
		my $times = $case->{gateway}->times;

		# the system does it, for each that is asked for
		$times = $node->safe_psql($case->{database},
			'SELECT sum(no_response) FROM anyvod_stat_server')
		  if $case->{mode} eq 'refuse' || $case->{mode} eq 'black_hole';
		$case->{fault}->count($times);
		my $grown = memory($case->{worker}) - $case->{memory};

		$most_grown = $grown if $grown > $most_grown;
		cmp_ok($grown, '<', $case->{most_memory} // $most_memory,
			"$name: the worker stays small");
		$case->{gateway}->end;
		$case->{fault}->heal;
	}
	foreach my $case (@cases)
	{
		$case->{fault}->settle;
		is(worker_pid($node, $case->{database}),
			$case->{worker}, $case->{fault}->name . ': the worker lives');
		$case->{gateway}->stop;
	}
	$node->safe_psql('template1', "DROP DATABASE $_->{database} WITH (FORCE)")
	  foreach @cases;
	measured('%d faults took %.0f s', scalar @cases,
		(clock_ms() - $begin) / 1000);
	return;
}

while (my @some = splice @faults, 0, $wave)
{
	run_wave(@some);
}
measured('no worker grew by more than %d kB', $most_grown);

# What comes when nobody has asked is no answer to the next question.
if ('an answer that nobody asked for' =~ /$wanted/ || $wanted eq 'short')
{
	my $gateway = AnyvodTest::Trouble->new($simulator);
	my $session = open_session($node);
	my $strange = 0;

	$node->safe_psql('postgres', 'ALTER SERVER anyapi OPTIONS (SET base_url '
		  . quote_literal($gateway->url) . ')');
	$gateway->begin('late_surplus_answer');
	foreach my $i (1 .. 5)
	{
		$strange += $session->query_safe(
			"SELECT (anyvod_status('image-$i')).file_url LIKE '%forged%'") eq
		  't';
		Time::HiRes::sleep(0.3);
	}
	is($strange, 0, 'an answer that nobody asked for is no answer');
	AnyvodTest::Fault::record('an answer that nobody asked for',
		$gateway->times, 5, 0, 0, $strange, 0);
	close_session($session);
}
is($stranger->stats->{other_paths} + $stranger->stats->{requests},
	0, 'no redirect was followed');
unlike(slurp_file($node->logfile),
	qr/terminated by signal|PANIC|exited with exit code/,
	'no process has ended badly');

done_testing();

1;
