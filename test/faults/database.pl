# Databases of any encoding, a schema of any name, and a dump that is restored
# elsewhere: tasks come to their ends all the same.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Fault;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my %server = (simulator => $simulator, options => "rate_limit '1000'");
my $conf = <<'END';
anyvod.detection_delay = 300ms
anyvod.poll_floor = 100ms
anyvod.idle_timeout = 1h
END
my $node = anyvod_node('database', %server, conf => $conf);
log_settling($node);

# A database in which tasks are tracked and settled.
sub settled
{
	my ($name, $database) = @_;
	my $fault = AnyvodTest::Fault->new($node, $name, database => $database);

	$fault->track(48);
	$fault->count(1);
	$fault->heal;
	$fault->settle;
	return $fault;
}

# What an answer has that an encoding has not is replaced.
foreach my $encoding (
	[ 'SQL_ASCII', 'UTF8' ],
	[ 'LATIN1', 'UTF8' ],
	[ 'EUC_CN', 'UTF8' ],
	[ 'UTF8', 'GBK' ])
{
	my ($of_server, $of_client) = @$encoding;
	my $database = 'db_' . lc $of_server;
	local $ENV{PGCLIENTENCODING} = $of_client;

	$node->safe_psql('postgres',
		"CREATE DATABASE $database ENCODING '$of_server' LOCALE 'C'"
		  . ' TEMPLATE template0');
	anyvod_database($node, $database, %server);
	log_settling($node, $database);
	settled("database of $of_server, client of $of_client", $database);
	is( $node->safe_psql(
			$database,
			"SELECT count(*) FROM anyvod_tasks WHERE state = 'failed' AND"
			  . " task_id LIKE '%uni%' AND error_message IS NULL"),
		0,
		"$of_server: failures have their messages");
}

# A schema whose name wants to be quoted
$node->safe_psql('postgres', 'CREATE DATABASE quoted');
$node->safe_psql('quoted', <<"END");
CREATE SCHEMA "Any Vod";
CREATE EXTENSION anyvod SCHEMA "Any Vod";
GRANT USAGE ON SCHEMA "Any Vod" TO PUBLIC;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}', rate_limit '1000');
ALTER DATABASE quoted SET search_path = "Any Vod", public;
END
log_settling($node, 'quoted');
settled('schema with a quoted, mixed-case name', 'quoted');

# A dump of running tasks, restored into another cluster
my $fault = AnyvodTest::Fault->new($node, 'dump and restore elsewhere');
my $dump = $node->basedir . '/dump';

$fault->track(48);
ok(wait_until(sub { $fault->asked > 10 }), 'tasks run');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ],
	'they are dumped');
$node->stop;

my $other = anyvod_node(
	'other',
	extension => 0,
	conf => "$conf\nanyvod.worker = off");
command_ok([ 'pg_restore', '-d', $other->connstr('postgres'), $dump ],
	'and restored');
$fault->move($other);
# what a user has added to the table is not in a dump
$other->safe_psql('postgres', <<'END');
CREATE TRIGGER log_settling AFTER UPDATE ON anyvod_tasks FOR EACH ROW
	WHEN (NEW.state <> 'pending') EXECUTE FUNCTION public.log_settling();
END
$other->append_conf('postgresql.conf', 'anyvod.worker = on');
$other->reload;
$fault->count(1);
$fault->heal;
$fault->settle;

done_testing();
