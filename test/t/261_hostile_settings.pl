# Whatever a database, a role, the table's owner or the whole server sets for
# its sessions, and whatever roles, servers and schemas are called, rows are
# settled.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-hostile']);
my $node = anyvod_node(
	'hostile',
	extension => 0,
	conf => "anyvod.detection_delay = 250ms\nanyvod.poll_floor = 50ms\n");

# Settings that would hinder whoever did not see to it himself
my %settings = (
	default_transaction_isolation => 'serializable',
	default_transaction_read_only => 'on',
	default_transaction_deferrable => 'on',
	search_path => 'hostile, pg_catalog',
	row_security => 'on',
	statement_timeout => '1ms',
	lock_timeout => '1ms',
	idle_in_transaction_session_timeout => '1ms',
	session_replication_role => 'replica',
	exit_on_error => 'on',
	DateStyle => 'SQL, DMY',
	IntervalStyle => 'sql_standard',
	TimeZone => 'Pacific/Kiritimati',
	extra_float_digits => '-15',
	standard_conforming_strings => 'off',
	quote_all_identifiers => 'on',
	transform_null_equals => 'on',
	bytea_output => 'escape',
	array_nulls => 'off',
	enable_indexscan => 'off',
	enable_bitmapscan => 'off',
	plan_cache_mode => 'force_generic_plan',
	synchronous_commit => 'off',
	check_function_bodies => 'off',
	default_tablespace => 'pg_default',
	work_mem => '64kB',
	log_statement => 'none');

# It has one value from 19 on.
delete $settings{standard_conforming_strings}
  if $node->safe_psql('postgres', 'SHOW server_version_num') >= 190000;

# What a worker works with instead, where that makes a difference to it
my %expected = (
	transaction_isolation => 'read committed',
	transaction_read_only => 'off',
	transaction_deferrable => 'off',
	search_path => 'pg_catalog, pg_temp',
	row_security => 'off',
	statement_timeout => '0',
	lock_timeout => '1s',
	idle_in_transaction_session_timeout => '0',
	session_replication_role => 'origin',
	exit_on_error => 'off',
	synchronous_commit => 'local',
	enable_indexscan => 'on',
	enable_bitmapscan => 'on',
	plan_cache_mode => 'auto');

# Names as long as they can be, and such as want to be quoted
my $long = 'n' x 63;
my $odd = q(A "b'c\\ %s;--);
my $wide = "\xc3\xa4" x 31;

sub quoted
{
	my ($name) = @_;

	return '"' . $name =~ s/"/""/gr . '"';
}

# A setting and its value, as SET wants them
sub assignment
{
	my ($setting) = @_;
	my $value = $settings{$setting};

	return "$setting = " . ($setting eq 'search_path' ? $value : "'$value'");
}

# Objects that stand before those of pg_catalog in a search_path
my $traps = <<'END';
CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS
	'SELECT NULL::timestamptz';
CREATE FUNCTION hostile.trap(text, text) RETURNS boolean LANGUAGE sql AS
	'SELECT false';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text,
	FUNCTION = hostile.trap);
CREATE TABLE hostile.anyvod_tasks (task_id text, state text);
CREATE TABLE hostile.pg_database ();
END

