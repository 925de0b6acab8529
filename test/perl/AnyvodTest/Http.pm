package AnyvodTest::Http;

# AnyvodTest::Http - what the tests of requests (test/t/http_*.pl) share
#
#	add_server($node, 'far', $url, "timeout '1s'", api_key => 'sk-a');
#	my $ids = ids('image', 100);			# an array of task ids, as SQL
#	my ($rows, $errors) = query_many($session, $ids, 'far');
#	my $ms = cancel($admin, $pid, $session);
#	syswrite $client, response(succeeded('image-1'));
#	sockets(remote => $port, state => 'CLOSE_WAIT');
#	cpu_ms($pid);
#
# No test lives here.

use strict;
use warnings;

use AnyvodTest;
use Carp;
use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;

our @EXPORT = qw(
  add_server
  ids
  query_many
  sqlstate
  backend_pid
  track
  cancel
  task_of
  response
  waiting
  succeeded
  sockets
  has_open
  cpu_ms
);

# add_server($node, $name, $url, $options, %more): a foreign server and a
# mapping for PUBLIC.
#
#	api_key => '...'	of the mapping (default: sk-test; undef: no mapping)
sub add_server
{
	my ($node, $name, $url, $options, %more) = @_;
	my $api_key = exists $more{api_key} ? $more{api_key} : 'sk-test';
	my $script = "CREATE SERVER $name FOREIGN DATA WRAPPER anyvod OPTIONS ("
	  . join(', ', 'base_url ' . quote_literal($url), $options // ()) . ');';

	$script .= "CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (api_key "
	  . quote_literal($api_key) . ');'
	  if defined $api_key;
	$node->safe_psql('postgres', $script);
	return;
}

# $count task ids that begin with the same words, as an expression of SQL.
sub ids
{
	my ($words, $count) = @_;

	return "ARRAY(SELECT '$words-' || n FROM generate_series(1, $count) AS n)";
}

# How many rows with a response, and how many with an error, anyvod_query_many
# gives in a session; the third is the first error's message.
sub query_many
{
	my ($session, $ids, $server) = @_;

	return split /\|/,
	  $session->query_safe(
		'SELECT count(response), count(error_code), min(error_message)'
		  . " FROM anyvod_query_many($ids, '$server')"), 3;
}

# The SQLSTATE of anyvod_query in a session.
sub sqlstate
{
	my ($session, $task_id, $server) = @_;

	return (run_query($session, "SELECT anyvod_query('$task_id', '$server')"))[0];
}

sub backend_pid
{
	my ($session) = @_;

	return $session->query_safe('SELECT pg_backend_pid()');
}

# Insert $count tasks whose ids begin with the same words.
sub track
{
	my ($node, $words, $count, $server) = @_;

	$node->safe_psql('postgres', 'INSERT INTO anyvod_tasks (task_id, server)'
		  . " SELECT '$words-' || n, '$server'"
		  . " FROM generate_series(1, $count) AS n");
	return;
}

# Cancel what a session does, and wait for its end.  Returns the milliseconds
# that this took, and the statement's SQLSTATE.
sub cancel
{
	my ($admin, $pid, $session) = @_;
	my $begin = clock_ms();

	$admin->query_safe("SELECT pg_cancel_backend($pid)");
	my ($state) = end_query($session);

	return (clock_ms() - $begin, $state);
}


# Responses of peers that are written in Perl

# The task id that a request's head names.
sub task_of
{
	my ($head) = @_;

	return ($head =~ m{^GET \S*/query/(\S+) HTTP})[0];
}

# An HTTP response with this body.
#
#	version => '1.0'	default 1.1
#	header => [...]		more lines
sub response
{
	my ($body, %options) = @_;

	return join("\r\n",
		'HTTP/' . ($options{version} // '1.1') . ' 200 OK',
		'Content-Type: application/json',
		'Content-Length: ' . length $body,
		@{ $options{header} // [] },
		'', $body);
}

# The body for a task that waits; $more is more JSON of its object.
sub waiting
{
	my ($more) = @_;

	return '{"Response":{"Status":"WAITING","TaskType":"AigcImageTask"'
	  . ($more // '') . '}}';
}

# The body for a task that has succeeded.
sub succeeded
{
	my ($task_id) = @_;

	return
		'{"Response":{"Status":"FINISH","TaskType":"AigcImageTask",'
	  . "\"AigcImageTask\":{\"TaskId\":\"$task_id\",\"Status\":\"FINISH\","
	  . '"Output":{"FileInfos":[{"FileUrl":'
	  . "\"http://files.example/$task_id.png\"}]}}}}";
}


# The system

# The inodes of TCP sockets on this machine; in scalar context, how many there
# are.
#
#	local => PORT		bound to it
#	remote => PORT		connected to it
#	state => '...'		SYN_SENT, ESTABLISHED or CLOSE_WAIT
sub sockets
{
	my (%which) = @_;
	my %states = (ESTABLISHED => '01', SYN_SENT => '02', CLOSE_WAIT => '08');
	my $port = sub { defined $_[0] ? sprintf '%04X', $_[0] : '[0-9A-F]{4}' };
	my $local = $port->($which{local});
	my $remote = $port->($which{remote});
	my $state = $states{ $which{state} } // croak 'no such state';

	my @found =
	  map {
		/^\s*\d+: \S+:$local \S+:$remote $state (?:\s*\S+){5} (\d+) /
		  ? $1
		  : ()
	  }
	  map { -r $_ ? split /\n/, slurp_file($_) : () } '/proc/net/tcp',
	  '/proc/net/tcp6';

	return wantarray ? @found : scalar @found;
}

# Has a process a socket, known by its inode, open?  (One that is closed at both
# ends is in no list of the system's, and still takes a descriptor.)
sub has_open
{
	my ($pid, $inode) = @_;

	return
	  grep { (readlink // '') eq "socket:[$inode]" } glob "/proc/$pid/fd/*";
}

# The CPU time that a process has used, in milliseconds.
sub cpu_ms
{
	my ($pid) = @_;
	my ($user, $system) = (split ' ',
		slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr)[ 11, 12 ];

	return 1000 * ($user + $system) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

1;
