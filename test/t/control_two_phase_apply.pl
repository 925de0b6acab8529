# Rows that logical replication commits in two phases are polled, too: the
# process that applies them runs no command that could be seen.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $simulator = start_simulator();
my %conf = (
	simulator => $simulator,
	allows_streaming => 'logical',
	conf => "max_prepared_transactions = 5\nanyvod.idle_timeout = 100ms\n");
my $publisher = anyvod_node('publisher', %conf);
my $subscriber = anyvod_node('subscriber', %conf);

$publisher->append_conf('postgresql.conf', 'anyvod.worker = off');
$publisher->reload;
$publisher->safe_psql('postgres',
	'CREATE PUBLICATION tasks FOR TABLE anyvod_tasks');
$subscriber->safe_psql('postgres',
	'CREATE SUBSCRIPTION tasks CONNECTION '
	  . quote_literal($publisher->connstr('postgres'))
	  . ' PUBLICATION tasks WITH (two_phase = true)');
ok( poll_until(
		$subscriber,
		"SELECT bool_and(srsubstate = 'r') AND (SELECT subtwophasestate = 'e'"
		  . ' FROM pg_subscription) FROM pg_subscription_rel'),
	'tables are in step, and two phases enabled');
ok(defined wait_for_worker($subscriber, 0), 'there is no worker');

sub prepare
{
	my ($name) = @_;

	$publisher->safe_psql('postgres',
		"BEGIN; INSERT INTO anyvod_tasks (task_id) VALUES ('image-$name');"
		  . " PREPARE TRANSACTION '$name'");
	return ok(
		poll_until(
			$subscriber, 'SELECT count(*) > 0 FROM pg_prepared_xacts'),
		"$name is prepared at the subscriber");
}

sub is_settled
{
	my ($name, $what) = @_;

	return ok(
		poll_until(
			$subscriber,
			"SELECT state FROM anyvod_tasks WHERE task_id = 'image-$name'",
			'succeeded', 30),
		$what);
}

prepare('at-once');
$publisher->safe_psql('postgres', "COMMIT PREPARED 'at-once'");
is_settled('at-once', 'a transaction that is committed at once is polled');

# One that stays prepared for so long that the worker has left again
prepare('later');
$subscriber->safe_psql('postgres',
	"INSERT INTO anyvod_tasks (task_id) VALUES ('image-between')");
is_settled('between', 'another row comes meanwhile');
ok(defined wait_for_worker($subscriber, 0), 'the worker leaves');
$publisher->safe_psql('postgres', "COMMIT PREPARED 'later'");
is_settled('later', 'a transaction that is committed later is polled');

prepare('undone');
$publisher->safe_psql('postgres', "ROLLBACK PREPARED 'undone'");
ok( poll_until(
		$subscriber, 'SELECT count(*) = 0 FROM pg_prepared_xacts'),
	'one that is rolled back');
ok(defined wait_for_worker($subscriber, 0), 'leaves no worker behind');

SKIP:
{
	my $launcher = launcher_pid($subscriber);
	my $status = "/proc/$launcher/status";

	skip 'needs /proc of Linux', 1 if !-e $status;

	# It looks once more, at most two seconds later.
	my $count = sub {
		return PostgreSQL::Test::Utils::slurp_file($status) =~
		  /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : undef;
	};
	my ($before, $since);

	ok( wait_until(
			sub {
				my $now = $count->();

				($before, $since) = ($now, clock_ms())
				  if !defined $before || $now != $before;
				return clock_ms() - $since > 6000;
			}),
		'and the launcher sleeps again');
}

done_testing();
