package AnyvodTest::Fault;

# AnyvodTest::Fault - a fault, what was tracked while it lasted, and the
# account of what became of that
#
#	my $fault = AnyvodTest::Fault->new($node, 'disk full', database => 'full');
#	$fault->track(100);			# before the fault, or while it lasts
#	... inject ...
#	$fault->count($times);		# it was met so often
#	$fault->heal;				# from now on all is well
#	$fault->settle;				# tests, and a line in the table
#
# A task is lost when its row is gone, stuck when it is still pending a while
# after the fault, and wrong when it has not come to its own end, with its own
# file, or was settled more than once, as a trigger sees it.  After all, a
# task tracked anew must be settled.
#
# The lines are written to "faults" in the folder that TESTDIR names; see
# test/faults/table.

use strict;
use warnings;

use AnyvodTest;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More ();
use Time::HiRes ();

# Each has words of a task id and an end; tasks take these in turn.
my @kinds = ('image', 'video-t3000', 'fail7-extCrash', 'image-t2000-progress',
	'wait1000-image', 'fail7-extCrash-t2500', 'image-uni-surrogate',
	'fail7-extCrash-uni-full');

# How long after the fault all must be settled, in seconds.  What is asked
# least often is a server that answers nonsense: after 5 s, 10 s, and so on.
my $patience = 90;

my $number = 0;

# new($node, $name, %options), for a database in which log_settling() was
# called.
#
#	database => '...'		default postgres
sub new
{
	my ($class, $node, $name, %options) = @_;
	my $self = bless {
		node => $node,
		name => $name,
		database => $options{database} // 'postgres',
		# no word of the simulator's
		word => sprintf('zz%s%d', $$, $number++),
		tracked => 0,
		times => 0,
	}, $class;

	return $self;
}

# What was tracked is in another cluster now.
sub move
{
	my ($self, $node) = @_;
	$self->{node} = $node;
	return;
}

sub database
{
	my ($self) = @_;
	return $self->{database};
}

sub name
{
	my ($self) = @_;
	return $self->{name};
}

sub sql
{
	my ($self, $sql) = @_;
	return $self->{node}->safe_psql($self->{database}, $sql);
}

# Track so many tasks more, of all kinds.  With "may_fail" a statement that
# fails tracks none.
sub track
{
	my ($self, $count, %options) = @_;
	my $from = $self->{tracked};
	my $to = $from + $count - 1;
	my $kinds = join ', ', map { "'$_'" } @kinds;
	my $sql = "INSERT INTO anyvod_tasks (task_id)"
	  . " SELECT (ARRAY[$kinds])[1 + i % @{[ scalar @kinds ]}]"
	  . " || '-$self->{word}-' || i FROM generate_series($from, $to) AS i";

	if ($options{may_fail})
	{
		my $status = $self->{node}->psql($self->{database}, $sql,
			stderr => \$self->{error});

		return 0 if $status != 0;
	}
	else
	{
		$self->sql($sql);
	}
	$self->{tracked} += $count;
	return $count;
}

# The rows that were tracked, as a condition.
sub ours
{
	my ($self) = @_;
	return "task_id LIKE '%-$self->{word}-%'";
}

# How many tasks have been asked for, or are over.
sub asked
{
	my ($self) = @_;
	return $self->sql("SELECT count(*) FROM anyvod_tasks WHERE "
		  . $self->ours
		  . ' AND (status IS NOT NULL OR state <> \'pending\')');
}

# The fault was met so many times more.
sub count
{
	my ($self, $times) = @_;
	$self->{times} += $times;
	return;
}

# The fault is over; what was tracked is to be settled now.
sub heal
{
	my ($self) = @_;
	$self->{healed} = Time::HiRes::time();
	return;
}

# A row has come to its own end.
sub _right
{
	return
	  "CASE WHEN task_id LIKE 'fail7%' THEN state = 'failed'"
	  . " AND error_code = 'Crash'"
	  . " ELSE state = 'succeeded' AND file_url IS NOT NULL"
	  . " AND error_code IS NULL AND status = 'FINISH' AND settled_at IS NOT NULL"
	  . ' END';
}

# How many rows hold a file that is another task's, or nobody's.
sub _strange_files
{
	my ($self) = @_;

	return $self->sql(<<"END");
SELECT count(*) FROM anyvod_query_many(ARRAY(SELECT task_id::text
	FROM anyvod_tasks WHERE @{[ $self->ours ]})) AS q
	JOIN anyvod_tasks AS t USING (task_id)
	WHERE t.file_url IS DISTINCT FROM (anyvod_parse(q.response)).file_url
END
}

# Wait until all is settled, and tell what became of it.
sub settle
{
	my ($self) = @_;
	my ($node, $database) = @$self{qw(node database)};
	my $ours = $self->ours;
	my $pending =
	  "SELECT count(*) FROM anyvod_tasks WHERE $ours AND state = 'pending'";

	poll_until($node, $pending, 0, $patience, $database);

	my $rows = $self->sql("SELECT count(*) FROM anyvod_tasks WHERE $ours");
	my $stuck = $self->sql($pending);
	my $wrong = $self->sql("SELECT count(*) FROM anyvod_tasks AS t"
		  . " WHERE $ours AND state <> 'pending' AND NOT (@{[ _right() ]}"
		  . ' AND 1 = (SELECT count(*) FROM public.settlings AS s'
		  . ' WHERE s.task_id = t.task_id))');
	my $worst = $self->sql('SELECT greatest(0, extract(epoch FROM max(at))'
		  . " - $self->{healed}) FROM public.settlings WHERE $ours");
	my %found = (
		lost => $self->{tracked} - $rows,
		stuck => $stuck,
		wrong => $wrong);

	$found{wrong} += $self->_strange_files;
	$self->_show if $found{wrong} || $found{stuck};
	Test::More::cmp_ok($self->{times}, '>', 0, "$self->{name}: was met");
	foreach my $what (qw(lost stuck wrong))
	{
		Test::More::is($found{$what}, 0, "$self->{name}: no task is $what");
	}

	# It goes on, and not only with what it knew.
	my $after = "image-after-$self->{word}";

	$self->sql("INSERT INTO anyvod_tasks (task_id) VALUES ('$after')");
	Test::More::ok(
		poll_until(
			$node, "SELECT state FROM anyvod_tasks WHERE task_id = '$after'",
			'succeeded', $patience, $database),
		"$self->{name}: and all goes on");
	record($self->{name}, $self->{times}, $self->{tracked}, $found{lost},
		$found{stuck}, $found{wrong}, $worst);
	return;
}

# What is wrong with some rows, for whoever has to find out.
sub _show
{
	my ($self) = @_;

	Test::More::diag(
		$self->sql(
			'SELECT task_id, state, status, error_code, error_message,'
			  . ' file_url, (SELECT count(*) FROM public.settlings AS s'
			  . ' WHERE s.task_id = t.task_id) AS settled'
			  . " FROM anyvod_tasks AS t WHERE @{[ $self->ours ]}"
			  . " AND (state = 'pending' OR NOT (@{[ _right() ]})"
			  . ' OR 1 <> (SELECT count(*) FROM public.settlings AS s'
			  . ' WHERE s.task_id = t.task_id)) LIMIT 5'));
	return;
}

# A line of the table: the fault's name, how often it was met, tasks, how many
# of them were lost, stuck and wrong, and how long the last took, in seconds.
sub record
{
	my (@line) = @_;

	append_to_file("$ENV{TESTDIR}/faults",
		join("\t", basename($0, '.pl'), @line) . "\n")
	  if defined $ENV{TESTDIR};
	return;
}

1;
