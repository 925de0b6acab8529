# Waiting: a tracked task is polled by nobody but the worker, a waiting
# procedure holds nothing, whatever ends a wait ends it at once, and none waits
# for what cannot come.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'wait',
	simulator => $simulator,
	conf => "anyvod.detection_delay = '150ms'\nanyvod.poll_floor = '50ms'\n"
	  . 'max_connections = 100');
my $waiters = 50;

# Longest that something prompt takes on a busy machine, in milliseconds.
my $prompt = 1000;

# Sessions whose statement has these words.
sub waiting
{
	my ($words, $condition) = @_;

	return $node->safe_psql('postgres',
		    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
		  . " AND query LIKE '%$words%' AND pid <> pg_backend_pid()"
		  . ($condition // ''));
}

# Fifty sessions wait for one task, and ask nothing.
my @sessions = map { open_session($node) } 1 .. $waiters;
my $task = 't4000-progress-many-wait';
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('$task')");
begin_query($_, "SELECT state, clock_timestamp() FROM anyvod_wait('$task')")
  foreach @sessions;
ok(wait_until(sub { waiting('anyvod_wait') == $waiters }),
	"$waiters sessions wait for one task");
my @results = map { [ end_query($_) ] } @sessions;
is_deeply(
	[ grep { $_->[0] ne '00000' || $_->[1] !~ /^succeeded\|/ } @results ],
	[], 'all of them hear that it has ended');
my $latest = (sort map { (split /\|/, $_->[1])[1] } @results)[-1];
my ($polls, $late) = split /\|/,
  $node->safe_psql('postgres',
	"SELECT polls, 1000 * extract(epoch FROM '$latest' - settled_at)"
	  . " FROM anyvod_tasks WHERE task_id = '$task'");
is($simulator->task_requests($task), $polls, 'the worker alone has asked');
measured('the last of %d sessions heard of the end after %.0f ms',
	$waiters, $late);
cmp_ok($late, '<', 2 * $prompt, 'soon after the row was written');

# A row settled by hand wakes them too.
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t600000-by-hand')");
begin_query($sessions[0], "SELECT state FROM anyvod_wait('t600000-by-hand')");
ok( wait_until(
		sub {
			waiting('anyvod_wait',
				" AND wait_event IN ('AnyvodTask', 'Extension')") == 1;
		}),
	'a session sleeps');
my $begin = clock_ms();
$node->safe_psql('postgres',
	"UPDATE anyvod_tasks SET state = 'succeeded' WHERE task_id = 't600000-by-hand'"
);
my ($state, $output) = end_query($sessions[0]);
is("$state $output", '00000 succeeded', 'a row settled by hand ends a wait');
cmp_ok(clock_ms() - $begin, '<', 5 * $prompt,
	'before the row would be looked at anyhow');

# The procedure holds no snapshot, transaction id or lock while it sleeps.
my $all = 't600000-all';
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('$all')");
begin_query($sessions[1], "CALL anyvod_wait_all('{$all}', '1 h')");
ok( wait_until(
		sub {
			waiting('CALL anyvod_wait_all',
				' AND wait_event_type IS NOT NULL AND backend_xmin IS NULL'
				  . ' AND backend_xid IS NULL') == 1;
		}),
	'anyvod_wait_all sleeps without snapshot and transaction id');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
		  . " WHERE query LIKE 'CALL anyvod_wait_all%'"
		  . " AND locktype <> 'virtualxid'"),
	'0', 'and without a lock');
is( ($node->psql('postgres',
			"SET lock_timeout = '5s'; VACUUM FULL anyvod_tasks"))[0],
	0, 'so that VACUUM FULL of the table need not wait');
$node->safe_psql('postgres',
	"UPDATE anyvod_tasks SET state = 'failed' WHERE task_id = '$all'");
($state) = end_query($sessions[1]);
is($state, '00000', 'and ends when the row has left pending');

# A tracked task, one that is not, while it is asked about and between two
# questions, and the procedure: each ends in time,
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t600000-tracked')");
my %waits = (
	'a tracked task' => "SELECT anyvod_wait('t600000-tracked', '1 h')",
	'an answer' => "SELECT anyvod_wait('delay600000-answer', '1 h')",
	'the next question' => "SELECT anyvod_wait('http429-ra600-next', '1 h')",
	'all' => "CALL anyvod_wait_all('{t600000-tracked}', '1 h')");
foreach my $what (sort keys %waits)
{
	my $sql = $waits{$what} =~ s/1 h/300 ms/r;

	my ($ended, undef, undef, $took) = run_query($sessions[2],
		$sql =~ s/-(answer|next)/-late-$1/r);
	is($ended, '55000', "a wait for $what ends with its timeout");
	cmp_ok($took, '>=', 300, 'not before');
	cmp_ok($took, '<', 300 + $prompt, 'nor long after');
}

