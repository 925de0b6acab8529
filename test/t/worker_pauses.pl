# A pause that a gateway demands ends by time, or when that very server, mapping
# or key is changed: no other command, by whomever, ends it.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator(keys => ['sk-pause']);
my $node = anyvod_node(
	'pauses',
	simulator => $simulator,
	api_key => 'sk-pause',
	conf => "fsync = off\nmax_prepared_transactions = 5\n"
	  . "anyvod.idle_timeout = 1h");

sub sql
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database || 'postgres', $sql);
}

sub requests
{
	return $simulator->task_requests('http429-ra600');
}

sub is_paused
{
	return poll_until($node,
		"SELECT state FROM anyvod_stat_server WHERE server = 'anyapi'",
		'paused');
}

# So that what a command has announced has been acted upon
sub worker_iterates
{
	my ($name) = @_;

	sql("INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-$name', 'other')"
	);
	ok( poll_until(
			$node,
			"SELECT state FROM anyvod_tasks WHERE task_id = 'image-$name'",
			'succeeded'),
		"$name: another server is polled");
	return;
}

sql(<<"SQL");
CREATE SERVER other FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url '@{[ $simulator->url ]}');
CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (api_key 'sk-pause');
CREATE FOREIGN DATA WRAPPER strange;
CREATE SERVER stranger FOREIGN DATA WRAPPER strange;
CREATE USER MAPPING FOR PUBLIC SERVER stranger;
CREATE DATABASE elsewhere;
INSERT INTO anyvod_tasks (task_id) VALUES ('http429-ra600');
SQL
ok(is_paused(), 'a server demands a pause of ten minutes');
is(requests(), 1, 'after one request');

foreach my $case (
	[ schemas => 'CREATE SCHEMA s; DROP SCHEMA s' ],
	[ mappings => 'DROP USER MAPPING FOR PUBLIC SERVER stranger;'
		  . ' CREATE USER MAPPING FOR PUBLIC SERVER stranger' ],
	[ roles => 'CREATE ROLE r; DROP ROLE r' ],
	[
		prepared => "BEGIN; CREATE ROLE p; PREPARE TRANSACTION 'p';"
		  . " COMMIT PREPARED 'p'; DROP ROLE p",
		'elsewhere'
	],
	[ servers => "ALTER SERVER other OPTIONS (ADD rate_limit '40');"
		  . ' ALTER SERVER other OPTIONS (DROP rate_limit)' ],
	[ triggers => 'CREATE TRIGGER t BEFORE TRUNCATE ON anyvod_tasks EXECUTE'
		  . ' FUNCTION suppress_redundant_updates_trigger();'
		  . ' DROP TRIGGER t ON anyvod_tasks' ])
{
	my ($name, $commands, $database) = @$case;

	sql($commands, $database);
	worker_iterates($name);
	is(requests(), 1, "$name: the pause goes on");
	ok(is_paused(), "$name: and is shown");
}

sql("ALTER SERVER anyapi OPTIONS (ADD timeout '20s')");
ok(wait_until(sub { requests() > 1 }),
	'it ends when that server is changed');

ok(is_paused(), 'the server demands another');
my $before = requests();
sql("ALTER USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (SET api_key 'sk-other')");
ok(wait_until(sub { requests() > $before || $simulator->stats->{unauthorized} }),
	'it ends when that mapping is changed');

done_testing();
