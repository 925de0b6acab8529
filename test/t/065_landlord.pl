# The owner of a database, who is no superuser, may alter anyvod_tasks.  None
# of the ways in which that has code of his run by the worker runs it as
# anybody else than pg_database_owner, which he is anyway.  (That of others
# who may add triggers is in 060_privileges.pl, what he can break in
# 220_isolation.pl.)

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-landlord']);
my $node = anyvod_node(
	'landlord',
	extension => 0,
	conf => <<'END');
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
anyvod.idle_timeout = 1h
END

# How code gets into the table, and whether the worker runs it.
my @ways = (
	[ trigger => 'CREATE TRIGGER way BEFORE UPDATE ON anyvod_tasks'
		  . ' FOR EACH ROW EXECUTE FUNCTION house.way()', 1 ],
	[ rule => 'CREATE RULE way AS ON UPDATE TO anyvod_tasks DO ALSO'
		  . " INSERT INTO house.loot SELECT 0, house.attack()::text", 1 ],
	[ policy => 'CREATE POLICY way ON anyvod_tasks'
		  . ' USING (house.attack()) WITH CHECK (house.attack())', 0 ],
	[ domain => 'CREATE DOMAIN house.way AS text CHECK (house.attack());'
		  . ' ALTER TABLE anyvod_tasks ALTER model TYPE house.way', 1 ],
	[ condition => 'ALTER TABLE anyvod_tasks ADD CHECK (house.attack())', 1 ],
	[ index => 'CREATE INDEX ON anyvod_tasks (house.calm(file_url))', 1 ],
	[ predicate => 'CREATE INDEX ON anyvod_tasks (server)'
		  . ' WHERE house.calm(file_url)', 1 ],
	[ generated => 'ALTER TABLE anyvod_tasks ADD COLUMN way boolean'
		  . ' GENERATED ALWAYS AS (house.calm(file_url)) STORED', 1 ],
	[ operator => 'CREATE FUNCTION house.equal(text, text) RETURNS boolean'
		  . ' LANGUAGE sql AS $$SELECT house.attack()$$;'
		  . ' CREATE OPERATOR house.= (FUNCTION = house.equal,'
		  . ' LEFTARG = text, RIGHTARG = text)', 0 ],);

$node->safe_psql('postgres', <<'END');
CREATE ROLE boss SUPERUSER;
CREATE ROLE landlord;
END

# What the code tries is recorded if it succeeds, and who it was.  A function
# that is called immutable may not write, but what it calls may.
my $house = <<'END';
SET SESSION AUTHORIZATION landlord;
CREATE SCHEMA house;
CREATE TABLE house.loot (pid integer, attempt text);
CREATE TABLE house.seen (pid integer, who text);
GRANT ALL ON SCHEMA house TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA house TO PUBLIC;
CREATE FUNCTION house.attack() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	attempt text;
BEGIN
	INSERT INTO house.seen VALUES (pg_backend_pid(), current_user);
	FOREACH attempt IN ARRAY ARRAY[
		'ALTER ROLE landlord SUPERUSER',
		'GRANT pg_read_server_files TO landlord',
		'CREATE ROLE accomplice SUPERUSER',
		'SET ROLE boss',
		'SET SESSION AUTHORIZATION boss',
		'RESET ROLE',
		'RESET SESSION AUTHORIZATION',
		'COPY house.loot TO PROGRAM ''true''',
		'SELECT pg_read_file(''PG_VERSION'')',
		'SELECT umoptions FROM pg_user_mapping',
		'ALTER SYSTEM SET anyvod.worker = off'] LOOP
		BEGIN
			EXECUTE attempt;
			INSERT INTO house.loot VALUES (pg_backend_pid(), attempt);
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	RETURN true;
END $$;
CREATE FUNCTION house.calm(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN house.attack();
END $$;
CREATE FUNCTION house.way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM house.attack();
	RETURN NEW;
END $$;
END

foreach my $way (@ways)
{
	my ($name, $script, $runs) = @$way;

	$node->safe_psql('postgres', "CREATE DATABASE $name OWNER landlord");
	anyvod_database(
		$node, $name,
		simulator => $simulator,
		api_key => 'sk-landlord');
	# what views have of a table cannot be altered
	$node->safe_psql($name,
		'GRANT USAGE ON FOREIGN SERVER anyapi TO landlord;'
		  . ' ALTER EXTENSION anyvod DROP VIEW anyvod_dashboard;'
		  . ' ALTER EXTENSION anyvod DROP VIEW anyvod_expiring;'
		  . ' DROP VIEW anyvod_dashboard, anyvod_expiring');
	$node->safe_psql($name, "$house$script");
	$node->safe_psql('postgres',
		"ALTER DATABASE $name SET search_path = house, pg_catalog, public")
	  if $name eq 'operator';
	$node->safe_psql($name, <<'END');
SET SESSION AUTHORIZATION landlord;
SET search_path = pg_catalog, public;
INSERT INTO anyvod_tasks (task_id) VALUES ('video-t1000-progress');
END
}

foreach my $way (@ways)
{
	my ($name, undef, $runs) = @$way;

	ok( poll_until(
			$node, 'SELECT state FROM public.anyvod_tasks',
			'succeeded', undef, $name),
		"$name: the worker writes the row");
	my $pid = worker_pid($node, $name);

	is( $node->safe_psql(
			$name, "SELECT DISTINCT who FROM house.seen WHERE pid = $pid"),
		$runs ? 'pg_database_owner' : '',
		$runs
		? "$name: the worker runs the code, as the table's owner"
		: "$name: the worker does not run the code");
	is( $node->safe_psql($name,
			"SELECT DISTINCT attempt FROM house.loot WHERE pid = $pid"),
		'',
		"$name: no attempt has succeeded");
}
is( $node->safe_psql('postgres', <<'END'), 'f|f|f|on',
SELECT rolsuper, pg_has_role('landlord', 'pg_read_server_files', 'MEMBER'),
	EXISTS (SELECT FROM pg_roles WHERE rolname = 'accomplice'),
	current_setting('anyvod.worker')
FROM pg_roles WHERE rolname = 'landlord'
END
	'nobody has gained anything');

done_testing();
