# What a role may ask, see and do: no more than what it was granted, and no
# trigger on anyvod_tasks gains more, changes the worker, or stops it.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $before;
my $simulator = start_simulator(keys => [ 'sk-of-app', 'sk-of-public' ]);
my $node = anyvod_node(
	'privileges',
	simulator => $simulator,
	api_key => 'sk-of-public',
	options => "rate_limit '5000'");

$node->safe_psql('postgres', <<'END');
CREATE ROLE boss LOGIN SUPERUSER;
CREATE ROLE app LOGIN;
CREATE ROLE other LOGIN;
CREATE ROLE stranger LOGIN;
CREATE ROLE keeper LOGIN;
CREATE ROLE intruder LOGIN;
GRANT USAGE ON FOREIGN SERVER anyapi TO app, other, intruder;
ALTER SERVER anyapi OWNER TO keeper;
CREATE USER MAPPING FOR app SERVER anyapi OPTIONS (api_key 'sk-of-app');
END

# Who did what, from a session of the role itself.
sub as_role
{
	my ($role, $sql) = @_;
	my $session = open_session($node, user => $role);
	my ($state, $output, $error) = run_query($session, $sql);

	$session->quit;
	note($error) if $error ne '';
	return $output eq '' ? $state : "$state $output";
}

sub settled
{
	my ($task_id, $state) = @_;

	return poll_until($node,
		"SELECT state FROM anyvod_tasks WHERE task_id = '$task_id'",
		$state // 'succeeded');
}

# USAGE on the server is the gate.
is(as_role('stranger', "SELECT anyvod_query('image-stranger')"),
	'42501', 'without USAGE on the server a role cannot ask');
is(as_role('stranger', "SELECT anyvod_status('image-stranger')"),
	'42501', 'in neither way');
is( as_role(
		'stranger',
		"INSERT INTO anyvod_tasks (task_id) VALUES ('image-stranger')"),
	'42501',
	'nor have a task tracked');
is($simulator->task_requests('image-stranger'),
	0, 'and no request has left');
is(as_role('app', "SELECT (anyvod_status('image-app')).state"),
	'00000 succeeded', 'with USAGE it can');
is($simulator->task_requests('image-app'), 1, 'and a request has left');

# The rows of others
is( as_role(
		'app',
		"INSERT INTO anyvod_tasks (task_id) VALUES ('image-of-app')"),
	'00000',
	'a role has a task tracked');
is( as_role(
		'app',
		"INSERT INTO anyvod_tasks (task_id, owner)"
		  . " VALUES ('image-of-other', 'other')"),
	'42501',
	'but none in the name of another');
ok(settled('image-of-app'), 'it is filled in');
is(as_role('app', 'SELECT task_id FROM anyvod_tasks'),
	'00000 image-of-app', 'a role sees its rows');
is(as_role('other', 'SELECT count(*) FROM anyvod_tasks'),
	'00000 0', 'and not those of others');
is( as_role(
		'other',
		'WITH d AS (DELETE FROM anyvod_tasks RETURNING 1)'
		  . ' SELECT count(*) FROM d'),
	'00000 0',
	'nor can it delete them');
is(as_role('app', "UPDATE anyvod_tasks SET owner = 'other'"),
	'42501', 'a row cannot be given away');
is(as_role('app', 'TRUNCATE anyvod_tasks'),
	'42501', 'nor the table emptied');
is( as_role(
		'app',
		'CREATE TRIGGER t BEFORE UPDATE ON anyvod_tasks'
		  . ' FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()'),
	'42501',
	'nor given a trigger');

# A role that loses USAGE has its tasks asked for no longer.
is( as_role(
		'app',
		"INSERT INTO anyvod_tasks (task_id) VALUES ('image-t600000-revoked')"),
	'00000',
	'a running task is tracked');
ok( wait_until(sub { $simulator->task_requests('image-t600000-revoked') > 0 }),
	'and asked for');
$node->safe_psql('postgres', 'REVOKE USAGE ON FOREIGN SERVER anyapi FROM app');
ok( poll_until(
		$node,
		"SELECT state, error_code FROM anyvod_tasks"
		  . " WHERE task_id = 'image-t600000-revoked'",
		'pending|42501'),
	'its row says so when the role may not use the server any more');
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER anyapi TO app');

# The keys
my $key_of = sub {
	my ($role, $whose) = @_;

	return join ',', sort grep { $_ ne '00000' } split /\s+/,
	  as_role($role, <<"END");
SELECT unnest(umoptions) FROM pg_user_mappings WHERE usename = '$whose'
UNION
SELECT option_name || '=' || option_value
	FROM information_schema.user_mapping_options
	WHERE authorization_identifier = upper('$whose')
		OR authorization_identifier = '$whose'
END
};
is($key_of->('boss', 'app'), 'api_key=sk-of-app',
	'a superuser sees a key');
is($key_of->('app', 'app'), 'api_key=sk-of-app', 'so does its role');
is($key_of->('other', 'app'), '', 'another role does not');
is($key_of->('stranger', 'app'), '', 'nor does a stranger');
is($key_of->('boss', 'public'), 'api_key=sk-of-public',
	'a superuser sees the key for PUBLIC');
is($key_of->('keeper', 'public'), 'api_key=sk-of-public',
	'so does the owner of the server');
is($key_of->('app', 'public'), '', 'a role that may use the server does not');
is($key_of->('stranger', 'public'), '', 'nor does a stranger');

# Where a key goes is for the server's owner to say.
foreach my $option (
	"base_url 'http://127.0.0.1:1'",
	"proxy 'http://127.0.0.1:1'",
	"timeout '1'")
{
	my $action = $option =~ /^base_url/ ? 'SET' : 'ADD';

	is(as_role('app', "ALTER SERVER anyapi OPTIONS ($action $option)"),
		'42501', "a role with USAGE cannot alter the server: $option");
}
is(as_role('app', 'ALTER SERVER anyapi OWNER TO app'),
	'42501', 'nor take it over');
is( as_role(
		'other', "ALTER USER MAPPING FOR app SERVER anyapi OPTIONS"
		  . " (SET api_key 'sk-of-another')"),
	'42501',
	'nor alter the mapping of another');
is( as_role(
		'other',
		"ALTER USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS"
		  . " (SET api_key 'sk-of-another')"),
	'42501',
	'or that of PUBLIC');
is(as_role('app', 'CREATE SERVER mine FOREIGN DATA WRAPPER anyvod'),
	'42501', 'without USAGE on the wrapper nobody makes a server');

# What PostgreSQL itself shows
$before = -s $node->logfile;
is( as_role(
		'boss',
		"SET log_statement = 'all'; CREATE USER MAPPING FOR stranger"
		  . " SERVER anyapi OPTIONS (api_key 'sk-in-the-log')"),
	'00000',
	'a key in a statement');
like(slurp_file($node->logfile, $before),
	qr/sk-in-the-log/, 'is in the log that statements are written to');

# COPY is no way around the policies.
is(as_role('app', "COPY anyvod_tasks (task_id, owner) FROM '/dev/null'"),
	'42501', 'a role cannot load rows from a file');
my ($status, $copied, $refused) = $node->psql(
	'postgres', "COPY anyvod_tasks (task_id, owner) FROM STDIN;\n\\.\n",
	extra_params => [ '-U', 'app' ]);
like($refused, qr/COPY FROM not supported with row-level security/,
	'nor with COPY FROM at all');
(undef, $copied) = $node->psql('postgres', 'COPY anyvod_tasks TO STDOUT',
	extra_params => [ '-U', 'other' ]);
is($copied, '', 'COPY TO gives a role its rows only');

# Nothing that the extension has runs with rights that its caller lacks.
my $members = "pg_depend WHERE deptype = 'e' AND refobjid ="
  . " (SELECT oid FROM pg_extension WHERE extname = 'anyvod')";
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_proc WHERE prosecdef AND oid IN"
		  . " (SELECT objid FROM $members)"),
	0,
	'no function is SECURITY DEFINER');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_class WHERE relkind = 'v'"
		  . " AND NOT coalesce('security_invoker=true' = ANY (reloptions)"
		  . " OR 'security_invoker=on' = ANY (reloptions), false)"
		  . " AND oid IN (SELECT objid FROM $members)"
		  . " AND pg_get_viewdef(oid) ~ 'anyvod_tasks'"),
	0,
	'every view over the table runs with the rights of its caller');

