# Of any text at all tree.c makes the jsonb that PostgreSQL makes, or none, or
# raises the same error.
#
# ANYVOD_FUZZ_SEED repeats a run, ANYVOD_FUZZ_TEXTS is how many texts each
# database gets (default 20,000).

use strict;
use warnings;

use AnyvodTest;
use Cwd 'abs_path';
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{ANYVOD_FUZZ_SEED} // (time ^ $$);
my $texts = $ENV{ANYVOD_FUZZ_TEXTS} || 20000;
diag("ANYVOD_FUZZ_SEED=$seed ANYVOD_FUZZ_TEXTS=$texts");

# What reads a text in both ways is built here and now.
my $test = abs_path(dirname(__FILE__) . '/..');
my $build = PostgreSQL::Test::Utils::tempdir_short();
system_or_bail('make', '-s', '-C', $build, '-f', "$test/fuzz/tree/Makefile",
	'with_llvm=no', 'all');

my $node = anyvod_node('any_jsonb', extension => 0, preload => 0);

foreach my $encoding (qw(UTF8 SQL_ASCII))
{
	my $database = lc $encoding;

	$node->safe_psql('postgres',
		"CREATE DATABASE $database ENCODING '$encoding' TEMPLATE template0"
		  . " LOCALE 'C'");
	my $made = $node->safe_psql($database, <<"END");
CREATE FUNCTION same_jsonb(bytea[], bigint, integer) RETURNS integer
	AS '$build/same_jsonb' LANGUAGE C STRICT;
SELECT same_jsonb(ARRAY(SELECT pg_read_binary_file('$test/answers/' || name)
		FROM pg_ls_dir('$test/answers') AS name
		WHERE name <> 'expected.json' ORDER BY name),
	$seed, $texts);
END
	measured('%s: jsonb of %d texts', $encoding, $made);
	cmp_ok($made, '>', $texts / 5,
		"texts are the same in jsonb, $encoding, and many become jsonb");
}

done_testing();
