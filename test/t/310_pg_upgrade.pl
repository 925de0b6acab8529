# pg_upgrade keeps rows, servers, mappings and what users have added, with the
# library preloaded on both sides, and pending rows are filled in afterwards.
#
# ANYVOD_OLD_PREFIX names the installation of another major version to come
# from, with anyvod in it ("make pg-upgrade"); without it, it is this one.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(keys => ['sk-old']);
my $prefix = $ENV{ANYVOD_OLD_PREFIX};
my $new_bin = `pg_config --bindir`;
chomp $new_bin;
my $old_bin = defined $prefix ? "$prefix/bin" : $new_bin;
my $conf = <<'END';
shared_preload_libraries = 'anyvod'
max_worker_processes = 32
anyvod.detection_delay = 100ms
anyvod.poll_floor = 50ms
END

sub cluster
{
	my ($name, @arguments) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, @arguments);
	my ($version) = `$old_bin/initdb --version` =~ /(\d+)/;

	# 18 and newer check pages unless they are told not to
	$node->init(
		extra => [
			'--no-locale', '--encoding=UTF8',
			($name eq 'new' && `$new_bin/initdb --version` =~ / (\d+)/
				  && $1 >= 18 && $version < 18)
			? '--no-data-checksums'
			: ()
		]);
	$node->append_conf('postgresql.conf', $conf);
	return $node;
}

my $old =
  cluster('old', defined $prefix ? (install_path => $prefix) : ());
my $new = cluster('new');

$old->start;
note 'from ' . $old->safe_psql('postgres', 'SELECT version()');
$old->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE DATABASE shop');
anyvod_database(
	$old, 'shop',
	simulator => $simulator,
	api_key => 'sk-old',
	options => "timeout '7s'");
$old->safe_psql('shop', <<'END');
GRANT USAGE ON FOREIGN SERVER anyapi TO app;
REVOKE DELETE ON anyvod_tasks FROM PUBLIC;
CREATE INDEX mine ON anyvod_tasks (model);
CREATE TABLE marks (task_id text);
GRANT INSERT ON marks TO PUBLIC;
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO public.marks VALUES (NEW.task_id); RETURN NEW; END';
CREATE TRIGGER mine BEFORE UPDATE ON anyvod_tasks FOR EACH ROW EXECUTE FUNCTION mine();
SET ROLE app;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-done-1'), ('fail40000-done-2');
END
ok( poll_until(
		$old, "SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", 0,
		undef, 'shop'),
	'tasks have ended');
$old->safe_psql('shop',
	"INSERT INTO anyvod_tasks (task_id, owner) SELECT 'image-t8000-late-' || i, 'app'"
	  . ' FROM generate_series(1, 20) AS i');
ok( poll_until(
		$old, "SELECT count(*) FROM anyvod_tasks WHERE status = 'PROCESSING'",
		20, undef, 'shop'),
	'others run');

my $rows =
  "SELECT * FROM anyvod_tasks WHERE state <> 'pending' ORDER BY task_id";
my $rest = "SELECT relacl, (SELECT array_agg(tgname ORDER BY tgname)"
  . ' FROM pg_trigger WHERE tgrelid = c.oid), (SELECT array_agg(relname ORDER BY relname)'
  . ' FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid WHERE indrelid = c.oid),'
  . ' (SELECT array_agg(polname) FROM pg_policy WHERE polrelid = c.oid), srvoptions, srvacl, umoptions'
  . ' FROM pg_class AS c, pg_foreign_server JOIN pg_user_mappings USING (srvname)'
  . " WHERE relname = 'anyvod_tasks'";
my @before = ($old->safe_psql('shop', $rows), $old->safe_psql('shop', $rest));

# privileges that a version gives to an owner of its own are not ours
$_ =~ s/arwdDxtm?/ALL/g foreach @before;
$old->stop;

command_ok(
	[
		'pg_upgrade', '--no-sync',
		'--old-datadir' => $old->data_dir,
		'--new-datadir' => $new->data_dir,
		'--old-bindir' => $old_bin,
		'--new-bindir' => $new_bin,
		'--old-port' => $old->port,
		'--new-port' => $new->port,
		'--socketdir' => $new->host,
		'--jobs' => 1
	],
	'pg_upgrade');
ok(!-d $new->data_dir . '/pg_upgrade_output.d', 'it has nothing to say');

$new->start;
note 'to ' . $new->safe_psql('postgres', 'SELECT version()');

# The worker is at it at once, so only what had ended then can be compared.
my @after = (
	$new->safe_psql('shop', $rows =~ s/WHERE/WHERE task_id LIKE '%done%' AND/r),
	$new->safe_psql('shop', $rest));
$_ =~ s/arwdDxtm?/ALL/g foreach @after;
is($after[0], $before[0], 'rows are as they were');
is($after[1], $before[1],
	'so are grants, triggers, indexes, policies, servers and mappings');
ok( poll_until(
		$new,
		"SELECT count(*) FROM anyvod_tasks WHERE task_id LIKE '%late%'"
		  . " AND state = 'succeeded' AND file_url IS NOT NULL",
		20, undef, 'shop'),
	'the new server fills in what was pending, with the key of the mapping');
is( $new->safe_psql('shop',
		"SELECT count(DISTINCT task_id) FROM marks WHERE task_id LIKE '%late%'"),
	20,
	'and fires the trigger that a user has added');
unlike(slurp_file($new->logfile), qr/terminated by signal|PANIC|TRAP/,
	'nothing has crashed');

done_testing();
