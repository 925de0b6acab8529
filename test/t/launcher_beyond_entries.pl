# More databases with pending rows than shared memory has entries for: none is
# forgotten, and each is served in its turn.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $count = 70;					# 1 that is served at once, 64 that wait
my $simulator = start_simulator();
my $node = anyvod_node(
	'beyond',
	extension => 0,
	conf => <<'END');
anyvod.worker = off
anyvod.max_databases = 1
anyvod.idle_timeout = 0
fsync = off
END

anyvod_database($node, 'model', simulator => $simulator);
$node->safe_psql('model',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-1')");
$node->safe_psql('postgres',
	join ";\n", map { "CREATE DATABASE d$_ TEMPLATE model" } 1 .. $count);
$node->safe_psql('postgres', "ALTER SYSTEM SET anyvod.worker = 'on'");
$node->reload;

# The gateway has been asked for the task of each, and of the model.
my $least = $count + 1;

ok( wait_until(
		sub { $simulator->task_requests('image-1') >= $least }, 300),
	'each database is served');
is($simulator->task_requests('image-1'), $least, 'once');
my @left = grep {
	$node->safe_psql("d$_",
		"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'") ne '0'
} 1, $count;
is("@left", '', 'its row is filled in');

# New rows in all of them while one has long work
$node->safe_psql('model',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-long')");
$node->safe_psql("d$_",
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-2')")
  foreach 1 .. $count;
ok( wait_until(
		sub { $simulator->task_requests('image-2') >= $count }, 300),
	'and again, beside one that has long work');
$node->stop('immediate');

done_testing();
