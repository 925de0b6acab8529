# When the server has no worker, connection, descriptor or lock left, or a
# process is killed, tasks wait and are settled.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Fault;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $simulator = start_simulator();
my $node = anyvod_node(
	'limits',
	simulator => $simulator,
	options => "rate_limit '1000', timeout '2s'",
	conf => <<'END');
max_worker_processes = 3
max_connections = 12
max_prepared_transactions = 5
deadlock_timeout = 100ms
restart_after_crash = on
anyvod.detection_delay = 300ms
anyvod.poll_floor = 100ms
anyvod.idle_timeout = 1h
autovacuum = off
END
log_settling($node);

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# A fault in whose time tasks of all kinds are tracked.
sub begin_fault
{
	my ($name, $before) = @_;
	my $fault = AnyvodTest::Fault->new($node, $name);

	$fault->track($before // 30);
	ok(wait_until(sub { $fault->asked > 0 }), "$name: tasks run");
	return $fault;
}

# The worker lives, and so it did all the time.
sub end_fault
{
	my ($fault, $worker) = @_;

	$fault->heal;
	$fault->settle;
	is(worker_pid($node), $worker, $fault->name . ': the worker lives')
	  if defined $worker;
	return;
}

# All places of background workers are taken, by tasks of other databases.
sub no_worker
{
	my $fault = AnyvodTest::Fault->new($node, 'max_worker_processes exhausted');
	my @others = map { "other$_" } 1 .. 3;

	foreach my $other (@others)
	{
		sql("CREATE DATABASE $other TEMPLATE template0");
		anyvod_database($node, $other, base_url => 'http://127.0.0.1:9');
		sql("INSERT INTO anyvod_tasks (task_id) VALUES ('image-never')",
			$other);
	}
	$fault->track(60);
	$fault->count(1);
	Time::HiRes::sleep(2);
	sql("DROP DATABASE $_ WITH (FORCE)") foreach @others;
	$fault->heal;
	$fault->settle;
	return;
}

# Each connection is taken; the worker has its own.
sub no_connection
{
	my $fault = begin_fault('max_connections exhausted');
	my $worker = worker_pid($node);
	my @sessions;

	$fault->track(30);
	while (@sessions < 20)
	{
		my $session = eval { open_session($node); } or last;

		push @sessions, $session;
	}
	cmp_ok(scalar @sessions, '<', 20, 'no connection is left');
	$fault->count(1);
	$sessions[0]->query_safe("INSERT INTO anyvod_tasks (task_id)"
		  . " SELECT 'image-full-' || i FROM generate_series(1, 20) AS i");
	ok( wait_until(
			sub {
				$sessions[0]->query_safe('SELECT count(*) FROM anyvod_tasks'
					  . " WHERE state = 'succeeded' AND task_id LIKE"
					  . " 'image-full-%'") == 20;
			}),
		'tasks are settled meanwhile');
	close_session($_) foreach @sessions;
	end_fault($fault, $worker);
	return;
}

# A user's transactions update rows in another order than the worker does, and
# a trigger on each makes the worker wait for a row of another table.
sub deadlock
{
	my $fault = begin_fault('deadlock with a transaction of a user');
	my $worker = worker_pid($node);
	my $from = -s $node->logfile;
	my $deadlocks = sub {
		my @found = slurp_file($node->logfile, $from) =~ /deadlock detected/g;
		return scalar @found;
	};

	sql(<<'END');
CREATE TABLE totals (name text PRIMARY KEY, n integer DEFAULT 0);
INSERT INTO totals VALUES ('a'), ('b');
GRANT ALL ON totals TO PUBLIC;
GRANT USAGE ON SCHEMA public TO pg_database_owner;
CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.totals SET n = n + 1 WHERE name = 'a';
	PERFORM pg_catalog.pg_sleep(0.02);
	UPDATE public.totals SET n = n + 1 WHERE name = 'b';
	RETURN NULL;
END $$;
CREATE TRIGGER add_up AFTER UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.state <> 'pending' AND OLD.state = 'pending')
	EXECUTE FUNCTION add_up();
END
	my $session = open_session($node);
	my $end = clock_ms() + 8000;

	while (clock_ms() < $end)
	{
		$fault->track(6);
		$session->query("BEGIN; UPDATE totals SET n = n WHERE name = 'b';"
			  . ' SELECT pg_sleep(0.15);'
			  . " UPDATE totals SET n = n WHERE name = 'a'; COMMIT");
		$session->query('ROLLBACK');
	}
	close_session($session);
	$fault->count($deadlocks->());
	end_fault($fault, $worker);
	sql('DROP TRIGGER add_up ON anyvod_tasks; DROP TABLE totals');
	return;
}

