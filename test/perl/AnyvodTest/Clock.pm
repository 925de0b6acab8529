package AnyvodTest::Clock;

# AnyvodTest::Clock - a server and a simulator whose clocks are fast
#
#	my $clock = AnyvodTest::Clock->new(20);
#	my ($simulator, $node) = $clock->start('fast', options => "...",
#		conf => "...");
#	$clock->now_ms;				# their time, in ms of the Unix epoch
#
# Their programs are preloaded with test/clock, so that settings, tasks and
# times in answers are what they always are, and a test of minutes takes
# seconds.  What takes the machine a millisecond takes them that many more.

use strict;
use warnings;

use AnyvodTest;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More ();
use Time::HiRes ();

# new($speed): all later starts of this process are by this clock.
sub new
{
	my ($class, $speed) = @_;
	my $self = bless {
		speed => $speed,
		since => Time::HiRes::time(),
		build => PostgreSQL::Test::Utils::tempdir()
	}, $class;

	Test::More::plan(skip_all => 'needs epoll and LD_PRELOAD')
	  if $^O ne 'linux';
	PostgreSQL::Test::Utils::system_or_bail('make', '-s', '-C',
		dirname(__FILE__) . '/../../clock',
		"BUILD=$self->{build}");
	$ENV{CLOCK_SPEED} = $speed;
	$ENV{CLOCK_SINCE} = sprintf('%.0f', 1e6 * $self->{since});
	return $self;
}

sub now_ms
{
	my ($self) = @_;
	my $passed = Time::HiRes::time() - $self->{since};

	return 1000 * ($self->{since} + $self->{speed} * $passed);
}

# Wait until its time is that; fails the test if it never is.
sub wait_until_ms
{
	my ($self, $ms) = @_;
	my $left = ($ms - $self->now_ms) / 1000 / $self->{speed};

	wait_until(sub { $self->now_ms >= $ms }, 60 + $left)
	  or Test::More::BAIL_OUT('time stands still');
	return;
}

# start($name, %options): a simulator, and a node as anyvod_node makes it that
# asks it.  Time limits that a machine may come near to are raised, and what
# else a server does from time to time is left out: it would take much of the
# machine.
sub start
{
	my ($self, $name, %options) = @_;

	local $ENV{LD_PRELOAD} = "$self->{build}/clock.so";
	local $ENV{PGCTLTIMEOUT} = 60 * $self->{speed};

	my $simulator = start_simulator(keys => ['sk-clock']);
	my $node = anyvod_node(
		$name,
		simulator => $simulator,
		api_key => 'sk-clock',
		options => join(', ',
			"timeout '600s', connect_timeout '100s'",
			$options{options} // ()),
		conf => <<"END");
autovacuum = off
authentication_timeout = 600
bgwriter_delay = 10s
wal_writer_delay = 10s
@{[ $options{conf} // '' ]}
END
	return ($simulator, $node);
}

1;
