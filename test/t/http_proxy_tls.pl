# The connection to a proxy by https is TLS 1.2 or newer, as that to a gateway is,
# whatever the system's OpenSSL would allow.

use strict;
use warnings;

use AnyvodTest;
use AnyvodTest::Front;
use AnyvodTest::Http;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

AnyvodTest::Front::need();

my $simulator = start_simulator();
my $front = AnyvodTest::Front->new($simulator, h1 => {});
my $folder = PostgreSQL::Test::Utils::tempdir_short();
my $openssl = AnyvodTest::Front::program('openssl');

# All that OpenSSL can do is allowed.
append_to_file("$folder/openssl.cnf", <<'END');
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = any
[any]
MinProtocol = TLSv1
CipherString = ALL:@SECLEVEL=0
END
$ENV{OPENSSL_CONF} = "$folder/openssl.cnf";

# openssl s_server with one version of TLS
my ($certificate, $key) = $front->certificate('good');
my %peers;
foreach my $version ('tls1', 'tls1_1', 'tls1_2', 'tls1_3')
{
	my $peer = bless { port => PostgreSQL::Test::Cluster::get_free_port() },
	  'AnyvodTest::Child';

	# what a client says comes to the log; the end of its own input would end it
	pipe my $input, $peer->{input} or die "no pipe: $!";
	$peer->fork(
		sub {
			open my $output, '>', "$folder/$version" or return;
			POSIX::dup2(fileno($input), 0);
			POSIX::dup2(fileno($output), $_) foreach 1, 2;
			exec $openssl, 's_server', '-quiet', "-$version", '-accept',
			  "127.0.0.1:$peer->{port}", '-cert', $certificate, '-key', $key;
		});
	$peers{$version} = $peer;
}

# Does openssl connect with this version?
sub offered
{
	my ($version) = @_;

	return wait_until(
		sub {
			return system("$openssl s_client -$version -connect"
				  . " 127.0.0.1:$peers{$version}{port} -CAfile '$certificate'"
				  . ' </dev/null >/dev/null 2>&1') == 0;
		},
		3);
}
my @old = grep { offered($_) } 'tls1', 'tls1_1';
plan skip_all => "this $openssl has no TLS below 1.2" unless @old;

my $node = anyvod_node('proxy_tls', simulator => $simulator);
my $ca_file = $front->ca_file;
my %sessions;
foreach my $version (sort keys %peers)
{
	my $session = open_session($node);

	add_server($node, "by_$version", $front->url('h1'),
		"ca_file '$ca_file', timeout '5s', connect_timeout '5s',"
		  . " proxy 'https://localhost:$peers{$version}{port}'");
	begin_query($session, "SELECT anyvod_query('image-1', 'by_$version')");
	$sessions{$version} = $session;
}
foreach my $version (sort keys %peers)
{
	my ($state) = end_query($sessions{$version});
	my $asked = slurp_file("$folder/$version") =~ /^CONNECT /m;
	my $new = $version =~ /_[23]$/;

	isnt($state, '00000', "$version: A proxy that does not answer is no use.");
	next unless $new || grep { $_ eq $version } @old;
	ok($new ? $asked : !$asked,
		"$version: It has " . ($new ? '' : 'not ') . 'been asked to connect.');
}

close_session($_) foreach values %sessions;
done_testing();
