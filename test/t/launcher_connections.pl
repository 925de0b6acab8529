# A database that takes no connections for a while is left alone, and served
# again when it does, whatever ended that and however long it took.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'connections',
	simulator => $simulator,
	conf => "anyvod.poll_cap = 500ms\n");

anyvod_database($node, 'shop', simulator => $simulator);
$node->safe_psql('shop',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-shop')");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Is the task asked for again?
sub is_served
{
	my ($what) = @_;
	my $requests = $simulator->task_requests('t3600000-shop');

	return ok(
		wait_until(
			sub { $simulator->task_requests('t3600000-shop') > $requests },
			30),
		$what);
}

sub end_sessions
{
	return sql('SELECT count(pg_terminate_backend(pid, 10000))'
		  . " FROM pg_stat_activity WHERE datname = 'shop'");
}

is_served('a database is served');

# Everybody out
foreach my $way (
	[ 'ALTER DATABASE shop ALLOW_CONNECTIONS %s', 'false', 'true' ],
	[ 'ALTER DATABASE shop IS_TEMPLATE %s', 'true', 'false' ],
	[
		"UPDATE pg_database SET datallowconn = %s WHERE datname = 'shop'",
		'false', 'true'
	])
{
	my ($command, $close, $open) = @$way;

	sql(sprintf($command, $close));
	end_sessions();
	ok( poll_until(
			$node,
			"SELECT state = 'no connections allowed' AND hint IS NOT NULL"
			  . " FROM anyvod_stat_worker WHERE datname = 'shop'",
			't', 30),
		sprintf($command, $close) . ': the view says so');
	my $offset = -s $node->logfile;
	my $begin = clock_ms();
	wait_until(sub { clock_ms() - $begin > 2500 });
	unlike(slurp_file($node->logfile, $offset),
		qr/FATAL|anyvod/, 'and the log is quiet');
	sql(sprintf($command, $open));
	is_served(sprintf($command, $open));
}

# The same over a restart
sql('ALTER DATABASE shop ALLOW_CONNECTIONS false');
$node->restart;
is(worker_pid($node, 'shop'), '', 'after a restart nobody connects');
sql('ALTER DATABASE shop ALLOW_CONNECTIONS true');
is_served('until that is allowed');

# A limit of connections is for others.
sql('ALTER DATABASE shop CONNECTION LIMIT 0');
end_sessions();
is_served('a limit of connections changes nothing');

done_testing();
