package AnyvodTest;

# AnyvodTest - what anyvod's TAP tests share, on PostgreSQL::Test::Cluster
#
#	use AnyvodTest;
#
#	my $simulator = start_simulator(keys => ['sk-a']);
#	my $node = anyvod_node('main', simulator => $simulator,
#		api_key => 'sk-a');
#	$node->safe_psql('postgres', "INSERT INTO anyvod_tasks (task_id) VALUES ('t100')");
#	poll_until($node, "SELECT state FROM anyvod_tasks", 'succeeded')
#	  or BAIL_OUT("never filled in");
#	is($simulator->task_requests('t100'), 2, 'asked twice');
#
# A server with anyvod in it, a simulator to ask, waiting for conditions, and
# a clock.  No test lives here.  The environment comes from test/run:
# ANYVOD_SIMULATOR is the simulator's program.  What was started is ended when
# the test ends, however it ends: by this process, and by pid.

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More ();
use Time::HiRes ();

our @EXPORT = qw(
  needs_descriptors
  start_simulator
  anyvod_node
  anyvod_database
  open_session
  begin_query
  end_query
  run_query
  close_session
  poll_until
  wait_until
  worker_pid
  wait_for_worker
  launcher_pid
  log_settling
  quote_literal
  clock_ms
  median
  measured
);

# How long a condition may take to come true, in seconds: a hundred times what
# it takes on a quiet machine, so that a busy one fails no test.  The variable
# is that of PostgreSQL's own tests.
my $patience = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 60;

# Time between two looks at a condition, in seconds: 20 ms, and more where all
# takes longer, a look included.
my $look_every = $patience / 3000;

# A signal ends a test through its END blocks, which stop servers and
# simulators; without this it would end it at once.
$SIG{INT} = $SIG{TERM} = $SIG{HUP} = sub {
	my ($signal) = @_;
	die "ended by SIG$signal\n";
};

# needs_descriptors($count): skips all of a test where a process cannot have so
# many files open.
sub needs_descriptors
{
	my ($count) = @_;

	Test::More::plan(skip_all => "needs $count file descriptors")
	  if POSIX::sysconf(POSIX::_SC_OPEN_MAX()) < $count;
	return;
}

# start_simulator(%options): an AnyvodTest::Simulator, ready to be asked.
#
#	keys => [...]		API keys to accept (default: any, and none)
#	port => N			a certain port, to come back where one was stopped
#	arguments => [...]	more of the program's own arguments
sub start_simulator
{
	my (%options) = @_;

	return AnyvodTest::Simulator->new(%options);
}

# anyvod_node($name, %options): a started PostgreSQL::Test::Cluster with
# anyvod preloaded and set up in database postgres.
#
#	simulator => $s		where server "anyapi" leads
#	base_url => '...'	the same as a URL
#	api_key => '...'	in a mapping for PUBLIC (default: sk-test; undef: none)
#	options => "..."	more options of the server: "timeout '100'"
#	conf => "..."		more lines of postgresql.conf
#	preload => 0		without shared_preload_libraries
#	extension => 0		no extension, server or mapping either
#	allows_streaming => 1	can have standbys
sub anyvod_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(
		allows_streaming => $options{allows_streaming},
		extra => [ '--no-locale', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "max_worker_processes = 32\n");
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'anyvod'\n")
	  if $options{preload} // 1;
	$node->append_conf('postgresql.conf', "$options{conf}\n")
	  if defined $options{conf};
	$node->start;
	anyvod_database($node, 'postgres', %options)
	  if $options{extension} // 1;
	return $node;
}

# anyvod_database($node, $database, %options): the extension, server "anyapi"
# and a mapping for PUBLIC in a database, with the options of anyvod_node.  A
# database that is not there yet is created.
sub anyvod_database
{
	my ($node, $database, %options) = @_;
	my $api_key = exists $options{api_key} ? $options{api_key} : 'sk-test';
	my $base_url = $options{base_url};
	my @server_options;

	$base_url //= $options{simulator}->url if defined $options{simulator};
	push @server_options, 'base_url ' . quote_literal($base_url)
	  if defined $base_url;
	push @server_options, $options{options} if defined $options{options};

	$node->safe_psql('postgres', qq(CREATE DATABASE "$database"))
	  if $node->safe_psql('postgres',
		'SELECT count(*) FROM pg_database WHERE datname = '
		  . quote_literal($database)) == 0;

	my $script = "CREATE EXTENSION anyvod;\n"
	  . 'CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod';
	$script .= ' OPTIONS (' . join(', ', @server_options) . ')'
	  if @server_options;
	$script .= ";\n";
	$script .= 'CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key '
	  . quote_literal($api_key) . ");\n"
	  if defined $api_key;
	$node->safe_psql($database, $script);
	return;
}

