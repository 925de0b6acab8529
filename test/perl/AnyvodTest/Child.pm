package AnyvodTest::Child;

# AnyvodTest::Child - a process that a test or benchmark has started, as an
# object
#
#	package Mine;
#	use parent 'AnyvodTest::Child';
#
#	$self->spawn($log, 'program', @arguments);	# a program
#	$self->fork(sub { ... });					# or code of ours
#	$self->pid;
#	$self->stop;			# or 'QUIT', another signal than TERM
#
# It is ended with the object, and with the script whatever becomes of that.
# Its class may keep what it likes in the object but "pid" and "owner".

use strict;
use warnings;

use Carp;
use POSIX ();
use Scalar::Util ();

# Those that still run, so that END finds them.
my %running;

# Start a process that runs the code and ends.
sub fork
{
	my ($self, $code) = @_;
	my $pid = CORE::fork() // croak "could not fork: $!";

	if ($pid == 0)
	{
		$SIG{TERM} = 'DEFAULT';
		eval { $code->(); };
		POSIX::_exit(0);
	}
	$self->{pid} = $pid;
	$self->{owner} = $$;
	$running{$pid} = $self;
	Scalar::Util::weaken($running{$pid});
	return;
}

# Start a program, its output going to the log.
sub spawn
{
	my ($self, $log, @command) = @_;

	$self->fork(
		sub {
			open STDIN, '<', '/dev/null' or POSIX::_exit(127);
			# not the handles of that name, which the test framework ties
			open my $output, '>', $log or POSIX::_exit(127);
			POSIX::dup2(fileno($output), 1);
			POSIX::dup2(fileno($output), 2);
			exec { $command[0] } @command or POSIX::_exit(127);
		});
	return;
}

sub pid
{
	my ($self) = @_;
	return $self->{pid};
}

# Is it ours to end?  In a process that a test has forked it is not.
sub is_ours
{
	my ($self) = @_;
	return defined $self->{pid} && $self->{owner} == $$;
}

# End it and wait for its end, even if it stands still; a second time does
# nothing.
sub stop
{
	my ($self, $signal) = @_;

	return unless $self->is_ours;
	my $pid = delete $self->{pid};
	# what a failing test's exit status is must not depend on this
	local ($?, $!);
	delete $running{$pid};
	kill $signal // 'TERM', $pid;
	kill 'CONT', $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->stop;
	return;
}

END
{
	foreach my $child (values %running)
	{
		$child->stop if defined $child;
	}
}

1;
