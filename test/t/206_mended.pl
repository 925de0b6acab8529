# What kept tasks from being asked for or written, and has been mended, is
# noticed at once, wherever and however it was mended, and not before that has
# been committed.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

# Noticing takes much less than a second; without it a row waits for a minute,
# or for what is said where it is less.
my $at_once = 10;

my $simulator = start_simulator(keys => ['sk-mended']);
my %server = (
	simulator => $simulator,
	api_key => 'sk-mended',
	options => "rate_limit '5000'");
my $node = anyvod_node(
	'mended', %server,
	conf => <<'END');
max_prepared_transactions = 5
anyvod.detection_delay = 20s
END
anyvod_database($node, 'rows', %server);
anyvod_database($node, 'files', %server, api_key => undef);
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');

sub sql
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

# Track a task, as a role that may not be there.
sub track
{
	my ($task_id, $owner, $database) = @_;

	return sql(
		'INSERT INTO anyvod_tasks (task_id, owner) VALUES ('
		  . quote_literal($task_id) . ', '
		  . (defined $owner ? quote_literal($owner) : 'current_user') . ')',
		$database);
}

# Wait until a row is in a state, with an error code; returns how long it took,
# in seconds, undef if it did not come.
sub becomes
{
	my ($task_id, $what, $database) = @_;
	my $begin = clock_ms();
	my $came = poll_until(
		$node,
		"SELECT concat_ws(' ', state, error_code) FROM anyvod_tasks"
		  . ' WHERE task_id = '
		  . quote_literal($task_id),
		$what, undef, $database);

	return $came ? (clock_ms() - $begin) / 1000 : undef;
}

# A row is settled soon after what was just done.
sub settles_soon
{
	my ($task_id, $what, $database) = @_;
	my $took = becomes($task_id, 'succeeded', $database) // 1000;

	measured('%s: after %.2f s', $what, $took);
	cmp_ok($took, '<', $at_once, "$what: noticed at once");
	return;
}

# How often a process has gone to sleep.
sub sleeps
{
	my ($pid) = @_;
	my ($count) = slurp_file("/proc/$pid/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $count;
}

# Roles, in another database
sql('GRANT USAGE ON FOREIGN SERVER anyapi TO PUBLIC; CREATE ROLE other');
track('image-ghost', 'ghost');
track('image-wanted', 'wanted');
track('image-prepared', 'prepared');
ok(defined becomes("image-$_", 'pending 42704'), "role $_ is missed")
  foreach qw(ghost wanted prepared);
sql('CREATE ROLE ghost', 'elsewhere');
settles_soon('image-ghost', 'a role that is created elsewhere');

my $session = open_session($node, database => 'elsewhere');
my $pid = worker_pid($node);
my $before = sleeps($pid);
$session->query_safe(
	'BEGIN; SAVEPOINT s; ALTER ROLE other RENAME TO wanted; ROLLBACK')
  foreach 1 .. 20;
sql("BEGIN; CREATE ROLE prepared; PREPARE TRANSACTION 'p'", 'elsewhere');
is(sql("SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'"),
	2, 'what is rolled back or prepared changes nothing');
cmp_ok(sleeps($pid) - $before, '<=', 5, 'and wakes no worker');
$session->query_safe('BEGIN; ALTER ROLE other RENAME TO wanted; COMMIT');
settles_soon('image-wanted', 'a role that is renamed elsewhere');
sql("COMMIT PREPARED 'p'", 'elsewhere');
settles_soon('image-prepared', 'a role of a prepared transaction');
close_session($session);

# Rights
sql('REVOKE USAGE ON FOREIGN SERVER anyapi FROM PUBLIC;'
	  . ' CREATE ROLE users; GRANT USAGE ON FOREIGN SERVER anyapi TO users');
track('image-member', 'ghost');
track('image-granted', 'wanted');
ok(defined becomes("image-$_", 'pending 42501'), "$_ may not use the server")
  foreach qw(member granted);
sql('GRANT users TO ghost', 'elsewhere');
settles_soon('image-member', 'a membership that is granted elsewhere');
sql('GRANT USAGE ON FOREIGN SERVER anyapi TO wanted');
settles_soon('image-granted', 'a right that is granted');

# A server that is renamed to what a row names
sql('INSERT INTO anyvod_tasks (task_id, server)'
	  . " VALUES ('image-renamed', 'later')");
ok(defined becomes('image-renamed', 'pending 42704'), 'a server is missed');
sql('ALTER SERVER anyapi RENAME TO later');
settles_soon('image-renamed', 'a server that is renamed');
sql('ALTER SERVER later RENAME TO anyapi');

# What a worker's settings start from
track('image-t600000-long');
ok(wait_until(sub { $simulator->task_requests('image-t600000-long') > 0 }),
	'a task is asked for, every 40 s');
$pid = worker_pid($node);
sql('ALTER DATABASE postgres SET work_mem = 1024', 'elsewhere');
sql('ALTER DATABASE rows SET anyvod.detection_delay = 500', 'elsewhere');
sql('CREATE ROLE harmless', 'elsewhere');
is(worker_pid($node), $pid, 'what is set for others disturbs no worker');
sql("ALTER DATABASE postgres SET anyvod.detection_delay = '250ms'",
	'elsewhere');
my $so_far = $simulator->task_requests('image-t600000-long');
ok( wait_until(
		sub {
			$simulator->task_requests('image-t600000-long') > $so_far + 5;
		},
		$at_once),
	'a setting of the database is noticed at once');
sql('ALTER DATABASE postgres RESET ALL; ALTER DATABASE rows RESET ALL;'
	  . ' DELETE FROM anyvod_tasks', 'postgres');

# The table as a whole, and a row: both are tried again after a wait that
# doubles, which is let grow to more than what noticing may take.
sub failures
{
	my ($what) = @_;
	my @found = slurp_file($node->logfile) =~ /$what/g;

	return scalar @found;
}

sql(<<'END', 'rows');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE LOG 'refused a row';
	RAISE EXCEPTION 'refused';
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.state = 'succeeded') EXECUTE FUNCTION refuse();
END
track('image-refused', undef, 'rows');
sql('ALTER TABLE anyvod_tasks FORCE ROW LEVEL SECURITY');
track('image-forced');
ok( wait_until(sub { failures(qr/LOG:  refused a row/) >= 5 }),
	'a row that cannot be written is tried again, later each time');
