# A worker or launcher that is ended while it starts, whenever in its first
# milliseconds, ends cleanly, comes back, and takes nothing else with it.
#
#	ANYVOD_TEST_SIGTERMS	how many workers to end (default 50)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $count = $ENV{ANYVOD_TEST_SIGTERMS} || 50;
my $launchers = 5;
my @databases = map { "d$_" } 1 .. 5;

# A task runs for longer than a worker is let live at first.  Without any a
# worker ends at once, and the next start is a first one again, for which nobody
# waits.
my $simulator = start_simulator(keys => ['sk-early']);
my %server = (
	simulator => $simulator,
	api_key => 'sk-early',
	options => "rate_limit '5000'");
my $node = anyvod_node(
	'early', %server,
	extension => 0,
	conf => <<'END');
autovacuum = off
restart_after_crash = on
anyvod.idle_timeout = 0
anyvod.detection_delay = 50ms
anyvod.poll_floor = 50ms
END
my $postmaster = $node->safe_psql('postgres',
	"SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)");
my $children = "/proc/$postmaster/task/$postmaster/children";

plan skip_all => 'needs the children files of /proc' if !-e $children;

# Repeatable, so that a failure can be looked into.
my $seed = $ENV{ANYVOD_TEST_SEED} || 20261122;
srand $seed;
note "seed $seed";

anyvod_database($node, $_, %server) foreach @databases;
my %session = map { $_ => open_session($node, database => $_) } @databases;
my $watcher = open_session($node);

# The postmaster's children of this moment.  This file is read at once and
# whole, unlike pg_stat_activity, which knows a process only after a while.
sub children_of_postmaster
{
	open my $file, '<', $children or die "could not open $children: $!\n";
	my $line = <$file> // '';
	close $file;
	return split ' ', $line;
}

# End the children that come from now on, after up to 20 ms each, until so many
# have come.  No session begins meanwhile, so that they are ours.  Returns how
# many were still there by then: some have done their work.
sub end_new_children
{
	my ($wanted, %known) = @_;
	my %ending;
	my $seen = 0;
	my $ended = 0;

	wait_until(
		sub {
			my $deadline = clock_ms() + 50;

			while (clock_ms() < $deadline)
			{
				foreach my $pid (grep { !$known{$_}++ } children_of_postmaster())
				{
					$ending{$pid} = clock_ms() + rand(20);
				}
				foreach my $pid (keys %ending)
				{
					next if clock_ms() < $ending{$pid};
					delete $ending{$pid};
					$ended += kill 'TERM', $pid;
					$seen++;
				}
				return 1 if $seen >= $wanted && $ended > 0;
			}
			return 0;
		},
		20);
	return $ended;
}

my $ended = 0;
for my $round (1 .. $count / @databases)
{
	my %known = map { $_ => 1 } children_of_postmaster();

	# They commit a little later, when we look.
	begin_query($session{$_},
		"SELECT pg_sleep(0.1) \\; INSERT INTO anyvod_tasks (task_id)"
		  . " VALUES ('image-t200-$round-$_')")
	  foreach @databases;
	$ended += end_new_children(scalar @databases, %known);
	end_query($session{$_}) foreach @databases;

	# All tasks are settled, and all workers gone, before the next round.
	foreach my $database (@databases)
	{
		wait_until(
			sub {
				$session{$database}->query_safe(
					"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
				) == $round;
			}) or BAIL_OUT("round $round: a task of $database is stuck");
	}
	wait_until(
		sub {
			$watcher->query_safe("SELECT count(*) FROM pg_stat_activity"
				  . " WHERE backend_type = 'anyvod worker'") == 0;
		}) or BAIL_OUT("round $round: a worker stays");
}
my $early = () = slurp_file($node->logfile) =~
  /FATAL:  terminating background worker "anyvod worker/g;
measured('%d workers were sent SIGTERM, %d ended by it', $ended, $early);
cmp_ok($early, '>=', $count / 2,
	'many workers were ended before their work was done');

# The launcher comes back after a second each time.
for my $round (1 .. $launchers)
{
	my $launcher;

	# it is still to be seen, should it be the one that was ended just now
	wait_until(
		sub {
			$launcher = $watcher->query_safe("SELECT pid FROM pg_stat_activity"
				  . " WHERE backend_type = 'anyvod launcher'");
			return $launcher ne '';
		}) or BAIL_OUT("round $round: no launcher comes back");
	my %known = map { $_ => 1 } children_of_postmaster();

	kill 'TERM', $launcher;
	cmp_ok(end_new_children(1, %known),
		'>=', 1, "launcher $round is ended as it starts");
}
$session{d1}
  ->query_safe("INSERT INTO anyvod_tasks (task_id) VALUES ('image-last')");
ok( wait_until(
		sub {
			$session{d1}->query_safe("SELECT state FROM anyvod_tasks"
				  . " WHERE task_id = 'image-last'") eq 'succeeded';
		}),
	'the launcher still starts workers');
is($watcher->query_safe('SELECT 1'),
	'1', 'no session was ended');
unlike(
	slurp_file($node->logfile),
	qr/was terminated by signal|PANIC|TRAP|exited with exit code [2-9]|reinitializing/,
	'and nothing has crashed');
close_session($_) foreach values %session, $watcher;

done_testing();
