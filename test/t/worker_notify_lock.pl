# A NOTIFY of any session that waits for a synchronous standby holds a lock that
# every other NOTIFY of the cluster wants: rows are settled all the same.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 20;
my $simulator = start_simulator(keys => ['sk-notify']);
my $node = anyvod_node(
	'notify',
	simulator => $simulator,
	api_key => 'sk-notify',
	conf => "wal_level = replica\nmax_wal_senders = 2\nanyvod.idle_timeout = 1h");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Insert rows without waiting for the standby; seconds until they are settled
sub settle
{
	my ($name) = @_;
	my $begin = clock_ms();

	sql(<<"SQL");
SET synchronous_commit = local;
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-$name-' || i FROM generate_series(1, $rows) AS i;
SQL
	ok( poll_until(
			$node,
			"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'image-$name-%'"
			  . " AND state = 'succeeded'",
			$rows,
			60),
		"$name: all are settled");
	return (clock_ms() - $begin) / 1000;
}

settle('before');
sql('CREATE DATABASE elsewhere');
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
my $session = open_session($node, database => 'elsewhere');
my $is_held = 'SELECT count(*) > 0 FROM pg_locks WHERE locktype ='
  . " 'object' AND database = 0 AND mode = 'AccessExclusiveLock' AND granted";
my $held = 0;
# the checkpointer tells sessions of the setting, a little later
foreach my $try (1 .. 20)
{
	begin_query($session,
		"BEGIN; CREATE TABLE t$try (); NOTIFY something; COMMIT");
	$held = poll_until($node, $is_held, 't', 2);
	last if $held;
	end_query($session);
}
ok($held, 'a session holds the lock of NOTIFY and waits for a standby');

my $took = settle('beside');
measured('%d rows were settled in %.2f s', $rows, $took);
cmp_ok($took, '<', 20, 'they did not wait for it');
is( sql('SELECT count(*) FROM anyvod_tasks WHERE error_code IS NOT NULL'),
	0, 'none is marked with an error');
unlike(slurp_file($node->logfile), qr/could not write/,
	'nor does the log name one');

# Notifications go on when the lock is free.
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
end_query($session);
my $listener = open_session($node);
$listener->query_safe('LISTEN anyvod_tasks');
my $heard = 0;
my $n = 0;
ok( wait_until(
		sub {
			$n++;
			sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-after-$n')");
			poll_until(
				$node,
				"SELECT state FROM anyvod_tasks WHERE task_id = 'image-after-$n'",
				'succeeded');
			$heard ||= $listener->query('SELECT 1') =~ /"image-after-\d+"/;
			return $heard;
		},
		60),
	'and rows are announced again');

done_testing();
