# anyvod_query_many: as fast as max_concurrency allows, no more requests and
# no more memory than the rows that are taken need, a row for each task whatever
# happens, and gone when it is ended.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Http qw(add_server response succeeded task_of);
use AnyvodTest::Peer;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-many']);
my $node = anyvod_node(
	'many',
	simulator => $simulator,
	api_key => 'sk-many',
	options => "max_concurrency '100'");
my $session = open_session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');

# Longest that a cancelled statement takes to end on a busy machine, in
# milliseconds (a quiet one takes 5).
my $prompt = 1000;

$node->safe_psql('postgres', <<"END");
CREATE SERVER eight FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[$simulator->url]}', max_concurrency '8');
CREATE USER MAPPING FOR PUBLIC SERVER eight OPTIONS (api_key 'sk-many');
CREATE SERVER nobody FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://127.0.0.1:1');
END

# The array of $count ids that begin with $words.
sub ids
{
	my ($words, $count) = @_;

	return "ARRAY(SELECT '$words-' || n FROM generate_series(1, $count) AS n)";
}

# A line of /proc/PID/status, in kB.
sub memory
{
	my ($what) = @_;
	my ($kb) =
	  PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~
	  /^$what:\s+(\d+) kB/m;

	return $kb;
}

# How many descriptors the backend has open.
sub descriptors
{
	return scalar(my @fds = glob "/proc/$pid/fd/*");
}

# 1,000 answers of 100 ms, 100 at a time: ideally 1.0 s.  The first call opens
# the connections.
my $ideal = 1000;
$session->query_safe('SELECT count(*) FROM anyvod_query_many('
	  . ids('delay100-first', 100) . ')');
my ($state, $output, undef, $took) = run_query($session,
	'SELECT count(*), count(response) FROM anyvod_query_many('
	  . ids('delay100', 1000) . ')');
is("$state $output", '00000 1000|1000', '1,000 questions, 1,000 answers');
measured('1,000 answers of 100 ms, 100 at a time, take %.2f times the ideal',
	$took / $ideal);
cmp_ok($took, '<', 3 * $ideal, 'which take little longer than they must');
my $stats = $simulator->stats;
is($stats->{max_in_flight}, 100, 'max_concurrency is used, and kept');
is($stats->{connections}, 100, 'and connections are kept');

# No more questions than rows and max_concurrency.
$simulator->reset;
($state, $output) = run_query($session,
	    'SELECT count((m).response) FROM (SELECT (m).* FROM'
	  . ' (SELECT anyvod_query_many('
	  . ids('image', 100_000)
	  . ') AS m) AS rows LIMIT 10) AS m');
is("$state $output", '00000 10', 'LIMIT 10 over 100,000 ids gives 10 rows');
my $asked = $simulator->stats->{requests};
measured('LIMIT 10 over 100,000 ids asks %d questions', $asked);
cmp_ok($asked, '<=', 10 + 100, 'and asks at most 10 + max_concurrency');
cmp_ok($asked, '>=', 10, 'and no fewer than it needs');

# Memory: 150 answers of 2 MB, 8 at a time, are 300 MB in all.
my $before = memory('VmHWM');
($state, $output) = run_query($session,
	    'SELECT count(*), min(length(m::text)) > 2000000 FROM'
	  . ' (SELECT anyvod_query_many('
	  . ids('huge2000000', 150)
	  . ", 'eight') AS m) AS rows");
is("$state $output", '00000 150|t', '150 answers of 2 MB are read');
my $grown = (memory('VmHWM') - $before) / 1024;
measured('and take %.0f MB of memory at most', $grown);
cmp_ok($grown, '<', 150, 'few of them are in memory at a time');

# Whatever ends it takes everything along.
sub begin_slow
{
	my ($words, $server) = @_;

	begin_query($session,
		    'SELECT count(*) FROM anyvod_query_many('
		  . ids($words, 50)
		  . ", '$server')");
	return wait_until(sub { $simulator->stats->{in_flight} == 8 });
}
foreach my $words ('delay600000', 'dribble600000')
{
	ok(begin_slow("$words-cancel", 'eight'), "$words: questions are on their way");

	my $begin = clock_ms();
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	($state) = end_query($session);
	$took = clock_ms() - $begin;
	is($state, '57014', 'pg_cancel_backend ends them');
	measured('after %.0f ms, a new psql included', $took);
	cmp_ok($took, '<', $prompt, 'in time');
	ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
		'and the gateway sees them hang up');
}
$session->query_safe("SET statement_timeout = '200ms'");
($state) = run_query($session,
	'SELECT count(*) FROM anyvod_query_many(' . ids('delay20000', 50) . ')');