# A prepared transaction holds rows, another the table, and users lock them.
sub locks
{
	my $fault = begin_fault('rows and the table locked');
	my $worker = worker_pid($node);

	sql('BEGIN; SELECT 1 FROM anyvod_tasks WHERE '
		  . $fault->ours
		  . " FOR UPDATE; PREPARE TRANSACTION 'rows'");
	$fault->track(20);
	Time::HiRes::sleep(2);
	sql("BEGIN; LOCK TABLE anyvod_tasks IN SHARE MODE; PREPARE TRANSACTION"
		  . " 'table'");
	Time::HiRes::sleep(2);
	sql("COMMIT PREPARED 'rows'");
	sql("COMMIT PREPARED 'table'");
	$fault->count(2);
	end_fault($fault, $worker);
	return;
}

# Descriptors: the worker may open no more.
sub no_descriptor
{
	my $fault = AnyvodTest::Fault->new($node, 'file descriptors exhausted');
	my $worker;

	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE backend_type = 'anyvod worker'");
	$fault->track(1);
	ok(wait_until(sub { ($worker = worker_pid($node)) ne '' }), 'a worker');
	my $open = () = glob "/proc/$worker/fd/*";

	system_or_bail('prlimit', '--pid', $worker, "--nofile=$open:");
	$fault->track(60);
	Time::HiRes::sleep(4);
	$fault->count(1);
	system_or_bail('prlimit', '--pid', $worker, '--nofile=1000:');
	end_fault($fault, $worker);
	return;
}

# Each batch takes one transaction id, however many rows it has.
sub transaction_ids
{
	my $fault =
	  AnyvodTest::Fault->new($node, 'transaction ids, one a batch at most');
	my ($begin, $took, $batches);

	sql(<<'END');
CREATE TABLE batches (id xid8 DEFAULT pg_current_xact_id(), rows integer);
GRANT INSERT ON batches TO PUBLIC;
CREATE FUNCTION count_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.batches (rows) SELECT count(*) FROM written;
	RETURN NULL;
END $$;
CREATE TRIGGER count_batch AFTER UPDATE ON anyvod_tasks
	REFERENCING NEW TABLE AS written FOR EACH STATEMENT
	EXECUTE FUNCTION count_batch();
END
	$begin = sql('SELECT txid_current()');
	$fault->track(3000);
	$fault->count(1);
	$fault->heal;
	ok( poll_until(
			$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'",
			0),
		'3,000 tasks are settled');
	$took = sql('SELECT txid_current()') - $begin;
	$batches = sql('SELECT count(DISTINCT id) FROM batches');
	measured('%d writes of rows in %d batches took %d transaction ids',
		sql('SELECT sum(rows) FROM batches'), $batches, $took);
	# one is that of the INSERT, one our own; there is no autovacuum to take any
	cmp_ok($took, '<=', $batches + 2, 'a batch takes one transaction id');
	sql('DROP TRIGGER count_batch ON anyvod_tasks; DROP TABLE batches');
	$fault->settle;
	return;
}

# Whatever is killed, again and again, at random.
sub kills
{
	my $fault = begin_fault('crash restart at random instants', 100);
	my $times = 0;

	foreach my $i (1 .. 8)
	{
		my $pid;

		Time::HiRes::sleep(rand 0.8);
		$node->psql(
			'postgres',
			'SELECT pid FROM pg_stat_activity WHERE backend_type IN'
			  . " ('anyvod worker', 'anyvod launcher', 'checkpointer',"
			  . " 'walwriter') ORDER BY random() LIMIT 1",
			stdout => \$pid, stderr => \my $trouble);
		$times += kill 'KILL', $pid if $pid;
		wait_until(sub { $fault->track(20, may_fail => 1) });
	}
	$fault->count($times);
	$fault->heal;
	$fault->settle;
	return;
}

no_worker();
no_connection();
deadlock();
locks();
no_descriptor();
transaction_ids();
kills();
unlike(slurp_file($node->logfile),
	qr/PANIC|TRAP|signal 11|signal 6/,
	'nothing has crashed by itself');

done_testing();
