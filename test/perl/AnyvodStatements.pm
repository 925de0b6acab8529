# A node that counts its statements: what a worker runs, and how often.

package AnyvodStatements;

use strict;
use warnings;

use AnyvodTest;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(counting_node statements_run rows_read);

# counting_node($name, %options): anyvod_node() with pg_stat_statements; skips
# all of a test where that is not installed.
sub counting_node
{
	my ($name, %options) = @_;

	chomp(my $libraries = `pg_config --pkglibdir`);
	plan skip_all => 'needs pg_stat_statements'
	  if !glob "$libraries/pg_stat_statements.*";

	my $node = anyvod_node(
		$name, %options,
		preload => 0,
		conf => <<"END");
shared_preload_libraries = 'pg_stat_statements, anyvod'
pg_stat_statements.track = all
autovacuum = off
$options{conf}
END
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
	return $node;
}

# statements_run($node, $like): how many statements of the worker there are,
# which runs them as the table's owner, and how often they were run.
sub statements_run
{
	my ($node, $like) = @_;

	$like //= '%';
	return split /\|/, $node->safe_psql('postgres', <<"END");
SELECT count(*), COALESCE(sum(calls), 0) FROM pg_stat_statements
	WHERE userid = 'pg_database_owner'::regrole AND query LIKE '$like'
END
}

# rows_read($node): how often rows of tasks that are due have been read.
sub rows_read
{
	my ($node) = @_;

	return (statements_run($node, '%unnest($1) AS d (task_id)%'))[1];
}

1;
