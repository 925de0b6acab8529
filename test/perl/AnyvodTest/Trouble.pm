package AnyvodTest::Trouble;

# AnyvodTest::Trouble - a gateway that works, until it is told not to
#
#	my $gateway = AnyvodTest::Trouble->new($simulator);
#	$gateway->begin('reset_body');	# from now on
#	$gateway->times;				# how many requests met it
#	$gateway->end;					# all is well again
#
# It stands before a simulator and hands its answers on, one connection each,
# or spoils them in the ways that %early and %late below name.  Connections
# that stall end when their peers do.  What a trouble means to anyvod is not
# known here.

use strict;
use warnings;

use AnyvodTest;
use Carp;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket;
use Time::HiRes ();

use parent 'AnyvodTest::Child';

# No connection lasts longer, in seconds.
my $longest = 120;

# Connections that "limit" takes at once, and for how long at least each keeps
# its place, in seconds: a busy machine may serve one after the other.
my $limit = 4;
my $keep = 0.5;


# Sending

sub reset_connection
{
	my ($client) = @_;

	setsockopt $client, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
	close $client;
	return 0;
}

# Say nothing more, until the peer hangs up.
sub stall
{
	my ($client) = @_;

	while (sysread $client, my $data, 65536)
	{
	}
	return 0;
}

# All of it, unless the peer hangs up.
sub send_all
{
	my ($client, $data) = @_;

	while (length $data)
	{
		my $sent = syswrite $client, $data or return 0;

		substr $data, 0, $sent, '';
	}
	return 1;
}

# Send a piece again and again, so many times.
sub send_often
{
	my ($client, $piece, $times) = @_;

	for (1 .. $times)
	{
		send_all($client, $piece) or return 0;
	}
	return 0;
}

sub half
{
	my ($text) = @_;

	return substr $text, 0, length($text) / 2;
}

# A header and its end, with the status 200 and JSON unless it says so.
sub head
{
	my (@lines) = @_;
	my $first = @lines && $lines[0] =~ /^HTTP/ ? '' : "HTTP/1.1 200 OK\r\n";

	return $first
	  . join('', map { "$_\r\n" } @lines)
	  . "Content-Type: application/json\r\n\r\n";
}

