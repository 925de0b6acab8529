# Scanning very many pending rows keeps nobody waiting: it is done page by page,
# with no lock or snapshot in between; no row is missed; and a task in memory
# takes little of it.
#
#	ANYVOD_TEST_SCANNED		rows to scan (default 60,000, which all are in memory)

use strict;
use warnings;

use AnyvodTest;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = $ENV{ANYVOD_TEST_SCANNED} || 60_000;

# The real gateway's ids are 58 characters long.
my $id =
  "'1500008725-AigcVideoTask-t6000000-' || substr(md5(i::text), 1, 24)";

my $simulator = start_simulator(keys => ['sk-list']);
my $node = anyvod_node(
	'listing',
	simulator => $simulator,
	api_key => 'sk-list',
	options => "rate_limit '1'",
	conf => "autovacuum = off\nanyvod.idle_timeout = '1h'");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Rows whose insertion nobody is told of, some of them answered before.
sub load
{
	my ($first, $last) = @_;

	sql(<<"END");
ALTER TABLE anyvod_tasks DISABLE TRIGGER ALL;
INSERT INTO anyvod_tasks (task_id, status)
	SELECT $id, CASE i % 3 WHEN 0 THEN 'PROCESSING' WHEN 1 THEN 'WAITING' END
	FROM generate_series($first, $last) AS i;
ALTER TABLE anyvod_tasks ENABLE TRIGGER ALL;
ALTER TABLE anyvod_tasks ENABLE ALWAYS TRIGGER anyvod_tasks_changed;
END
	return;
}

my $session = open_session($node);
my $pending = "SELECT coalesce(sum(pending), 0) FROM anyvod_stat_worker";

# Wait until the worker knows so many tasks.
sub wait_until_known
{
	my ($count) = @_;

	return wait_until(sub { $session->query_safe($pending) >= $count }, 300);
}

load(1, $rows);
sql('VACUUM ANALYZE anyvod_tasks');
my $begin = clock_ms();
sql('SELECT anyvod_wake()');
ok(wait_until_known($rows), 'all rows come to be known');
my $took = clock_ms() - $begin;
measured('%d rows were scanned in %.0f ms', $rows, $took);

# The memory that they take, by the worker's own account
my $worker = worker_pid($node);
my $offset = -s $node->logfile;
sql("SELECT pg_log_backend_memory_contexts($worker)");
my $bytes;
ok( wait_until(
		sub {
			my $log = slurp_file($node->logfile, $offset);

			return if $log !~ /Grand total/;
			$bytes = 0;
			$bytes += $1 while $log =~ /anyvod (?:queue|tasks): (\d+) total/g;
			return $bytes > 0;
		}),
	'a worker says what memory it takes');
measured('a task takes %.0f bytes', $bytes / $rows);
cmp_ok($bytes / $rows, '<', 256, 'a task takes little memory');

# Again, by another worker, while sessions want the table for themselves and
# insert rows before and behind
my $locker = open_session($node);
my $n = 0;
my @waits;
sql("SELECT pg_terminate_backend($worker)");
$begin = clock_ms();
ok(wait_for_worker($node, 1, other_than => $worker), 'another worker comes');
while (@waits < 20)
{
	my $known = $session->query_safe($pending);

	my ($state, undef, undef, $wait) = run_query($locker,
		'BEGIN; LOCK TABLE anyvod_tasks IN ACCESS EXCLUSIVE MODE; COMMIT');
	is($state, '00000', 'the table is locked') if $state ne '00000';
	push @waits, $wait;
	$locker->query_safe('INSERT INTO anyvod_tasks (task_id)'
		  . " VALUES ('0-t6000000-early-$n'), ('z-t6000000-late-$n')");
	$n++;
	wait_until(sub { $session->query_safe($pending) > $known }, 1);
}
ok(wait_until_known($rows + 2 * $n), 'all rows come to be known again');
measured('the table was locked %d times, after %.0f ms at most',
	scalar @waits, max(@waits));
cmp_ok(max(@waits), '<', max($took / 3, 100),
	'the table can be locked while a scan runs');
is( $session->query_safe($pending),
	sql("SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'"),
	'no row is missed');

close_session($_) foreach $session, $locker;
done_testing();
