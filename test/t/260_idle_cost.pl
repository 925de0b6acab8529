# What does not change costs nothing: no process that wakes up, no write, no
# transaction id, and no busy loop while something is in the way.
#
#	ANYVOD_TEST_IDLE		seconds without work to look at (default 10)
#	ANYVOD_TEST_TASKS		tasks that run unchanged (default 2,000)
#	ANYVOD_TEST_POLLS		times that each is asked for (default 3)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $idle_seconds = $ENV{ANYVOD_TEST_IDLE} || 10;
my $tasks = $ENV{ANYVOD_TEST_TASKS} || 2000;
my $polls = $ENV{ANYVOD_TEST_POLLS} || 3;

# How often a worker that waits may wake up in a second, and which share of a
# processor it may use.  A loop that does not sleep wakes up thousands of
# times, or uses all of it.
my $most_wakes = 60;
my $most_use = 0.2;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $simulator = start_simulator(keys => ['sk-idle']);
my %server = (
	simulator => $simulator,
	api_key => 'sk-idle',
	options => "rate_limit '5000'");
my $node = anyvod_node(
	'idle', %server,
	conf => <<'END');
autovacuum = off
checkpoint_timeout = 1h
bgwriter_delay = 10s
anyvod.idle_timeout = 200ms
anyvod.detection_delay = 500ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

# How often a process has gone to sleep, and the seconds of processor time
# that it has used.
sub cost
{
	my ($pid) = @_;
	my ($switches) = slurp_file("/proc/$pid/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;
	# after the name in parentheses: state is field 3, utime and stime 14, 15
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;

	return ($switches, ($fields[11] + $fields[12]) / POSIX::sysconf(
			POSIX::_SC_CLK_TCK()));
}

# Something that has nothing to do with anyvod's processes and takes so many
# seconds: a task of the simulator's ends.
my $others = 0;
sub while_something_else
{
	my ($seconds) = @_;
	my $task = sprintf 'image-t%d-else-%d', 1000 * $seconds, ++$others;
	my $answer =
	  $simulator->{http}->get($simulator->url . "/tencent-vod/v1/query/$task",
		{ headers => { Authorization => 'Bearer sk-idle' } });

	$answer->{success} or BAIL_OUT("$task: $answer->{status}");
	my $end = $simulator->task($task)->{end_ms};
	wait_until(sub { 1000 * Time::HiRes::time() > $end }, 60 + $seconds)
	  or BAIL_OUT('time stands still');
	return;
}

# Ten databases that have the extension and nothing to do
anyvod_database($node, 'model', %server);
sql("CREATE DATABASE d$_ TEMPLATE model") foreach 1 .. 9;
ok( poll_until(
		$node,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type ="
		  . " 'anyvod worker'",
		0),
	'without work there is no worker');
$node->restart;
my $launcher;
ok(wait_until(sub { $launcher = launcher_pid($node) }), 'a launcher runs');
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-first')", 'd9');
ok( poll_until(
		$node, 'SELECT state FROM anyvod_tasks',
		'succeeded', undef, 'd9'),
	'it has visited the databases');
ok( poll_until(
		$node,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type ="
		  . " 'anyvod worker'",
		0),
	'the last worker has ended');
while_something_else(1);
my @before = cost($launcher);
while_something_else($idle_seconds);
my @after = cost($launcher);
is($after[0] - $before[0], 0,
	"in $idle_seconds s the launcher does not wake up once");
is($after[1] - $before[1], 0, 'nor use the processor');
is( sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type ="
		  . " 'anyvod worker'"),
	'0',
	'and there is no worker');

# Transaction ids: one for each batch that is written and one for what is notified
# of it, none for reading
my $next_xid = 'SELECT pg_snapshot_xmax(pg_current_snapshot())';
my $xid = sql($next_xid);
sql("INSERT INTO anyvod_tasks (task_id) SELECT 'image-quick-' || i"
	  . ' FROM generate_series(1, 1000) AS i');
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		1000),
	'a thousand tasks end');
my ($used, $batches) = split /\|/,
  sql("SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - $xid),"
	  . ' count(DISTINCT xmin::text) FROM anyvod_tasks');
measured('1000 tasks were written in %d batches with %d transaction ids',
	$batches, $used - 1);
cmp_ok($used - 1, '<=', 2 * $batches,
	'each batch takes one transaction id, its notifications another');

# ... of which autovacuum learns, while the worker still runs
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-t600000-lasting')");
my $worker;
ok(wait_until(sub { $worker = worker_pid($node) }), 'the worker stays');
ok( poll_until(
		$node,
		'SELECT n_tup_upd >= 1000 FROM pg_stat_user_tables'
		  . " WHERE relname = 'anyvod_tasks'"),
	'autovacuum sees what has been written');
is(worker_pid($node), $worker, 'before the worker ends');
sql('DELETE FROM anyvod_tasks');

# Many answers that change nothing
sql("INSERT INTO anyvod_tasks (task_id) SELECT 'image-t6000000-same-' || i"
	  . " FROM generate_series(1, $tasks) AS i");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE status = 'PROCESSING'",
		$tasks),
	"$tasks tasks run");