# Sessions: one psql each, kept open.  A query that fails is an answer, so
# that errors and what comes after them can be looked at.

# open_session($node, %options): a PostgreSQL::Test::BackgroundPsql.
#
#	database => '...'	default postgres
#	user => '...'		default the superuser
sub open_session
{
	my ($node, %options) = @_;
	my $session = $node->background_psql(
		$options{database} // 'postgres',
		on_error_stop => 0,
		extra_params =>
		  [ defined $options{user} ? ('-U', $options{user}) : () ]);

	$session->set_query_timer_restart;
	return $session;
}

# begin_query($session, $sql): send a statement and do not wait for its end.
sub begin_query
{
	my ($session, $sql) = @_;

	$session->{stderr} = '';
	$session->{timeout}->start;
	$session->{stdin} .= "\\echo begun\n$sql;\n\\echo SQLSTATE :SQLSTATE\n";
	PostgreSQL::Test::Utils::pump_until($session->{run}, $session->{timeout},
		\$session->{stdout}, qr/^begun\n/m)
	  or die "psql did not take a query: $session->{stderr}";
	# what comes after it is for end_query
	$session->{stdout} =~ s/^begun\n//m;
	return;
}

# end_query($session): wait for its end.  Returns its SQLSTATE, what it gave,
# and the text of its error.
sub end_query
{
	my ($session) = @_;
	my $output = $session->query('');
	my ($state) = $output =~ /^SQLSTATE (\w+)$/m;

	my $error = $session->{stderr};

	$session->{stderr} = '';
	$output =~ s/\n?^SQLSTATE \w+\n?//m;
	return ($state, $output, $error);
}

# run_query($session, $sql): both; also returns how long it took, in
# milliseconds.
sub run_query
{
	my ($session, $sql) = @_;
	my $begin = clock_ms();

	begin_query($session, $sql);

	my @result = end_query($session);

	return (@result, clock_ms() - $begin);
}

# close_session($session): end psql, also one whose server is gone.
sub close_session
{
	my ($session) = @_;

	eval { $session->quit; };
	return;
}

# worker_pid($node, $database): the process that asks for the tasks of a
# database, '' if there is none.
sub worker_pid
{
	my ($node, $database) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'anyvod worker'"
		  . ' AND datname = '
		  . quote_literal($database // 'postgres'));
}

# wait_for_worker($node, $there, %options): wait until there is a worker, or
# none; the database and the pid of a worker that is not meant can be given.
# Returns its pid, undef if the wish did not come true.
sub wait_for_worker
{
	my ($node, $there, %options) = @_;
	my $pid;
	my $came = wait_until(
		sub {
			$pid = worker_pid($node, $options{database});
			return $there
			  ? $pid ne '' && $pid ne ($options{other_than} // '')
			  : $pid eq '';
		});

	return $came ? $pid : undef;
}

sub launcher_pid
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'anyvod launcher'"
	);
}

# log_settling($node, $database): from now on table "settlings" has a row for
# each time that a row of anyvod_tasks was settled, also one that had been
# settled before, written by a trigger.
sub log_settling
{
	my ($node, $database) = @_;

	$node->safe_psql($database // 'postgres', <<'END');
CREATE TABLE public.settlings (task_id text, state anyvod_state,
	at timestamptz DEFAULT clock_timestamp());
GRANT INSERT ON public.settlings TO PUBLIC;
CREATE FUNCTION public.log_settling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.settlings VALUES (NEW.task_id, NEW.state);
	RETURN NULL;
END $$;
CREATE TRIGGER log_settling AFTER UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.state <> 'pending')
	EXECUTE FUNCTION public.log_settling();
END
	return;
}

# poll_until($node, $sql, $expected, $timeout, $database): ask until the
# answer is $expected (default: t), at most $timeout seconds.  Returns true
# when it came; otherwise notes the last answer and returns false.  A failing
# query is an answer as well, and each comes in a session of its own, so that
# the server may restart meanwhile.
sub poll_until
{
	my ($node, $sql, $expected, $timeout, $database) = @_;
	my ($answer, $trouble);

	$expected //= 't';
	my $came = wait_until(
		sub {
			$node->psql(
				$database // 'postgres', $sql,
				stdout => \$answer,
				stderr => \$trouble);
			return $answer eq $expected;
		},
		$timeout);
	Test::More::diag(
		"waited for \"$expected\", last was \"$answer\" $trouble: $sql")
	  unless $came;
	return $came;
}

