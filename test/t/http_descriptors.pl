# A process gives every descriptor back, those of connections too that came second
# in a race of addresses; and a program that the server starts inherits none.

use strict;
use warnings;

use AnyvodShim;
use AnyvodTest;
use AnyvodTest::Http;
use AnyvodTest::Peer;
use PostgreSQL::Test::Utils;
use Socket ();
use Test::More;

# Races, each with a socket that loses.
my $races = 60;

my $build = build_shim();
my $names = "$build/names";
my $peer = AnyvodTest::Peer->new(
	gateway(
		sub {
			my ($head, $client) = @_;

			AnyvodTest::Peer::send_all($client,
				response(waiting(), header => ['Connection: close']));
			return undef;
		}));

# The name's first address lets nobody in, its second answers.
my $hole = eval { AnyvodTest::Peer->black_hole($peer->port) };
plan skip_all => 'needs ::1' unless defined $hole;
append_to_file($names, "racing.invalid ::1 127.0.0.1\n");
my $node;
{
	local $ENV{LD_PRELOAD} = "$build/shim.so";
	local $ENV{SHIM_NAMES} = $names;

	$node = anyvod_node(
		'descriptors',
		base_url => 'http://racing.invalid:' . $peer->port,
		options => "timeout '30s'",
		conf => 'max_files_per_process = 100');
}

# Tables: files that PostgreSQL opens between the races, under the numbers of
# descriptors that have become free.
$node->safe_psql('postgres', <<"END");
DO \$\$
BEGIN
	FOR i IN 1 .. $races LOOP
		EXECUTE format('CREATE TABLE table_%s AS SELECT 1', i);
	END LOOP;
END \$\$
END
my $session = open_session($node);
my $filling = sockets(remote => $peer->port, state => 'SYN_SENT');
my $raced = 0;
my @failed;
foreach my $i (1 .. $races)
{
	begin_query($session, "SELECT anyvod_query('image-$i')");
	$raced ||= wait_until(
		sub { sockets(remote => $peer->port, state => 'SYN_SENT') > $filling },
		1)
	  if $i <= 5;
	my ($state) = end_query($session);
	push @failed, "request $i: $state" if $state ne '00000';
	($state) = run_query($session, "SELECT count(*) FROM table_$i");
	push @failed, "table $i: $state" if $state ne '00000';
	last if @failed >= 10;
}
ok($raced, 'There are races of two addresses.');
is_deeply(\@failed, [], "In $races races no request and no table fails.");

# Sockets, and queues of events, of a process that the server starts.
sub inherited
{
	my ($asker) = @_;
	my $file = "$build/descriptors-$asker";
	my $other = open_session($node);

	$other->query_safe("SELECT anyvod_query('image-$_')") foreach 1 .. $asker;
	$other->query_safe(
		"COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; ls -l /proc/self/fd > $file'"
	);
	close_session($other);
	return [ sort map { /-> (socket|anon_inode)/ ? $1 : () } split /\n/,
		slurp_file($file) ];
}
is_deeply(inherited(2), inherited(0),
	'A program that a session starts inherits nothing of its requests.');

# Connections of one kind that are idle leave room for those of the other.
my $plenty = start_simulator();
add_server($node, 'plenty', $plenty->url, "max_concurrency '100'");
add_server($node, 'over_tls', 'https://127.0.0.1:1');
cmp_ok(
	$session->query_safe(
		'SELECT count(response) FROM anyvod_query_many(ARRAY(SELECT'
		  . " 'image-delay100-' || i FROM generate_series(1, 100) AS i), 'plenty')"
	),
	'==',
	100,
	'As many connections as there may be carry 100 requests.');
is(sqlstate($session, 'image-1', 'over_tls'),
	'HV00N', 'A descriptor is there for a connection over TLS.');

close_session($session);
done_testing();