# A trigger tries everything.  What it may not do is refused in a block of
# its own, and its success is recorded, as is what the worker's settings are
# when it starts.
$node->safe_psql('postgres', <<'END');
GRANT TRIGGER ON anyvod_tasks TO intruder;
CREATE SCHEMA intruder AUTHORIZATION intruder;
SET SESSION AUTHORIZATION intruder;
CREATE TABLE intruder.loot (task_id text, attempt text);
CREATE TABLE intruder.seen (task_id text, name text, value text);
GRANT ALL ON SCHEMA intruder TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA intruder TO PUBLIC;

-- an operator that would be found first with another search_path
CREATE FUNCTION intruder.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO intruder.loot VALUES (NULL, 'operator');
	RETURN $1 OPERATOR(pg_catalog.=) $2;
END $$;
CREATE OPERATOR intruder.= (
	FUNCTION = intruder.equal, LEFTARG = text, RIGHTARG = text);

CREATE FUNCTION intruder.attack() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	attempt text;
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['search_path', 'row_security', 'role',
		'session_authorization', 'session_replication_role', 'lock_timeout',
		'statement_timeout', 'synchronous_commit', 'work_mem',
		'default_transaction_read_only', 'default_transaction_isolation',
		'check_function_bodies', 'enable_seqscan', 'plan_cache_mode'] LOOP
		INSERT INTO intruder.seen
			VALUES (NEW.task_id, TG_NAME || '.' || name,
				pg_catalog.current_setting(name));
	END LOOP;
	INSERT INTO intruder.seen
		VALUES (NEW.task_id, TG_NAME || '.user', current_user);
	FOREACH attempt IN ARRAY ARRAY[
		'ALTER ROLE intruder SUPERUSER',
		'GRANT pg_read_server_files TO intruder',
		'GRANT boss TO intruder',
		'CREATE ROLE accomplice SUPERUSER',
		'SET ROLE boss',
		'SET SESSION AUTHORIZATION boss',
		'RESET ROLE',
		'RESET SESSION AUTHORIZATION',
		'COPY intruder.loot TO PROGRAM ''true''',
		'SELECT pg_catalog.pg_read_file(''PG_VERSION'')',
		'ALTER SYSTEM SET anyvod.worker = off'] LOOP
		BEGIN
			EXECUTE attempt;
			INSERT INTO intruder.loot VALUES (NEW.task_id, attempt);
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	FOREACH attempt IN ARRAY ARRAY[
		'SET search_path = intruder, pg_catalog',
		'SET row_security = on',
		'SET session_replication_role = replica',
		'SET lock_timeout = 0',
		'SET statement_timeout = ''1ms''',
		'SET default_transaction_read_only = on',
		'SET default_transaction_isolation = serializable',
		'SET synchronous_commit = remote_apply',
		'SET work_mem = ''64kB''',
		'SET enable_seqscan = on',
		'SET plan_cache_mode = force_custom_plan',
		'SET CONSTRAINTS ALL DEFERRED',
		'CREATE TEMP TABLE anyvod_tasks (task_id text)'] LOOP
		BEGIN
			EXECUTE attempt;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	RETURN NEW;
