# libcurl is started in the processes that ask, never in the postmaster or the
# launcher, and leaves no thread in a process that is idle.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $build = build_shim();
my $log = "$build/log";
my $no_watch = "$build/no_watch";

my $simulator = start_simulator(keys => ['sk-guest']);
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_LOG} = $log;
	local $ENV{SHIM_NO_WATCH} = $no_watch;

	$node = anyvod_node(
		'guest',
		# a name, so that libcurl may start a thread to resolve it
		base_url => 'http://localhost:' . $simulator->port,
		api_key => 'sk-guest',
		conf => "anyvod.detection_delay = '100ms'");
}
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

# A process has one thread, its own.
sub threads
{
	my ($pid) = @_;
	my @threads = glob "/proc/$pid/task/*";

	return scalar @threads;
}

# How many descriptors a process has.
sub descriptors
{
	my ($pid) = @_;
	my @descriptors = glob "/proc/$pid/fd/*";

	return scalar @descriptors;
}

ok(shim_callers($log, 'loaded')->{$postmaster},
	'the postmaster has the shim in it');
is_deeply(shim_callers($log, 'curl_global_init'),
	{}, 'nobody has started libcurl before it is used');

my $idle = open_session($node);
my $session = open_session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe("SELECT anyvod_query('image-$_')") for 1 .. 3;
$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-t600000-' || i FROM generate_series(1, 20) AS i;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-ended');
END
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-ended'",
		'succeeded'),
	'the worker has asked');
my $worker = worker_pid($node);

is_deeply(
	shim_callers($log, 'curl_global_init'),
	{ $pid => 1, $worker => 1 },
	'a session and the worker have started libcurl, once each');
is_deeply(
	shim_callers($log, 'curl_multi_init'),
	{ $pid => 1, $worker => 1 },
	'and have made one loop each');
isnt($pid, $postmaster, 'neither is the postmaster');
isnt($worker, $postmaster, 'nor the other');

# A cancelled question leaves nothing behind either.
begin_query($session, "SELECT anyvod_query('delay25000')");
ok(wait_until(sub { $simulator->stats(tasks => 1)->{tasks}{delay25000} }),
	'a slow question is on its way');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
is((end_query($session))[0], '57014', 'it is cancelled');
ok(wait_until(sub { threads($pid) == 1 }),
	'no thread is left in a session that is idle');
ok(wait_until(sub { threads($worker) == 1 }), 'nor in the worker');
is(threads(launcher_pid($node)), 1, 'nor in the launcher');
$session->quit;

# Nor does one that could not be waited for.
my $asked = "DO \$\$ BEGIN PERFORM anyvod_query('image');"
  . ' EXCEPTION WHEN OTHERS THEN NULL; END $$';
my $idle_pid = $idle->query_safe('SELECT pg_backend_pid()');
append_to_file($no_watch, '');
$idle->query_safe($asked);
my $before = descriptors($idle_pid);
$idle->query_safe($asked) for 1 .. 20;
is(descriptors($idle_pid), $before,
	'no descriptor is left by questions that cannot be waited for');
unlink $no_watch;

sub ask_many
{
	my ($count) = @_;

	return $idle->query_safe('SELECT count(response) FROM'
		  . " anyvod_query_many(ARRAY(SELECT 'image-delay100-' || i"
		  . " FROM generate_series(1, $count) AS i))");
}

is(ask_many(2), 2, 'as soon as they can be they are asked');
append_to_file($no_watch, '');
is(ask_many(5), 2, 'if only some can, these are answered');
unlink $no_watch;
is(ask_many(5), 5, 'and again when all can be');
$idle->quit;

done_testing();
