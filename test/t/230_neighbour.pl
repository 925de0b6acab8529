# Nobody waits for the worker longer than a second, however many questions are
# on their way.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

# A process gives a third of its descriptors to questions, and so many are
# wanted for a thousand; the test and what it starts may have as many as the
# system lets it.
my $wanted = 3200;
system "prlimit --pid $$ --nofile=$wanted: 2>/dev/null";
my ($limit_now) = `sh -c 'ulimit -n'` =~ /^(\d+)$/;
my $descriptors =
  defined $limit_now && $limit_now < $wanted ? $limit_now : $wanted;

# Questions on their way, none of which is answered while a command runs.
my $count = $descriptors >= $wanted ? 1000 : $descriptors >= 2000 ? 500 : 200;

# A command may take so long, in milliseconds: three times what is promised,
# for a busy machine.
my $limit = 3000;

my $simulator = start_simulator(keys => ['sk-neighbour']);
my $node = anyvod_node(
	'neighbour',
	extension => 0,
	allows_streaming => 1,
	conf => "max_files_per_process = $descriptors");
my $tablespace = $node->basedir . '/space';

mkdir $tablespace or die "could not make $tablespace: $!\n";
$node->safe_psql('postgres',
	'CREATE TABLESPACE space LOCATION ' . quote_literal($tablespace));
anyvod_database(
	$node, 'busy',
	simulator => $simulator,
	api_key => 'sk-neighbour',
	options => "rate_limit '100000', max_concurrency '$count'");

sub track
{
	my ($name, $database) = @_;

	$node->safe_psql($database // 'busy',
		'INSERT INTO anyvod_tasks (task_id)'
		  . " SELECT 'image-delay60000-$name-' || i"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# All questions are on their way.
sub under_way
{
	my ($what) = @_;

	return wait_until(
		sub { return $simulator->stats->{in_flight} == $count; })
	  || BAIL_OUT("$what: not all questions are on their way");
}

# One command, in a session of database postgres or another.  All questions
# are on their way before it.
sub command_is_quick
{
	my ($command, $database) = @_;
	my $session = open_session($node, database => $database // 'postgres');

	under_way($command);
	my ($state, undef, $error, $time) = run_query($session, $command);

	measured('%s: %.0f ms', $command, $time);
	is($state, '00000', "$command goes on") or diag($error);
	cmp_ok($time, '<', $limit, "$command does not wait");
	close_session($session);
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE other');
track('first');
command_is_quick('DROP DATABASE other');
command_is_quick('VACUUM FULL anyvod_tasks', 'busy');
command_is_quick('REINDEX TABLE anyvod_tasks', 'busy');
command_is_quick(
	'BEGIN; LOCK TABLE anyvod_tasks IN ACCESS EXCLUSIVE MODE; COMMIT', 'busy');
command_is_quick('ALTER DATABASE busy RENAME TO idle');
command_is_quick('ALTER DATABASE idle RENAME TO busy');
command_is_quick('ALTER DATABASE busy SET TABLESPACE space');
command_is_quick('ALTER DATABASE busy ALLOW_CONNECTIONS true');
command_is_quick('TRUNCATE anyvod_tasks', 'busy');

# A reload is heeded while questions are on their way.
ok( wait_until(
		sub {
			$simulator->stats->{in_flight} == 0
			  || $node->safe_psql('busy', 'SELECT count(*) FROM anyvod_tasks')
			  == 0;
		}),
	'nothing is left to ask');
my $worker = worker_pid($node, 'busy');
is( $node->safe_psql('postgres', "SELECT pg_terminate_backend($worker, 3000)"),
	't',
	'the questions of deleted rows are given up with their worker');
ok(wait_until(sub { $simulator->stats->{in_flight} == 0 }),
	'no question is on its way');
track('second');
under_way('reload');
my $begin = clock_ms();
$node->append_conf('postgresql.conf', 'anyvod.worker = off');
$node->reload;
ok(defined wait_for_worker($node, 0, database => 'busy'),
	'a reload reaches the worker');
measured('anyvod.worker = off: %.0f ms', clock_ms() - $begin);
cmp_ok(clock_ms() - $begin, '<', $limit, 'and it does not wait');
$node->append_conf('postgresql.conf', 'anyvod.worker = on');
$node->reload;

# A copy, while the original has no worker: its rows have one afterwards.
command_is_quick('CREATE DATABASE copy TEMPLATE busy');
ok(wait_until(sub { worker_pid($node, 'copy') ne '' }),
	'the copy has a worker');
ok(wait_until(sub { worker_pid($node, 'busy') ne '' }),
	'and the original again');
ok( wait_until(
		sub { return $simulator->stats->{in_flight} == 2 * $count; }),
	'both ask');
my $session = open_session($node);
my ($state, undef, $error, $time) = run_query($session, 'DROP DATABASE copy');
measured('DROP DATABASE of the database itself: %.0f ms', $time);
is($state, '00000', 'DROP DATABASE goes on') or diag($error);
cmp_ok($time, '<', $limit, 'DROP DATABASE does not wait');
close_session($session);
command_is_quick('DROP EXTENSION anyvod CASCADE', 'busy');
$begin = clock_ms();
ok(defined wait_for_worker($node, 0, database => 'busy'),
	'its worker ends');
cmp_ok(clock_ms() - $begin, '<', $limit,
	'at once, although its questions are on their way');

# The worker is at no time idle in a transaction, and shows no snapshot while
# it waits: looked at a thousand times while tasks are asked for.
anyvod_database(
	$node, 'looked_at',
	simulator => $simulator,
	api_key => 'sk-neighbour',
	options => "rate_limit '5000'");
$node->safe_psql('looked_at', <<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT format('image-t%s-looked-%s', i * 10, i)
	FROM generate_series(1, 300) AS i;
END
is( $node->safe_psql('postgres', <<'END'), '0|t',
CREATE TABLE seen (state text, bad boolean);
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		PERFORM pg_stat_clear_snapshot();
		INSERT INTO seen
			SELECT state, state <> 'active' AND xact_start IS NOT NULL
				OR state LIKE 'idle in%' OR wait_event_type = 'Client'
			FROM pg_stat_activity
			WHERE backend_type = 'anyvod worker' AND datname = 'looked_at';
		PERFORM pg_sleep(0.003);
	END LOOP;
END $$;
SELECT count(*) FILTER (WHERE bad), count(*) > 900 FROM seen;
END
	'it is never idle in a transaction');

# A standby that must confirm and is dead: others wait for it, not the worker,
# nor its end.
anyvod_database(
	$node, 'alone',
	simulator => $simulator,
	api_key => 'sk-neighbour',
	options => "rate_limit '100000', max_concurrency '$count'");
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
$node->safe_psql('alone',
	'SET synchronous_commit = local;'
	  . " INSERT INTO anyvod_tasks (task_id) VALUES ('image-alone')");
ok( poll_until(
		$node, 'SELECT state FROM anyvod_tasks',
		'succeeded', undef, 'alone'),
	'with a dead synchronous standby rows are filled in');
$node->safe_psql('alone',
	'SET synchronous_commit = local;'
	  . " INSERT INTO anyvod_tasks (task_id) SELECT 'image-delay60000-' || i"
	  . " FROM generate_series(1, $count) AS i");
under_way('stop');
$begin = clock_ms();
$node->stop('fast');
my $took = clock_ms() - $begin;
measured('fast stop: %.0f ms', $took);
cmp_ok($took, '<', $limit + 2000,
	'a fast stop waits for no question, nor the standby');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/,
	'nothing has crashed');

done_testing();
