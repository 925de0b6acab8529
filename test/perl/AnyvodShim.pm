# test/shim, built here and now: a process that has it preloaded (LD_PRELOAD)
# says which of libcurl's functions it calls, and more.

package AnyvodShim;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(build_shim shim_callers);

# build_shim(): the folder that has shim.so in it; skips all of a test where
# nothing can be preloaded.
sub build_shim
{
	my $folder = PostgreSQL::Test::Utils::tempdir_short();

	plan skip_all => 'needs /proc and LD_PRELOAD of Linux' if $^O ne 'linux';
	system_or_bail('make', '-s', '-C', dirname(__FILE__) . '/../shim',
		"BUILD=$folder");
	return $folder;
}

# shim_callers($log, $function): the processes that have called a function, by
# pid, and how often.
sub shim_callers
{
	my ($log, $function) = @_;
	my %pids;

	$pids{$_}++ foreach slurp_file($log) =~ /^$function (\d+)$/mg;
	return \%pids;
}

1;