sub sized
{
	my ($body, $more) = @_;

	return head('Content-Length: ' . (length($body) + ($more // 0))) . $body;
}

# An answer that leads to another file.
sub forged
{
	my ($body) = @_;

	return $body =~ s{/files/\w+}{/files/forged}gr;
}

# What was to be sent last on this connection, which is a process.
my $before;

# Troubles before a request is read: each is given the socket.
my %early = (
	reset_accept => \&reset_connection,
	stall_accept => sub { Time::HiRes::sleep($longest); return 0; },
	close_accept => sub { return 0; },);

# The others are given the socket, the body that should be sent, what came
# before on this connection, and what "begin" was given; they return whether
# the connection lasts.
my %late = (
	reset_request => \&reset_connection,
	reset_header => sub {
		send_all($_[0], half(sized($_[1])) =~ s/\r\n\r\n.*//sr);
		return reset_connection($_[0]);
	},
	reset_body => sub {
		send_all($_[0], head('Content-Length: ' . length $_[1]) . half($_[1]));
		return reset_connection($_[0]);
	},
	reset_after => sub {
		send_all($_[0], sized($_[1]));
		return reset_connection($_[0]);
	},
	stall_header => \&stall,
	stall_half_header => sub {
		send_all($_[0], "HTTP/1.1 200 OK\r\nContent-Le");
		return stall($_[0]);
	},
	stall_body => sub {
		send_all($_[0], head('Content-Length: ' . length $_[1]) . half($_[1]));
		return stall($_[0]);
	},
	byte_a_second => sub {
		foreach my $byte (split //, sized($_[1]))
		{
			send_all($_[0], $byte) or return 0;
			Time::HiRes::sleep(1);
		}
		return 0;
	},
	cut_body => sub {
		send_all($_[0], head('Content-Length: ' . length $_[1]) . half($_[1]));
		return 0;
	},
	length_large => sub { send_all($_[0], sized($_[1], 100)); return 0; },
	length_small => sub { send_all($_[0], sized($_[1], -100)); return 1; },
	length_twice => sub {
		send_all($_[0], head('Content-Length: 10', 'Content-Length: 20')
			  . $_[1]);
		return 0;
	},
	length_negative => sub {
		send_all($_[0], head('Content-Length: -1') . $_[1]);
		return 0;
	},
	# an answer that nobody asked for follows the one that was, at once or
	# when the connection is idle
	surplus_answer => sub {
		send_all($_[0], sized($_[1]) . sized(forged($_[1])));
		return 1;
	},
	late_surplus_answer => sub {
		send_all($_[0], sized($_[1]));
		Time::HiRes::sleep(0.1);
		send_all($_[0], sized(forged($_[1])));
		return 1;
	},
	# the answer to the question before, from the second on
	answer_late => sub {
		send_all($_[0], sized($before // $_[1]));
		$before = $_[1];
		return 1;
	},
	chunked_garbage => sub {
		send_all($_[0], head('Transfer-Encoding: chunked') . "zzz\r\n$_[1]");
		return 0;
	},
	chunk_too_large => sub {
		send_all($_[0],
			head('Transfer-Encoding: chunked') . "fffffffffffffffff\r\n$_[1]");
		return 0;
	},
	gzip => sub {
		require IO::Compress::Gzip;
		IO::Compress::Gzip::gzip(\$_[1] => \my $packed);
		send_all($_[0],
			head('Content-Encoding: gzip', 'Content-Length: ' . length $packed)
			  . $packed);
		return 1;
	},
	continue => sub {
		send_all($_[0], "HTTP/1.1 100 Continue\r\n\r\n" x 3 . sized($_[1]));
		return 1;
	},
	continue_flood => sub {
		return send_often($_[0], "HTTP/1.1 100 Continue\r\n\r\n" x 1000,
			100_000);
	},
	headers_10000 => sub {
		send_all($_[0],
			head((map { "X-$_: v" } 1 .. 10_000),
				'Content-Length: ' . length $_[1])
			  . $_[1]);
		return 1;
	},
	header_flood => sub {
		send_all($_[0], "HTTP/1.1 200 OK\r\n");
		return send_often($_[0],
			join('', map { "X-Flood-$_: " . 'v' x 80 . "\r\n" } 1 .. 1000),
			100_000);
	},
	header_line => sub {
		send_all($_[0], "HTTP/1.1 200 OK\r\nX-Long: ");
		return send_often($_[0], 'v' x 65536, 100_000);
	},
	header_nul => sub {
		send_all($_[0], head("X-Nul: \0\0", 'Content-Length: ' . length $_[1])
			  . $_[1]);
		return 0;
	},
	body_2gb => sub {
		send_all($_[0], head('Content-Length: 2147483648'));
		return send_often($_[0], ' ' x 65536, 32768);
	},
	body_2gb_unannounced => sub {
		send_all($_[0], head('Connection: close'));
		return send_often($_[0], ' ' x 65536, 32768);
	},
	body_2gb_chunked => sub {
		send_all($_[0], head('Transfer-Encoding: chunked'));
		return send_often($_[0], "10000\r\n" . ' ' x 65536 . "\r\n", 32768);
	},
	redirect_loop => sub {
		send_all($_[0],
			head('HTTP/1.1 302 Found', 'Location: /', 'Content-Length: 0'));
		return 1;
	},
	redirect_elsewhere => sub {
		send_all($_[0],
			head('HTTP/1.1 302 Found', "Location: $_[3]", 'Content-Length: 0'));
		return 1;
	},
	http09 => sub { send_all($_[0], $_[1]); return 0; },
	noise => sub {
		send_all($_[0], join '', map { chr int rand 256 } 1 .. 5000);
		return 0;
	},
	switching => sub {
		send_all($_[0],
			head('HTTP/1.1 101 Switching Protocols', 'Upgrade: h2c',
				'Connection: Upgrade')
			  . $_[1]);
		return stall($_[0]);
	},
	status_304 => sub { send_all($_[0], head('HTTP/1.1 304 Same')); return 1; },
	status_000 => sub {
		send_all($_[0], head('HTTP/1.1 000 Zero') . $_[1]);
		return 0;
	},
	keepalive_close => sub { send_all($_[0], sized($_[1])); return 0; },
	keepalive_reset => sub {
		return reset_connection($_[0]) if $_[2] > 0;
		send_all($_[0], sized($_[1]));
		return 1;
	},);

# What the listener itself does: refuse, black_hole and limit.


sub new
{
	my ($class, $simulator) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my $self = bless {
		simulator => $simulator->port,
		mode => "$folder/mode",
		met => "$folder/met",
	}, $class;

	append_to_file($self->{met}, '');
	$self->end;
	# A port that the system has chosen is lost by a socket that ceases to
	# listen; one that is asked for is not.
	$self->{port} = PostgreSQL::Test::Cluster::get_free_port();
	socket $self->{listener}, PF_INET, SOCK_STREAM, 0 or croak "no socket: $!";
	setsockopt $self->{listener}, SOL_SOCKET, SO_REUSEADDR, 1;
	bind $self->{listener}, pack_sockaddr_in($self->{port}, INADDR_LOOPBACK)
	  or croak "could not bind: $!";
	listen $self->{listener}, 200 or croak "could not listen: $!";

	$self->fork(
		sub {
			$SIG{CHLD} = $SIG{PIPE} = 'IGNORE';
			$self->_serve;
		});
	close delete $self->{listener};
	return $self;
}

# Spoil what comes from now on.
sub begin
{
	my ($self, $mode, $argument) = @_;

	croak "no trouble $mode"
	  unless $early{$mode}
	  || $late{$mode}
	  || grep { $_ eq $mode } qw(refuse black_hole limit);
	$self->_set($mode . ' ' . ($argument // ''));
	return;
}

sub end
{
	my ($self) = @_;
	$self->_set('none ');
	return;
}

# The file appears complete.
sub _set
{
	my ($self, $mode) = @_;

	append_to_file("$self->{mode}.new", $mode);
	rename "$self->{mode}.new", $self->{mode} or croak "could not rename: $!";
	return;
}

sub _mode
{
	my ($self) = @_;
	return split / /, slurp_file($self->{mode}), 2;
}

# How many requests, or connections, have met trouble.
sub times
{
	my ($self) = @_;
	return -s $self->{met};
}

sub _note
{
	my ($self) = @_;
	append_to_file($self->{met}, '.');
	return;
}

sub url
{
	my ($self) = @_;
	return "http://127.0.0.1:$self->{port}";
}

sub port
{
	my ($self) = @_;
	return $self->{port};
}

sub _serve
{
	my ($self) = @_;
	my $waits = IO::Select->new($self->{listener});
	my $was = 'none';

	while (1)
	{
		my ($mode) = $self->_mode;

		if ($mode ne $was)
		{
			$self->_listen($mode);
			$was = $mode;
		}
		if ($mode eq 'refuse' || $mode eq 'black_hole')
		{
			Time::HiRes::sleep(0.02);
			next;
		}
		next unless $waits->can_read(0.02);
		accept my $client, $self->{listener} or next;
		$self->_fork($client, $mode);
	}
	return;
}

# A socket that does not listen refuses; one whose queue is full, which we do
# ourselves, lets others wait.
sub _listen
{
	my ($self, $mode) = @_;

	delete $self->{filling};
	if ($mode eq 'refuse')
	{
		shutdown $self->{listener}, 2;
		return;
	}
	listen $self->{listener}, $mode eq 'black_hole' ? 0 : 200;
	return if $mode ne 'black_hole';
	$self->{filling} = [
		map {
			IO::Socket::INET->new(
				PeerAddr => '127.0.0.1', PeerPort => $self->{port},
				Blocking => 0)
		} 1 .. 4 ];
	return;
}

sub _fork
{
	my ($self, $client, $mode) = @_;
	my $pid;

	if ($mode eq 'limit')
	{
		@{ $self->{served} } =
		  grep { -e "/proc/$_" } @{ $self->{served} // [] };
		if (@{ $self->{served} } >= $limit)
		{
			$self->_note;
			reset_connection($client);
			return;
		}
	}
	$pid = fork() // return;
	if ($pid > 0)
	{
		push @{ $self->{served} }, $pid if $mode eq 'limit';
		return;
	}
	alarm $longest;
	$SIG{ALRM} = 'DEFAULT';
	close $self->{listener};
	eval { $self->_connection($client, $mode); };
	POSIX::_exit(0);
}

sub _connection
{
	my ($self, $client, $mode) = @_;

	if ($early{$mode})
	{
		$self->_note;
		$early{$mode}->($client);
		return;
	}
	for (my $before = 0;; $before++)
	{
		my $asked = _read_head($client) or return;
		my $argument;

		($mode, $argument) = $self->_mode;

		my $answer = $self->_fetch($asked);

		if (!$late{$mode})
		{
			send_all($client, $answer);
			Time::HiRes::sleep($keep) if $mode eq 'limit';
			return;
		}
		$self->_note;

		my (undef, $body) = split /\r\n\r\n/, $answer, 2;

		$late{$mode}->($client, $body, $before, $argument) or return;
	}
	return;
}

sub _read_head
{
	my ($client) = @_;
	my $head = '';

	until ($head =~ /\r\n\r\n/)
	{
		sysread $client, my $data, 65536 or return;
		$head .= $data;
	}
	return $head;
}

# What the simulator answers to a request, all of it.
sub _fetch
{
	my ($self, $asked) = @_;
	my $simulator = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1', PeerPort => $self->{simulator})
	  or die "no simulator";
	my $answer = '';

	$asked =~ s/\r\n\r\n/\r\nConnection: close\r\n\r\n/;
	send_all($simulator, $asked);
	while (sysread $simulator, my $data, 65536)
	{
		$answer .= $data;
	}
	return $answer;
}

1;
