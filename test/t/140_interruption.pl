# Whatever ends a statement ends it at once, wherever its question is: while
# its name is resolved, while it connects, negotiates TLS, waits for the header
# or reads the body.  Nothing is left behind, and nobody waits for it.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Peer;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

# Longest that an end takes on a busy machine, in milliseconds: ten times
# what is promised.
my $prompt = 1000;

my $build = build_shim();

my $simulator = start_simulator();
my $mute = AnyvodTest::Peer->new(silence());
my $hole = AnyvodTest::Peer->black_hole;
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_HANG} = "$build/hang";

	$node = anyvod_node(
		'interruption',
		simulator => $simulator,
		conf => "log_line_prefix = '%p %e '\nmax_connections = 100");
}
my $admin = open_session($node);

# A process's threads, and its descriptors but for files, which PostgreSQL
# keeps open as it likes.
sub threads
{
	my ($pid) = @_;
	return scalar(my @threads = glob "/proc/$pid/task/*");
}

# Threads of a process, beside its own, that would take a signal meant for it:
# any but KILL (9) and STOP (19), which none can refuse.
my $looked_at = 0;
sub listeners
{
	my ($pid) = @_;
	my $all = 0x7ffbfeff;
	my @listening;

	foreach my $thread (glob "/proc/$pid/task/*")
	{
		next if $thread =~ m{/$pid$};
		# one that has just ended listens no more
		my ($blocked) = eval { slurp_file("$thread/status") } // '';
		next unless $blocked =~ /^SigBlk:\s+[0-9a-f]{8}([0-9a-f]{8})$/m;
		$looked_at++;
		push @listening, $thread if (hex($1) & $all) != $all;
	}
	return @listening;
}
sub descriptors
{
	my ($pid) = @_;
	return scalar grep { (readlink // '') !~ m{^/} } glob "/proc/$pid/fd/*";
}

# Does a process wait for an answer, or for a row?
sub waits
{
	my ($pid) = @_;
	return $admin->query_safe(
		"SELECT wait_event IN ('Extension', 'AnyvodAnswer', 'AnyvodTask')"
		  . " FROM pg_stat_activity WHERE pid = $pid") eq 't';
}

# Connections that the system tries to make to the hole (02 is SYN_SENT), but
# for those that fill it.
sub into_hole
{
	my $port = sprintf '%04X', $hole->port;

	return scalar(my @tries = slurp_file('/proc/net/tcp') =~
		  /^\s*\d+: \S+ \S+:$port 02 /mg);
}
my $filling = into_hole();
sub connecting
{
	return into_hole() > $filling;
}

# Where a question can be: the server to ask, the task, and whether a process
# has come there.
my %places = (
	'resolving the name' => {
		url => 'http://hang.invalid',
		there => sub { threads($_[0]) > 1 }
	},
	connecting => {
		url => $hole->url,
		there => sub { connecting() }
	},
	'negotiating TLS' => {
		url => $mute->url('https'),
		# the system may have no authorities to begin with
		ca => dirname(__FILE__) . '/../perl/AnyvodTest/authority.pem',
		there => sub { $mute->heard ne '' }
	},
	'waiting for the header' => {
		url => $simulator->url,
		id => 'delay600000',
		there => sub { $simulator->stats->{in_flight} > 0 }
	},
	'in the body' => {
		url => $simulator->url,
		id => 'dribble600000',
		there => sub { $simulator->stats->{in_flight} > 0 }
	});
my $version = qx(pkg-config --modversion libcurl);
delete $places{'resolving the name'}
  if $version =~ /^7\.(\d+)/ && $1 < 87;

# Over HTTP/2 as well, where there is nginx.
my $front;
if (defined AnyvodTest::Front::program('nginx'))
{
	$front = AnyvodTest::Front->new($simulator, h2 => { http2 => 1 });
	foreach my $words ('delay', 'dribble')
	{
		$places{"$words over HTTP/2"} = {
			url => $front->url('h2'),
			id => "${words}600000",
			ca => $front->ca_file,
			there => sub { $simulator->stats->{in_flight} > 0 }
		};
	}
}

my @statements;
my $servers = 0;
foreach my $name (sort keys %places)
{
	my $place = $places{$name};
	my $id = $place->{id} // 'image';
	my $server = 'place' . $servers++;

	$node->safe_psql('postgres', <<"END");
CREATE SERVER $server FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '$place->{url}', timeout '1h', connect_timeout '1h'
	@{[ defined $place->{ca} ? ", ca_file '$place->{ca}'" : '' ]});
END
	push @statements,
	  [ "anyvod_query, $name", "SELECT anyvod_query('$id-1', '$server')",
		$place->{there} ],
	  [ "anyvod_query_many, $name",
		"SELECT count(*) FROM anyvod_query_many(ARRAY(SELECT '$id-' || n"
		  . " FROM generate_series(1, 40) AS n), '$server')",
		$place->{there} ],
	  [ "anyvod_wait, $name", "SELECT anyvod_wait('$id-2', '1 h', '$server')",
		$place->{there} ];
}
$admin->query_safe("INSERT INTO anyvod_tasks (task_id) VALUES ('t600000-row')");
push @statements,
  [ 'anyvod_wait, tracked', "SELECT anyvod_wait('t600000-row', '1 h')",
	\&waits ],
  [ 'anyvod_wait_all', "CALL anyvod_wait_all('{t600000-row}', '1 h')",
	\&waits ];

# A session that has asked already, so that it has what it keeps.
sub fresh
{
	my $session = open_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_safe("SELECT anyvod_query('image-1')");
	return ($session, $pid);
}

# Begin a statement, and wait until it is where it should be.
sub begin_there
{
	my ($session, $pid, $statement) = @_;
	my (undef, $sql, $there) = @$statement;

	append_to_file("$build/hang", '');
	begin_query($session, $sql);
	return wait_until(sub { waits($pid) && $there->($pid) });
}

# A process is gone, and has said why in the log.
sub ended
{
	my ($pid, $state) = @_;

	return wait_until(sub { !-e "/proc/$pid" })
	  && slurp_file($node->logfile) =~ /^$pid $state FATAL/m;
}

# Let the places be as they were.
sub clean
{
	unlink "$build/hang";
	truncate $mute->{log}, 0;
	return wait_until(
		sub {
			$simulator->stats->{in_flight} == 0 && !connecting();
		});
}

my ($session, $pid) = fresh();

# libcurl has descriptors of its own for each kind of connection.
append_to_file("$build/hang", '');
$session->query_safe("SET statement_timeout = '100ms'");
run_query($session, $_->[1]) foreach @statements;
$session->query_safe('RESET statement_timeout');
ok(clean(), 'nothing is in flight at the beginning');
run_query($session, "SELECT anyvod_query('image-1')");
my $open = descriptors($pid);
my %worst;

sub note_time
{
	my ($end, $begin) = @_;
	my $took = clock_ms() - $begin;

	$worst{$end} = $took if $took > ($worst{$end} // 0);
	return $took;
}

foreach my $statement (@statements)
{
	my ($what) = @$statement;
	my ($state, $begin, $took);

	# Nobody waits for it, then cancel
	ok(begin_there($session, $pid, $statement), $what);
	is_deeply([ listeners($pid) ], [], 'no other thread takes its signals');
	$admin->query_safe('CREATE DATABASE other STRATEGY file_copy');
	$begin = clock_ms();
	$admin->query_safe('DROP DATABASE other WITH (FORCE)');
	cmp_ok(note_time('DROP DATABASE', $begin),
		'<', 2 * $prompt, 'DROP DATABASE elsewhere does not wait');
	$begin = clock_ms();
	$admin->query_safe("SELECT pg_cancel_backend($pid)");
	($state) = end_query($session);
	$took = note_time('cancel', $begin);
	is($state, '57014', 'cancel ends it');
	cmp_ok($took, '<', $prompt, 'at once');
	ok(clean(), 'the gateway is left alone');

	# statement_timeout
	append_to_file("$build/hang", '');
	$session->query_safe("SET statement_timeout = '100ms'");
	($state, undef, undef, $took) = run_query($session, $statement->[1]);
	$session->query_safe('RESET statement_timeout');
	is($state, '57014', 'statement_timeout ends it');
	cmp_ok($took, '<', 100 + $prompt, 'at once');
	ok( clean() && wait_until(
			sub { threads($pid) == 1 && descriptors($pid) <= $open }),
		'no thread and no descriptor is left');
	is((run_query($session, "SELECT anyvod_query('image-1')"))[0],
		'00000', 'and the session goes on');

	# Terminate, and a client that goes away
	my ($other, $other_pid) = fresh();

	begin_there($other, $other_pid, $statement);
	$begin = clock_ms();
	$admin->query_safe("SELECT pg_terminate_backend($other_pid)");
	ok(ended($other_pid, '57P01'), 'terminate ends the session');
	cmp_ok(note_time('terminate', $begin), '<', $prompt, 'at once');
	close_session($other);
	clean();

	($other, $other_pid) = fresh();
	$other->query_safe("SET client_connection_check_interval = '50ms'");
	begin_there($other, $other_pid, $statement);
	$begin = clock_ms();
	$other->{run}->signal('KILL');
	ok(ended($other_pid, '08006'), 'so does a client that goes away');
	cmp_ok(note_time('client gone', $begin), '<', $prompt, 'at once');
	close_session($other);
	clean();
}
measured('the slowest %s took %.0f ms', $_, $worst{$_}) foreach sort keys %worst;

# Fast shutdown, with all of them at once.
my @sessions;
append_to_file("$build/hang", '');
foreach my $statement (@statements)
{
	my ($other, $other_pid) = fresh();

	begin_query($other, $statement->[1]);
	push @sessions, [ $other, $other_pid ];
}
ok( wait_until(sub { !grep { !waits($_->[1]) } @sessions }),
	'all of them wait at once');
my $begin = clock_ms();
$node->stop('fast');
my $took = clock_ms() - $begin;
measured('fast shutdown with %d of them took %.0f ms', scalar @sessions, $took);
cmp_ok($took, '<', 3 * $prompt, 'fast shutdown does not wait for them');
my $log = slurp_file($node->logfile);
is_deeply([ grep { $log !~ /^$_ 57P01 FATAL/m } map { $_->[1] } @sessions ],
	[], 'and tells each');
close_session($_) foreach $admin, $session, map { $_->[0] } @sessions;
cmp_ok($looked_at, '>', 0, 'threads were looked at')
  if exists $places{'resolving the name'};

done_testing();