# A database whose sessions have all of them, and in which the extension stands
# in a schema of some name, with rows of a role and a server of another.
sub settle
{
	my ($what, $database, $name) = @_;
	my $quoted = quoted($name);

	# CREATE EXTENSION refuses some characters.
	my $schema = quoted($name =~ tr/"'\\-//dr);
	my $literal = quote_literal($name);
	# by way of psql's environment, since the first statement could be too late
	local $ENV{PGOPTIONS} = '-c session_replication_role=origin'
	  . ' -c search_path=public -c standard_conforming_strings=on'
	  . ' -c statement_timeout=0 -c default_transaction_read_only=off'
	  . ' -c default_transaction_isolation=read\\ committed'
	  . ' -c lock_timeout=0 -c row_security=on -c exit_on_error=off'
	  . ' -c idle_in_transaction_session_timeout=0';
	$node->safe_psql('postgres', 'CREATE DATABASE ' . quoted($database));
	$node->safe_psql($database, <<"END");
$traps
CREATE SCHEMA $schema;
CREATE EXTENSION anyvod SCHEMA $schema;
CREATE SERVER $quoted FOREIGN DATA WRAPPER anyvod OPTIONS (base_url
	'@{[ $simulator->url ]}', rate_limit '5000');
CREATE USER MAPPING FOR PUBLIC SERVER $quoted OPTIONS (api_key 'sk-hostile');
GRANT USAGE ON FOREIGN SERVER $quoted TO $quoted;
GRANT USAGE ON SCHEMA $schema TO PUBLIC;
CREATE TABLE public.seen (name text, setting text);
GRANT INSERT ON public.seen TO PUBLIC;
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.seen SELECT n, pg_catalog.current_setting(n)
		FROM pg_catalog.unnest('{@{[ join ',', keys %expected ]}}'::text[]) AS n;
	RETURN NULL;
END \$\$;
CREATE TRIGGER see AFTER UPDATE ON $schema.anyvod_tasks FOR EACH STATEMENT
	EXECUTE FUNCTION public.see();
END
	$node->safe_psql('postgres',
		join ";\n",
		map { 'ALTER DATABASE ' . quoted($database) . ' SET ' . assignment($_) }
		  sort keys %settings);
	my $offset = -s $node->logfile;
	my $begin = clock_ms();
	$node->safe_psql($database,
		    "SET SESSION AUTHORIZATION $quoted; INSERT INTO"
		  . " $schema.anyvod_tasks (task_id, server) SELECT"
		  . " CASE i % 5 WHEN 0 THEN 'image-t500-' ELSE 'image-' END || i,"
		  . " $literal FROM generate_series(1, 20) AS i");
	ok( poll_until(
			$node,
			"SELECT count(*) FROM $schema.anyvod_tasks WHERE state ="
			  . " 'succeeded' AND settled_at <= now() AND updated_at"
			  . ' IS NOT NULL AND error_code IS NULL'
			  . " AND owner = $literal AND file_url IS NOT NULL",
			20, 30, $database),
		"$what: rows are settled");
	measured('%s: %.1f s', $what, (clock_ms() - $begin) / 1000);
	is_deeply(
		{
			map { split /\|/ } split /\n/,
			$node->safe_psql($database,
				'SELECT DISTINCT name, setting FROM public.seen ORDER BY 1, 2')
		},
		\%expected,
		"$what: with settings of the worker's own");
	unlike(slurp_file($node->logfile, $offset),
		qr/LOG:  anyvod|terminated by signal|exit code/,
		"$what: the worker complains of nothing");
	return;
}

# Roles with settings of their own, the table's owner among them; a background
# worker is of the superuser that initdb made.
foreach my $name ($long, $odd, $wide)
{
	$node->safe_psql('postgres', 'CREATE ROLE ' . quoted($name) . ' LOGIN');
}
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
foreach my $setting (qw(default_transaction_isolation
	default_transaction_read_only statement_timeout session_replication_role))
{
	$node->safe_psql('postgres',
		'ALTER ROLE ' . quoted($_) . " SET $setting = '$settings{$setting}'")
	  foreach $long, $odd, $wide;
}
settle('settings of the database', 'plain', $long);
settle('names with quotes', $odd, $odd);
settle('names that are not ASCII', $wide, $wide);

# Settings of all, in which a test could hardly find its way
{
	local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off'
	  . ' -c statement_timeout=0';

	foreach my $setting (
		qw(default_transaction_read_only statement_timeout lock_timeout))
	{
		$node->safe_psql('postgres',
			"ALTER ROLE ALL SET $setting = '$settings{$setting}'");
		$node->safe_psql('postgres',
			'ALTER ROLE '
			  . quoted($superuser)
			  . " SET $setting = '$settings{$setting}'");
	}
	$node->restart;
}
settle('settings of all roles', 'last', $long);

done_testing();
