# An extension that was updated is what a fresh one is; an update loses no
# task of a running worker; a dump keeps what it promises.
#
# There is one version so far, so the next is made up here: the script of the
# current one with a tail, and an update script that is the tail.

use strict;
use warnings;

use AnyvodTest;
use AnyvodUpgrade;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-upgrade']);
my $node = anyvod_node(
	'upgrade',
	simulator => $simulator,
	api_key => 'sk-upgrade',
	options => "rate_limit '5000'",
	conf => "anyvod.detection_delay = 100ms\nanyvod.poll_floor = 50ms");
my $current = $node->safe_psql('postgres',
	"SELECT default_version FROM pg_available_extensions WHERE name = 'anyvod'");

# Have the extension in database "compare": a version, updated to others.
sub objects_of
{
	my ($version, @updates) = @_;

	$node->safe_psql('compare',
		'DROP EXTENSION IF EXISTS anyvod CASCADE;'
		  . qq(CREATE EXTENSION anyvod SCHEMA "Odd One" VERSION '$version';)
		  . join('', map { "ALTER EXTENSION anyvod UPDATE TO '$_';" } @updates));
	return extension_objects($node, 'compare');
}

$node->safe_psql('postgres', 'CREATE DATABASE compare');
$node->safe_psql('compare', 'CREATE SCHEMA "Odd One"; CREATE ROLE auditor');

my $now = objects_of($current);
cmp_ok(scalar keys %$now, '>', 25, 'everything is described');
like($now->{'function "Odd One".anyvod_wake()'},
	qr/CREATE OR REPLACE FUNCTION/, 'functions are');
is(join('', extension_differences($now, objects_of($current))),
	'', 'the same version is the same');