sql('DROP TRIGGER refuse ON anyvod_tasks', 'rows');
settles_soon('image-refused', 'a trigger that is dropped', 'rows');
my %tries;
ok( wait_until(
		sub {
			# the log says so once only
			$tries{
				sql('SELECT last_error_at FROM anyvod_stat_worker'
					  . " WHERE datname = 'postgres'")
			} = 1;
			return keys %tries >= 2;
		}),
	'so is a table that cannot be read');
sql('ALTER TABLE anyvod_tasks NO FORCE ROW LEVEL SECURITY');
settles_soon('image-forced', 'a table that is mended');

# The file of a key
my $file = $node->basedir . '/key';
sql('CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key_file '
	  . quote_literal($file) . ')', 'files');
track('image-absent', undef, 'files');
ok(defined becomes('image-absent', 'pending 58P01', 'files'),
	'a key file is missed');
append_to_file($file, "sk-wrong\n");
chmod 0600, $file;
ok( wait_until(sub { $simulator->stats->{unauthorized} > 0 }, $at_once),
	'a file that comes is noticed at once');
ok( poll_until(
		$node, "SELECT paused_why FROM anyvod_stat_server",
		'auth', undef, 'files'),
	'its key is refused');
unlink $file;
append_to_file($file, "sk-mended\n");
settles_soon('image-absent', 'a file with another key', 'files');

# A file that is good is not looked at, and nothing is due meanwhile.
sql("ALTER SYSTEM SET anyvod.poll_floor = '30s'");
sql('SELECT pg_reload_conf()');
track('image-t600000-good', undef, 'files');
ok( wait_until(
		sub { $simulator->task_requests('image-t600000-good') > 0 }),
	'a task is asked for, every 30 s at most');
$pid = worker_pid($node, 'files');
my $begin = clock_ms();
wait_until(sub { clock_ms() - $begin > 1000 });
$before = sleeps($pid);
wait_until(sub { clock_ms() - $begin > 7000 });
cmp_ok(sleeps($pid) - $before, '<=', 3,
	'a worker that waits for no file does not wake up for one');

done_testing();