END $$;
RESET SESSION AUTHORIZATION;
END

# The worker's settings, as the first trigger of a row sees them.
sub seen_by_trigger
{
	my ($task_id) = @_;

	return $node->safe_psql('postgres',
		'SELECT DISTINCT name, value FROM intruder.seen'
		  . " WHERE task_id = '$task_id' ORDER BY 1, 2");
}

sub nobody_has_gained
{
	my ($when) = @_;

	is( $node->safe_psql('postgres',
			'SELECT DISTINCT attempt FROM intruder.loot'),
		'', "$when: no attempt has succeeded");
	is( $node->safe_psql('postgres', <<'END'), '0|f|on',
SELECT (SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname NOT IN (current_user, 'boss')),
	pg_has_role('intruder', 'pg_read_server_files', 'MEMBER'),
	current_setting('anyvod.worker')
END
		"$when: nobody has gained anything");
	return;
}

# What is deferred runs at once, while the worker is the table's owner.
foreach (
	[ 'BEFORE', 'TRIGGER', 'BEFORE', '' ],
	[ 'AFTER', 'TRIGGER', 'AFTER', '' ],
	[ 'deferred', 'CONSTRAINT TRIGGER', 'AFTER', 'DEFERRABLE INITIALLY DEFERRED' ])
{
	my ($when, $kind, $moment, $deferred) = @$_;

	is( as_role(
			'intruder',
			"CREATE $kind attack $moment UPDATE ON anyvod_tasks $deferred"
			  . ' FOR EACH ROW EXECUTE FUNCTION intruder.attack()'),
		'00000',
		"$when: a role with TRIGGER makes a trigger");
	as_role('app',
		"INSERT INTO anyvod_tasks (task_id) VALUES ('image-$when-1')");
	ok(settled("image-$when-1"), "$when: a row is filled in despite it");
	my $worker = worker_pid($node);
	my $first = seen_by_trigger("image-$when-1");

	like($first, qr/attack\.user\|pg_database_owner/,
		"$when: the trigger runs as the table's owner");
	as_role('app',
		"INSERT INTO anyvod_tasks (task_id) VALUES ('image-$when-2')");
	ok(settled("image-$when-2"), "$when: so is the next");
	is(seen_by_trigger("image-$when-2"),
		$first, "$when: the worker's settings are what they were");
	is(worker_pid($node), $worker, "$when: the worker goes on");
	nobody_has_gained($when);
	$node->safe_psql('postgres', 'DROP TRIGGER attack ON anyvod_tasks');
}

