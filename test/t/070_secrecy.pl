# The key is in no log, error, view or table, and no environment leads it
# astray, even where the gateway repeats it.

use strict;
use warnings;

use AnyvodTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;

# With a character that JSON may escape.
my $key = 'sk-9f2c/TopSecretKeyOfOurs';
my $second_key = 'sk-TheKeyThatComesNext01';
my $simulator = start_simulator(keys => [$key]);
my $proxy = start_simulator();
my $open_gateway = start_simulator();

# What a server's user may have lying around.
my $home = PostgreSQL::Test::Utils::tempdir();
append_to_file("$home/.netrc",
	"default login nobody password netrc-password\n");
append_to_file("$home/.curlrc", "proxy = " . $proxy->url . "\n");
my $key_file = PostgreSQL::Test::Utils::tempdir() . '/key';
append_to_file($key_file, "$key\n");
chmod 0600, $key_file;

$ENV{HOME} = $home;
$ENV{NETRC} = "$home/.netrc";
$ENV{CURL_HOME} = $home;
$ENV{$_} = $proxy->url
  foreach qw(http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY);
$ENV{SSLKEYLOGFILE} = "$home/tls-secrets";

my $node = anyvod_node(
	'secrecy',
	extension => 0,
	conf => <<'END');
log_min_messages = debug5
log_statement = all
log_error_verbosity = verbose
log_min_duration_statement = 0
debug_print_plan = on
anyvod.detection_delay = '100ms'
anyvod.poll_floor = '50ms'
END
delete @ENV{
	qw(http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
	  NETRC CURL_HOME SSLKEYLOGFILE)};

# A gateway that says which key it was shown, wherever it can.  It takes one
# request a connection, and the words of the task id say how it answers.
my $listener = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 20, ReuseAddr => 1)
  or BAIL_OUT("could not listen: $!");
my $echo_port = $listener->sockport;
my $echo_pid = fork() // BAIL_OUT("could not fork: $!");
if ($echo_pid == 0)
{
	$SIG{TERM} = 'DEFAULT';
	echo($listener->accept) while 1;
}
close $listener;

sub echo
{
	my ($client) = @_;
	my ($path, $shown) = ('', '');

	while (defined(my $line = <$client>))
	{
		last if $line =~ /^\r?\n$/;
		$path = $1 if $line =~ m{^GET (\S+)};
		$shown = $1 if $line =~ /^Authorization: Bearer (\S+)/i;
	}
	my $status = $path =~ /status(\d+)/ ? $1 : 200;
	my $type = $path =~ /page/ ? "text/html; key=$shown" : 'application/json';
	my $escaped = $shown;

	$escaped =~ s{/}{\\/}g;
	$escaped = sprintf '\u%04x%s', ord $shown, substr $escaped, 1
	  if $path =~ /unicode/;
	my $body =
	  $path =~ /task/
	  ? qq({"Response":{"Status":"PROCESSING","TaskType":"AigcImageTask",)
	  . qq("AigcImageTask":{"Status":"PROCESSING","Message":"$shown",)
	  . qq("Input":{"ModelName":"$shown"}}}})
	  : $path =~ /garbage/ ? "not JSON: $shown"
	  : $path =~ /escaped|unicode/
	  ? qq({"error":{"message":"bad key $escaped","code":"$escaped"}})
	  : qq({"error":{"message":"bad key $shown","type":"new_api_error",)
	  . qq("code":"$shown"}});

	print $client "HTTP/1.1 $status $shown\r\nContent-Type: $type\r\n"
	  . "Location: http://127.0.0.1:" . $proxy->port . "/$shown\r\n"
	  . "X-Oneapi-Request-Id: $shown\r\nConnection: close\r\n"
	  . 'Content-Length: ' . length($body) . "\r\n\r\n$body";
	close $client;
	return;
}

END
{
	if ($echo_pid)
	{
		local $?;
		kill 'TERM', $echo_pid;
		waitpid $echo_pid, 0;
	}
}

$node->safe_psql('postgres', <<"END");
CREATE EXTENSION anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '@{[ $simulator->url ]}', timeout '1s');
CREATE SERVER echo FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url 'http://127.0.0.1:$echo_port');
CREATE SERVER refused FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url 'http://127.0.0.1:1');
CREATE SERVER nowhere FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url 'http://anyvod.invalid');
CREATE SERVER rotating FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '@{[ $simulator->url ]}');
CREATE SERVER unmapped FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '@{[ $open_gateway->url ]}');
CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key_file '$key_file');
CREATE USER MAPPING FOR PUBLIC SERVER echo OPTIONS (api_key_file '$key_file');
CREATE USER MAPPING FOR PUBLIC SERVER rotating OPTIONS (api_key_file '$key_file');
CREATE USER MAPPING FOR PUBLIC SERVER refused OPTIONS (api_key_file '$key_file');
CREATE USER MAPPING FOR PUBLIC SERVER nowhere OPTIONS (api_key_file '$key_file');
END

# Ask about each in a session, and have each tracked.
my %questions = (
	anyapi => [
		qw(image-good t600000-progress-running fail unknown http302 delay5000
		  reset http500 http401 http403 http404 html notjson empty cut deep200
		  huge100000 two oneapi)
	],
	echo => [
		qw(status401 status403 status400 status500 status302 status200 garbage
		  garbage-page status404-garbage-page task status400-escaped
		  status401-unicode)
	],
	refused => ['image'],
	unmapped => ['image'],
	nowhere => ['image']);