# wait_until($condition, $timeout): call $condition until it returns true, at
# most $timeout seconds; returns whether it did.
sub wait_until
{
	my ($condition, $timeout) = @_;
	my $deadline = clock_ms() + 1000 * ($timeout // $patience);

	until ($condition->())
	{
		return 0 if clock_ms() > $deadline;
		Time::HiRes::sleep($look_every);
	}
	return 1;
}

# A string as an SQL literal.
sub quote_literal
{
	my ($string) = @_;

	$string =~ s/'/''/g;
	return $string =~ s/\\/\\\\/g ? " E'$string'" : "'$string'";
}

# Milliseconds of a clock that is never set back.
sub clock_ms
{
	return 1000 * Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC());
}

# The median of a list of numbers; of none, undef.
sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $middle = int(@sorted / 2);

	return @sorted % 2
	  ? $sorted[$middle]
	  : @sorted ? ($sorted[ $middle - 1 ] + $sorted[$middle]) / 2 : undef;
}

# measured($format, ...): a figure that whoever runs the tests should see.
sub measured
{
	my ($format, @figures) = @_;

	Test::More::diag(sprintf($format, @figures));
	return;
}

package AnyvodTest::Simulator;

# The program of test/simulator, started and asked about what it saw.

use strict;
use warnings;

use Carp;
use HTTP::Tiny;
use JSON::PP;
use POSIX ();

use parent 'AnyvodTest::Child';

sub new
{
	my ($class, %options) = @_;
	my $program = $ENV{ANYVOD_SIMULATOR}
	  or croak 'ANYVOD_SIMULATOR does not name the simulator';
	my $self = bless {
		log => PostgreSQL::Test::Utils::tempdir() . '/simulator',
		# no proxy of the environment, whatever it says
		http => HTTP::Tiny->new(
			proxy => undef, http_proxy => undef, https_proxy => undef),
	}, $class;
	my @command = (
		$program, '--port', $options{port} // 0, '--parent', $$,
		(map { ('--key', $_) } @{ $options{keys} // [] }),
		@{ $options{arguments} // [] });

	$self->spawn($self->{log}, @command);
	$self->_wait_until_ready;
	return $self;
}

# It says "listening on HOST:PORT" when it can be asked.
sub _wait_until_ready
{
	my ($self) = @_;
	my $ended = 0;

	AnyvodTest::wait_until(
		sub {
			my $log = -e $self->{log}
			  ? PostgreSQL::Test::Utils::slurp_file($self->{log})
			  : '';

			($self->{port}) = $log =~ /^listening on \S+:(\d+)$/m;
			$ended = waitpid($self->{pid}, POSIX::WNOHANG()) != 0
			  unless $self->{port};
			return $self->{port} || $ended;
		});
	return if $self->{port};

	my $said = PostgreSQL::Test::Utils::slurp_file($self->{log});
	$self->stop;
	croak "the simulator did not start: $said";
}

sub port
{
	my ($self) = @_;
	return $self->{port};
}

# The base_url of a server that asks it.
sub url
{
	my ($self) = @_;
	return "http://127.0.0.1:$self->{port}";
}

# GET $path, as JSON.
sub get
{
	my ($self, $path) = @_;
	my $answer = $self->{http}->get($self->url . $path);

	croak "$path: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return JSON::PP->new->utf8->allow_nonref->decode($answer->{content});
}

# Its counters, as a hash; with tasks => 1 also the requests for each task.
sub stats
{
	my ($self, %options) = @_;
	return $self->get('/_stats' . ($options{tasks} ? '' : '?tasks=0'));
}

# Forget all counters and tasks.
sub reset
{
	my ($self) = @_;
	$self->_command('/_reset');
	return;
}

# Accept these keys from now on; none: everybody.
sub set_keys
{
	my ($self, @keys) = @_;
	$self->_command('/_key?' . join('&', map { "set=$_" } @keys));
	return;
}

# How often a task was asked for.
sub task_requests
{
	my ($self, $task_id) = @_;
	return $self->task($task_id)->{requests} // 0;
}

# What is known of a task: requests, first_ms, last_ms, end_ms (unix time).
sub task
{
	my ($self, $task_id) = @_;
	return $self->get("/_stats?task=$task_id");
}

# The last $count requests, as an array of hashes: ms, id, status, connection.
sub requests
{
	my ($self, $count) = @_;
	return $self->get('/_log?n=' . ($count // 1000));
}

# GET $path, whatever it answers.
sub _command
{
	my ($self, $path) = @_;
	my $answer = $self->{http}->get($self->url . $path);

	croak "$path: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return;
}

# Let it stand still and go on: a gateway that accepts and never answers.
sub pause
{
	my ($self) = @_;
	kill 'STOP', $self->{pid};
	return;
}

sub resume
{
	my ($self) = @_;
	kill 'CONT', $self->{pid};
	return;
}

1;
