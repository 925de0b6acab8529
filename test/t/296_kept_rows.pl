# Settled rows that are past their time and cannot be removed, since another
# table refers to them or a trigger minds, keep no other, and little is made of
# them.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my $node = anyvod_node(
	'kept_rows',
	simulator => $simulator,
	conf => "anyvod.idle_timeout = 1h\nautovacuum = off\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# How often the log says that a task could not be removed, for that reason.
sub said
{
	my ($task_id, $reason) = @_;
	my @said = slurp_file($node->logfile) =~
	  /could not remove task "\Q$task_id\E"(?:$reason)/g;

	return scalar @said;
}

# How often each row has been tried that a trigger minds.
sub tried
{
	return sql(q{SELECT string_agg(task_id || ' ' || times, ', ')}
		  . q{ FROM (SELECT task_id, times FROM tried() ORDER BY 1) AS t});
}

# How many rows there are of a kind, as a query.
sub count_of
{
	my ($pattern) = @_;

	return "SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '$pattern'";
}

# Rows in more than two slices of a thousand, and others among them: first of
# all, in the middle, several in a row, and last of all.  Many have the time
# of settling in common.  What is tried in vain is counted by sequences, which
# remember what is rolled back.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-running');
INSERT INTO anyvod_tasks (task_id, state, settled_at)
SELECT 'old-' || to_char(i, 'FM0000'), 'succeeded',
	now() - interval '3 days' + i / 1500 * interval '1 hour'
FROM generate_series(1, 2500) AS i;
INSERT INTO anyvod_tasks (task_id, state, settled_at)
SELECT task_id, 'failed', now() - age::interval
FROM (VALUES ('first', '4 days'), ('old-1000-between', '3 days'),
	('old-2000-a', '71 hours'), ('old-2000-b', '71 hours'),
	('old-2000-c', '71 hours'), ('refused', '60 hours'),
	('suppressed', '59 hours'), ('last', '58 hours')) AS t (task_id, age);

CREATE TABLE orders (task_id text REFERENCES anyvod_tasks);
INSERT INTO orders VALUES ('old-1000-between'), ('old-2000-a'),
	('old-2000-b'), ('old-2000-c');
CREATE TABLE later_orders (task_id text
	REFERENCES anyvod_tasks DEFERRABLE INITIALLY DEFERRED);
INSERT INTO later_orders VALUES ('first'), ('last');

CREATE SEQUENCE tried_refused;
CREATE SEQUENCE tried_suppressed;
GRANT USAGE ON SEQUENCE tried_refused, tried_suppressed TO PUBLIC;
CREATE FUNCTION mind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('public.tried_' || OLD.task_id);
	IF OLD.task_id = 'refused' THEN
		RAISE 'not this one';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER mind BEFORE DELETE ON anyvod_tasks FOR EACH ROW
	WHEN (OLD.task_id IN ('refused', 'suppressed')) EXECUTE FUNCTION mind();
CREATE FUNCTION tried() RETURNS TABLE (task_id text, times bigint)
LANGUAGE SQL AS $$
	SELECT 'refused', last_value FROM tried_refused UNION ALL
	SELECT 'suppressed', last_value FROM tried_suppressed
$$;
END
ok( poll_until(
		$node,
		"SELECT status FROM anyvod_tasks WHERE task_id = 't3600000-running'",
		'PROCESSING'),
	'a worker is there');

my $kept = 'first last old-1000-between old-2000-a old-2000-b old-2000-c'
  . ' refused suppressed t3600000-running';
my $xid = sql('SELECT pg_current_xact_id()');
my $begin = clock_ms();
sql("ALTER SYSTEM SET anyvod.retention = '1d'");
$node->reload;
ok(poll_until($node, count_of('old-____'), '0'),
	'rows beside those that cannot be removed are');
ok( wait_until(sub { said('last', '') > 0 }),
	'and so to the last');
measured('removing them took %.1f s', (clock_ms() - $begin) / 1000);
is(sql("SELECT string_agg(task_id, ' ' ORDER BY task_id) FROM anyvod_tasks"),
	$kept, 'which stay');
cmp_ok(sql("SELECT pg_current_xact_id()::text::bigint - $xid"),
	'<', 500, 'they are found in few transactions');

like(
	slurp_file($node->logfile),
	qr/DETAIL:  Key \(task_id\)=\(old-2000-b\) is still referenced/,
	'with the details');

# Nothing is tried again for a while, nor does it keep the worker awake.
my $tried = tried();
my ($refused) = $tried =~ /refused (\d+)/;
cmp_ok($refused, '<=', 25, 'a row is tried a few times to be found')
  or diag($tried);
$xid = sql('SELECT pg_current_xact_id()');
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('t3000-meanwhile')");
ok( poll_until(
		$node, "SELECT state FROM anyvod_tasks WHERE task_id = 't3000-meanwhile'",
		'succeeded'),
	'a task of three seconds comes and ends');
is(tried(), $tried, 'and no row is tried meanwhile');
cmp_ok(sql("SELECT pg_current_xact_id()::text::bigint - $xid"),
	'<=', 6, 'nor is anything written but that');
sql("DELETE FROM anyvod_tasks WHERE task_id = 't3000-meanwhile'");

# What comes to be past its time later goes, without another look at those.
sql(<<'END');
INSERT INTO anyvod_tasks (task_id, state, settled_at)
VALUES ('later', 'failed', now() - interval '25 hours');
END
ok(poll_until($node, count_of('later'), '0', 150),
	'what is past its time afterwards goes');
is(tried(), $tried, 'and those that are kept are not tried for that');

# A change of the setting shows at once, and has them tried again.
sql("ALTER SYSTEM SET anyvod.retention = '22h'");
$node->reload;
ok( wait_until(
		sub {
			my ($before, $now) = map { /suppressed (\d+)/ } $tried, tried();
			return $now > $before;
		}),
	'they are when the setting changes');
my $referenced = ': update or delete on table "anyvod_tasks" violates foreign';
cmp_ok(said($_, $referenced), '>=', 1, "the log says of $_ why")
  foreach qw(first old-1000-between old-2000-a old-2000-b old-2000-c last);
cmp_ok(said('refused', ': not this one'), '>=', 1,
	'also of one that a trigger refuses to let go');
like(
	slurp_file($node->logfile),
	qr/could not remove \d+ settled tasks\n.*A trigger or rule keeps their rows/,
	'and of one that it suppresses the removal of');

# Nothing is in the way of them any more.
sql(<<'END');
DROP TABLE orders, later_orders;
INSERT INTO anyvod_tasks (task_id, state, settled_at)
SELECT 'many-' || i, 'failed', now() - interval '4 days'
FROM generate_series(1, 150) AS i;
DROP TRIGGER mind ON anyvod_tasks;
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RETURN NULL; END';
CREATE TRIGGER suppress BEFORE DELETE ON anyvod_tasks FOR EACH ROW
	WHEN (OLD.task_id LIKE 'many-%') EXECUTE FUNCTION suppress();
ALTER SYSTEM SET anyvod.retention = '20h';
END
$node->reload;
ok( poll_until(
		$node,
		"SELECT string_agg(task_id, ' ') FROM anyvod_tasks"
		  . " WHERE task_id NOT LIKE 'many-%'",
		't3600000-running'),
	'what is let go goes');
is(sql(count_of('many-%')), 150, 'what is not stays, however many');
my $lines = () = slurp_file($node->logfile) =~ /LOG:  anyvod (?:could|logs)/g;
cmp_ok($lines, '<=', 20, 'nor do they fill the log');

done_testing();
