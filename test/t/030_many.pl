# Two thousand tasks of all kinds in each of two databases all come to the
# right end, each settled once, and none is asked for oftener than need be.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

# What comes of each kind of task: how many, and state and error_code.
# %d is a time at which such a task ends, in milliseconds after it is first
# asked for.  The trouble of one task is to hold up no other, so there is
# little of each.
my @kinds = (
	[ 'image-t%d', 700, 'succeeded', '' ],
	[ 'video-mKling-v2.1-t%d-progress', 500, 'succeeded', '' ],
	[ 'image-mGEM-v2.5-files3', 200, 'succeeded', '' ],
	[ 'fail70001-t%d', 150, 'failed', 'InternalError' ],
	[ 'fail-extModerationFailed-t%d', 100, 'failed', 'ModerationFailed' ],
	[ 'abort-t%d', 100, 'failed', 'OperationCanceled' ],
	[ 'full-permanent-t%d', 70, 'succeeded', '' ],
	[ 'wrap-t%d', 50, 'succeeded', '' ],
	[ 'badutf8-nul-surrogate-t%d', 30, 'succeeded', '' ],
	[ 'delay300-t%d', 40, 'succeeded', '' ],
	[ 'http503-x2', 10, 'succeeded', '' ],
	[ 'http500-t%d-x2', 10, 'succeeded', '' ],
	[ 'reset-x1', 10, 'succeeded', '' ],
	[ 'cut-x1', 10, 'succeeded', '' ],
	[ 'nofile-x1', 5, 'succeeded', '' ],
	[ 'nofile', 5, 'failed', 'NoOutput' ],
	[ 'unknown-x1', 3, 'succeeded', '' ],
	[ 'unknown', 3, 'failed', 'task_not_exist' ],
	[ 'eResourceNotFound', 3, 'failed', 'ResourceNotFound' ],
	[ 'http429-ra1-x1', 1, 'succeeded', '' ]);
my $most_time = 3000;
my @databases = ('postgres', 'second');

# Two questions about a running task are this many ms apart, at least.
my $interval = 280;
my $node = anyvod_node(
	'many',
	extension => 0,
	conf => "anyvod.detection_delay = '150ms'\n"
	  . "anyvod.poll_floor = '${interval}ms'");
my $simulator = start_simulator(keys => ['sk-many']);

my (@tasks, %wanted);
foreach my $kind (@kinds)
{
	my ($words, $count, $state, $code) = @$kind;

	for my $i (1 .. $count)
	{
		my $time = $words =~ /%d/ ? int($most_time * $i / $count) : 0;
		my $task = ($words =~ s/%d/$time/r) . "-$i";

		push @tasks, $task;
		$wanted{$task} = { state => "$state $code", time => $time };
	}
}
is(scalar keys %wanted, 2000, 'there are 2000 tasks');

foreach my $database (@databases)
{
	anyvod_database(
		$node, $database,
		simulator => $simulator,
		api_key => 'sk-many',
		options => "rate_limit '5000', max_concurrency '64'");
	log_settling($node, $database);
}

my $begin = clock_ms();
foreach my $database (@databases)
{
	$node->safe_psql($database,
		'INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ', map { "('$_-$database')" } @tasks));
}

# All but those that are borne for 30 and 60 s before they are final.
foreach my $database (@databases)
{
	ok( poll_until(
			$node,
			"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'"
			  . " AND task_id !~ '^(unknown|eResource|nofile)'",
			0, undef, $database),
		"$database: all that can end at once have ended");
}
my $took = clock_ms() - $begin;

foreach my $database (@databases)
{
	# 63 s of patience for an unknown task, three times
	ok( poll_until(
			$node,
			"SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'",
			0, 200, $database),
		"$database: all have ended");
}

my $requests = $simulator->stats(tasks => 1)->{tasks};

foreach my $database (@databases)
{
	my (@wrong, @too_often, @miscounted, @impatient);
	my %rows = map { (split /\|/)[0] => $_ } split /\n/,
	  $node->safe_psql($database,
		"SELECT task_id, concat(state, ' ', error_code), polls"
		  . ' FROM anyvod_tasks');

	foreach my $task (@tasks)
	{
		my ($id, $state, $polls) = split /\|/, $rows{"$task-$database"} // '';
		my $asked = $requests->{"$task-$database"} // 0;

		# The first question, one each interval, the one that finds the
		# end, and one to spare.  Trouble has more.
		my $most = 3 + $wanted{$task}{time} / $interval;

		push @wrong, "$task is $state" if $state ne $wanted{$task}{state};
		# libcurl itself repeats a question when a connection that was
		# kept is reset, since it may have died before.
		push @miscounted, "$task says $polls, was $asked"
		  if $polls != $asked && $task !~ /^reset/;
		push @impatient, "$task: $asked"
		  if $task =~ /^(?:unknown|eResource|nofile)-\d/ && $asked != 4;
		push @too_often, "$task: $asked"
		  if $asked > $most
		  && $task !~ /^(?:http|reset|cut|nofile|unknown|eResource)/;
	}
	is_deeply(\@wrong, [], "$database: all states are right");
	is_deeply(\@miscounted, [],
		"$database: polls says how often a task was asked for");
	is_deeply(\@impatient, [],
		"$database: what may be a passing trouble is asked three times more");
	is_deeply(\@too_often, [],
		"$database: no task was asked for too often");
	is( $node->safe_psql(
			$database,
			'SELECT count(*), count(DISTINCT task_id),'
			  . ' bool_and(s.state = t.state)'
			  . ' FROM settlings AS s JOIN anyvod_tasks AS t USING (task_id)'),
		'2000|2000|t',
		"$database: each row was settled once");
	is( $node->safe_psql(
			$database,
			'SELECT DISTINCT (SELECT count(*) FROM anyvod_files(response))'
			  . " FROM anyvod_tasks WHERE task_id LIKE '%-files3-%'"),
		'3',
		"$database: all files of a task are in its answer");
	is( $node->safe_psql(
			$database,
			"SELECT count(*) FROM anyvod_tasks WHERE (state = 'succeeded')"
			  . ' <> (file_url IS NOT NULL) OR settled_at IS NULL'
			  . " OR error_message = '' OR updated_at IS NULL"),
		'0',
		"$database: what succeeded has a file, and nothing else does");
}
measured('%d tasks of up to %d ms in two databases took %.1f s',
	2 * @tasks, $most_time, $took / 1000);
is($simulator->stats->{unauthorized}, 0, 'every request carried the key');

done_testing();
