# Asking from a session: connections are kept, and whatever ends a statement
# ends its question at once, and nothing but that.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Peer;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $simulator = start_simulator(keys => ['sk-asking']);
my $node = anyvod_node(
	'asking',
	simulator => $simulator,
	api_key => 'sk-asking');
my $session = open_session($node);

# A question's end by timeout, cancel or terminate, in milliseconds: of the
# whole, allowed on a busy machine (a quiet one takes 210, 5 and 5).
my $prompt = 1000;

# Ask about a task that answers at once.
sub ask
{
	my ($task_id) = @_;
	my ($state, $output) =
	  run_query($session, "SELECT (anyvod_status('$task_id')).state");

	return "$state $output";
}

# The simulator's serial number of the connection that asked last.
sub last_connection
{
	return $simulator->requests(1)->[0]{connection};
}

# A question that would take 25 s is on its way.
sub begin_slow_question
{
	my ($task_id) = @_;

	begin_query($session, "SELECT anyvod_query('$task_id-delay25000')");
	return wait_until(sub { $simulator->stats->{in_flight} == 1 });
}

sub session_pid
{
	return $session->query_safe('SELECT pg_backend_pid()');
}

# Connections outlive statements.
for my $i (1 .. 20)
{
	ask("image-kept-$i");
}
is($simulator->stats->{requests}, 20, '20 statements ask 20 questions');
is($simulator->stats->{connections}, 1, 'over one connection');
is(ask('image-kept'), '00000 succeeded', 'an answer is read');

# A connection is waited for by itself while it is the only one, and with others
# while there are any; "close" has them all closed again.
my (@alone, @together, @last);
for my $i (1 .. 3)
{
	push @alone, (run_query($session, "SELECT anyvod_query('delay50-$i-$_')"))[3]
	  foreach 1 .. 3;
	push @together,
	  (run_query($session, 'SELECT count(response) FROM anyvod_query_many('
			  . "ARRAY(SELECT 'delay50-$i-many-' || n"
			  . ' FROM generate_series(1, 4) AS n))'))[3];
	push @last,
	  (run_query($session, 'SELECT count(response) FROM anyvod_query_many('
			  . "ARRAY(SELECT 'delay50-$i-close-' || n"
			  . ' FROM generate_series(1, 4) AS n))'))[3];
}
measured('answers of 50 ms: alone after %.0f ms, 4 together after %.0f and %.0f ms',
	median(@alone), median(@together), median(@last));
is((scalar grep { $_ > $prompt } @alone, @together, @last),
	0, 'one connection or several, what arrives is noticed');
is($simulator->stats->{connections}, 3 * 4, 'as many as are needed');

# A descriptor that was waited for by itself may be another file's later.
is(ask('delay50-held'), '00000 succeeded', 'the only connection is used again');
is(ask('delay50-close-held'), '00000 succeeded', 'until it is closed');
$session->query_safe('SELECT count(*) FROM pg_largeobject');
is(ask('image-held'), '00000 succeeded', 'then another is waited for');
# Nor does one that is closed stand for the one that is left.
my $waited = (run_query($session, 'SELECT count(response) FROM anyvod_query_many('
		  . "ARRAY['delay500-left', 'close-left'])"))[3];
cmp_ok($waited - 500, '<', $prompt, 'and the first when the last is closed');

# statement_timeout
$session->query_safe("SET statement_timeout = '200ms'");
my (@states, @times);
for my $i (1 .. 15)
{
	my ($state, undef, undef, $time) =
	  run_query($session, "SELECT anyvod_query('delay5000-timeout-$i')");

	push @states, $state;
	push @times, $time;
}
measured('statement_timeout = 200 ms ends a question after %.0f ms'
	  . ' (median of %d, longest %.0f ms)',
	median(@times), scalar @times, (sort { $b <=> $a } @times)[0]);
is_deeply(\@states, [ ('57014') x 15 ],
	'statement_timeout ends a question as a cancelled query');
cmp_ok(median(@times), '<', $prompt, 'and does so in time');
is(ask('image-after-timeout'), '00000 succeeded',
	'the next question on the session works');

my ($state, $output, $error) = run_query($session, <<'END');
DO $$
BEGIN
	PERFORM anyvod_query('delay5000-handler');
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE 'caught %', SQLSTATE;
END $$
END
is($state, '57014', 'EXCEPTION WHEN OTHERS does not catch a timeout');
unlike($error, qr/caught/, 'and its handler does not run');
$session->query_safe('RESET statement_timeout');

# An error of the upstream is one that a handler catches.
(undef, undef, $error) = run_query($session, <<'END');
DO $$
BEGIN
	PERFORM anyvod_query('http500-handler');
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE 'caught %', SQLSTATE;
END $$
END
like($error, qr/caught 58030/, 'but does catch what the upstream refuses');

# Only the connection of the question that was broken off is gone.
ask('image-before-cancel');
my $before = last_connection();
my $open = $simulator->stats->{connections};
ok(begin_slow_question('cancelled'), 'a slow question is on its way');
my $pid = $node->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE query LIKE '%cancelled-delay%'"
	  . ' AND pid <> pg_backend_pid()');
