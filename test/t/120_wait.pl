# Waiting: for a tracked task nobody but the worker asks, a waiting procedure
# holds nothing, and whatever ends a wait ends it at once.

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

		my $begin = clock_ms();
		$node->safe_psql('postgres', "SELECT pg_${end}_backend($pid)");
		if ($end eq 'cancel')
		{
			($state) = end_query($session);
			is($state, '57014', 'cancel ends it');
			is($session->query_safe('SELECT 1'), '1', 'but not the session');
		}
		else
		{
			ok( wait_until(
					sub {
						$node->safe_psql('postgres',
							"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"
						) eq '0';
					}),
				'terminate ends the session');
		}
		cmp_ok(clock_ms() - $begin, '<', $prompt, 'in time');
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

close_session($_) foreach @sessions;
done_testing();
