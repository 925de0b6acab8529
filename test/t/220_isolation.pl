# What is wrong with one row, or is done to it, stops that row only.

use strict;
use warnings;

use AnyvodTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $simulator = start_simulator(keys => ['sk-isolation']);
my $node = anyvod_node(
	'isolation',
	simulator => $simulator,
	api_key => 'sk-isolation',
	options => "rate_limit '5000'",
	conf => <<'END');
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
END

sub sql
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

# Track a task each of a list, and ninety-nine others beside them.
sub track
{
	my ($name, @ids) = @_;

	sql('INSERT INTO anyvod_tasks (task_id) SELECT unnest(ARRAY['
		  . join(', ', map { quote_literal($_) } @ids)
		  . "]::text[]) UNION ALL SELECT 'image-$name-' || i"
		  . ' FROM generate_series(1, 99) AS i');
	return;
}

# The others have all been settled; returns how long that took, in seconds.
sub others_settled
{
	my ($name) = @_;
	my $begin = clock_ms();

	ok( poll_until(
			$node,
			"SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
			  . " AND task_id LIKE 'image-$name-%'",
			99),
		"$name: all others are settled");
	return (clock_ms() - $begin) / 1000;
}

# Wait until a row says something.
sub row_says
{
	my ($task_id, $what) = @_;

	return poll_until($node,
		"SELECT concat(state, ' ', error_code) FROM anyvod_tasks"
		  . ' WHERE task_id = '
		  . quote_literal($task_id),
		$what);
}

# How often the log says that a task could not be written.
sub complaints
{
	my ($task_id) = @_;
	my @found =
	  slurp_file($node->logfile) =~ /could not write task "\Q$task_id\E"/g;

	return scalar @found;
}

# A gateway that answers everything with the same text; ended with the test.
my @children;
sub answer_always
{
	my ($body) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Listen => 5,
		Proto => 'tcp') or die "could not listen: $@\n";
	my $port = $listener->sockport;
	my $pid = fork() // die "could not fork: $!\n";

	if ($pid == 0)
	{
		local $SIG{TERM} = 'DEFAULT';
		while (my $client = $listener->accept)
		{
			while (defined(my $line = <$client>))
			{
				last if $line eq "\r\n";
			}
			print $client "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
			  . 'Content-Length: '
			  . length($body)
			  . "\r\nConnection: close\r\n\r\n$body";
			close $client;
		}
		POSIX::_exit(0);
	}
	push @children, $pid;
	close $listener;
	return "http://127.0.0.1:$port";
}

END
{
	local ($?, $!);
	kill 'TERM', $_ foreach @children;
	waitpid $_, 0 foreach @children;
}

my $user = open_session($node);

# A row that a user has locked, for as long as he likes
track('locked', 'image-held');
others_settled('locked');
ok(row_says('image-held', 'succeeded '), 'a row is settled');
sql("UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'image-held'");
ok(row_says('image-held', 'succeeded '), 'and once more');
$user->query_safe('BEGIN');
$user->query_safe("INSERT INTO anyvod_tasks (task_id) VALUES ('image-t1500-new')");
$user->query_safe('COMMIT');
$user->query_safe('BEGIN');
$user->query_safe(
	"SELECT FROM anyvod_tasks WHERE task_id = 'image-t1500-new' FOR UPDATE");
track('held');
others_settled('held');
ok( wait_until(
		sub {
			my $task = $simulator->task('image-t1500-new');

			return $task->{last_ms} >= $task->{end_ms};
		}),
	'the end of a task whose row is locked is seen');
my $polls = $simulator->task_requests('image-t1500-new');
usleep(1_500_000);				# more than the first retry takes
is($simulator->task_requests('image-t1500-new'),
	$polls, 'which costs no further request');
is( sql('SELECT state, error_code IS NULL FROM anyvod_tasks'
		  . " WHERE task_id = 'image-t1500-new'"),
	'pending|t',
	'and not written');
$user->query_safe('COMMIT');
ok(row_says('image-t1500-new', 'succeeded '), 'until it is free');
is(complaints('image-t1500-new'), 0, 'that is no complaint');

# One that a foreign key of an open transaction refers to is not hidden.
sql('CREATE TABLE orders (task_id text REFERENCES anyvod_tasks)');
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-t1500-ordered')");
$user->query_safe('BEGIN');
$user->query_safe("INSERT INTO orders VALUES ('image-t1500-ordered')");
ok(row_says('image-t1500-ordered', 'succeeded '),
	'a row to which an open transaction refers is settled');
$user->query_safe('COMMIT');

# A CHECK that a user added
sql("ALTER TABLE anyvod_tasks ADD CONSTRAINT no_video"
	  . " CHECK (task_type <> 'AigcVideoTask')");