my $begin = clock_ms();
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
($state) = end_query($session);
my $took = clock_ms() - $begin;
is($state, '57014', 'pg_cancel_backend ends it');
measured('pg_cancel_backend: %.0f ms, a new psql included', $took);
cmp_ok($took, '<', $prompt, 'in time');
ok( wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'and the gateway sees it hang up');
ask("image-after-cancel-$_") for 1 .. 3;
my %after = map { $_->{connection} => 1 }
  grep { ($_->{id} // '') =~ /^image-after-cancel/ } @{ $simulator->requests };
is(scalar keys %after, 1, 'its successors share one connection');
ok(!exists $after{$before}, 'which is a new one');
is($simulator->stats->{connections}, $open + 1, 'and the only new one');

# A subtransaction that is rolled back takes nothing with it.
run_query($session, <<'END');
DO $$
BEGIN
	PERFORM anyvod_query('http500-kept');
EXCEPTION WHEN OTHERS THEN NULL;
END $$
END
ask('image-after-error');
is($simulator->stats->{connections},
	$open + 1, 'an error of the upstream costs no connection');

# A question goes to its path below base_url, however that is written, and to
# the same when libcurl asks anew since the connection has ended meanwhile: each
# of this peer's answers one question and ends with the next.
my %written = (
	'' => '',
	'/deep/er' => '/deep/er',
	'/up/../down/./here' => '/down/here',
	'/caf%C3%A9' => '/caf%c3%a9');
$node->safe_psql('postgres',
	"CREATE SERVER peer FOREIGN DATA WRAPPER anyvod OPTIONS (base_url 'http://127.0.0.1')"
);
foreach my $path (sort keys %written)
{
	my $peer = AnyvodTest::Peer->new(
		sub {
			my ($client, $note) = @_;

			AnyvodTest::Peer::read_head($client, $note);
			syswrite $client,
			  "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
			AnyvodTest::Peer::read_head($client, $note);
		});
	$node->safe_psql('postgres',
			'ALTER SERVER peer OPTIONS (SET base_url '
		  . "'@{[ $peer->url ]}$path')");
	run_query($session, "SELECT anyvod_status('$_', 'peer')")
	  foreach 'first', 'second', 'third';
	is_deeply(
		[ lc($peer->heard) =~ /^get (\S+)/mg ],
		[ map { "$written{$path}/tencent-vod/v1/query/$_" }
			  qw(first second second third third) ],
		"questions below \"$path\" go to their paths");
}

# An answer that nobody asked for is none to the next question, over the only
# connection of a session, used again and again, either.
my $said = sub {
	my $body =
	  qq({"Response":{"Status":"WAITING","TaskType":"AigcImageTask","RequestId":"$_[0]"}});

	return "HTTP/1.1 200 OK\r\nContent-Length: @{[ length $body ]}\r\n\r\n$body";
};
my $idle = PostgreSQL::Test::Utils::tempdir() . '/idle';
my $talkative = AnyvodTest::Peer->new(
	sub {
		my ($client, $note) = @_;

		foreach (1 .. 3)
		{
			AnyvodTest::Peer::read_head($client, $note);
			Time::HiRes::sleep(0.05);
			syswrite $client, $said->('asked');
		}
		wait_until(sub { -e $idle });
		syswrite $client, $said->('surplus');
		$note->('said more');
		AnyvodTest::Peer::read_head($client, $note);
	});
$node->safe_psql('postgres',
	"ALTER SERVER peer OPTIONS (SET base_url '@{[ $talkative->url ]}')");
my $fresh = open_session($node);
my @said;
foreach my $i (1 .. 4)
{
	if ($i == 4)
	{
		append_to_file($idle, '');
		ok(wait_until(sub { $talkative->heard =~ /said more/ }),
			'a peer says more than it was asked for');
	}
	push @said,
	  (run_query($fresh,
			"SELECT anyvod_query('said-$i', 'peer') #>> '{Response,RequestId}'"))[1];
}
is_deeply(\@said, [ ('asked') x 4 ],
	'an answer that nobody asked for is not believed');
close_session($fresh);

# DROP DATABASE elsewhere wants every process to answer a barrier.
$node->safe_psql('postgres', 'CREATE DATABASE neighbour');
ok(begin_slow_question('barrier'), 'a slow question is on its way');
$begin = clock_ms();
$node->safe_psql('postgres', 'DROP DATABASE neighbour');
measured('DROP DATABASE elsewhere took %.0f ms', clock_ms() - $begin);
is($simulator->stats->{in_flight},
	1, 'DROP DATABASE elsewhere does not wait for it');
is( $node->safe_psql('postgres',
		"SELECT wait_event IS NOT NULL FROM pg_stat_activity"
		  . " WHERE query LIKE '%barrier-delay%' AND pid <> pg_backend_pid()"),
	't',
	'pg_stat_activity says that the session waits');

# pg_terminate_backend waits for the end itself, in milliseconds.
is( $node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid, $prompt) FROM pg_stat_activity"
		  . " WHERE query LIKE '%barrier-delay%' AND pid <> pg_backend_pid()"),
	't',
	'pg_terminate_backend ends a session that asks');
close_session($session);
ok( wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'and its question');

# A fast shutdown waits for no answer, neither a session's nor the worker's.
$session = open_session($node);
ok(begin_slow_question('shutdown'), 'a slow question is on its way');
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('delay25000-shutdown')");
ok(wait_until(sub { $simulator->stats->{in_flight} == 2 }),
	'and one of the worker');
$begin = clock_ms();
$node->stop('fast');
$took = clock_ms() - $begin;
measured('a fast shutdown took %.0f ms', $took);
cmp_ok($took, '<', 3000, 'a fast shutdown waits for neither');
close_session($session);

is($simulator->stats->{unauthorized}, 0, 'every request carried the key');

done_testing();
