# A gateway whose answers have got out of step is asked anew over other
# connections; those to other gateways go on undisturbed.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Trouble;
use PostgreSQL::Test::Utils;
use Test::More;

# Questions that another gateway takes long to answer.
my $slow = 20;

my $simulator = start_simulator(keys => ['sk-step']);
my $other = start_simulator(keys => ['sk-step']);
my $gateway = AnyvodTest::Trouble->new($simulator);
my $node = anyvod_node(
	'out_of_step',
	simulator => $simulator,
	api_key => 'sk-step',
	options => "max_concurrency '1'",
	conf => <<'END');
anyvod.detection_delay = 500ms
anyvod.poll_floor = 50ms
END
my $gateway_url = quote_literal($gateway->url);
my $other_url = quote_literal($other->url);

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub track
{
	my ($words, $server, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, server)'
		  . " SELECT '$words-' || i, '$server' FROM generate_series(1, $count) AS i"
	);
	return;
}

sql(<<"END");
ALTER SERVER anyapi OPTIONS (SET base_url $gateway_url);
CREATE SERVER apart FOREIGN DATA WRAPPER anyvod OPTIONS (base_url $other_url);
CREATE USER MAPPING FOR PUBLIC SERVER apart OPTIONS (api_key 'sk-step');
END

# That over connections that have carried an answer before: it is those of
# which it is known that they carry one question after the other.
track('image-delay500-before', 'apart', $slow);
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		$slow),
	'connections to another gateway are there');
track('image-delay10000-apart', 'apart', $slow);
ok(wait_until(sub { $other->stats->{in_flight} == $slow }),
	'which takes long to answer then');
my $connections = $other->stats->{connections};
cmp_ok($connections, '<', 2 * $slow, 'over some of them, at least');
$gateway->begin('answer_late');
track('image-late', 'anyapi', 6);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		$slow + 6),
	'responses to other requests are not believed, and their tasks end');
$gateway->end;
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'",
		2 * $slow + 6),
	'all tasks end');
is(scalar(grep { $other->task_requests("image-delay10000-apart-$_") == 1 }
		  1 .. $slow),
	$slow, 'and it was asked once about each of its own');
is($other->stats->{connections}, $connections,
	'over the connections that there were');
is( sql("SELECT count(*) FROM anyvod_tasks WHERE server = 'anyapi'"
		  . " AND response #>> '{Response,AigcImageTask,TaskId}' <> task_id"),
	'0', 'no row has the answer to another question');

# Servers of one host share connections, and so do the keys of one server.
my $session = open_session($node);

# A question of the session's: whose answer it got, or its SQLSTATE.
sub asked
{
	my ($id, $server) = @_;
	my ($state, $whose) = run_query($session,
		"SELECT anyvod_query('image-delay0-$id', '$server')"
		  . " #>> '{Response,AigcImageTask,TaskId}'");

	return $state eq '00000' ? $whose : $state;
}

sql('CREATE SERVER upper FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '
	  . quote_literal($gateway->url =~ s/http/HTTP/r) . ');'
	  . " CREATE USER MAPPING FOR PUBLIC SERVER upper OPTIONS (api_key 'sk-step')"
);
$gateway->begin('answer_late');
is(asked('first', 'anyapi'), 'image-delay0-first', 'an answer has come');
is(asked('second', 'upper'), 'image-delay0-second',
	'it is not believed over the same connection, whichever server asks');
is(asked('third', 'upper'), 'image-delay0-third', 'nor is the next');
close_session($session);

$gateway->stop;
done_testing();