track('checked', 'video-checked-0');
others_settled('checked');
ok(row_says('video-checked-0', 'pending 23514'), 'a CHECK stops a row');
sql('ALTER TABLE anyvod_tasks DROP CONSTRAINT no_video');
ok(row_says('video-checked-0', 'succeeded '), 'until it is dropped');
is($simulator->task_requests('video-checked-0'), 1, 'for one request');
is(complaints('video-checked-0'), 1, 'the log has it once');

# A deferred constraint trigger fires at once: a security-restricted operation
# may fire none when it is over.
sql(<<'END');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.task_id = 'image-x-deferred' THEN
		RAISE 'refused' USING ERRCODE = 'P0007';
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON anyvod_tasks
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
	WHEN (NEW.state <> 'pending')
	EXECUTE FUNCTION refuse();
END
track('deferred', 'image-x-deferred');
others_settled('deferred');
ok(row_says('image-x-deferred', 'pending P0007'),
	'a deferred constraint trigger stops a row, and no other');
sql('DROP TRIGGER refuse ON anyvod_tasks');

# A trigger that waits for a lock
sql(<<'END');
CREATE TABLE gate ();
GRANT ALL ON gate TO PUBLIC;
CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	LOCK TABLE public.gate IN SHARE MODE;
	RETURN NEW;
END $$;
CREATE TRIGGER pass_gate BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id = 'image-gated-0')
	EXECUTE FUNCTION pass_gate();
END
$user->query_safe('BEGIN; LOCK TABLE gate');
track('behind', 'image-gated-0');
my $took = others_settled('behind');
measured('99 rows beside one whose trigger waits for a lock took %.1f s', $took);
cmp_ok($took, '<', 20, 'a trigger that waits for a lock holds up no other row');
$user->query_safe('COMMIT');
ok(row_says('image-gated-0', 'succeeded '),
	'when the lock is free its row is settled');
sql('DROP TRIGGER pass_gate ON anyvod_tasks');

# An answer with a number that jsonb cannot hold
my $number = '1' x 200_000;
my $monster = answer_always(
	'{"Response":{"TaskType":"AigcImageTask","Status":"FINISH","AigcImageTask":'
	  . '{"Status":"FINISH","ErrCode":0,"Progress":100,"Output":{"FileInfos":'
	  . '[{"FileUrl":"http://127.0.0.1/a.png","ExpireTime":"2030-01-01T00:00:00Z"}]},'
	  . qq("Input":{"Seed":$number}}}}));
sql('CREATE SERVER monster FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '
	  . quote_literal($monster)
	  . ", rate_limit '5000')");
sql("INSERT INTO anyvod_tasks (task_id, server) VALUES ('monster-0', 'monster')"
);
track('beside');
others_settled('beside');
ok( poll_until(
		$node,
		'SELECT state, file_url, response IS NULL FROM anyvod_tasks'
		  . " WHERE task_id = 'monster-0'",
		'succeeded|http://127.0.0.1/a.png|t'),
	'an answer that jsonb cannot hold does not cost the file');

# A role that is dropped, and made again
sql('CREATE ROLE tenant; GRANT USAGE ON FOREIGN SERVER anyapi TO tenant;'
	  . ' CREATE USER MAPPING FOR tenant SERVER anyapi'
	  . " OPTIONS (api_key 'sk-isolation');"
	  . ' SET ROLE tenant;'
	  . " INSERT INTO anyvod_tasks (task_id) VALUES ('image-t600000-tenant')");
ok( wait_until(
		sub { $simulator->task_requests('image-t600000-tenant') >= 2 }),
	'a role has its task asked for');
# Roles of that name may use the server: making one is all that it takes.
sql('GRANT USAGE ON FOREIGN SERVER anyapi TO PUBLIC;'
	  . ' DROP OWNED BY tenant; DROP ROLE tenant');
track('roles');
others_settled('roles');
ok(row_says('image-t600000-tenant', 'pending 42704'),
	'the row of a role that is dropped says so');
my $asked = $simulator->task_requests('image-t600000-tenant');
sql('CREATE ROLE tenant');
ok( wait_until(
		sub { $simulator->task_requests('image-t600000-tenant') > $asked },
		20),
	'made again, it has its task asked for at once');
ok(row_says('image-t600000-tenant', 'pending '), 'and the complaint is gone');
is(worker_pid($node) ne '', 1, 'the worker is there');

