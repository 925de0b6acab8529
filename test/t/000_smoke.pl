# The main job once: a task that is inserted is asked for with the mapping's
# key, and its row filled in.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-smoke']);
my $node = anyvod_node('smoke', simulator => $simulator, api_key => 'sk-smoke');
my $task_id = 'image-mGEM-v2.5-t500-smoke';

like($node->safe_psql('postgres', "SELECT anyvod_query('image-now')"),
	qr/"FINISH"/, 'a task is asked for from SQL');

$node->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('$task_id')");
ok( poll_until(
		$node,
		"SELECT state, file_url LIKE 'http://127.0.0.1:%', model FROM anyvod_tasks",
		'succeeded|t|GEM 2.5'),
	'a tracked task succeeds');

cmp_ok($simulator->task_requests($task_id), '>=', 2,
	'it was asked for while it ran and after it ended');
is($simulator->stats->{unauthorized}, 0, 'every request carried the key');

done_testing();
