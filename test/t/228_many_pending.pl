# A worker that starts with very many pending rows soon asks for the first of
# them, and needs little memory for each.
#
#	ANYVOD_TEST_PENDING		pending rows (default 50,000)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $pending = $ENV{ANYVOD_TEST_PENDING} || 50_000;
# A role may have half of what a worker has in memory at most.
my $known = $pending < 65_000 ? $pending : 65_000;
my $simulator = start_simulator(keys => ['sk-pending']);
my $node = anyvod_node(
	'pending',
	simulator => $simulator,
	api_key => 'sk-pending',
	options => "rate_limit '1000'",
	conf => "autovacuum = off\nfsync = off\nmax_wal_size = 8GB\n"
	  . "anyvod.worker = off\nanyvod.poll_floor = 60s\nanyvod.poll_cap = 1h\n");

# Bytes of a process's own memory.
sub memory
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;

	return 1024 * $kb;
}

# Ids as long as real ones
$node->safe_psql('postgres', <<"END");
INSERT INTO anyvod_tasks (task_id)
	SELECT format('1500000001-AigcImageTask-%st-t6000000', lpad(to_hex(i), 32, '0'))
	FROM generate_series(1, $pending) AS i;
END

# A worker that has all of its code in memory and no more than one row
anyvod_database(
	$node, 'model',
	simulator => $simulator,
	api_key => 'sk-pending');
$node->append_conf('postgresql.conf', 'anyvod.worker = on');
my $begin = clock_ms();
$node->reload;
ok(wait_until(sub { $simulator->stats->{requests} > 0 }, 60 + $pending / 10_000),
	'the first is asked for');
my $first = (clock_ms() - $begin) / 1000;
ok( poll_until(
		$node,
		"SELECT pending >= $known FROM anyvod_stat_worker WHERE datname ="
		  . " 'postgres'",
		't', 60 + $pending / 1000),
	'all of them are known, or as many as may be');
my $all = (clock_ms() - $begin) / 1000;
my $worker = worker_pid($node);
$node->safe_psql('model',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-t6000000')");
ok( poll_until(
		$node, 'SELECT status FROM anyvod_tasks',
		'PROCESSING', undef, 'model'),
	'another worker has a single task');
my $bytes =
  (memory($worker) - memory(worker_pid($node, 'model'))) / $known;
measured(
	'%d pending: first asked after %.1f s, all known after %.1f s, %.0f bytes each',
	$pending, $first, $all, $bytes);
cmp_ok(memory($worker), '<', 64 * 1024 * 1024, 'a worker takes 64 MB at most');
cmp_ok($bytes, '<', 500, 'a pending row takes little memory');
cmp_ok($first, '<', 10 + $pending / 20_000, 'and the first need not wait long');

done_testing();
