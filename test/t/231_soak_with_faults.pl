# Asked for long, at a high rate, with faults among the answers: nothing that
# the server holds grows, neither the memory and files of its processes, nor
# shared memory, the catalogs or the table.
#
#	ANYVOD_SOAK			seconds (default 15; "make soak" takes 30 minutes)
#	ANYVOD_SOAK_RATE	questions a second to aim at (default 2,000)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

plan skip_all => 'needs /proc of Linux' if !-e '/proc/self/status';

my $lasts = $ENV{ANYVOD_SOAK} || 15;
my $rate = $ENV{ANYVOD_SOAK_RATE} || 2_000;

# Growth is counted from here on, when all that is kept has been filled; and
# this often is it looked at.
my $warm_up = $lasts < 60 ? $lasts / 3 : $lasts / 6;
my $every = $lasts < 60 ? $lasts / 6 : 60;

# Connections that each of two servers may have.
my $connections = 16;

# Tasks that run for good, each of which is asked about once a second at most.
my $running = $rate * 1.5;

my $simulator = start_simulator(keys => ['sk-soak']);
my $node = anyvod_node(
	'soak_faults',
	simulator => $simulator,
	api_key => 'sk-soak',
	options => "timeout '1s', rate_limit '$rate', max_concurrency '$connections'",
	conf => <<"END");
anyvod.detection_delay = 500ms
anyvod.poll_floor = 500ms
anyvod.poll_cap = 1s
anyvod.retention = 5s
autovacuum_naptime = 1s
autovacuum_vacuum_scale_factor = 0.01
END

# What pauses a whole server, or a role there, has a server of its own.
$node->safe_psql('postgres', <<"END");
CREATE SERVER limited FOREIGN DATA WRAPPER anyvod OPTIONS (
	base_url '@{[ $simulator->url ]}', rate_limit '$rate',
	max_concurrency '$connections');
CREATE USER MAPPING FOR PUBLIC SERVER limited OPTIONS (api_key 'sk-soak');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-t90000000-' || CASE i % 20 WHEN 0 THEN 'progress-'
		WHEN 1 THEN 'full-uni-surrogate-nul-' WHEN 2 THEN 'huge20000-'
		ELSE '' END || i
	FROM generate_series(1, $running) AS i
END

# Each in turn is met by a new task, once or twice, before that comes to its
# end: slow, late, cut off, refused, and garbage.
my @faults = qw(delay300 delay2000-x1 dribble600 cut-x1 cutchunk-x1 reset-x1
  resetbody-x1 close http500-x2 http502-x1 http404-x1 html-x1 notjson-x1
  empty-x1 badutf8 two-x1 deep300-x1 huge2000000 nofile-x2 fail
  eInternalError-x1 unknown-x1 http302-x1);
my $number = 0;
my $session = open_session($node);

# Have a task of each fault tracked, ask about some from a session, and let
# rows that were settled be asked about again.  Those that pause a server or a
# role come when there are none: they would wait for each other, ever more.
sub meddle
{
	my @values = map { sprintf "('image-%s-%d')", $_, $number++ } @faults;
	my @pausing =
	  map { sprintf "('image-%s-%d')", $_, $number++ }
	  ('http429-ra1-x1', 'http401-x1');

	$session->query_safe('INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ', @values));
	$session->query_safe('INSERT INTO anyvod_tasks (task_id, server)'
		  . " SELECT task_id, 'limited'"
		  . ' FROM (VALUES ' . join(', ', @pausing) . ') AS new (task_id)'
		  . ' WHERE NOT EXISTS (SELECT FROM anyvod_tasks'
		  . " WHERE server = 'limited' AND state = 'pending')");
	run_query($session,
		"SELECT anyvod_status('image-$faults[$number % @faults]-now-$number')"
	);
	$session->query_safe(<<'END');
UPDATE anyvod_tasks SET state = 'pending' WHERE task_id IN (SELECT task_id
	FROM anyvod_tasks WHERE state = 'succeeded' LIMIT 1)
