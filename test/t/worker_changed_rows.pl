# A row that has to wait is read again when its turn comes, and is not polled if
# it was deleted, settled or given to another server meanwhile.  What is known of
# a row when it comes is not forgotten.

use strict;
use warnings;

use AnyvodStatements;
use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-found']);
my $node = counting_node(
	'found',
	simulator => $simulator,
	api_key => 'sk-found',
	options => "max_concurrency '1', rate_limit '5000'",
	conf => <<'CONF');
anyvod.idle_timeout = 1h
CONF

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sql(<<"SQL");
CREATE SERVER other FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}');
CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (api_key 'sk-wrong');
SQL

sub insert
{
	my (@ids) = @_;

	sql('INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ', map { "('$_')" } @ids));
	return;
}

sub is_settled
{
	my ($id) = @_;

	return poll_until($node,
		"SELECT state FROM anyvod_tasks WHERE task_id = '$id'", 'succeeded');
}

# What has to wait for nothing.  The first row starts the worker, which reads
# what it finds before it is ready to ask.
insert('image-first');
ok(is_settled('image-first'), 'a worker runs');
my $before = rows_read($node);
foreach my $i (1 .. 10)
{
	insert("image-new-$i");
	ok(is_settled("image-new-$i"), "row $i is filled in");
}
is(rows_read($node) - $before, 10, 'each was read once');

# Behind a question that takes its time there is no room for another
insert('image-t60000-delay2000', map { "image-t60000-z$_" } 1 .. 4);
ok( wait_until(
		sub { $simulator->task_requests('image-t60000-delay2000') > 0 }),
	'the first of five rows is asked for');
sql(<<'SQL');
DELETE FROM anyvod_tasks WHERE task_id = 'image-t60000-z1';
UPDATE anyvod_tasks SET state = 'abandoned' WHERE task_id = 'image-t60000-z2';
UPDATE anyvod_tasks SET server = 'other' WHERE task_id = 'image-t60000-z3';
SQL
is( join(' ',
		map { $simulator->task_requests("image-t60000-z$_") } 1 .. 4),
	'0 0 0 0', 'none of the others was');
ok(wait_until(sub { $simulator->task_requests('image-t60000-z4') > 0 }),
	'then the last');
cmp_ok(rows_read($node), '>', $before, 'which was read again');
is($simulator->task_requests('image-t60000-z1'), 0,
	'a row that was deleted meanwhile is not asked for');
is($simulator->task_requests('image-t60000-z2'), 0,
	'nor one that was settled');
is($simulator->task_requests('image-t60000-z3'), 0,
	'nor one with a key that is no longer its own');

# What is known of a row when it is found is not forgotten: here that its task
# runs, as another that began with it.
sql('DELETE FROM anyvod_tasks');
my $known = sprintf 'image-t600000-b%d000', time;
insert("$known-1");
ok(poll_until($node, 'SELECT status FROM anyvod_tasks', 'PROCESSING'),
	'a task runs');
my $inserted = sql(<<"SQL");
INSERT INTO anyvod_tasks (task_id, status, progress, task_type, model, started_at)
	SELECT '$known-2', status, progress, task_type, model, started_at
	FROM anyvod_tasks RETURNING xmin;
SQL
ok(wait_until(sub { $simulator->task_requests("$known-2") >= 2 }),
	'a row that says so is asked for');
is(sql("SELECT xmin FROM anyvod_tasks WHERE task_id = '$known-2'"),
	$inserted, 'an answer that says the same writes nothing');

# Nor is that of a row that is due when others are found, which have to wait
sql(<<"SQL");
CREATE SERVER resting FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}');
CREATE USER MAPPING FOR PUBLIC SERVER resting OPTIONS (api_key 'sk-found');
INSERT INTO anyvod_tasks (task_id, server) VALUES ('http429-ra600', 'resting');
ALTER SYSTEM SET anyvod.poll_floor = '10ms';
ALTER SYSTEM SET anyvod.poll_cap = '10ms';
SELECT pg_reload_conf();
SQL
ok( poll_until(
		$node, "SELECT state FROM anyvod_stat_server WHERE server = 'resting'",
		'paused'),
	'a server wants to be left alone');
my $asked = $simulator->task_requests("$known-2");
ok( wait_until(
		sub {
			sql(<<'SQL');
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		INSERT INTO anyvod_tasks (task_id, server)
			VALUES ('image-rest-' || gen_random_uuid(), 'resting');
		COMMIT;
	END LOOP;
END $$
SQL
			return $simulator->task_requests("$known-2") > $asked + 20;
		}),
	'rows of another are asked for meanwhile');
is(sql("SELECT xmin FROM anyvod_tasks WHERE task_id = '$known-2'"),
	$inserted, 'and read before');

done_testing();
