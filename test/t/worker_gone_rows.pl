# Rows that were deleted, or settled by somebody else, hold up no other: here
# 20,000 of them, where 50 requests a second are allowed.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-gone']);
my $node = anyvod_node(
	'gone',
	simulator => $simulator,
	api_key => 'sk-gone',
	conf => "autovacuum = off\nfsync = off\nanyvod.idle_timeout = 1h");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

foreach my $case (
	[ deleted => 'DELETE FROM anyvod_tasks WHERE' ],
	[ settled => "UPDATE anyvod_tasks SET state = 'abandoned' WHERE" ])
{
	my ($name, $command) = @$case;

	sql(<<"SQL");
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-t600000-$name-' || i FROM generate_series(1, 20000) AS i
SQL
	ok(poll_until($node, 'SELECT pending >= 20000 FROM anyvod_stat_worker'),
		"$name: 20,000 rows wait");
	sql("$command state = 'pending'");
	my $begin = clock_ms();
	sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-new-$name')");
	ok( poll_until(
			$node,
			"SELECT state FROM anyvod_tasks WHERE task_id = 'image-new-$name'",
			'succeeded'),
		"$name: a new one is settled");
	my $took = (clock_ms() - $begin) / 1000;
	measured('%s: after %.1f s', $name, $took);
	cmp_ok($took, '<', 20, "$name: it did not wait for 20,000 turns");
	ok(poll_until($node, 'SELECT pending = 0 FROM anyvod_stat_worker'),
		"$name: none is in memory any more");
}

done_testing();
