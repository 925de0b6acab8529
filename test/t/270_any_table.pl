# What stands in the table, and what the planner believes of it, neither ends
# the worker nor slows it down.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-any']);
my $node = anyvod_node(
	'any',
	simulator => $simulator,
	api_key => 'sk-any',
	options => "rate_limit '100000', max_concurrency '200'",
	conf => "autovacuum = off\n");

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# The owner of the table is bound by no policy.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, server, owner) VALUES
	('no-names', '', ''), ('no-server', '', current_user),
	('no-owner', 'anyapi', '');
INSERT INTO anyvod_tasks (task_id) VALUES ('image-ordinary');
END
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-ordinary'",
		'succeeded'),
	'rows with empty names do not stop others');
ok( poll_until(
		$node,
		"SELECT string_agg(DISTINCT error_code, ' ') FROM anyvod_tasks"
		  . " WHERE task_id LIKE 'no-%'",
		'42704'),
	'and say what is wrong');
unlike(slurp_file($node->logfile), qr/signal 11/, 'nothing has crashed');
sql('DELETE FROM anyvod_tasks');

# Statistics from a time when nothing was pending
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, state, settled_at)
	SELECT 'settled-' || i, 'succeeded', now()
	FROM generate_series(1, 5000) AS i;
VACUUM ANALYZE anyvod_tasks;
END
my $begin = clock_ms();
sql(<<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-burst-' || i FROM generate_series(1, 10000) AS i
END
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE 'image-burst-%'"
		  . " AND state = 'succeeded'",
		10000),
	'statistics without a pending row do not stop a burst');
measured('10,000 rows against such statistics took %.1f s',
	(clock_ms() - $begin) / 1000);

done_testing();
