# While answers are awaited no transaction, snapshot or lock of the worker is
# open, so that VACUUM and everybody else go on.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-idle']);
my $node = anyvod_node(
	'transaction',
	simulator => $simulator,
	api_key => 'sk-idle',
	conf => 'autovacuum = off');

# Of rows deleted after the questions began, how many does VACUUM remove, and
# how many must it leave since a snapshot may see them?
sub vacuum_deleted_rows
{
	my ($trouble);

	$node->safe_psql('postgres', <<'END');
DROP TABLE IF EXISTS victims;
CREATE TABLE victims AS SELECT generate_series(1, 1000) AS i;
DELETE FROM victims;
END
	$node->psql('postgres', 'VACUUM (VERBOSE) victims', stderr => \$trouble);
	return $trouble =~ /(\d+) removed, \d+ remain, (\d+) are dead/
	  ? "$1 removed, $2 left"
	  : $trouble;
}

$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-delay25000-' || i FROM generate_series(1, 5) AS i;
END
ok(wait_until(sub { $simulator->stats->{in_flight} == 5 }),
	'five questions are on their way');

my $worker = worker_pid($node);
# The report of its activity comes right after the requests were sent.
ok( poll_until(
		$node,
		'SELECT state, xact_start IS NULL, backend_xid IS NULL,'
		  . ' backend_xmin IS NULL, wait_event IS NOT NULL'
		  . " FROM pg_stat_activity WHERE pid = $worker",
		'idle|t|t|t|t'),
	'the worker waits without a transaction or snapshot');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_locks WHERE pid = $worker"),
	'0',
	'and without a lock');
is(vacuum_deleted_rows(), '1000 removed, 0 left',
	'VACUUM removes rows that were deleted meanwhile');

# The same with a snapshot that is open, to see that it would be noticed.
my $session = open_session($node);
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$session->query_safe('SELECT count(*) FROM pg_class');
is(vacuum_deleted_rows(), '0 removed, 1000 left',
	'which a snapshot would prevent');
$session->query_safe('COMMIT');
$session->quit;

# Commands that want the table for themselves get it.
$session = open_session($node);
$session->query_safe("SET lock_timeout = '10s'");
my @commands = (
	'VACUUM FULL anyvod_tasks',
	'BEGIN; LOCK TABLE anyvod_tasks IN ACCESS EXCLUSIVE MODE; COMMIT',
	'ALTER TABLE anyvod_tasks SET (fillfactor = 60)',
	'DELETE FROM anyvod_tasks');
foreach my $command (@commands)
{
	my ($state, undef, $error, $time) = run_query($session, $command);

	note sprintf('%s: %.0f ms', $command, $time);
	is($state, '00000', "$command goes on meanwhile") or diag($error);
}
is($simulator->stats->{in_flight},
	5, 'and the questions are still on their way');
$session->quit;

done_testing();