is($state, '57014', 'statement_timeout ends it');
$session->query_safe('RESET statement_timeout');

# Many calls, whole, cut short and cancelled: nothing stays behind.  The
# first rounds fill what is kept on purpose; the session is a new one, since
# what large answers have left free would hide what a small leak takes.
close_session($session);
$session = open_session($node);
$pid = $session->query_safe('SELECT pg_backend_pid()');
sub rounds
{
	my ($count) = @_;

	$session->query_safe(<<"END");
DO \$\$
BEGIN
	FOR i IN 1 .. $count LOOP
		PERFORM count(*) FROM anyvod_query_many(
			@{[ids('image-whole', 20)]}, 'eight');
		PERFORM anyvod_query_many(@{[ids('image-cut', 100)]}, 'eight') LIMIT 5;
		BEGIN
			PERFORM 1 / (length((m).task_id) - length((m).task_id))
			FROM (SELECT anyvod_query_many(@{[ids('http500-error', 20)]},
										   'eight') AS m) AS rows;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END \$\$
END
	return;
}
rounds(50);
$simulator->reset;
my ($memory, $descriptors) = (memory('VmRSS'), descriptors());
rounds(600);
$grown = memory('VmRSS') - $memory;
measured('%d more questions grew the backend from %d by %d kB',
	$simulator->stats->{requests},
	$memory, $grown);
cmp_ok($grown, '<', 2048, 'its memory does not grow');
cmp_ok(descriptors(), '<=', $descriptors + 8, 'nor do its descriptors');

is( $session->query_safe('SELECT count(DISTINCT task_id), count(error_code)'
		  . ' FROM anyvod_query_many(' . ids('image-after', 20) . ", 'eight')"),
	'20|0', 'and the next call works');

# Connections that never came about cost no descriptor either.
is( $session->query_safe(
		"SELECT DISTINCT error_code FROM generate_series(1, 40) AS i,"
		  . ' LATERAL anyvod_query_many('
		  . "ARRAY(SELECT 'refused-' || n + i FROM generate_series(1, 20) AS n),"
		  . " 'nobody')"),
	'HV00N', '800 refused connections are refused connections');
is( $session->query_safe('SELECT count(error_code) FROM anyvod_query_many('
		  . ids('image-refused', 20) . ", 'eight')"),
	'0', 'and the next call works');

# Responses that do not fit into memory together are fetched again.
$session->query_safe(
	"ALTER SERVER anyapi OPTIONS (SET max_concurrency '32')");
foreach my $bytes (2_200_000, 5_000_000)
{
	is( $session->query_safe(
			'SELECT count(DISTINCT task_id), string_agg(DISTINCT error_message, \', \')'
			  . ' FROM anyvod_query_many(' . ids("huge$bytes", 50) . ')'),
		'50|', "50 responses of $bytes bytes are 50 rows");
}

# Eight find no room in the same moment: each has 4 MB of its response, which
# does not say how long it is, and needs another buffer of twice that for what
# has come while the backend was stopped.
my $go_on = $node->basedir . '/go_on';
my $peer = AnyvodTest::Peer->new(
	AnyvodTest::Peer::gateway(
		sub {
			my ($head, $client, $note) = @_;
			my $task = task_of($head);
			my $body = succeeded($task) . ' ' x 5_000_000;
			my $first = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
			  . "Connection: close\r\n\r\n" . substr($body, 0, 4_150_000);

			AnyvodTest::Peer::send_all($client, $first);
			$note->("held\n");
			wait_until(sub { -e $go_on });
			AnyvodTest::Peer::send_all($client, substr($body, 4_150_000, 90_000));
			$note->("more\n");
			AnyvodTest::Peer::send_all($client, substr($body, 4_240_000));
			return undef;
		}));
add_server($node, 'in_step', $peer->url);
begin_query($session,
	"SELECT count(*), string_agg(error_message, ', ') FROM anyvod_query_many("
	  . ids('step', 8) . ", 'in_step')");
ok(wait_until(sub { (() = $peer->heard =~ /held/g) == 8 }),
	'eight responses are held at 4 MB');
my $port = sprintf '%04X', $peer->port;
ok( wait_until(
		sub {
			# local and remote address, state, bytes to send : bytes to read
			return slurp_file('/proc/net/tcp') !~
			  /^\s*\d+: (?:\S+ )?\S+:$port (?:\S+ )?01 (?!0{8}:0{8})/m;
		}),
	'The backend has them.');
kill 'STOP', $pid;
append_to_file($go_on, '');
ok(wait_until(sub { (() = $peer->heard =~ /more/g) == 8 }), 'and then go on');
kill 'CONT', $pid;
is((end_query($session))[1], '8|', 'All become rows.');

