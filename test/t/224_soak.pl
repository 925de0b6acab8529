# A worker that has asked for long has no more memory, and no more files open,
# than one that has asked for a while.
#
#	ANYVOD_TEST_SOAK		questions to ask (default 20,000)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $soak = $ENV{ANYVOD_TEST_SOAK} || 20_000;
my $tasks = 300;
my $simulator = start_simulator(keys => ['sk-soak']);
my $node = anyvod_node(
	'soak',
	simulator => $simulator,
	api_key => 'sk-soak',
	options => "rate_limit '100000'",
	conf => <<'END');
autovacuum = off
anyvod.detection_delay = 50ms
anyvod.poll_floor = 50ms
END

# Kilobytes of a process's own memory, and its open files.
sub state_of
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	my $files = () = glob "/proc/$pid/fd/*";

	return ($kb, $files);
}

# Most tasks run without news, some progress, some are in trouble of a kind
# that is no trouble of the server's, and some end and are asked for again.
$node->safe_psql('postgres', <<"END");
INSERT INTO anyvod_tasks (task_id)
	SELECT CASE i % 10 WHEN 0 THEN 'video-t6000000-progress-'
		WHEN 1 THEN 'image-eFailedOperation-' WHEN 2 THEN 'image-full-nul-t6000000-'
		ELSE 'image-t6000000-' END || i
	FROM generate_series(1, $tasks) AS i
END
sub asked
{
	my ($questions) = @_;

	return wait_until(
		sub {
			$node->safe_psql('postgres', <<'END');
UPDATE anyvod_tasks SET state = 'pending' WHERE state <> 'pending';
INSERT INTO anyvod_tasks (task_id) VALUES ('image-ends')
	ON CONFLICT (task_id) DO NOTHING;
END
			return $simulator->stats->{requests} >= $questions;
		},
		60 + $soak / 500);
}
ok(asked(0.2 * $soak), 'a fifth has been asked');
my $worker = worker_pid($node);
my ($memory, $files) = state_of($worker);
my $begin = clock_ms();
ok(asked($soak), "$soak questions have been asked");
is(worker_pid($node), $worker, 'by the same worker');
my ($memory_now, $files_now) = state_of($worker);
measured(
	'%d questions (%.0f a second): memory from %d to %d kB, files from %d to %d',
	$soak, 800 * $soak / (clock_ms() - $begin),
	$memory, $memory_now, $files, $files_now);

# A tenth of a megabyte is what a heap may shift.
cmp_ok($memory_now, '<=', 1.03 * $memory + 100, 'memory does not grow');
cmp_ok($files_now, '<=', $files + 2, 'nor do open files');

done_testing();
