package AnyvodTest::Peer;

# AnyvodTest::Peer - something at the other end of a connection that is no
# gateway
#
#	my $mute = AnyvodTest::Peer->new(silence());
#	my $proxy = AnyvodTest::Peer->new(tunnel());
#	my $strict = AnyvodTest::Peer->new(answer("HTTP/1.1 403 No\r\n\r\n"));
#	$proxy->url;			# http://127.0.0.1:12345
#	$proxy->heard;			# all that came before the tunnel, and how many
#							# segments came through it, once it is closed
#	my $far = AnyvodTest::Peer->new(forward($port, 0.3));
#	my $hole = AnyvodTest::Peer->black_hole;
#
# One process listens, and each connection has a process of its own that runs
# the function given; they end with the connection, and with the test.

use strict;
use warnings;

use AnyvodTest;
use Carp;
use Exporter 'import';
use Fcntl qw(:flock);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Socket qw(:DEFAULT IPPROTO_TCP TCP_NODELAY);
use Time::HiRes ();

use parent 'AnyvodTest::Child';

our @EXPORT = qw(silence answer tunnel forward gateway);

# No connection lasts longer, in seconds.
my $longest = 300;

# What a peer may do with a connection: each gives a function that takes the
# socket and another that notes what was heard.

# Take everything and say nothing.
sub silence
{
	return sub {
		my ($client, $note) = @_;

		while (sysread $client, my $data, 65536)
		{
			$note->($data);
		}
	};
}

# Read a head, and answer this.
sub answer
{
	my ($words) = @_;

	return sub {
		my ($client, $note) = @_;

		read_head($client, $note);
		syswrite $client, $words;
	};
}