# An open cursor leaves room for others.
$session->query_safe('BEGIN');
$session->query_safe('DECLARE c CURSOR FOR SELECT (m).error_code FROM'
	  . ' (SELECT anyvod_query_many(' . ids('huge2200000-cursor', 40)
	  . ') AS m) AS rows');
$session->query_safe('FETCH 1 FROM c');
is( $session->query_safe("SELECT (anyvod_status('image-beside')).state"),
	'succeeded', 'a request beside an open cursor over large responses');
is( $session->query_safe(
		"SELECT length(anyvod_query('huge2200000-beside')::text) > 2200000"),
	't', 'a large one, too');
is( $session->query_safe('FETCH ALL FROM c') =~ s/\n//gr,
	'', 'and the rest of the cursor are no errors');
$session->query_safe('COMMIT');

# What goes wrong with the server or mapping after the first row is each
# following row's error, and the statement goes on.
my $keys = PostgreSQL::Test::Utils::tempdir();
my $key_file = "$keys/key";
PostgreSQL::Test::Utils::append_to_file($key_file, "sk-many\n");
$node->safe_psql('postgres', <<"END");
CREATE SERVER fragile FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[$simulator->url]}', max_concurrency '2');
CREATE USER MAPPING FOR PUBLIC SERVER fragile OPTIONS (api_key_file '$key_file');
CREATE ROLE reader;
GRANT USAGE ON FOREIGN SERVER fragile TO reader;
END

# The rows of 8 tasks that come after the first two, when something happens
# in between: the statement's SQLSTATE, and each error code with its count.
sub rows_after
{
	my ($happens) = @_;
	my %count;

	$session->query_safe('BEGIN');
	$session->query_safe(
		"DECLARE c CURSOR FOR SELECT COALESCE((m).error_code, 'none') FROM"
		  . ' (SELECT anyvod_query_many(' . ids('image-fragile', 8)
		  . ", 'fragile') AS m) AS rows");
	$session->query_safe('FETCH 2 FROM c');
	$happens->();
	my ($ended, $output) = run_query($session, 'FETCH ALL FROM c');
	$session->query_safe('ROLLBACK');
	$count{$_}++ foreach split ' ', $output;
	return join ' ', $ended, map { "$_:$count{$_}" } sort keys %count;
}
$session->query_safe('SET client_min_messages = warning');
like( rows_after(sub { $session->query_safe('DROP SERVER fragile CASCADE') }),
	qr/^00000 42704:[45] none:[12]$/, 'a dropped server');
$session->query_safe('SET ROLE reader');
like( rows_after(
		sub {
			$session->query_safe(
				'RESET ROLE; REVOKE USAGE ON FOREIGN SERVER fragile FROM reader; SET ROLE reader'
			);
		}),
	qr/^00000 42501:[45] none:[12]$/, 'a right that was taken away');
$session->query_safe('RESET ROLE');
like( rows_after(
		sub {
			unlink $key_file or die "$key_file: $!";
			$session->query_safe(
				"ALTER SERVER fragile OPTIONS (ADD timeout '20s')");
		}),
	qr/^00000 58P01:[45] none:[12]$/, 'a key file that is not there');

# A key that was refused is reported as such, though its file cannot be read
# any more to see whether there is another.
sub with_refused_key
{
	my ($sql) = @_;

	PostgreSQL::Test::Utils::append_to_file($key_file, "sk-many\n");
	$session->query_safe("SELECT anyvod_status('image-key', 'fragile')");
	begin_query($session, $sql);
	ok(wait_until(sub { $simulator->stats->{in_flight} == 1 }),
		'a request is on its way');
	unlink $key_file or die "$key_file: $!";

	my ($ended, $output) = end_query($session);
	return "$ended $output";
}
is(with_refused_key("SELECT anyvod_query('http401-delay500', 'fragile')"),
	'28000 ', 'anyvod_query says that the key was refused');
is( with_refused_key(
		'SELECT task_id, error_code FROM anyvod_query_many('
		  . "'{http401-delay500-many,image-many}', 'fragile') ORDER BY 1"),
	"00000 http401-delay500-many|28000\nimage-many|",
	'and so does its row of many');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile),
	qr/leak|PANIC/, 'nothing was left behind');

# pg_terminate_backend waits for the end itself, in milliseconds.
ok(begin_slow('delay600000-terminate', 'eight'), 'questions are on their way');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, $prompt)"),
	't', 'pg_terminate_backend ends the session');
close_session($session);
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'and its questions');
is($simulator->stats->{unauthorized}, 0, 'every request carried the key');

done_testing();