END
	return;
}

my $worker = wait_for_worker($node, 1);
my %pids = (
	worker => $worker,
	launcher => launcher_pid($node),
	session => $session->query_safe('SELECT pg_backend_pid()'));

# The least that was seen of each since an interval began.  Answers in flight
# come and go, so a single look would tell little.
my %least;

sub note_size
{
	my ($name, $size) = @_;

	$least{$name} = $size if $size < ($least{$name} // $size + 1);
	return;
}

# Look at each process: kilobytes of its own memory, and open files.
sub look_at_processes
{
	while (my ($name, $pid) = each %pids)
	{
		my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
		my $files = () = glob "/proc/$pid/fd/*";

		note_size("$name kB", $kb);
		note_size("$name files", $files);
	}
	return;
}

sub look_at_server
{
	my ($shared, $catalogs, $tasks) = split /\|/,
	  $node->safe_psql('postgres', <<'END');
SELECT (SELECT sum(allocated_size)::bigint / 1024 FROM pg_shmem_allocations),
	(SELECT sum(pg_total_relation_size(oid))::bigint / 1024 FROM pg_class
		WHERE relkind = 'r' AND oid < 16384),
	pg_total_relation_size('anyvod_tasks') / 1024
END
	note_size('shared kB', $shared);
	note_size('catalogs kB', $catalogs);
	note_size('tasks kB', $tasks);
	return;
}

# How much each may grow: a part of itself, and so much.  Connections come and
# go, and a heap may shift a quarter of a megabyte.  Autovacuum takes what it
# needs for statistics, and the table what was updated since it last came.
sub limit
{
	my ($name, $size) = @_;

	return $size + $connections if $name =~ /files$/;
	return 1.05 * $size + 512 if $name eq 'catalogs kB';
	return 1.5 * $size + 2048 if $name eq 'tasks kB';
	return $size if $name eq 'shared kB';
	return 1.03 * $size + 256;
}

my $begin = clock_ms();
my $interval_end = $begin + 1000 * $every;
my ($asked_before, $looked_before) = (0, $begin);
my (%first, %last);

while (!%last || clock_ms() < $begin + 1000 * $lasts)
{
	my $turn_end = clock_ms() + 1000;

	meddle();
	do
	{
		look_at_processes();
		Time::HiRes::sleep(0.1);
	} while (clock_ms() < $turn_end);
	next if clock_ms() < $interval_end;

	my $now = clock_ms();
	my $asked = $simulator->stats->{requests};

	look_at_server();
	measured('%5.1f min, %5d/s: %s', ($now - $begin) / 60_000,
		1000 * ($asked - $asked_before) / ($now - $looked_before),
		join ', ', map { "$_ $least{$_}" } sort keys %least);
	%last = %least if %first;
	%first = %least if !%first && $now >= $begin + 1000 * $warm_up;
	($asked_before, $looked_before) = ($asked, $now);
	$interval_end += 1000 * $every;
	%least = ();
}

my $seconds = (clock_ms() - $begin) / 1000;
my $asked = $simulator->stats->{requests};
measured('%d questions in %d s, %d a second, about %d tasks that met faults',
	$asked, $seconds, $asked / $seconds, $number);
is(worker_pid($node), $worker, 'the worker is the same');
is(launcher_pid($node), $pids{launcher}, 'so is the launcher');
foreach my $name (sort keys %last)
{
	cmp_ok($last{$name}, '<=', limit($name, $first{$name}),
		"$name: no growth from $first{$name}");
}

# All is as it should be.
my $settled = $node->safe_psql('postgres', <<'END');
SELECT sum(succeeded + failed) FROM anyvod_stat_server
END
cmp_ok($settled, '>', $number / 3, 'tasks that met faults have come to their end');
$session->query_safe("INSERT INTO anyvod_tasks (task_id) VALUES ('image-last')");
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks"
		  . " WHERE task_id = 'image-last' AND state = 'pending'",
		0),
	'and all goes on');
close_session($session);

done_testing();
