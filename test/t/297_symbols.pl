# The library shows what PostgreSQL looks up in it and nothing else: a function
# of another extension with the same name as one of ours stays apart from it.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = anyvod_node('symbols', preload => 0);
my $library = $node->config_data('--pkglibdir') . '/anyvod.so';
my ($symbols, $trouble) = run_command([ 'nm', '-D', '--defined-only', $library ]);
my %shown = map { (split)[2] => 1 } split /\n/, $symbols;

is($trouble, '', 'the library can be looked at');
is( join(' ', grep { !$shown{$_} } qw(_PG_init Pg_magic_func launcher_main worker_main)),
	'', 'what the server starts from is shown');
my @functions = split /\n/, $node->safe_psql('postgres',
	"SELECT DISTINCT prosrc FROM pg_proc WHERE probin LIKE '%anyvod'");
cmp_ok(scalar @functions, '>', 10, 'there are functions');
is( join(' ', grep { !$shown{$_} || !$shown{"pg_finfo_$_"} } @functions),
	'', 'so are they');
is( join(' ', grep { !/^(?:(?:pg_finfo_)?anyvod_\w+|_PG_init|Pg_magic_func|launcher_main|worker_main)$/ }
		sort keys %shown),
	'', 'and nothing else is');

done_testing();
