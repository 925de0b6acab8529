# Each request has the settings of the moment at which it is sent: a key file
# that was replaced, a right, mapping or server that another session has
# changed, count from the next request on, also within one statement.  A file
# that cannot be read is no error of a request that was sent before.

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator();
my $other = start_simulator();
my $node = anyvod_node(
	'settings',
	simulator => $simulator,
	api_key => undef,
	options => "max_concurrency '1', rate_limit '5000'",
	conf => <<'END');
anyvod.detection_delay = 100ms
anyvod.poll_floor = 100ms
anyvod.poll_cap = 200ms
END
my $file = $node->basedir . '/key';

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Put a key into the file: in place, or as another file by the same name.
sub write_key
{
	my ($key, $in_place) = @_;
	my $path = $in_place ? $file : "$file.new";

	open my $handle, '>', $path or BAIL_OUT("$path: $!");
	print $handle "$key\n";
	close $handle;
	return if $in_place;
	rename $path, $file or BAIL_OUT("$file: $!");
	return;
}

# Requests that have come so far, and those of them without a right key.
sub requests
{
	return $simulator->stats->{requests};
}

sub unauthorized
{
	return $simulator->stats->{unauthorized};
}

# Wait for so many more requests.
sub more_requests
{
	my ($count) = @_;
	my $before = requests();

	return wait_until(sub { requests() >= $before + $count });
}

# Replace the key while requests are being sent; whichever they have is good
# while that happens.
sub replace_key
{
	my ($old, $new) = @_;

	$simulator->set_keys($old, $new);
	write_key($new);
	more_requests(2) or BAIL_OUT('no requests are sent');
	$simulator->set_keys($new);
	return;
}

write_key('sk-0');
sql('CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key_file '
	  . quote_literal($file) . '); CREATE ROLE app LOGIN;'
	  . ' GRANT USAGE ON FOREIGN SERVER anyapi TO app');

# The key file, in a session
my $session = open_session($node);
my @states;

foreach my $i (1 .. 20)
{
	my $key = 'sk-' . $i % 2;

	$simulator->set_keys($key);
	write_key($key, $i % 4 < 2);
	push @states, (run_query($session, "SELECT anyvod_query('image-$i')"))[0];
}
is("@states", join(' ', ('00000') x 20), 'each request has the key of the moment');
is(unauthorized(), 0, 'none has the one before');

# Two keys of the same length within a tick of the file's clock
$simulator->set_keys('sk-0');
sql(<<"END");
CREATE TABLE seen (right_key boolean, state text);
DO \$\$
DECLARE
	state text;
BEGIN
	FOR i IN 1 .. 100 LOOP
		EXECUTE format('COPY (SELECT %L) TO %L', 'sk-' || i % 2, '$file');
		BEGIN
			PERFORM anyvod_query('image-tick-' || i);
			state := '00000';
		EXCEPTION WHEN invalid_authorization_specification THEN
			state := SQLSTATE;
		END;
		INSERT INTO seen VALUES (i % 2 = 0, state);
	END LOOP;
END \$\$
END
is( sql('SELECT count(*) FROM seen WHERE right_key = (state = \'00000\')'),
	100, 'a file that is changed twice in a tick is read twice');
$simulator->reset;

begin_query($session, "SELECT count(response) FROM anyvod_query_many("
	  . "ARRAY(SELECT 'delay200-many-' || i FROM generate_series(1, 8) AS i))");
more_requests(1);
replace_key('sk-0', 'sk-2');
is((end_query($session))[1], '8', 'anyvod_query_many, while the key is replaced');
is(unauthorized(), 0, 'a request of a running anyvod_query_many has the new key');

begin_query($session, "SELECT status FROM anyvod_wait('t4000-wait', '1 min')");
more_requests(1);
replace_key('sk-2', 'sk-3');
is((end_query($session))[1], 'FINISH', 'anyvod_wait, while the key is replaced');
is(unauthorized(), 0, 'a request of a running anyvod_wait has the new key');

# The key file, in the worker
sql("INSERT INTO anyvod_tasks (task_id) VALUES ('t4000-tracked')");
ok(wait_until(sub { $simulator->task_requests('t4000-tracked') > 0 }),
	'the worker sends requests');
