# A task that failed is polled again when its own back-off has passed: 1 s
# after a transient failure, doubling.  Another failed task, whose back-off is
# longer, does not hold it up, nor do healthy ones.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-retry']);
my $node = anyvod_node(
	'retry_order',
	simulator => $simulator,
	api_key => 'sk-retry',
	options => "rate_limit '5000'");

# The times, in seconds, at which a task was polled.
sub polls_of
{
	my ($task) = @_;

	return map { $_->{ms} / 1000 }
	  grep { ($_->{id} // '') eq $task } @{ $simulator->requests(10_000) };
}

# Beside tasks that just run: one whose requests are answered 503, and one of a
# kind that is polled ten seconds later at the earliest, but has failed less.
my $failing = 'image-http503-t600000-1';
my $rejected = 'image-html-t600000-1';
$node->safe_psql('postgres',
	'INSERT INTO anyvod_tasks (task_id) VALUES'
	  . " ('$failing'), ('$rejected'), ('image-t600000-1'),"
	  . " ('image-t600000-2'), ('image-t600000-3')");

# It is polled at 0, 1 and 3 s, the other at 0 and 10 s, each wait spread by a
# quarter: the order is the same however slow the machine is.
ok(wait_until(sub { polls_of($rejected) >= 2 }), 'the rejected task is polled');
my @times = polls_of($failing);
my @waits = map { $times[$_] - $times[ $_ - 1 ] } 1 .. $#times;
measured('waits of the failing task: %s s',
	join(', ', map { sprintf '%.2f', $_ } @waits));
my $second = (polls_of($rejected))[1];
cmp_ok(scalar(grep { $_ < $second } @times),
	'>=', 3, 'the failing one was polled twice again before');
foreach my $n (0 .. $#waits)
{
	cmp_ok($waits[$n], '>=', 0.74 * 2**$n, "not before its wait $n has passed");
}
done_testing();
