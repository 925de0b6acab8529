# A NOTIFY queue that is full stops no settling: rows are settled without
# telling, the log says so once, and telling goes on when there is room.
#
#	ANYVOD_TEST_NOTIFY		fills the 8 GB of a server older than 17, too

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-told']);
my $node = anyvod_node(
	'queue',
	simulator => $simulator,
	api_key => 'sk-told',
	options => "rate_limit '5000'",
	conf => "autovacuum = off\nfsync = off");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# From 17 on the queue's size is a setting; the least is half a megabyte.
if (sql('SELECT count(*) FROM pg_settings WHERE name ='
		. " 'max_notify_queue_pages'") > 0)
{
	$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
	$node->restart;
}
elsif (!$ENV{ANYVOD_TEST_NOTIFY})
{
	plan skip_all => 'the NOTIFY queue of this version takes 8 GB to fill';
}

my $unheard = qr/LOG:  anyvod settles tasks without NOTIFY/;
sub complaints
{
	my $found = () = slurp_file($node->logfile) =~ /$unheard/g;

	return $found;
}

sub settled
{
	my ($name, $count) = @_;

	sql("INSERT INTO anyvod_tasks (task_id) SELECT 'image-$name-' || i"
		  . " FROM generate_series(1, $count) AS i");
	return poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND task_id LIKE 'image-$name-%'",
		$count);
}

# A session that listens and has a transaction open; each notification fills
# a page of the queue.
my $listener = open_session($node);
$listener->query_safe('LISTEN anyvod_tasks; LISTEN filling');
ok(settled('before', 10), 'rows are settled');
is(complaints(), 0, 'and told of');
$listener->query_safe('BEGIN');
$listener->query_safe('SELECT 1');
sql(<<'END');
CREATE PROCEDURE fill(enough float8) LANGUAGE plpgsql AS $$
DECLARE
	i integer := 0;
BEGIN
	WHILE pg_notification_queue_usage() < enough LOOP
		FOR j IN 1 .. CASE WHEN enough - pg_notification_queue_usage() > 0.01
				AND current_setting('server_version_num')::int < 170000
				THEN 1000 ELSE 1 END LOOP
			i := i + 1;
			PERFORM pg_notify('filling', lpad(i::text, 7900, '.'));
		END LOOP;
		COMMIT;
	END LOOP;
END $$;
END

# Nearly full: what a batch has to tell may be more than there is room for.
sql('CALL fill(0.89)');
ok(settled('nearly', 2000), 'with a queue that is nearly full rows are settled');
sql('CALL fill(0.95)');
measured('the queue is %d %% full',
	100 * sql('SELECT pg_notification_queue_usage()'));
ok(settled('full', 200), 'with a full queue rows are settled');
ok(settled('fuller', 200), 'and more of them');
is(complaints(), 1, 'the log says once that nobody is told');
like(
	slurp_file($node->logfile),
	qr/HINT:  A session that listens has had a transaction open/,
	'and why');
is(sql("SELECT count(*) FROM anyvod_tasks WHERE error_code IS NOT NULL"),
	'0', 'no row has an error');

# The listener goes on, and whoever notifies next makes room.
$listener->query_safe('COMMIT');
$listener->query('SELECT 1');
sql("NOTIFY filling, 'end'");
$listener->query('SELECT 1');
ok( poll_until(
		$node, 'SELECT pg_notification_queue_usage() < 0.5'),
	'when there is room again')
  or diag('still full');
ok(settled('after', 1), 'another row is settled');
my $told = '';
ok( wait_until(
		sub {
			$told .= $listener->query('SELECT 1');
			return $told =~ /"image-after-1", "state": "succeeded"/;
		}),
	'it is told of');
is(complaints(), 1, 'and the log says no more');
$listener->quit;

done_testing();
