# A worker has so many tasks in memory and no more, whatever the table holds:
# the others wait in the table and are taken in as room comes, and there is
# always room for another role.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $pending = $ENV{ANYVOD_TEST_PENDING} || 200_000;
my $simulator = start_simulator(keys => ['sk-memory']);
my $node = anyvod_node(
	'memory',
	simulator => $simulator,
	api_key => 'sk-memory',
	options => "rate_limit '100000', max_concurrency '500'",
	conf => "autovacuum = off\nfsync = off\nmax_wal_size = 8GB\n"
	  . "anyvod.idle_timeout = 1h");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub rss
{
	my ($kb) = slurp_file('/proc/' . worker_pid($node) . '/status') =~
	  /^RssAnon:\s+(\d+) kB/m;

	return $kb;
}

# Ids as long as real ones, of a server that cannot be reached
sql(<<"SQL");
CREATE ROLE other LOGIN;
GRANT USAGE ON FOREIGN SERVER anyapi TO other;
CREATE SERVER dead FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://127.0.0.1:1');
INSERT INTO anyvod_tasks (task_id, server)
	SELECT format('1500000001-AigcImageTask-%st', lpad(to_hex(i), 32, '0')), 'dead'
	FROM generate_series(1, $pending) AS i;
SQL
ok(poll_until($node, 'SELECT pending > 50000 FROM anyvod_stat_worker'),
	'a backlog is known');
my $known = sql('SELECT pending FROM anyvod_stat_worker');
cmp_ok($known, '<=', 131072 / 2, 'of which half the room is taken');
measured('%d of %d rows in memory, %d kB', $known, $pending, rss());
cmp_ok(rss(), '<', 64 * 1024, 'in 64 MB');

# Another server's rows, more than there is room for, and another role's
sql(<<"SQL");
INSERT INTO anyvod_tasks (task_id) SELECT 'image-many-' || i
	FROM generate_series(1, 50000) AS i;
INSERT INTO anyvod_tasks (task_id, owner) VALUES ('image-other', 'other');
SQL
ok( poll_until(
		$node, "SELECT state FROM anyvod_tasks WHERE task_id = 'image-other'",
		'succeeded'),
	"another role's row is polled");
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		50001),
	'all rows of the other server are, as room comes');
cmp_ok(rss(), '<', 64 * 1024, 'still in 64 MB');

# When the backlog is gone, what was left in the table is found.
my $id = sql("SELECT min(task_id) FROM anyvod_tasks WHERE server = 'dead'");
sql(<<"SQL");
DELETE FROM anyvod_tasks WHERE server = 'dead' AND task_id <> '$id';
ALTER SERVER dead OPTIONS (SET base_url '@{[ $simulator->url ]}');
CREATE USER MAPPING FOR PUBLIC SERVER dead OPTIONS (api_key 'sk-memory');
SQL
ok(poll_until($node, 'SELECT state FROM anyvod_tasks WHERE task_id = '
		  . "'$id'", 'succeeded'),
	'a row that was left in the table is polled in the end');

done_testing();
