package AnyvodTest::Http2;

# AnyvodTest::Http2 - a gateway that speaks HTTP/2 over TLS and does with each
# request what it has been told
#
#	my $peer = AnyvodTest::Http2->new($front, 'refuse', 'answer');
#	$peer->url;				# https://localhost:12345
#	$peer->requests;		# how many have come to it
#
# The first request meets the first word, and so on, over all connections; the
# last word holds for all further ones:
#
#	answer			the task waits
#	refuse			RST_STREAM, REFUSED_STREAM: it was not processed
#	reset			RST_STREAM, INTERNAL_ERROR: nobody knows
#	goaway			GOAWAY which says that it was not processed
#	hang			nothing
#	N-WORD			the same, after N milliseconds
#
# The certificate is that of an AnyvodTest::Front.  Each connection has an openssl
# s_server of its own, which takes TLS off it.  Headers are not decoded: all
# responses are those of a task without a name.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use IO::Socket::INET;
use IPC::Open2;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes ();

use parent -norequire, 'AnyvodTest::Peer';

# Types of frames, flags, and codes of errors (RFC 9113)
my %type = (
	DATA => 0,
	HEADERS => 1,
	RST_STREAM => 3,
	SETTINGS => 4,
	PING => 6,
	GOAWAY => 7);
my $ACK = 1;
my $END_STREAM = 1;
my $END_HEADERS = 4;
my %code = (INTERNAL_ERROR => 2, REFUSED_STREAM => 7);
my $preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

sub new
{
	my ($class, $front, @plan) = @_;
	my ($certificate, $key) = $front->certificate('good');
	my $openssl = AnyvodTest::Front::program('openssl');

	return $class->SUPER::new(
		sub {
			my ($client, $note) = @_;
			my $port = PostgreSQL::Test::Cluster::get_free_port();
			my $child = open2(
				my $from, my $to, $openssl, 's_server', '-quiet', '-alpn',
				'h2', '-accept', "127.0.0.1:$port", '-naccept', 1, '-cert',
				$certificate, '-key', $key);
			my $server;

			wait_until(
				sub {
					return $server = IO::Socket::INET->new(
						PeerAddr => '127.0.0.1', PeerPort => $port);
				},
				10);
			# one process carries what is encrypted, the other speaks
			if ((my $speaker = fork() // die) == 0)
			{
				close $client;
				close $server;
				eval { _speak($from, $to, $note, @plan) };
				kill 'TERM', $child;
				POSIX::_exit(0);
			}
			close $from;
			close $to;
			AnyvodTest::Peer::pass($client, $server);
			kill 'TERM', $child;
		});
}

sub url
{
	my ($self) = @_;

	return 'https://localhost:' . $self->port;
}

sub requests
{
	my ($self) = @_;

	return length $self->heard;
}

sub _frame
{
	my ($type, $flags, $stream, $payload) = @_;

	return substr(pack('N', length $payload), 1)
	  . pack('CCN', $type{$type}, $flags, $stream)
	  . $payload;
}

# So many bytes; dies at the end of what comes.
sub _read
{
	my ($from, $len) = @_;
	my $data = '';

	while (length $data < $len)
	{
		sysread $from, $data, $len - length $data, length $data or die;
	}
	return $data;
}

sub _answer
{
	my ($stream) = @_;
	my $body = waiting();

	# ":status: 200" is entry 8 of HPACK's table
	return _frame('HEADERS', $END_HEADERS, $stream, "\x88")
	  . _frame('DATA', $END_STREAM, $stream, $body);
}

# The frames for a request.
sub _respond
{
	my ($word, $stream) = @_;

	return _answer($stream) if $word eq 'answer';
	return '' if $word eq 'hang';
	return _frame('GOAWAY', 0, 0, pack 'NN', 0, 0) if $word eq 'goaway';
	return _frame('RST_STREAM', 0, $stream,
		pack 'N',
		$code{ $word eq 'refuse' ? 'REFUSED_STREAM' : 'INTERNAL_ERROR' });
}

sub _speak
{
	my ($from, $to, $note, @plan) = @_;

	_read($from, length $preface);
	AnyvodTest::Peer::send_all($to, _frame('SETTINGS', 0, 0, ''));
	while (1)
	{
		my ($high, $low, $type, $flags, $stream) =
		  unpack 'CnCCN', _read($from, 9);
		my $payload = _read($from, $high << 16 | $low);

		AnyvodTest::Peer::send_all($to, _frame('SETTINGS', $ACK, 0, ''))
		  if $type == $type{SETTINGS} && !($flags & $ACK);
		AnyvodTest::Peer::send_all($to, _frame('PING', $ACK, 0, $payload))
		  if $type == $type{PING} && !($flags & $ACK);
		next if $type != $type{HEADERS};

		my $nth = $note->('.');
		my ($delay, $word) =
		  ($plan[$nth] // $plan[-1]) =~ /^(?:(\d+)-)?(\w+)$/;
		Time::HiRes::sleep(($delay // 0) / 1000);
		AnyvodTest::Peer::send_all($to, _respond($word, $stream)) or return;
	}
}

1;
