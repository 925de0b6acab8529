# Rows that are too old are given up while their server fails, whatever single
# rows make of that; not those whose tasks were just seen running.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-old']);
my $node = anyvod_node(
	'give_up',
	simulator => $simulator,
	api_key => 'sk-old',
	conf => "anyvod.give_up_after = 5s\nanyvod.idle_timeout = 1h");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sql(<<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE 'no' USING ERRCODE = '23514';
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id = 'image-old-7' AND NEW.state = 'abandoned')
	EXECUTE FUNCTION refuse();
INSERT INTO anyvod_tasks (task_id) VALUES ('image-t600000-running');
SQL
ok(poll_until($node, 'SELECT status FROM anyvod_tasks', 'PROCESSING'),
	'a task is seen running');
sql(<<'SQL');
ALTER SERVER anyapi OPTIONS (SET base_url 'http://127.0.0.1:1');
INSERT INTO anyvod_tasks (task_id, created_at)
	SELECT 'image-old-' || i, now() - interval '4 days'
	FROM generate_series(1, 30) AS i;
SQL
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'abandoned'"
		  . " AND error_code = 'unreachable' AND settled_at IS NOT NULL",
		29,
		150),
	'old rows of a server that fails are given up');
is( sql("SELECT string_agg(task_id, ' ' ORDER BY task_id) FROM anyvod_tasks"
		  . " WHERE state = 'pending'"),
	'image-old-7 image-t600000-running',
	'but for one that a trigger keeps, and one that was seen running');
sql('DROP TRIGGER refuse ON anyvod_tasks');
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-old-7'",
		'abandoned', 150),
	'the one that the trigger keeps no longer is given up as well');
is( sql("SELECT state FROM anyvod_tasks WHERE task_id LIKE '%running'"),
	'pending', 'the other still is not');

done_testing();
