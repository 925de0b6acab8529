# Settled rows are removed when anyvod.retention says so: those and no others,
# a slice at a time, past rows that somebody holds.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-old']);
my $node = anyvod_node(
	'retention',
	simulator => $simulator,
	api_key => 'sk-old',
	conf => "anyvod.detection_delay = 100ms\n");

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# More than two slices of a thousand that are past their time, one row that
# is not yet, one that was settled long ago and asked for again since, and a
# running task that is as old.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, state, settled_at)
SELECT 'old-' || i, 'succeeded', now() - interval '2 days'
FROM generate_series(1, 2500) AS i;
INSERT INTO anyvod_tasks (task_id, state, settled_at) VALUES
	('held', 'failed', now() - interval '3 days'),
	('young', 'abandoned', now() - interval '23 hours'),
	('undated', 'succeeded', NULL);
INSERT INTO anyvod_tasks (task_id, created_at)
VALUES ('video-t600000-old', now() - interval '2 days');
END
ok( poll_until(
		$node,
		"SELECT status FROM anyvod_tasks WHERE task_id = 'video-t600000-old'",
		'PROCESSING'),
	'a worker is there');
is(sql('SELECT count(*) FROM anyvod_tasks'),
	2504, 'without a retention all rows are kept');

# How many rows each statement takes
sql(<<'END');
CREATE TABLE slices (rows bigint);
GRANT INSERT ON slices TO PUBLIC;
CREATE FUNCTION note_slice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.slices SELECT count(*) FROM gone;
	RETURN NULL;
END $$;
CREATE TRIGGER note_slice AFTER DELETE ON anyvod_tasks
	REFERENCING OLD TABLE AS gone
	FOR EACH STATEMENT EXECUTE FUNCTION note_slice();
END

my $holder = open_session($node);
$holder->query_safe('BEGIN');
$holder->query_safe(
	"SELECT FROM anyvod_tasks WHERE task_id = 'held' FOR UPDATE");
sql("ALTER SYSTEM SET anyvod.retention = '1d'");
sql('SELECT pg_reload_conf()');
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'old-%'", '0'),
	'what is past its time goes');
is( sql('SELECT string_agg(task_id, \' \' ORDER BY task_id) FROM anyvod_tasks'
	),
	'held undated video-t600000-old young',
	'the rest stays, also what somebody holds');
is(sql('SELECT sum(rows), max(rows) FROM slices'),
	'2500|1000', 'no statement takes more than a thousand rows');
$holder->query_safe('ROLLBACK');
$holder->quit;
is( sql("SELECT state FROM anyvod_tasks WHERE task_id = 'video-t600000-old'"),
	'pending', 'and the worker goes on');

done_testing();
