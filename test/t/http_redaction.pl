# An API key that a gateway repeats is redacted however JSON writes it; to look for
# it costs little, and keeps no cancel waiting.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

# The longest wait for a cancel, in milliseconds.
my $prompt = 1000;

my $key = 'sk-Secret/Of~the.Test';

# The key as JSON may write it.
sub coded
{
	my ($format, $which) = @_;

	return $key =~ s/($which)/sprintf $format, ord $1/ger;
}
my %spellings = (
	plain => $key,
	slash => $key =~ s{/}{\\/}r,
	lower_hex => coded('\u%04x', qr/[\/s~.]/),
	upper_hex => coded('\u%04X', qr/[\/~.k]/),
	all_hex => coded('\u%04x', qr/./),
	upper_all => coded('\u%04X', qr/./));

# Pairs of backslashes, so that it is JSON, of so many bytes.
sub backslashes
{
	my ($size) = @_;

	return response(waiting(',"Prompt":"' . '\\\\' x ($size / 2) . '"'));
}

my $peer = AnyvodTest::Peer->new(
	gateway(
		sub {
			my ($head, $client, $note) = @_;
			my $task = task_of($head);

			return response(waiting(
				",\"Message\":\"before $spellings{$1} after \\\\ $spellings{$1}\""))
			  if $task =~ /^spelling-(\w+)$/;
			return backslashes(15_000_000) if $task =~ /^json/;
			# it is not even tried to read this as JSON
			AnyvodTest::Peer::send_all($client, response('\\' x 60_000_000));
			$note->("sent\n");
			return '';
		}));
my $node = anyvod_node('redaction', base_url => $peer->url, api_key => $key,
	options => "max_response_size '64MB', timeout '60s'");
add_server($node, 'keyless', $peer->url, "max_response_size '64MB'",
	api_key => undef);
my $admin = open_session($node);
my $session = open_session($node);
my $pid = backend_pid($session);

foreach my $name (sort keys %spellings)
{
	my ($state, $output) = run_query($session,
		"SELECT anyvod_query('spelling-$name') #>> '{Response,Message}'");

	is($state, '00000', "$name: The response is JSON.");
	like($output, qr/^before \*+ after \\ \*+$/, "$name: The key is redacted.");
}

# The CPU time that such a response takes, the least of some.
sub cpu_of
{
	my ($server) = @_;
	my @took;

	foreach my $i (1 .. 3)
	{
		my $before = cpu_ms($pid);

		run_query($session,
			"SELECT anyvod_query('json-$i', '$server') IS NULL");
		push @took, cpu_ms($pid) - $before;
	}
	return min(@took);
}
my $without = cpu_of('keyless');
my $with = cpu_of('anyapi');
measured('15 MB of backslashes take %d ms, with a key %d ms', $without, $with);
cmp_ok($with, '<=', 3 * $without,
	'To look for the key costs at most twice of all the rest.');

# A cancel when the response has arrived, and a little later.
foreach my $moment (0, 50, 200)
{
	truncate $peer->{log}, 0;
	begin_query($session, "SELECT anyvod_query('text-$moment')");
	ok(wait_until(sub { $peer->heard =~ /sent/ }), 'A response has arrived.');
	Time::HiRes::sleep($moment / 1000);
	my ($took, $state) = cancel($admin, $pid, $session);
	cmp_ok($took, '<', $prompt,
		"A cancel $moment ms after that takes effect at once.");
	measured('a cancel took %.0f ms, SQLSTATE %s', $took, $state);
}

close_session($_) foreach $session, $admin;
done_testing();
