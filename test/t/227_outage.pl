# A gateway that is gone, a name that cannot be resolved, or a key that is
# refused for hours: no task fails, no row is written, little is asked, and all
# goes on when it is over.  (That the waits grow up to a minute and no further
# is seen in test/unit/test_retry.c.)

use strict;
use warnings;

use AnyvodTest;
use List::Util qw(max);
use Test::More;

my $tasks = 1000;
my $simulator = start_simulator(keys => [ 'sk-a', 'sk-b' ]);
my $gone = start_simulator(keys => ['sk-a']);
my $port = $gone->port;
my $node = anyvod_node(
	'outage',
	simulator => $simulator,
	api_key => 'sk-a',
	options => "rate_limit '5000'",
	conf => "autovacuum = off\n"
	  . "anyvod.detection_delay = 250ms\nanyvod.poll_floor = 50ms\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub make_server
{
	my ($name, $url) = @_;

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER anyvod OPTIONS (base_url "
		  . quote_literal($url)
		  . ", rate_limit '5000'); CREATE USER MAPPING FOR PUBLIC SERVER $name"
		  . " OPTIONS (api_key 'sk-a')");
	return;
}

sub track
{
	my ($server, $words, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, server)'
		  . " SELECT '$words-$server-' || i, '$server'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# Row versions, and whether all rows are as they were made but for the answer
# that says that they run.
sub rows_of
{
	my ($server) = @_;

	return sql(
		"SELECT md5(string_agg(concat(task_id, ctid, xmin), ',' ORDER BY task_id)),"
		  . " bool_and(state = 'pending' AND error_code IS NULL)"
		  . " FROM anyvod_tasks WHERE server = '$server'");
}

sub server
{
	my ($name, $columns) = @_;

	return sql("SELECT $columns FROM anyvod_stat_server"
		  . " WHERE server = '$name'");
}

sub settled
{
	my ($server, $count) = @_;

	return poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE server = '$server'"
		  . " AND state = 'succeeded'",
		$count);
}

# Everything runs; then the gateway goes away, and so does its name.
make_server('gone', $gone->url);
make_server('nameless', 'http://no-such-host.invalid');
track('gone', 'image-t6000000', $tasks / 2);
track('gone', 'image-t2000', $tasks / 2);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE status = 'PROCESSING'",
		$tasks),
	'tasks run');
$gone->stop;
track('nameless', 'image', $tasks);
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_stat_server WHERE paused_why = 'failures'"
		  . " AND server IN ('gone', 'nameless')",
		2),
	'both servers are paused for their failures');
my %before = map { $_ => rows_of($_) } qw(gone nameless);
my %asked = map { $_ => server($_, 'requests') } qw(gone nameless);
my %failed = map { $_ => server($_, 'no_response') } qw(gone nameless);
my $updates = 'SELECT n_tup_upd FROM pg_stat_user_tables'
  . " WHERE relname = 'anyvod_tasks'";
my $begin = clock_ms();
my $updated = sql($updates);

ok( wait_until(
		sub {
			return !grep { server($_, 'no_response') < $failed{$_} + 1 }
			  qw(gone nameless);
		}),
	'they are asked again');
my $seconds = (clock_ms() - $begin) / 1000;
foreach my $server (qw(gone nameless))
{
	my $more = server($server, 'requests') - $asked{$server};

	measured('%s: %d tasks, %d questions in %.0f s', $server, $tasks, $more,
		$seconds);
	cmp_ok($more, '<=', 5, "$server: singly, and ever more seldom");
	is(rows_of($server), $before{$server}, "$server: no row is written");
	like($before{$server}, qr/\|t$/, "$server: nor has any failed");
}
is(sql($updates), $updated, 'no update is counted');

# The gateway comes back: all goes on when it is probed the next time.
my $probe_in = server('gone',
	'GREATEST(1000 * extract(epoch FROM paused_until - now()), 0)');
$gone = start_simulator(keys => ['sk-a'], port => $port);
$begin = clock_ms();
ok(settled('gone', $tasks / 2), 'the gateway comes back, and all goes on');
my $took = clock_ms() - $begin;
measured('the next probe was due in %.1f s; 500 had been settled after %.1f s',
	$probe_in / 1000, $took / 1000);
cmp_ok($took, '<', $probe_in + 5000, 'as soon as it is probed');

# The name is mended: at once.
sql("ALTER SERVER nameless OPTIONS (SET base_url "
	  . quote_literal($simulator->url) . ')');
$begin = clock_ms();
ok(settled('nameless', $tasks), 'a server that is altered is asked again');
measured('1000 tasks were settled %.1f s after their server was altered',
	(clock_ms() - $begin) / 1000);

# 401 and 403 pause one role on one server, and nobody else.  What comes then
# waits for another key.
my %refused = (401 => 'image-first401', 403 => 'image-http403-x1-first403');
foreach my $code (401, 403)
{
	my $key = $code == 401 ? 'sk-bad' : 'sk-a';

	sql(<<"END");
CREATE ROLE role$code LOGIN;
GRANT USAGE ON FOREIGN SERVER anyapi, gone TO role$code;
CREATE USER MAPPING FOR role$code SERVER anyapi OPTIONS (api_key '$key');
SET SESSION AUTHORIZATION role$code;
INSERT INTO anyvod_tasks (task_id) VALUES ('$refused{$code}');
END
}
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_stat_server"
		  . " WHERE server = 'anyapi' AND state = 'paused'",
		2),
	'401 and 403 pause the roles that met them');
foreach my $code (401, 403)
{
	sql(<<"END");
SET SESSION AUTHORIZATION role$code;
INSERT INTO anyvod_tasks (task_id, server)
	SELECT 'image-own$code-' || i, 'anyapi' FROM generate_series(1, 20) AS i
	UNION ALL SELECT 'image-elsewhere$code', 'gone';
END
}
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND task_id LIKE '%elsewhere%'",
		2),
	'not on another server');
track('anyapi', 'image-beside', 100);
ok(settled('anyapi', 100), 'nor another role on the same');
is( sql("SELECT count(*) FROM anyvod_tasks WHERE owner LIKE 'role40_'"
		  . " AND server = 'anyapi'"
		  . " AND state = 'pending' AND error_code IS NULL"),
	'42',
	'no task of theirs has failed');
is($simulator->task_requests('image-own403-1'),
	0, 'nor been asked for with a key that is refused');
foreach my $code (401, 403)
{
	$begin = clock_ms();
	sql("ALTER USER MAPPING FOR role$code SERVER anyapi"
		  . " OPTIONS (SET api_key 'sk-b')");
	ok( poll_until(
			$node,
			'SELECT count(*) FROM anyvod_tasks'
			  . " WHERE owner = 'role$code' AND state = 'succeeded'",
			22),
		"$code: another key ends that");
	$took = clock_ms() - $begin;
	measured('%d: settled %.0f ms after the mapping was altered', $code, $took);
	# the promise is a second, and that of a busy machine three
	cmp_ok($took, '<', 3000, "$code: at once");
}

done_testing();
