# Workers that are switched off and on again while the launcher is busy, so
# that it learns of neither, come back; and while they are off none stays.  A
# database whose turn it is to be looked at, and which somebody wants for
# himself, keeps no other waiting.

use strict;
use warnings;

use AnyvodTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $simulator = start_simulator();
my $node = anyvod_node(
	'off_and_on',
	simulator => $simulator,
	conf => <<'END');
autovacuum = off
log_min_messages = debug1
anyvod.idle_timeout = 100ms
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub switch
{
	my ($value) = @_;

	sql("ALTER SYSTEM SET anyvod.worker = $value");
	sql('SELECT pg_reload_conf()');
	return;
}

# How often has a worker been started?
sub starts
{
	my @found = slurp_file($node->logfile) =~
	  /starting background worker process "anyvod worker for/g;

	return scalar @found;
}

# How often has a process gone to sleep?
sub sleeps
{
	my ($pid) = @_;
	my ($count) = slurp_file("/proc/$pid/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $count;
}

# Is a process in that state, S or T?
sub is_in_state
{
	my ($pid, $state) = @_;

	return wait_until(
		sub { slurp_file("/proc/$pid/status") =~ /^State:\s+$state/m });
}

# Stop a process, which takes effect when it would run next.
sub stop
{
	my ($pid) = @_;

	kill 'STOP', $pid;
	is_in_state($pid, 'T') or BAIL_OUT("process $pid does not stop");
	return;
}

my $launcher = launcher_pid($node);

sql("INSERT INTO anyvod_tasks (task_id) VALUES ('t600000-before')");
ok(defined wait_for_worker($node, 1), 'there is a worker');

# The launcher sees nothing of this.
stop($launcher);
switch('off');
my $ended = wait_for_worker($node, 0);
switch('on');
kill 'CONT', $launcher;
ok(defined $ended, 'it ends when workers are off');
ok(defined wait_for_worker($node, 1), 'and one comes back when they are on');

# Work that comes while the launcher does not look, and workers are off: it
# starts none.  (It is not stopped half way: it sleeps, once the worker serves.
# When it sleeps again it has been through all.)
ok(poll_until($node, 'SELECT state FROM anyvod_stat_worker', 'serving'),
	'the worker serves');
ok(is_in_state($launcher, 'S'), 'the launcher sleeps');
stop($launcher);
switch('off');
ok(defined wait_for_worker($node, 0), 'off again');
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-meanwhile')");
my $started = starts();
my $slept = sleeps($launcher);
kill 'CONT', $launcher;
ok(wait_until(sub { sleeps($launcher) > $slept }), 'the launcher looks');
ok( poll_until(
		$node, 'SELECT state FROM anyvod_stat_worker', 'off'),
	'the view says so');
is(starts(), $started, 'and no worker is started');
is($simulator->task_requests('image-meanwhile'),
	0, 'nothing is asked for while they are off');
switch('on');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-meanwhile'",
		'succeeded'),
	'what came meanwhile is filled in');

# A worker that is wanted just before workers are off is started after that,
# with nobody to tell it: it does not stay, nor ask.
sql('DELETE FROM anyvod_tasks');
ok(defined wait_for_worker($node, 0), 'nothing is to do');
my $session = open_session($node);
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
stop($postmaster);
$session->query_safe(
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-wanted')");
ok( wait_until(
		sub {
			my ($pending) =
			  slurp_file("/proc/$postmaster/status") =~ /^ShdPnd:\s+(\w+)/m;

			return hex($pending) & 1 << POSIX::SIGUSR1() - 1;
		}),
	'the launcher wants a worker');
$started = starts();
$session->query_safe('ALTER SYSTEM SET anyvod.worker = off');
kill 'HUP', $postmaster;
kill 'CONT', $postmaster;
ok(wait_until(sub { starts() > $started }), 'which is started');
ok(defined wait_for_worker($node, 0), 'and ends');
is($simulator->task_requests('image-wanted'), 0, 'without having asked');
close_session($session);
switch('on');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-wanted'",
		'succeeded'),
	'when they are on its row is filled in');

# At its start the launcher visits one database after the other.
foreach my $database ('held', 'behind')
{
	anyvod_database($node, $database, simulator => $simulator);
}
switch('off');
ok(defined wait_for_worker($node, 0), 'off again');
$node->safe_psql('behind',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-behind')");
$node->restart;
$node->safe_psql('held',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-held')");
$session = open_session($node);
$session->query_safe('BEGIN; ALTER DATABASE held RENAME TO had');
switch('on');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-behind'",
		'succeeded', undef, 'behind'),
	'a database that has to be left alone keeps no other from being visited');
is($simulator->task_requests('image-held'), 0, 'and is left alone');
$session->query_safe('COMMIT');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-held'",
		'succeeded', undef, 'had'),
	'until it is free');
close_session($session);

done_testing();
