# A key that is refused for one task, and accepted for others, holds these up
# for one pause and no more; a pause is ended by a single question; and tasks
# whose role pauses cost nothing.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => [ 'sk-good', 'sk-other' ]);
my $node = anyvod_node(
	'refused_key',
	simulator => $simulator,
	api_key => 'sk-good',
	options => "rate_limit '5000'",
	conf => <<'END');
autovacuum = off
anyvod.detection_delay = 50ms
anyvod.poll_floor = 50ms
anyvod.idle_timeout = 1h
END

# Longest that a role pauses, in seconds: a minute and a quarter.
my $pause = 75;

# Tasks of the role whose key is wrong.
my $many = 20_000;

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Track tasks WORDS-1 and so on, of a role.
sub track
{
	my ($owner, $words, $count) = @_;

	sql('INSERT INTO anyvod_tasks (task_id, owner)'
		  . " SELECT '$words-' || i, '$owner'"
		  . " FROM generate_series(1, $count) AS i");
	return;
}

# How many tasks of these words have been settled.
sub settled
{
	my ($words) = @_;

	return sql("SELECT count(*) FROM anyvod_tasks WHERE state = 'succeeded'"
		  . " AND task_id || '' LIKE '$words-%'");
}

# When a role's key was asked with, in milliseconds of the gateway's clock.
sub questions
{
	my ($words) = @_;

	return
	  map { $_->{ms} } grep { $_->{id} =~ /^$words-/ } @{ $simulator->requests(10_000) };
}

# How many rows have been looked up by their ids.
sub looked_up
{
	return sql('SELECT idx_tup_read FROM pg_stat_user_indexes'
		  . " WHERE indexrelname = 'anyvod_tasks_pkey'");
}

sql('CREATE ROLE mixed; CREATE ROLE wrong;'
	  . ' GRANT USAGE ON FOREIGN SERVER anyapi TO mixed, wrong;'
	  . " CREATE USER MAPPING FOR mixed SERVER anyapi OPTIONS (api_key 'sk-other');"
	  . " CREATE USER MAPPING FOR wrong SERVER anyapi OPTIONS (api_key 'sk-bad')");

# The first task of each role has its key refused, and the others wait.
track('mixed', 'image-http403-alone', 1);
track('wrong', 'image-wrong-first', 1);
ok(poll_until($node, "SELECT count(*) FROM anyvod_stat_server WHERE state = 'paused'", 2),
	'a refused key pauses its role');
track('mixed', 'image-good', 300);
track('wrong', 'image-wrong', $many);
track(sql('SELECT current_user'), 'image-own', 300);
ok(wait_until(sub { settled('image-own') == 300 }), 'and nobody else');
is(settled('image-good'), 0, 'others of the role wait');
sql('SELECT pg_stat_force_next_flush()');
measured('%d tasks of a role that pauses: %d rows looked up', $many,
	looked_up());
cmp_ok(looked_up(), '<', $many / 10, 'what waits is not looked up');

# When the pause is over, one question shows that the key is accepted.
ok( wait_until(sub { settled('image-good') > 0 }, $pause + 60),
	'the role is asked for again');
my $begin = clock_ms();
ok(wait_until(sub { settled('image-good') == 300 }), 'all others are settled');
measured('the last %.1f s after the first', (clock_ms() - $begin) / 1000);
cmp_ok(clock_ms() - $begin, '<', 20_000, 'in one go');
# The one that is refused again pauses nobody.
ok( wait_until(
		sub { $simulator->task_requests('image-http403-alone-1') > 1 },
		$pause + 60),
	'a task alone is refused again');
track('mixed', 'image-late', 30);
$begin = clock_ms();
ok(wait_until(sub { settled('image-late') == 30 }), 'the others go on');
cmp_ok(clock_ms() - $begin, '<', 20_000, 'at once');

# A key that is refused for all: a single question a pause.
my @times;
ok( wait_until(
		sub { (@times = questions('image-wrong')) > 1 },
		$pause + 60),
	'a wrong key is tried again');
sleep 1;
@times = questions('image-wrong');
measured('%d questions with a wrong key', scalar @times);
is(scalar(grep { $times[$_] - $times[ $_ - 1 ] < 40_000 } 1 .. $#times),
	0, 'by a single question after each pause');

done_testing();