# An HTTP proxy that knows CONNECT, to this machine only; it may take its
# time, in seconds.  In the end it notes how many segments with data the client
# has sent (Linux says so in its struct tcp_info).
sub tunnel
{
	my ($delay) = @_;

	return sub {
		my ($client, $note) = @_;
		my $head = read_head($client, $note);
		my ($port) = $head =~ /^CONNECT localhost:(\d+) HTTP/;
		my $server = IO::Socket::INET->new(
			PeerAddr => '127.0.0.1', PeerPort => $port // 0)
		  or return syswrite $client, "HTTP/1.1 502 Bad Gateway\r\n\r\n";

		Time::HiRes::sleep($delay // 0);
		syswrite $client, "HTTP/1.1 200 Connected\r\n\r\n";
		pass($client, $server);
		$note->(
			'segments: '
			  . unpack('x152 L', getsockopt($client, IPPROTO_TCP, 11)) . "\n");
	};
}

# What listens on a port of this machine, so many seconds away when a
# connection begins.
sub forward
{
	my ($port, $delay) = @_;

	return sub {
		my ($client) = @_;
		my $server = IO::Socket::INET->new(
			PeerAddr => '127.0.0.1', PeerPort => $port)
		  or return;

		Time::HiRes::sleep($delay // 0);
		pass($client, $server);
	};
}

# A gateway: the function gets the head of each request, the socket and what
# notes; it returns the response, or undef to close the connection.
sub gateway
{
	my ($answer) = @_;

	return sub {
		my ($client, $note) = @_;

		while (1)
		{
			my $head = read_head($client, sub { });
			last if $head eq '';
			my $response = $answer->($head, $client, $note) // last;
			send_all($client, $response) or last;
		}
	};
}

# Send all of it; returns whether the peer took it.
sub send_all
{
	my ($client, $data) = @_;

	for (my $at = 0; $at < length $data;)
	{
		$at += syswrite($client, $data, length($data) - $at, $at) // return 0;
	}
	return 1;
}

sub read_head
{
	my ($client, $note) = @_;
	my $head = '';

	until ($head =~ /\r\n\r\n/)
	{
		sysread $client, my $data, 65536 or last;
		$note->($data);
		$head .= $data;
	}
	return $head;
}

# Carry bytes both ways until one side closes.
sub pass
{
	my ($left, $right) = @_;
	my $both = IO::Select->new($left, $right);

	while (my @ready = $both->can_read)
	{
		foreach my $from (@ready)
		{
			my $to = $from == $left ? $right : $left;

			sysread $from, my $data, 65536 or return;
			while (length $data)
			{
				my $sent = syswrite $to, $data or return;

				substr $data, 0, $sent, '';
			}
		}
	}
	return;
}

sub new
{
	my ($class, $serve) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 200,
		ReuseAddr => 1)
	  or croak "could not listen: $!";
	my $self = bless {
		port => $listener->sockport,
		log => PostgreSQL::Test::Utils::tempdir() . '/heard',
	}, $class;

	append_to_file($self->{log}, '');
	$self->fork(sub { $self->_serve($listener, $serve); });
	close $listener;
	return $self;
}

# Each connection has a process of its own.
sub _serve
{
	my ($self, $listener, $serve) = @_;

	$SIG{CHLD} = 'IGNORE';
	while (1)
	{
		my $client = $listener->accept or next;

		# what is written has arrived then
		setsockopt $client, IPPROTO_TCP, TCP_NODELAY, 1;
		if ((fork() // next) == 0)
		{
			alarm $longest;
			close $listener;
			eval {
				$serve->($client, sub { return $self->_note($_[0]) });
			};
			POSIX::_exit(0);
		}
	}
}

# Append to what was heard; returns how much that was before, in bytes.
sub _note
{
	my ($self, $data) = @_;

	open my $log, '>>', $self->{log} or die "could not open $self->{log}: $!";
	flock $log, LOCK_EX or die "could not lock it: $!";
	my $before = -s $log;
	syswrite $log, $data;
	close $log;
	return $before;
}

# A port to which no connection comes about: the queue of those that nobody
# accepts is full, and the system lets further ones wait.
#
# black_hole($port) is one on ::1.
sub black_hole
{
	my ($class, $port6) = @_;
	my $family = defined $port6 ? AF_INET6 : AF_INET;
	my $address = sub {
		my ($port) = @_;

		return defined $port6
		  ? Socket::pack_sockaddr_in6($port, Socket::IN6ADDR_LOOPBACK())
		  : pack_sockaddr_in($port, INADDR_LOOPBACK);
	};
	my $make = sub {
		socket my $socket, $family, SOCK_STREAM, 0 or croak "no socket: $!";
		$socket->blocking(0);
		return $socket;
	};
	my $listener = $make->();

	bind $listener, $address->($port6 // 0) or croak "could not bind: $!";
	listen $listener, 0 or croak "could not listen: $!";
	my $port = $port6 // (unpack_sockaddr_in(getsockname $listener))[0];
	my @filling = map {
		my $socket = $make->();

		connect $socket, $address->($port);
		$socket;
	} 1 .. 4;

	return bless { port => $port, sockets => [ $listener, @filling ] },
	  $class;
}

sub port
{
	my ($self) = @_;
	return $self->{port};
}

sub url
{
	my ($self, $scheme) = @_;
	return ($scheme // 'http') . "://127.0.0.1:$self->{port}";
}

sub heard
{
	my ($self) = @_;
	return slurp_file($self->{log});
}

# Let the connections that there are carry nothing any more, as when a
# firewall has forgotten them; new ones are served.
sub freeze
{
	my ($self) = @_;
	my @children = map { /^(\d+) \(.*\) \S $self->{pid} / ? $1 : () }
	  map { -r $_ ? slurp_file($_) : () } glob '/proc/[0-9]*/stat';

	kill 'STOP', @children;
	push @{ $self->{frozen} }, @children;
	return scalar @children;
}

sub stop
{
	my ($self) = @_;

	if ($self->is_ours)
	{
		kill $_, @{ $self->{frozen} // [] } foreach 'TERM', 'CONT';
	}
	return $self->SUPER::stop;
}

1;
