# The time that a user's trigger takes is not the gateway's: requests that were
# answered while the worker was in a transaction have not failed.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-blocked']);
my $node = anyvod_node(
	'blocked',
	simulator => $simulator,
	api_key => 'sk-blocked',
	options => "timeout '2s'",
	conf => 'anyvod.idle_timeout = 1h');

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sql(<<'SQL');
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(4);
	RETURN NEW;
END $$;
CREATE TRIGGER dawdle BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id = 'image-delay300-slow' AND NEW.state <> 'pending')
	EXECUTE FUNCTION dawdle();
INSERT INTO anyvod_tasks (task_id) VALUES ('image-delay300-slow');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-delay900-' || i FROM generate_series(1, 25) AS i;
SQL
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'", 26),
	'all rows are settled beside one whose trigger takes four seconds');
is( sql("SELECT state, last_error FROM anyvod_stat_server WHERE server = 'anyapi'"),
	'working|', 'and the server is not said to have failed');

done_testing();
