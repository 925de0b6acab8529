# Roles share a server: however slow the answers to one role's questions are,
# the others' are asked; alone it has all there is; and roles that come and go
# take no memory.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my $other = start_simulator();
my $node = anyvod_node(
	'fair_share',
	simulator => $simulator,
	options => "max_concurrency '8', timeout '10min', rate_limit '10000'",
	conf => "anyvod.idle_timeout = 1h\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub track
{
	my ($owner, $server, $words, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, owner, server)'
		  . " SELECT '$words-$owner-' || i, '$owner', '$server'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

sql(<<"END");
CREATE ROLE greedy;
CREATE ROLE modest;
CREATE SERVER alone FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '@{[ $other->url ]}', max_concurrency '8', timeout '10min');
GRANT USAGE ON FOREIGN SERVER anyapi, alone TO PUBLIC;
END

# Nobody is kept out whose tasks are few, nor by those of two others.
track('modest', 'anyapi', 'image-t6000000', 1);
ok( wait_until(
		sub { $simulator->task_requests('image-t6000000-modest-1') > 0 }),
	'one role has a task that runs');
track('greedy', 'anyapi', 'image-delay300000', 100);
ok(wait_until(sub { $simulator->stats->{in_flight} >= 6 }),
	'another has many, all slow');
track('modest', 'anyapi', 'image', 20);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE owner = 'modest'"
		  . " AND state = 'succeeded'",
		20),
	'new tasks of the first are settled');
is( sql("SELECT count(*) FROM anyvod_tasks WHERE owner = 'greedy'"
		  . " AND state <> 'pending'"),
	0,
	'while none of the slow answers has come');
is($simulator->stats->{max_in_flight}, 7, 'the slow ones have most of the room');

track('greedy', 'alone', 'image-delay300000-alone', 100);
ok(wait_until(sub { $other->stats->{in_flight} == 8 }),
	'who is alone has all of it');
sql('DELETE FROM anyvod_tasks');

# Memory
SKIP:
{
	skip 'needs /proc of Linux', 2 if !-e '/proc/self/status';

	my $worker = worker_pid($node);
	my $memory = sub {
		my ($kb) =
		  slurp_file("/proc/$worker/status") =~ /^RssAnon:\s+(\d+) kB/m;

		return $kb;
	};
	my $first;

	sql('CREATE SERVER many FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '
		  . quote_literal($other->url)
		  . ", rate_limit '10000'); GRANT USAGE ON FOREIGN SERVER many TO PUBLIC"
	);
	foreach my $wave (1 .. 8)
	{
		sql(<<"END");
DO \$\$ BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXECUTE format('CREATE ROLE wave_%s_%s', $wave, i);
	END LOOP;
END \$\$;
INSERT INTO anyvod_tasks (task_id, owner, server)
	SELECT format('image-%s-%s', $wave, i), format('wave_%s_%s', $wave, i), 'many'
	FROM generate_series(1, 1000) AS i
END
		poll_until($node,
			"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", 0)
		  or BAIL_OUT('tasks of many roles are not settled');
		sql(<<"END");
DELETE FROM anyvod_tasks;
DO \$\$ BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXECUTE format('DROP ROLE wave_%s_%s', $wave, i);
	END LOOP;
END \$\$;
END
		$first = $memory->() if $wave == 3;
	}
	my $last = $memory->();
	measured('8,000 roles: memory from %d to %d kB', $first, $last);
	cmp_ok($last, '<', $first + 1024, 'roles that are gone take no memory');
	is(worker_pid($node), $worker, 'of the same worker');
}

done_testing();