sub rounds_later
{
	my ($rounds) = @_;
	my $target = $simulator->stats->{requests} + $rounds * $tasks;

	return wait_until(sub { $simulator->stats->{requests} >= $target }, 300);
}

# Hint bits and pruning by the first reader are none of the worker's writes.
sql('VACUUM FREEZE');
sql('SELECT count(*) FROM anyvod_tasks');
sql('CHECKPOINT');
ok(rounds_later(1), 'all are asked for');
my $look = 'SELECT pg_current_wal_insert_lsn(), n_tup_upd, n_tup_hot_upd'
  . " FROM pg_stat_user_tables WHERE relname = 'anyvod_tasks'";
my $state = sql($look);
$xid = sql($next_xid);
$worker = worker_pid($node);
@before = cost($worker);
ok(rounds_later($polls), "and $polls times more");
@after = cost($worker);
is(sql($look), $state, 'WAL and n_tup_upd have not moved');
is(sql($next_xid), $xid, 'nor have transaction ids been used');
measured('%d unchanged answers took %.2f s of processor time',
	$polls * $tasks, $after[1] - $before[1]);

# Have no tasks any more.  The worker finds out when it would ask for them,
# which wakes it up.
sub forget
{
	sql('DELETE FROM anyvod_tasks');
	poll_until($node, 'SELECT coalesce(sum(pending), 0) FROM anyvod_stat_worker',
		0)
	  or BAIL_OUT('tasks are not forgotten');
	return;
}
forget();

# No busy loop: what the worker of a database costs while something is in its
# way.
sub sleeps_well
{
	my ($what) = @_;
	my $pid = worker_pid($node);

	# what led to it is over
	while_something_else(1);
	my @begin = cost($pid);
	while_something_else(3);
	my @end = cost($pid);
	my ($wakes, $use) =
	  (($end[0] - $begin[0]) / 3, ($end[1] - $begin[1]) / 3);

	is(worker_pid($node), $pid, "$what: the worker is still the same");
	measured('%s: %.0f wake-ups a second, %.1f %% of a processor',
		$what, $wakes, 100 * $use);
	cmp_ok($wakes, '<', $most_wakes, "$what: the worker does not wake up often");
	cmp_ok($use, '<', $most_use, "$what: nor use the processor");
	return;
}

sub track
{
	my ($words, $count) = @_;

	sql("INSERT INTO anyvod_tasks (task_id) SELECT '$words-' || i"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# A server that wants to be left alone
track('http429-ra60', 200);
ok(poll_until($node, "SELECT state = 'paused' FROM anyvod_stat_server"),
	'a server refuses questions');
sleeps_well('server paused');
forget();
sql("ALTER SERVER anyapi OPTIONS (ADD timeout '29s')");

# A table that is locked while answers have come and tasks are due
track('image-t6000000-locked', 200);
track('image-delay1000-locked', 200);
ok( wait_until(
		sub { $simulator->task_requests('image-delay1000-locked-200') > 0 }),
	'answers are on their way');
my $session = open_session($node);
$session->query_safe('BEGIN; LOCK TABLE anyvod_tasks');
sleeps_well('table locked');
$session->query_safe('ROLLBACK');
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'", 200),
	'when it is free the answers are written');
forget();

# Rows that fail, some of them so that they cannot even say so
sql(<<'END');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE 'refused';
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	EXECUTE FUNCTION refuse();
END
track('image-failing', 20);
ok(wait_until(sub { $simulator->task_requests('image-failing-20') > 0 }),
	'rows fail');
sleeps_well('rows failing');
sql('DROP TRIGGER refuse ON anyvod_tasks');
forget();

# Rows that somebody holds
track('image-t2000-held', 20);
$session->query_safe('BEGIN; SELECT count(*) FROM'
	  . ' (SELECT FROM anyvod_tasks FOR UPDATE) AS held');
ok( wait_until(
		sub {
			my $task = $simulator->task('image-t2000-held-1');

			return ($task->{requests} // 0) > 1
			  && $task->{last_ms} > $task->{end_ms};
		}),
	'rows are held');
sleeps_well('rows held');
$session->query_safe('ROLLBACK');
forget();

# A key that is refused
$simulator->set_keys('sk-another', 'sk-idle-else');
track('image-refused', 200);
ok( wait_until(sub { $simulator->stats->{unauthorized} > 0 }),
	'a key is refused');
$simulator->set_keys('sk-idle', 'sk-idle-2');
sleeps_well('key refused');
sql('DELETE FROM anyvod_tasks');

# A table that cannot be read any more
sql("ALTER USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (SET api_key 'sk-idle-2')");
track('image-t6000000-hidden', 100);
ok( wait_until(
		sub { $simulator->task_requests('image-t6000000-hidden-1') > 0 }),
	'tasks are asked for');
sql('ALTER TABLE anyvod_tasks RENAME COLUMN task_type TO kind');
sleeps_well('table altered');
sql('ALTER TABLE anyvod_tasks RENAME COLUMN kind TO task_type');
sql('SELECT anyvod_wake()');
my $asked = $simulator->task_requests('image-t6000000-hidden-1');
ok( wait_until(
		sub {
			$simulator->task_requests('image-t6000000-hidden-1') > $asked;
		}),
	'and again, when it can be read');

$session->quit;
done_testing();
