# A task that was seen running and that the gateway does not know any more is
# not failed within minutes, as one with a wrong id is: a gateway that has
# failed over to an empty replica, or a wrong base_url for a while, must not
# settle what still runs.
#
# Clocks go twenty times as fast (test/clock).

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Clock;
use AnyvodTest::Peer;
use Test::More;

my $clock = AnyvodTest::Clock->new(20);
my ($simulator, $node) = $clock->start('lost');

# A gateway that knows no task.
my $body = '{"code":"task_not_exist","message":"task_not_exist","data":null}';
my $empty = AnyvodTest::Peer->new(
	gateway(
		sub {
			my ($head, $client, $note) = @_;

			$note->($head);
			return "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json"
			  . "\r\nContent-Length: @{[ length $body ]}\r\n\r\n$body";
		}));

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub set_url
{
	my ($url) = @_;

	return sql("ALTER SERVER anyapi OPTIONS (SET base_url '$url')");
}

sub row
{
	my ($task) = @_;

	return "SELECT concat_ws(' ', state, status, error_code) FROM anyvod_tasks"
	  . " WHERE task_id = '$task'";
}

# It has ended long before it is asked for again.
my $running = 'image-t60000-b' . int($clock->now_ms) . '-1';
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('$running')");
ok(poll_until($node, row($running), 'pending PROCESSING'), 'a task runs');

set_url($empty->url);
my $new = 'image-t60000-2';
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('$new')");
ok(poll_until($node, row($new), 'failed task_not_exist'),
	'a new task that is unknown has failed after some polls');
ok( wait_until(
		sub { (() = $empty->heard =~ m{/\Q$running\E\s}g) >= 4 }),
	'one that was seen running is polled as often');
is(sql(row($running)), 'pending PROCESSING task_not_exist',
	'and stays pending, with the error in its row');

set_url($simulator->url);
ok(poll_until($node, row($running), 'succeeded FINISH'),
	'it succeeds when it is known again');
done_testing();