# and when it is cancelled or terminated.
foreach my $what (sort keys %waits)
{
	foreach my $end ('cancel', 'terminate')
	{
		my $session = open_session($node);
		my $pid = $session->query_safe('SELECT pg_backend_pid()');

		begin_query($session, $waits{$what});
		ok( wait_until(
				sub {
					waiting('', " AND pid = $pid"
						  . " AND wait_event IN ('AnyvodTask', 'AnyvodResponse', 'Extension')"
					) == 1;
				}),
			"a session waits for $what");

		if ($end eq 'cancel')
		{
			my $begin = clock_ms();

			$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
			($state) = end_query($session);
			is($state, '57014', 'cancel ends it');
			cmp_ok(clock_ms() - $begin, '<', $prompt, 'in time');
			is($session->query_safe('SELECT 1'), '1', 'but not the session');
		}
		else
		{
			is( $node->safe_psql('postgres',
					"SELECT pg_terminate_backend($pid, $prompt)"),
				't', 'terminate ends the session in time');
		}
		close_session($session);
	}
}
ok(wait_until(sub { $simulator->task_requests('delay600000-answer') == 2 }),
	'a task that is not tracked was asked for');
is($simulator->task_requests('http429-ra600-next'),
	2, 'once by each that waited for it');

# Many waits: nothing stays behind.
my $pid = $sessions[2]->query_safe('SELECT pg_backend_pid()');
sub memory
{
	my ($kb) =
	  PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~
	  /^VmRSS:\s+(\d+) kB/m;

	return $kb;
}
sub rounds
{
	my ($count) = @_;

	$sessions[2]->query_safe(<<"END");
DO \$\$
BEGIN
	FOR i IN 1 .. $count LOOP
		PERFORM anyvod_wait('image-untracked');
		PERFORM anyvod_wait('$task');
		CALL anyvod_wait_all('{$task,$all}', '1 s');
	END LOOP;
END \$\$
END
	return;
}
rounds(500);
my $before = memory();
rounds(4000);
measured('12,000 more waits grew the backend from %d by %d kB',
	$before, memory() - $before);
cmp_ok(memory() - $before, '<', 2048, 'memory does not grow');

# A timeout of nothing is one request; a longer one has its last poll when it
# is over.
my $session = $sessions[3];
($state, $output) =
  run_query($session, "SELECT state FROM anyvod_wait('image-at-once', '0')");
is("$state $output", '00000 succeeded',
	'timeout 0: a task that has ended is told of');
($state) = run_query($session, "SELECT anyvod_wait('t600000-at-once', '0')");
is($state, '55000', 'of one that runs, that it does');
is($simulator->task_requests('t600000-at-once'), 1, 'after one request');
($state, $output) =
  run_query($session, "SELECT state FROM anyvod_wait('t1000-late', '1100ms')");
is("$state $output", '00000 succeeded',
	'a task that ends between the last interval and the deadline');
my $waited;
($state, undef, undef, $waited) =
  run_query($session, "SELECT anyvod_wait('t600000-spaced', '4 s')");
is($state, '55000', 'a task that goes on');
is($simulator->task_requests('t600000-spaced'), 5,
	'is polled at 0, 0.5, 1.25, 2.375 s and at the deadline');
cmp_ok($waited, '>=', 4000, 'which is not before its time');
($state) = run_query($session,
	"SELECT anyvod_wait('http429-ra600-spaced', '1500ms')");
is($simulator->task_requests('http429-ra600-spaced'), 1,
	'unless the gateway wants no more requests');

# A row that this transaction has locked is filled in by nobody else.
foreach my $lock ('FOR UPDATE', 'FOR NO KEY UPDATE', 'FOR SHARE')
{
	my $id = 't1500-' . lc($lock =~ s/ //gr);

	$session->query_safe(
		"INSERT INTO anyvod_tasks (task_id) VALUES ('$id'); BEGIN;"
		  . " SELECT state FROM anyvod_tasks WHERE task_id = '$id' $lock");
	($state, $output) =
	  run_query($session, "SELECT state FROM anyvod_wait('$id', '20 s')");
	is("$state $output", '00000 succeeded', "a wait for a row locked $lock");
	$session->query_safe('ROLLBACK');
}

# A settled row needs no server, no worker and no new snapshot.
$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id, server, state) VALUES
	('settled-1', 'gone', 'succeeded'), ('settled-2', 'gone', 'succeeded'),
	('failed-1', 'gone', 'failed');
END
($state, $output) = run_query($session,
	"SELECT state FROM anyvod_wait('settled-1', '1 s', 'gone')");
is("$state $output", '00000 succeeded', 'a settled row of a server that is gone');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
($state, $output) = run_query($session,
	"SELECT state FROM anyvod_wait('settled-1', '1 s', 'gone')");
is("$state $output", '00000 succeeded', 'under REPEATABLE READ, too');
$session->query_safe('ROLLBACK');

close_session($_) foreach @sessions;

# The same where nothing is preloaded.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
$node->safe_psql('postgres', <<'END');
SET client_min_messages = error;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-nobody');
END
$session = open_session($node);
my %ends = (
	"SELECT state FROM anyvod_wait('settled-1', '1 s', 'gone')" => '00000 succeeded',
	"SELECT state FROM anyvod_wait('failed-1', '1 s', 'gone')" => '38000 ',
	"SELECT state FROM anyvod_wait('image-nobody', '10 s')" => '00000 succeeded',
	"CALL anyvod_wait_all('{settled-1,failed-1,settled-2}', '10 s')" => '00000 ',
	"CALL anyvod_wait_all('{settled-1,image-nobody}', '10 s')" => '55000 ');
foreach my $sql (sort keys %ends)
{
	($state, $output) = run_query($session, $sql);
	is("$state $output", $ends{$sql}, "not preloaded: $sql");
}
close_session($session);
done_testing();