# Update scripts that there are
my ($steps, @broken);
foreach my $file (glob AnyvodUpgrade::script_folder() . '/anyvod--*--*.sql')
{
	my ($from, $to) = basename($file) =~ /^anyvod--(.+)--(.+)\.sql$/;

	$steps++;
	my @differences =
	  extension_differences(objects_of($to), objects_of($from, $to));
	push @broken, "$from to $to:", @differences if @differences;
}
is(join("\n", @broken), '',
	($steps // 0) . ' update scripts make what a fresh install has');

# The next version: what a script may hold, each with what it changes.
my @tail = (
	[ qr/function .*anyvod_new/, <<'END' ],
CREATE FUNCTION @extschema@.anyvod_new(task_id text DEFAULT 'a') RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT 1';
END
	[ qr/function .*anyvod_wake/, <<'END' ],
ALTER FUNCTION @extschema@.anyvod_wake() COST 7;
END
	[ qr/function .*anyvod_query\(/, <<'END' ],
REVOKE EXECUTE ON FUNCTION @extschema@.anyvod_query(text, name) FROM PUBLIC;
END
	[ qr/function .*anyvod_status/, <<'END' ],
COMMENT ON FUNCTION @extschema@.anyvod_status(text, name) IS 'another';
END
	[ qr/type .*anyvod_state/, <<'END' ],
ALTER TYPE @extschema@.anyvod_state ADD VALUE 'later';
END
	[ qr/table .*anyvod_tasks/, <<'END' ],
ALTER TABLE @extschema@.anyvod_tasks ADD COLUMN note text DEFAULT '';
END
	[ qr/table .*anyvod_tasks/, <<'END' ],
COMMENT ON COLUMN @extschema@.anyvod_tasks.model IS 'another';
END
	[ qr/table .*anyvod_tasks/, <<'END' ],
ALTER TABLE @extschema@.anyvod_tasks ALTER COLUMN server SET DEFAULT 'other';
END
	[ qr/table .*anyvod_tasks/, <<'END' ],
GRANT TRUNCATE ON @extschema@.anyvod_tasks TO auditor;
END
	[ qr/table .*anyvod_tasks/, <<'END' ],
ALTER TABLE @extschema@.anyvod_tasks SET (autovacuum_vacuum_threshold = 100);
END
	[ qr/constraint anyvod_tasks_progress/, <<'END' ],
ALTER TABLE @extschema@.anyvod_tasks
	ADD CONSTRAINT anyvod_tasks_progress CHECK (progress <= 100);
END
	[ qr/index .*anyvod_tasks_owner/, <<'END' ],
CREATE INDEX anyvod_tasks_owner ON @extschema@.anyvod_tasks (owner);
END
	[ qr/policy anyvod_tasks_all/, <<'END' ],
CREATE POLICY anyvod_tasks_all ON @extschema@.anyvod_tasks FOR SELECT TO auditor
	USING (true);
END
	[ qr/trigger anyvod_tasks_changed/, <<'END' ],
ALTER TABLE @extschema@.anyvod_tasks DISABLE TRIGGER anyvod_tasks_changed;
ALTER TABLE @extschema@.anyvod_tasks ENABLE TRIGGER anyvod_tasks_changed;
END
	[ qr/view .*anyvod_stat_server/, <<'END' ],
CREATE OR REPLACE VIEW @extschema@.anyvod_stat_server AS
	SELECT *, 1 AS more FROM @extschema@.anyvod_stat_get_servers();
END
	[ qr/^missing: foreign-data wrapper anyvod_second/, <<'END' ],
CREATE FOREIGN DATA WRAPPER anyvod_second;
END
	[ qr/table .*anyvod_kept/, <<'END' ],
CREATE TABLE @extschema@.anyvod_kept (a integer);
END
	[ qr/different: extension/, <<'END' ],
SELECT pg_catalog.pg_extension_config_dump('@extschema@.anyvod_tasks',
	'WHERE state <> ''pending''');
END
);

write_extension_script("${current}next",
	extension_script($current) . join('', map { $_->[1] } @tail));
write_extension_script("$current--${current}next",
	join('', map { $_->[1] } @tail));

my $next = objects_of("${current}next");
is( join("\n", extension_differences($next, objects_of($current, "${current}next"))),
	'', 'a complete update makes what a fresh install has');

# An update that forgets something, one thing at a time
foreach my $i (0 .. $#tail)
{
	my ($what, $statement) = @{ $tail[$i] };
	my $version = "${current}without$i";

	write_extension_script("$current--$version",
		join('', map { $tail[$_][1] } grep { $_ != $i } 0 .. $#tail));

	my @differences =
	  extension_differences($next, objects_of($current, $version));

	$statement =~ s/\s+/ /g;
	ok(@differences == 1 && $differences[0] =~ $what,
		"its absence is seen: $statement")
	  or diag(join("\n", @differences));
}
$node->safe_psql('postgres', 'DROP DATABASE compare');

# An update while the worker runs, with tasks in flight: once at once, once in
# a transaction that stays open while tasks end.  The next version has a
# trigger that leaves its mark in what the worker writes.
write_extension_script("$current--${current}marked", <<'END');
ALTER TABLE @extschema@.anyvod_tasks ADD COLUMN note text NOT NULL DEFAULT '';
CREATE FUNCTION @extschema@.anyvod_mark() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN NEW.note := ''seen''; RETURN NEW; END';
CREATE TRIGGER anyvod_mark BEFORE UPDATE ON @extschema@.anyvod_tasks
	FOR EACH ROW EXECUTE FUNCTION @extschema@.anyvod_mark();
END
write_extension_script("${current}marked--${current}again",
	'ALTER TABLE @extschema@.anyvod_tasks ADD COLUMN more integer DEFAULT 7;');
log_settling($node);
$node->safe_psql('postgres',
	'INSERT INTO anyvod_tasks (task_id)'
	  . q( SELECT format('image-t%s-%s', 1000 + 10 * i, i))
	  . ' FROM generate_series(1, 400) AS i');
ok( poll_until(
		$node, "SELECT count(*) > 20 FROM anyvod_tasks WHERE state = 'succeeded'"),
	'a worker is at work');
my $worker = worker_pid($node);
$node->safe_psql('postgres',
	"ALTER EXTENSION anyvod UPDATE TO '${current}marked'");
my $before = $node->safe_psql('postgres',
	"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'");
cmp_ok($before, '>', 50, 'the extension is updated while tasks run');
ok( poll_until(
		$node,
		"SELECT count(*) > 20 FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND note = 'seen'"),
	'what the worker writes then is as the new version has it');
$node->safe_psql('postgres',
	"BEGIN; ALTER EXTENSION anyvod UPDATE TO '${current}again';"
	  . ' SELECT pg_sleep(1.5); COMMIT');
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", 0),
	'no task is left behind');
is( $node->safe_psql('postgres',
		'SELECT count(*), count(DISTINCT task_id) FROM settlings'),
	'400|400',
	'each was settled once');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM anyvod_tasks WHERE file_url IS NULL OR more <> 7"),
	0,
	'as it should be');
is(worker_pid($node), $worker, 'by the same worker');

# A dump, restored into another server
$node->safe_psql('postgres', <<END);
DROP EXTENSION anyvod CASCADE;
CREATE ROLE app LOGIN;
CREATE EXTENSION anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url '@{[$simulator->url]}', timeout '7s');
CREATE USER MAPPING FOR app SERVER anyapi OPTIONS (api_key 'sk-upgrade');
GRANT USAGE ON FOREIGN SERVER anyapi TO app;
GRANT SELECT (task_id, state) ON anyvod_tasks TO auditor;
GRANT TRIGGER ON anyvod_tasks TO auditor;
REVOKE DELETE ON anyvod_tasks FROM PUBLIC;
SET ROLE app;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-done-1'), ('fail40000-done-2'), ('image-files3-done-3');
END
ok( poll_until(
		$node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", 0),
	'tasks have ended');
$node->append_conf('postgresql.conf', 'anyvod.worker = off');
$node->reload;
ok(wait_until(sub { worker_pid($node) eq '' }), 'the worker is off');
$node->safe_psql('postgres', <<'END');
SET client_min_messages = error;
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER mine BEFORE UPDATE ON anyvod_tasks FOR EACH ROW EXECUTE FUNCTION mine();
CREATE INDEX mine ON anyvod_tasks (model);
CREATE POLICY mine ON anyvod_tasks FOR SELECT TO auditor USING (true);
SET ROLE app;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-t500-pending-1'), ('image-t500-pending-2');
END

my $restored = anyvod_node(
	'restored',
	extension => 0,
	conf => "anyvod.detection_delay = 100ms\nanyvod.poll_floor = 50ms");
my $folder = $restored->basedir;
my $rows = 'SELECT * FROM anyvod_tasks WHERE task_id LIKE \'%done%\' ORDER BY 1';
my $grants = "SELECT acl::text FROM pg_class, unnest(relacl) AS acl"
  . " WHERE relname = 'anyvod_tasks' UNION ALL SELECT attname || acl::text"
  . " FROM pg_attribute, unnest(attacl) AS acl"
  . " WHERE attrelid = 'anyvod_tasks'::regclass ORDER BY 1";
my $servers = 'SELECT srvname, srvoptions, srvacl, usename, umoptions'
  . ' FROM pg_foreign_server JOIN pg_user_mappings USING (srvname)';
command_ok(
	[ 'pg_dumpall', '--roles-only', '-d', $node->connstr('postgres'), '-f', "$folder/roles.sql" ],
	'roles are dumped');
command_ok(
	[ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "$folder/dump.sql" ],
	'so is the database');
# the role that runs this is there already
$restored->psql('postgres', slurp_file("$folder/roles.sql"));
command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $restored->connstr('postgres'), '-f', "$folder/dump.sql" ],
	'and restored elsewhere');
is( $restored->safe_psql('postgres', $rows),
	$node->safe_psql('postgres', $rows),
	'rows that had ended are as they were');
is( $restored->safe_psql('postgres', $grants),
	$node->safe_psql('postgres', $grants),
	'grants on the table are');
is( $restored->safe_psql('postgres', $servers),
	$node->safe_psql('postgres', $servers),
	'servers, their grants and mappings are');
is( $restored->safe_psql('postgres',
		"SELECT string_agg(polname, ' ') FROM pg_policy"
		  . " WHERE polrelid = 'anyvod_tasks'::regclass"),
	'anyvod_tasks_own',
	'the policy is there');
is( $restored->safe_psql('postgres',
		"SELECT count(*) FROM pg_trigger WHERE tgname = 'mine'"),
	0,
	'what users added to the table is not, as the documents say');
ok( poll_until(
		$restored,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '%pending%'"
		  . " AND state = 'succeeded' AND file_url IS NOT NULL AND owner = 'app'",
		2),
	'what was pending is filled in by the new server');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'"),
	2,
	'not by the old one');

done_testing();