my $session = open_session($node);
my $texts = '';

$session->query_safe('\set VERBOSITY verbose');
foreach my $server (sort keys %questions)
{
	foreach my $task_id (@{ $questions{$server} })
	{
		foreach my $function ('anyvod_query', 'anyvod_status')
		{
			my (undef, $output, $error) = run_query($session,
				"SELECT $function('$task_id', '$server')");

			$texts .= "$function $task_id $server: $output $error\n";
		}
	}
}
$session->query_safe("SET statement_timeout = '100ms'");
$texts .= join ' ',
  run_query($session, "SELECT anyvod_query('delay5000-timeout')");
$session->query_safe('RESET statement_timeout');
like($texts, qr/28000.*refused the API key/, 'a refused key is an error');
like($texts, qr/58030/, 'so is a gateway in trouble');
like($texts, qr/HV000/, 'so is a timeout');
like($texts, qr/HV00N/, 'so is a name that is not known');
like($texts, qr/57014/, 'so is a cancelled statement');
is($proxy->stats->{connections},
	0, 'no session has come to the proxy of the environment');

# Failures in a row pause the server, so each has a task that is well beside it;
# a refused key pauses the role.
my $well = 0;
foreach my $task_id ('http302', 'delay5000', 'reset', 'unknown', 'http403')
{
	$well++;
	$node->safe_psql('postgres', 'INSERT INTO anyvod_tasks (task_id) VALUES'
		  . " ('image-good-$well'), ('$task_id-anyapi')");
	ok( wait_until(
			sub { $simulator->task_requests("$task_id-anyapi") > 0 }),
		"the worker has asked about $task_id");
}
ok( poll_until(
		$node,
		'SELECT count(*) > 0 FROM anyvod_tasks'
		  . " WHERE task_id LIKE 'image-good-%' AND state = 'succeeded'"),
	'the worker asks with the key');
foreach my $server (sort keys %questions)
{
	$node->safe_psql('postgres',
		'INSERT INTO anyvod_tasks (task_id, server) VALUES '
		  . join(', ',
			map { "('$_-$server', '$server')" } @{ $questions{$server} })
		  . ' ON CONFLICT DO NOTHING');
}
my $activity = '';
ok( wait_until(
		sub {
			$activity .= $node->safe_psql('postgres',
				'SELECT a FROM pg_stat_activity AS a');
			return $activity =~ /anyvod worker/;
		}),
	'the worker shows in pg_stat_activity');
my $rows = $node->safe_psql('postgres', 'SELECT t FROM anyvod_tasks AS t');

# The environment
is($proxy->stats->{connections}, 0, 'nor has the worker');
is($simulator->stats->{elsewhere}, 0, 'no redirect is followed');
my $stats = $simulator->stats;
is($stats->{unauthorized}, 0, 'every request carried the key');
is($stats->{with_key}, $stats->{requests}, 'and none came without');
ok(wait_until(sub { $open_gateway->task_requests('image-unmapped') > 0 }),
	'a server without a mapping is asked as well');
is($open_gateway->stats->{with_key}, 0,
	'without a key, and without what .netrc says');
ok(!-e "$home/tls-secrets", 'no secrets of TLS were written');

# A key file with another key counts from the next request on.
is((run_query($session, "SELECT anyvod_query('image-old', 'rotating')"))[0],
	'00000', 'a session asks with the key of a file');
$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id, server)
	VALUES ('t600000-old-key', 'rotating');
END
ok(wait_until(sub { $simulator->task_requests('t600000-old-key') >= 2 }),
	'so does the worker');
$simulator->set_keys($second_key);
open my $file, '>', $key_file or BAIL_OUT("could not write $key_file: $!");
print $file "$second_key\n";
close $file;
$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-new-key', 'rotating');
END
ok( poll_until(
		$node,
		"SELECT state FROM anyvod_tasks WHERE task_id = 'image-new-key'",
		'succeeded', 20),
	'the worker reads the file again when it has changed');
is((run_query($session, "SELECT anyvod_query('image-new', 'rotating')"))[0],
	'00000', 'so does a session');
$session->quit;
$node->stop;

# Where could the keys be now?  No text that has one is shown.
sub has_key
{
	my ($text) = @_;

	foreach my $secret ($key, $second_key)
	{
		# with slashes escaped as in JSON, and with another first letter
		(my $escaped = $secret) =~ s{/}{\\/}g;
		return 1
		  if index($text, substr($secret, 1)) >= 0
		  || index($text, substr($escaped, 1)) >= 0;
	}
	return 0;
}

my $log = slurp_file($node->logfile);
foreach my $server (sort keys %questions)
{
	my @found = grep { has_key($_) } split /^(?=anyvod_)/m, $texts;

	@found = map { /^(\S+ \S+ $server:)/ ? $1 : () } @found;
	is_deeply(\@found, [],
		"no error or answer of server $server has the key");
}
foreach my $where (
	[ 'the log', $log ],
	[ 'pg_stat_activity', $activity ],
	[ 'the table', $rows ])
{
	my ($name, $text) = @$where;

	ok(!has_key($text), "$name does not have the key");
}
ok(has_key("a text with $key"), 'a key would be found');
ok($log =~ /DEBUG:  00000/, 'the log has everything else');

done_testing();
