# The faults of the network that differ most from each other; "make faults"
# has all, and those of the database.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Fault;
use AnyvodTest::Trouble;
use File::Basename;

$ENV{ANYVOD_FAULTS} = 'short';
my $file = dirname(__FILE__) . '/../faults/network.pl';
do $file or die $@ || "could not read $file: $!";
