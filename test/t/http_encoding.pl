# A response that is compressed, though nobody has asked for that, is read, and is
# limited by max_response_size in its full length.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use IO::Compress::Deflate ();
use IO::Compress::Gzip ();
use PostgreSQL::Test::Utils;
use Test::More;

# The length of a response that is small as long as it is compressed.
my $bomb = 100_000_000;

sub gzip
{
	my ($body) = @_;

	IO::Compress::Gzip::gzip(\$body, \my $packed);
	return $packed;
}

sub deflate
{
	my ($body) = @_;

	IO::Compress::Deflate::deflate(\$body, \my $packed);
	return $packed;
}

my %bodies = (
	gzip => gzip(succeeded('gzip')),
	deflate => deflate(succeeded('deflate')),
	bomb => gzip(waiting(',"Prompt":"' . ' ' x $bomb . '"')),
	cut => substr(gzip(succeeded('cut')), 0, 100));
my %encodings = (deflate => 'deflate');
my $peer = AnyvodTest::Peer->new(
	gateway(
		sub {
			my ($task) = task_of($_[0]) =~ /^(\w+)/;

			return response($bodies{$task},
				header =>
				  [ 'Content-Encoding: ' . ($encodings{$task} // 'gzip') ]);
		}));
my $node = anyvod_node('encoding', base_url => $peer->url);
my $session = open_session($node);
my $pid = backend_pid($session);

foreach my $encoding ('gzip', 'deflate')
{
	my ($state, $url) =
	  run_query($session, "SELECT file_url FROM anyvod_status('$encoding')");

	is("$state $url", "00000 http://files.example/$encoding.png",
		"A response in $encoding is read.");
}

# The largest that the process has been, in bytes.
sub memory
{
	return 1024 * (slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m)[0];
}
$node->safe_psql('postgres',
	"ALTER SERVER anyapi OPTIONS (ADD max_response_size '1MB')");
my $before = memory();
is(sqlstate($session, 'bomb', 'anyapi'), '54000',
	'One that is longer than max_response_size is refused, however small it is'
	  . ' on its way.');
cmp_ok(memory() - $before, '<', $bomb / 10, 'It is not unpacked as a whole.');
isnt(sqlstate($session, 'cut', 'anyapi'),
	'00000', 'One that has been cut is an error.');
is(sqlstate($session, 'gzip', 'anyapi'), '00000',
	'The next one is read.');

close_session($session);
done_testing();