replace_key('sk-3', 'sk-4');
ok(poll_until($node, 'SELECT state FROM anyvod_tasks', 'succeeded'),
	'a tracked task, while the key is replaced');
is(unauthorized(), 0, 'a request of the worker has the new key');

# A refused request while the file is not there
foreach my $sql (
	[ "SELECT anyvod_query('delay1000-http401-one')", '28000', '' ],
	[
		"SELECT string_agg(coalesce(error_code, 'ok'), ' ' ORDER BY task_id)"
		  . " FROM anyvod_query_many('{delay1000-http401-many}')",
		'00000', '28000'
	])
{
	my $before = requests();

	begin_query($session, $sql->[0]);
	wait_until(sub { requests() > $before });
	rename $file, "$file.away" or BAIL_OUT("$file: $!");
	my ($state, $output) = end_query($session);
	rename "$file.away", $file or BAIL_OUT("$file: $!");
	is("$state $output", "$sql->[1] $sql->[2]",
		'a refused request is that, although the file cannot be read');
}
close_session($session);

# What another session changes during a statement: returns how many requests
# came after that, the statement's SQLSTATE and its duration in seconds.
my $app = open_session($node, user => 'app');

sub changed_during
{
	my ($statement, $change) = @_;
	my $begin;
	my $before;

	begin_query($app, $statement);
	more_requests(2) or BAIL_OUT('no requests are sent');
	sql($change);
	$begin = clock_ms();
	$before = requests();
	my ($state) = end_query($app);
	my $took = (clock_ms() - $begin) / 1000;

	measured('%s: %s after %.1f s, %d more requests', $change, $state, $took,
		requests() - $before);
	return (requests() - $before, $state, $took);
}

my $wait = "SELECT anyvod_wait('t600000-w', '5 s')";
my $many = 'SELECT count(*) FROM anyvod_query_many('
  . "ARRAY(SELECT 'delay150-m-' || i FROM generate_series(1, 20) AS i))";
my $revoke = 'REVOKE USAGE ON FOREIGN SERVER anyapi FROM app';
my $grant = 'GRANT USAGE ON FOREIGN SERVER anyapi TO app';
my $map = "CREATE USER MAPPING FOR app SERVER anyapi OPTIONS (api_key 'sk-4')";
my $unmap = 'DROP USER MAPPING FOR app SERVER anyapi';
my ($more, $state, $took);

($more, $state, $took) = changed_during($wait, $revoke);
is($state, '42501', 'anyvod_wait hears REVOKE');
cmp_ok($more, '<=', 1, 'and sends no further request');
sql($grant);
($more, $state, $took) = changed_during($many, $revoke);
cmp_ok($more, '<=', 1, 'anyvod_query_many hears REVOKE');
sql($grant);

# PUBLIC's mapping, which then applies, has another key.
sql($map);
write_key('sk-refused');
($more, $state, $took) = changed_during($wait, $unmap);
is($state, '28000', 'anyvod_wait hears DROP USER MAPPING');
cmp_ok($took, '<', 5, 'at its next request');
cmp_ok(unauthorized(), '>', 0, 'which has the key that applies then');
sql($map);
my $refused = unauthorized();
changed_during($many, $unmap);
cmp_ok(unauthorized() - $refused, '>=', 10,
	'anyvod_query_many hears DROP USER MAPPING');
sql($map);

my $there = 'ALTER SERVER anyapi OPTIONS (SET base_url '
  . quote_literal($other->url) . ')';
my $back = 'ALTER SERVER anyapi OPTIONS (SET base_url '
  . quote_literal($simulator->url) . ')';

($more) = changed_during($wait, $there);
cmp_ok($more, '<=', 1, 'anyvod_wait hears ALTER SERVER');
cmp_ok($other->task_requests('t600000-w'), '>', 0, 'and goes on there');
sql($back);
($more) = changed_during($many, $there);
cmp_ok($more, '<=', 1, 'anyvod_query_many hears ALTER SERVER');
close_session($app);

done_testing();
