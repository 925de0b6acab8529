# One request of a session: its response is taken for what it is, and what
# cannot be sent or read says why.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Peer;
use Test::More;

# A gateway that has two ids for one task: it calls both by the first.
my $body = '{"Response": {"TaskType": "AigcImageTask", "AigcImageTask":'
  . ' {"TaskId": "first", "Status": "PROCESSING", "Progress": 7}}}';
my $peer = AnyvodTest::Peer->new(
	sub {
		my ($client, $note) = @_;

		while (AnyvodTest::Peer::read_head($client, $note) =~ m{query/})
		{
			syswrite $client,
			  "HTTP/1.1 200 OK\r\nContent-Length: " . length($body)
			  . "\r\n\r\n$body";
		}
	});
my $node = anyvod_node('request', base_url => $peer->url);
my $session = open_session($node);

foreach my $id ('first', 'second', 'second')
{
	is( $session->query_safe("SELECT progress FROM anyvod_status('$id')"),
		'7', "a task that is called first is asked for as $id");
}
is( $session->query_safe(
		'SELECT count(response), count(error_code) FROM'
		  . " anyvod_query_many('{first,second,third}')"),
	'3|0', 'many of them');
$session->query_safe("INSERT INTO anyvod_tasks (task_id) VALUES ('first'), ('second')");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE progress = 7 AND error_code IS NULL",
		'2'),
	'and two rows, by the worker');

# The role of a refused key may be gone by the time that it is refused.
my $refusal = AnyvodTest::Peer->new(
	sub {
		my ($client, $note) = @_;

		AnyvodTest::Peer::read_head($client, $note);
		sleep 2;
		syswrite $client, "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}";
	});
$node->safe_psql('postgres', <<"END");
CREATE SERVER refusing FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[$refusal->url]}');
CREATE USER MAPPING FOR PUBLIC SERVER refusing OPTIONS (api_key 'sk-refused');
GRANT USAGE ON FOREIGN SERVER refusing TO PUBLIC;
CREATE ROLE leaving SUPERUSER LOGIN;
END
my $leaving = open_session($node, user => 'leaving');
begin_query($leaving,
	"SELECT task_id, error_code FROM anyvod_query_many('{a}', 'refusing')");
ok(wait_until(sub { $refusal->heard =~ /query/ }),
	'a request is on its way');
$node->safe_psql('postgres', 'DROP ROLE leaving');
my ($state, $output) = end_query($leaving);
is("$state $output", '00000 a|28000',
	'what became of the request of a role that was dropped is a row');
close_session($_) foreach $leaving, $session;

done_testing();
