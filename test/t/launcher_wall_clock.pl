# A clock that is set back keeps no database from being served.

use strict;
use warnings;

use AnyvodTest;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs LD_PRELOAD of Linux' if $^O ne 'linux';

my $build = PostgreSQL::Test::Utils::tempdir_short();
my $file = "$build/offset";

sub set_clock
{
	my ($seconds) = @_;

	open my $handle, '>', "$file.new" or die "$file.new: $!\n";
	print {$handle} $seconds;
	close $handle or die "$file.new: $!\n";
	rename "$file.new", $file or die "$file: $!\n";
	return;
}

system_or_bail('make', '-s', '-C', "$FindBin::RealBin/../clock",
	"BUILD=$build", "$build/wall.so");
set_clock(28800);

my $simulator = start_simulator();
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/wall.so";
	local $ENV{WALL_CLOCK_FILE} = $file;

	$node = anyvod_node('wall_clock', simulator => $simulator);
}
cmp_ok($node->safe_psql('postgres', 'SELECT extract(epoch FROM now())'),
	'>', time + 20000, 'the server has another time of day');
$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-stays')");

# It is ended again and again, so that the next one has to wait for a while.
my $worker = '';
foreach my $n (1 .. 5)
{
	$worker = wait_for_worker($node, 1, other_than => $worker) // '';
	$node->safe_psql('postgres',
		"SELECT pg_terminate_backend($worker, 10000)")
	  if $worker ne '';
}
set_clock(0);
cmp_ok($node->safe_psql('postgres', 'SELECT extract(epoch FROM now())'),
	'<', time + 20000, 'its clock is set back by eight hours');
ok( wait_until(
		sub {
			my $pid = worker_pid($node);

			return $pid ne '' && $pid ne $worker;
		},
		60),
	'there is a worker nevertheless');

done_testing();
