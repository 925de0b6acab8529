# A new row is polled at once, however many rows of another server wait, and
# while an old snapshot keeps the index entries of rows that have come and gone.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $rows = $ENV{ANYVOD_TEST_PENDING} || 100_000;
my $simulator = start_simulator(keys => ['sk-backlog']);
my $node = anyvod_node(
	'backlog',
	simulator => $simulator,
	api_key => 'sk-backlog',
	conf => "autovacuum = off\nfsync = off\nmax_wal_size = 8GB\n"
	  . "anyvod.idle_timeout = 1h");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Milliseconds from the commit of a row to its being settled
sub fill
{
	my ($id) = @_;
	my $begin = clock_ms();

	sql("INSERT INTO anyvod_tasks (task_id) VALUES ('$id')");
	ok( poll_until(
			$node, "SELECT state FROM anyvod_tasks WHERE task_id = '$id'",
			'succeeded'),
		"row $id is filled");
	return clock_ms() - $begin;
}

sub longest
{
	my ($name) = @_;
	my ($longest) = sort { $b <=> $a } map { fill("image-$name-$_") } 1 .. 5;

	measured('%s: 5 rows were filled after %.0f ms at most', $name, $longest);
	return $longest;
}

my $alone = longest('alone');

# A server that cannot be reached, and its backlog
sql(<<"SQL");
CREATE SERVER dead FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://127.0.0.1:1');
INSERT INTO anyvod_tasks (task_id, server)
	SELECT 'image-dead-' || i, 'dead' FROM generate_series(1, $rows) AS i;
SQL
ok( poll_until(
		$node,
		"SELECT pending > 50000 OR pending >= $rows FROM anyvod_stat_worker"),
	'the backlog is known');
cmp_ok(longest('beside'), '<', 1000 + 10 * $alone,
	"a new row does not wait for $rows of a dead server");

# Rows that come and go while a snapshot sees them: their index entries stay.
my $session = open_session($node);
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$session->query_safe('SELECT count(*) FROM anyvod_tasks');
sql("UPDATE anyvod_tasks SET state = 'abandoned' WHERE server = 'dead'");
cmp_ok(longest('snapshot'), '<', 1000 + 10 * $alone,
	'nor for the index entries that an old snapshot keeps');

done_testing();
