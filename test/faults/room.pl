# A disk that is full and memory that is short cost time, and no task.
#
# The disks are small file systems of memory, in a mount namespace of the
# server's own; that takes root, or is left out.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Fault;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $simulator = start_simulator();
my $conf = <<'END';
autovacuum = off
anyvod.detection_delay = 300ms
anyvod.poll_floor = 100ms
anyvod.idle_timeout = 1h
END
my $node = anyvod_node(
	'room',
	simulator => $simulator,
	options => "rate_limit '1000'",
	allows_streaming => 1,
	conf => $conf);
log_settling($node);
my ($postmaster) =
  slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# How often the log has said something, from a certain place on.
sub said
{
	my ($pattern, $from) = @_;
	my $found = () = slurp_file($node->logfile, $from // 0) =~ /$pattern/g;

	return $found;
}

# Out of memory in whoever reads an answer: processes may have a little more
# than what they have at first.  A large answer does not fit; others do.
sub limit_memory
{
	my ($pid, $limit) = @_;

	system_or_bail('prlimit', '--pid', $pid, "--as=$limit:");
	return;
}

sub virtual_memory
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;

	return $kb * 1024;
}

# With 12 MB more an answer cannot be received.  With 20 it can, but one that
# must be mended to be read is copied, and there is no room for that.
my $usual;
foreach my $case ([ 23, '-surrogate' ], [ 20, '-surrogate' ], [ 12, '' ])
{
	my ($spare, $words) = @$case;
	my $fault = AnyvodTest::Fault->new($node, 'out of memory in the worker');
	my $from = -s $node->logfile;
	my $huge = "image$words-huge14000000-spare$spare";
	my $large = "task_id LIKE '$huge%' AND state = 'succeeded'";

	$fault->track(20);
	ok(wait_until(sub { $fault->asked > 0 }), 'tasks run');
	my $worker = worker_pid($node);
	$usual //= virtual_memory($worker);
	my $limit = $usual + $spare * 1024 * 1024;
	# those who come after the worker have no more
	limit_memory($_, $limit) foreach $worker, $postmaster;
	sql("INSERT INTO anyvod_tasks (task_id) SELECT '$huge-' || i"
		  . ' FROM generate_series(1, 4) AS i');
	$fault->track(40);
	ok( poll_until(
			$node,
			"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending' AND "
			  . $fault->ours,
			0),
		"$spare MB: tasks are settled");
	my $read = sql("SELECT count(*) FROM anyvod_tasks WHERE $large");
	measured('%d MB: %d of 4 large answers were read meanwhile', $spare,
		$read);
	is(worker_pid($node), $worker, "$spare MB: the worker lives");
	limit_memory($_, 'unlimited') foreach $worker, $postmaster;
	$fault->count(4 - $read);
	$fault->heal;
	ok( poll_until(
			$node, "SELECT count(*) FROM anyvod_tasks WHERE $large", 4),
		"$spare MB: large answers are read when there is room");
	$fault->settle;
	# a fresh one, without the room that it has got
	sql("SELECT pg_terminate_backend($worker)");
}

# A disk without room: a file takes what there is.
sub fill
{
	my ($disk) = @_;

	open my $file, '>>', "$disk/filler" or die "could not create it: $!";
	for my $size (65536, 512)
	{
		1 while syswrite $file, 'x' x $size;
	}
	close $file;
	return;
}

sub make_room
{
	my ($disk) = @_;

	unlink "$disk/filler" or die "could not remove it: $!";
	return;
}

sub table_disk_full
{
	my ($disk) = @_;
	my $fault = AnyvodTest::Fault->new($node, 'disk of the table full');
	my $from = -s $node->logfile;

	mkdir "$disk/space" or die "could not create it: $!";
	sql("CREATE TABLESPACE small LOCATION '$disk/space'");
	sql('VACUUM FULL anyvod_tasks');
	sql('ALTER TABLE anyvod_tasks SET TABLESPACE small');
	$fault->track(300);
	ok(wait_until(sub { $fault->asked > 0 }), 'tasks run');
	fill($disk);
	1 while $fault->track(20, may_fail => 1);
	like($fault->{error}, qr/No space left/, 'there is no room for more rows');
	Time::HiRes::sleep(12);
	my $failures = sql("SELECT count(*) FROM anyvod_tasks WHERE state ="
		  . " 'pending' AND " . $fault->ours);
	$fault->count($failures);
	measured('%d rows wait for room; the log has %d lines',
		$failures, said(qr/LOG: +anyvod/, $from));
	my $worker = worker_pid($node);
	make_room($disk);
	$fault->heal;
	$fault->settle;
	is(worker_pid($node), $worker, 'the worker lives');
	cmp_ok(said(qr/LOG: +anyvod/, $from), '<', 20, 'the log is not flooded');
	sql('ALTER TABLE anyvod_tasks SET TABLESPACE pg_default');
	return;
}

sub wal_disk_full
{
	my ($disk) = @_;
	my $other = PostgreSQL::Test::Cluster->new('wal');

	$other->init(
		extra => [
			'--no-locale', '--encoding=UTF8', '--wal-segsize=1',
			"--waldir=$disk/wal" ]);
	$other->append_conf('postgresql.conf', <<"END");
$conf
shared_preload_libraries = 'anyvod'
max_wal_size = 1GB
wal_recycle = off
restart_after_crash = on
END
	$other->start;
	anyvod_database(
		$other, 'postgres',
		simulator => $simulator,
		options => "rate_limit '1000'");
	log_settling($other);

	my $fault = AnyvodTest::Fault->new($other, 'disk of the WAL full');
	$fault->track(300);
	ok(wait_until(sub { $fault->asked > 0 }), 'tasks run');
	ok( wait_until(
			sub {
				fill($disk);
				$fault->track(20, may_fail => 1);
				return slurp_file($other->logfile) =~ /No space left on device/;
			}),
		'there is no room for WAL');
	Time::HiRes::sleep(3);
	my $met = () = slurp_file($other->logfile) =~ /No space left on device/g;
	$fault->count($met);
	make_room($disk);

	# A server that could not even recover has ended.
	if ($other->psql('postgres', 'SELECT 1') != 0)
	{
		$other->{_pid} = undef if !-e $other->data_dir . '/postmaster.pid';
		$other->start(fail_ok => 1);
	}
	$fault->heal;
	$fault->settle;
	$other->stop;
	return;
}

SKIP:
{
	my $disks = $ENV{ANYVOD_DISKS}
	  or skip 'small disks take root', 1;

	table_disk_full("$disks/table");
	wal_disk_full("$disks/wal");
}

done_testing();
