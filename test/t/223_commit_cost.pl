# A session that wakes the worker in each of thousands of transactions,
# statements and subtransactions pays for the last what it paid for the first.

use strict;
use warnings;

use AnyvodTest;
use Test::More;

my $count = 20_000;

# The worker is off: it is the session's cost that is measured, and its table
# stays empty, as no row is updated.  The statement's trigger fires all the
# same.
my $node = anyvod_node(
	'cost',
	base_url => 'http://127.0.0.1:1',
	conf => "autovacuum = off\nfsync = off\nanyvod.worker = off\n");

$node->safe_psql('postgres', <<'END');
CREATE TABLE costs (what text, i integer, seconds float8);
CREATE FUNCTION wake() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'none';
	PERFORM anyvod_wake();
END $$;
CREATE FUNCTION clock() RETURNS float8 LANGUAGE sql AS
	'SELECT extract(epoch FROM clock_timestamp())::float8';
CREATE PROCEDURE wakes(kind text, n integer, commits boolean)
LANGUAGE plpgsql AS $$
DECLARE
	begun float8;
	times float8[];
BEGIN
	FOR i IN 1 .. n LOOP
		begun := clock();
		PERFORM wake();
		IF commits THEN
			COMMIT;
		END IF;
		times[i] := clock() - begun;
	END LOOP;
	INSERT INTO costs SELECT kind, o, t
		FROM unnest(times) WITH ORDINALITY AS u (t, o);
END $$;
CREATE PROCEDURE wakes_in_subtransactions(kind text, n integer)
LANGUAGE plpgsql AS $$
DECLARE
	begun float8;
	times float8[];
BEGIN
	FOR i IN 1 .. n LOOP
		begun := clock();
		BEGIN
			PERFORM wake();
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
		times[i] := clock() - begun;
	END LOOP;
	INSERT INTO costs SELECT kind, o, t
		FROM unnest(times) WITH ORDINALITY AS u (t, o);
END $$;
END

# All in one session, whose callbacks would add up.
my $session = open_session($node);
$session->query_safe("SET client_min_messages = error");
my %calls = (
	transactions => "wakes('transactions', $count, true)",
	statements => "wakes('statements', $count, false)",
	subtransactions => "wakes_in_subtransactions('subtransactions', $count)");
foreach my $what (qw(transactions statements subtransactions))
{
	$session->query_safe("CALL $calls{$what}");

	# Of the quickest tenth the slowest: what else runs on the machine is
	# not to be seen in that.
	my ($first, $last) = split /\|/, $session->query_safe(<<"END");
SELECT 1e6 * percentile_cont(0.1) WITHIN GROUP (ORDER BY seconds)
		FILTER (WHERE i <= $count / 10),
	1e6 * percentile_cont(0.1) WITHIN GROUP (ORDER BY seconds)
		FILTER (WHERE i > $count - $count / 10)
FROM costs WHERE what = '$what'
END
	measured('%d %s: %.0f us each at first, %.0f us at last',
		$count, $what, $first, $last);
	cmp_ok($last, '<', 3 * $first,
		"the last of $count $what costs no more than the first");
}
$session->quit;

done_testing();