# Tables that their owner has altered: not by a superuser, but by the owner of
# the database.  Nothing of it may crash anything, nor disturb another.
my @alterations = (
	[ 'no server' => 'ALTER TABLE anyvod_tasks ALTER server DROP NOT NULL;'
		  . ' UPDATE anyvod_tasks SET server = NULL' ],
	[ 'no owner' => 'ALTER TABLE anyvod_tasks ALTER owner DROP NOT NULL;'
		  . ' UPDATE anyvod_tasks SET owner = NULL' ],
	[ 'ids that are none' => 'ALTER TABLE anyvod_tasks'
		  . ' DROP CONSTRAINT anyvod_tasks_task_id_check;'
		  . ' INSERT INTO anyvod_tasks (task_id) VALUES'
		  . " (''), ('..'), ('../x'), (E'a\\r\\nb'), (repeat('x', 2000)), (U&'\\00e4')"
	],
	[ 'ids that come twice' => 'ALTER TABLE anyvod_tasks'
		  . ' DROP CONSTRAINT anyvod_tasks_pkey;'
		  . ' INSERT INTO anyvod_tasks (task_id)'
		  . ' SELECT task_id FROM anyvod_tasks' ],
	[ 'no times' => 'ALTER TABLE anyvod_tasks ALTER created_at DROP NOT NULL;'
		  . ' UPDATE anyvod_tasks SET created_at = NULL' ],
	[ 'times without end' => 'UPDATE anyvod_tasks'
		  . " SET created_at = 'infinity', started_at = '-infinity'" ],
	[ 'polls that are many' => 'UPDATE anyvod_tasks SET polls = 2147483647' ],
	[ 'text for numbers' => 'ALTER TABLE anyvod_tasks'
		  . " ALTER progress TYPE text USING 'half', ALTER polls DROP DEFAULT,"
		  . " ALTER polls TYPE text USING 'many'" ],
	[ 'numbers for text' => 'DROP INDEX anyvod_tasks_pending;'
		  . ' ALTER TABLE anyvod_tasks ALTER status TYPE int USING 7' ],
	[ 'long texts' => 'UPDATE anyvod_tasks SET'
		  . " status = repeat('s', 100000), model = repeat('m', 1000000)" ],
	[ 'another name' => 'ALTER TABLE anyvod_tasks RENAME model TO muse' ],
	[ 'a column less' => 'ALTER TABLE anyvod_tasks DROP COLUMN file_url' ],
	[ 'a column more' => 'ALTER TABLE anyvod_tasks'
		  . ' ADD COLUMN twice int GENERATED ALWAYS AS (polls * 2) STORED' ],
	[ 'no triggers' => 'DROP TRIGGER anyvod_tasks_turned ON anyvod_tasks;'
		  . " UPDATE anyvod_tasks SET state = 'succeeded';"
		  . " UPDATE anyvod_tasks SET state = 'pending'" ],
	[ 'a rule instead' => 'CREATE RULE nothing AS ON UPDATE TO anyvod_tasks'
		  . ' DO INSTEAD NOTHING' ]);

sql('CREATE ROLE landlord LOGIN');
my $logged = -s $node->logfile;
my @running;
foreach my $i (0 .. $#alterations)
{
	my ($what, $script) = @{ $alterations[$i] };
	my $database = "house$i";

	sql("CREATE DATABASE $database OWNER landlord");
	anyvod_database(
		$node, $database,
		simulator => $simulator,
		api_key => 'sk-isolation');
	# what views have of a table cannot be altered
	sql('ALTER EXTENSION anyvod DROP VIEW anyvod_dashboard;'
		  . ' ALTER EXTENSION anyvod DROP VIEW anyvod_expiring;'
		  . ' DROP VIEW anyvod_dashboard, anyvod_expiring',
		$database);
	sql('GRANT USAGE ON FOREIGN SERVER anyapi TO landlord;'
		  . ' SET SESSION AUTHORIZATION landlord;'
		  . ' INSERT INTO anyvod_tasks (task_id) VALUES'
		  . " ('image-t600000-house$i'), ('image-t3000-house$i')",
		$database);
	ok( wait_until(
			sub { $simulator->task_requests("image-t600000-house$i") > 0 }),
		"$what: a task is asked for");

	my ($state, undef, $error) = $node->psql($database,
		"SET SESSION AUTHORIZATION landlord; $script");

	is($state, 0, "$what: the owner may do that") or diag($error);
	sql('SELECT anyvod_wake()', $database);
}

# While all of them are served, or not, another database is.
track('neighbours');
others_settled('neighbours');
ok( wait_until(
		sub {
			return !grep {
				$simulator->task_requests("image-t3000-house$_") == 0
			} 0 .. $#alterations;
		}),
	'all have been asked');
# Each is looked at for some rounds more.
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-t4000-end')");
ok(row_says('image-t4000-end', 'succeeded '), 'some seconds pass');
my ($twice) = grep { $alterations[$_][0] =~ /twice/ } 0 .. $#alterations;
ok( poll_until(
		$node,
		"SELECT string_agg(state::text, ' ') FROM anyvod_tasks"
		  . " WHERE task_id = 'image-t3000-house$twice'",
		'succeeded succeeded', 20, "house$twice"),
	'two rows of a task are settled');
my $log = slurp_file($node->logfile, $logged);
is_deeply(
	[ $log =~ /(?:terminated by signal|PANIC|TRAP|FATAL|exit code).*/g ],
	[], 'no process has crashed or ended for an error');
my @lines = $log =~ /LOG:  anyvod .*/g;
cmp_ok(scalar @lines, '<=', 2 * @alterations,
	'the log says each thing once, not every round')
  or diag(join "\n", @lines);

$user->quit;
done_testing();
