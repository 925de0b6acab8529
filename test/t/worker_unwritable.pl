# Rows that cannot be written, because a trigger refuses them or a session holds
# them, cost one request each and few log lines, hold up no other row of their
# role, and are written when nothing is in the way any more.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 500;
my $simulator = start_simulator(keys => ['sk-refused']);
my $node = anyvod_node(
	'unwritable',
	simulator => $simulator,
	api_key => 'sk-refused',
	options => "rate_limit '1000'",
	conf => "fsync = off\nanyvod.idle_timeout = 1h");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub requests
{
	my ($pattern) = @_;
	my $tasks = $simulator->stats(tasks => 1)->{tasks};
	my $count = 0;

	$count += $tasks->{$_} foreach grep { /$pattern/ } keys %$tasks;
	return $count;
}

sub log_lines
{
	my $lines = () =
	  slurp_file($node->logfile) =~ /LOG:  anyvod (?:could not|logs)/g;

	return $lines;
}

# A row's time to be filled, in seconds
sub fill
{
	my ($id) = @_;
	my $begin = clock_ms();

	sql("INSERT INTO anyvod_tasks (task_id) VALUES ('$id')");
	ok( poll_until(
			$node, "SELECT state FROM anyvod_tasks WHERE task_id = '$id'",
			'succeeded'),
		"row $id is filled");
	my $took = (clock_ms() - $begin) / 1000;
	measured('%s after %.2f s', $id, $took);
	return $took;
}

sub settled
{
	my ($name) = @_;

	return poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'image-$name-%'"
		  . " AND state = 'succeeded' AND response IS NOT NULL",
		$rows);
}

fill('image-first');

# A trigger that refuses them
sql(<<"SQL");
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	RAISE 'no' USING ERRCODE = '23514';
END \$\$;
CREATE TRIGGER refuse BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id LIKE 'image-bad-%' AND NEW.state <> 'pending')
	EXECUTE FUNCTION refuse();
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-bad-' || i FROM generate_series(1, $rows) AS i;
SQL
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'image-bad-%'"
		  . " AND error_code = '23514' AND error_message = 'no'",
		$rows),
	'refused rows say so');
cmp_ok(fill("image-good-$_"), '<', 5, 'it was not held up') foreach 1 .. 3;
is(requests('^image-bad-'), $rows, 'each refused row cost one request');
cmp_ok(log_lines(), '<=', 20, 'and they have few lines in the log');
sql('DROP TRIGGER refuse ON anyvod_tasks');
ok(settled('bad'), 'they are written when nothing refuses them');
is(requests('^image-bad-'), $rows, 'without another request');

# A session that holds them
sql(<<"SQL");
ALTER SYSTEM SET anyvod.worker = off;
SELECT pg_reload_conf();
SQL
ok(poll_until($node, 'SELECT count(*) FROM pg_stat_activity WHERE'
		  . " backend_type = 'anyvod worker'", 0), 'workers are off');
sql(<<"SQL");
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-held-' || i FROM generate_series(1, $rows) AS i;
SQL
my $session = open_session($node);
$session->query_safe('BEGIN');
$session->query_safe(
	"SELECT count(*) FROM (SELECT FROM anyvod_tasks WHERE task_id LIKE 'image-held-%' FOR UPDATE) t"
);
sql(<<"SQL");
ALTER SYSTEM SET anyvod.worker = on;
SELECT pg_reload_conf();
SQL
ok(wait_until(sub { requests('^image-held-') >= $rows }),
	'rows that a session holds are polled');
cmp_ok(fill('image-beside'), '<', 5, 'it was not held up');
is(requests('^image-held-'), $rows, 'each held row cost one request');
cmp_ok(log_lines(), '<=', 20, 'and few lines in the log');
$session->query_safe('COMMIT');
ok(settled('held'), 'they are written when nobody holds them');
is(requests('^image-held-'), $rows, 'without another request');

done_testing();