# One row that cannot be settled, by a trigger that fails
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE 'row % is refused', NEW.task_id USING ERRCODE = '23514';
END $$;
CREATE TRIGGER refuse_settling BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id = 'image-refused-7' AND NEW.state <> 'pending')
	EXECUTE FUNCTION public.refuse();
CREATE TRIGGER refuse_all AFTER UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id IN ('image-refused-11', 'image-t600000-refused'))
	EXECUTE FUNCTION public.refuse();
INSERT INTO anyvod_tasks (task_id) VALUES ('image-t600000-refused');
END
as_role('app', <<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-refused-' || i FROM generate_series(1, 100) AS i
END
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '%refused%'"
		  . " AND state = 'succeeded'",
		98),
	'rows that a trigger refuses do not stop the others');
ok( poll_until(
		$node,
		'SELECT state, error_code, error_message FROM anyvod_tasks'
		  . " WHERE task_id = 'image-refused-7'",
		'pending|23514|row image-refused-7 is refused'),
	'a refused row says so');
ok( wait_until(
		sub { $simulator->task_requests('image-t600000-refused') >= 3 }),
	'one whose task runs on is polled as it would be otherwise');
is($simulator->task_requests("image-refused-$_"),
	1, "refused row $_ is not polled again") foreach 7, 11;

# How often does the log say that a task could not be written?
sub complaints
{
	my ($task_id) = @_;
	my @found = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~
	  /could not write task "$task_id"/g;

	return scalar @found;
}

is(complaints('image-refused-7'), 1, 'the log has a refused row once');
is(complaints('image-refused-11'),
	1, 'and once the one that cannot say so itself');
is(complaints('image-t600000-refused'),
	1, 'and once the one whose task runs on');
$node->safe_psql('postgres', <<'END');
DROP TRIGGER refuse_settling ON anyvod_tasks;
DROP TRIGGER refuse_all ON anyvod_tasks;
END
ok(settled("image-refused-$_"), "row $_, which is refused no longer, is settled")
  foreach 7, 11;
is($simulator->task_requests("image-refused-$_"),
	1, "row $_ was not polled for that") foreach 7, 11;
is( $node->safe_psql('postgres',
		'SELECT error_code IS NULL AND error_message IS NULL FROM anyvod_tasks'
		  . " WHERE task_id = 'image-refused-7'"),
	't',
	'and its complaint is gone');

# One row that takes for ever
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM pg_sleep(60);
	EXCEPTION WHEN query_canceled THEN
		PERFORM pg_sleep(60); -- it does not take no for an answer
	END;
	RETURN NEW;
END $$;
CREATE TRIGGER dawdle BEFORE UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.task_id = 'image-dawdling-7')
	EXECUTE FUNCTION public.dawdle();
END
my $begin = clock_ms();
as_role('app', <<'END');
INSERT INTO anyvod_tasks (task_id)
	SELECT 'image-dawdling-' || i FROM generate_series(1, 100) AS i
END
ok( poll_until(
		$node,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '%dawdling%'"
		  . " AND state = 'succeeded'",
		99),
	'a trigger that takes a minute for one row does not stop the others');
my $took = (clock_ms() - $begin) / 1000;
measured('99 rows beside one whose trigger takes 60 s took %.1f s', $took);
# The batch is given 5 s, and the row another moment before the others follow.
cmp_ok($took, '<', 15, 'nor delay them by what it takes');
ok( poll_until(
		$node,
		'SELECT count(*) FROM pg_stat_activity'
		  . " WHERE backend_type = 'anyvod worker'",
		1),
	'and the worker goes on');

done_testing();
