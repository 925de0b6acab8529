package AnyvodTest::Front;

# AnyvodTest::Front - nginx with TLS and HTTP/2 before a gateway
#
#	my $front = AnyvodTest::Front->new($simulator,
#		fast => { http2 => 1 },
#		old => { certificate => 'expired' });
#	$front->url('fast');		# https://localhost:12345
#	$front->ca_file;			# trusts them all but 'unknown'
#	$front->requests('fast');	# what has come to it
#
# Each name is a port; "requests" is how many a connection may carry, "location"
# what nginx does instead of asking the gateway, "address" where it listens
# (default 127.0.0.1), and "port_of" another name whose port it shares.  The
# certificates are made by openssl: 'good' (the default), 'expired', 'elsewhere'
# (for another host), 'moving' (for the host moving.invalid) and 'unknown'
# (signed by an authority of nobody).  nginx runs as whoever runs the test, everything of
# it in a folder of its own, and is ended with the test.

use strict;
use warnings;

use AnyvodTest;
use Carp;
use File::Temp ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More ();

use parent 'AnyvodTest::Child';

# The host that good certificates are for.
my $host = 'localhost';

# Validity as openssl's -startdate and -enddate, and alternative names.
my @always = ('20200101000000Z', '20991231235959Z');
my %certificates = (
	good => { signer => 'ca', dates => \@always, name => "DNS:$host" },
	expired => {
		signer => 'ca',
		dates => [ '20200101000000Z', '20200102000000Z' ],
		name => "DNS:$host"
	},
	elsewhere =>
	  { signer => 'ca', dates => \@always, name => 'DNS:elsewhere.invalid' },
	moving => { signer => 'ca', dates => \@always, name => 'DNS:moving.invalid' },
	unknown => { signer => 'nobody', dates => \@always, name => "DNS:$host" });

# A program that need not be in an ordinary user's PATH; undef if there is
# none.
sub program
{
	my ($name) = @_;
	my ($found) = grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}),
	  '/usr/local/sbin', '/usr/sbin', '/sbin';

	return $found;
}

# Leave the test out where a program is missing; CI has them all.
sub need
{
	my @missing = grep { !defined program($_) } 'nginx', 'openssl';

	return unless @missing;
	croak "CI without @missing" if $ENV{CI};
	Test::More::plan(
		skip_all => "needs @missing: test/setup nginx openssl");
	return;
}

sub new
{
	my ($class, $gateway, %ports) = @_;
	my $self = bless {
		folder => PostgreSQL::Test::Utils::tempdir_short(),
		ports => { map { $_ => $ports{$_} } keys %ports },
	}, $class;

	foreach my $port (values %{ $self->{ports} })
	{
		$port->{address} //= '127.0.0.1';
		$port->{port} = PostgreSQL::Test::Cluster::get_free_port()
		  unless defined $port->{port_of};
	}
	$_->{port} = $self->port($_->{port_of})
	  foreach grep { defined $_->{port_of} } values %{ $self->{ports} };
	$self->_make_certificates;
	$self->_configure($gateway);
	$self->_start;
	return $self;
}

# Run openssl in our folder; what it says is shown only if it fails.
sub _openssl
{
	my ($self, @arguments) = @_;
	my $said = '';
	my $command = IPC::Run::start([ program('openssl'), @arguments ],
		'<', '/dev/null', '&>', \$said,
		init => sub { chdir $self->{folder} or die "could not enter it: $!" });

	$command->finish or croak "openssl @arguments: $said";
	return;
}

sub _make_certificates
{
	my ($self) = @_;
	my $config = <<'END';
[req]
distinguished_name = name
prompt = no
[name]
CN = anyvod test
[authority]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
[any]
commonName = supplied
END
	foreach my $signer ('ca', 'nobody')
	{
		$config .= <<"END";
[$signer]
database = $signer.index
serial = $signer.serial
new_certs_dir = .
certificate = $signer.pem
private_key = $signer.key
default_md = sha256
policy = any
unique_subject = no
END
	}
	$config .= "[with_$_]\nsubjectAltName = $certificates{$_}{name}\n"
	  foreach keys %certificates;
	append_to_file("$self->{folder}/openssl.conf", $config);

	my @new_key = (
		'req', '-config', 'openssl.conf', '-nodes', '-newkey', 'ec',
		'-pkeyopt', 'ec_paramgen_curve:prime256v1');
	foreach my $signer ('ca', 'nobody')
	{
		append_to_file("$self->{folder}/$signer.index", '');
		append_to_file("$self->{folder}/$signer.serial", "01\n");
		$self->_openssl(
			@new_key, '-x509', '-days', '2', '-extensions', 'authority',
			'-subj', "/CN=$signer", '-keyout', "$signer.key", '-out',
			"$signer.pem");
	}
	foreach my $name (sort keys %certificates)
	{
		my $certificate = $certificates{$name};

		$self->_openssl(@new_key, '-keyout', "$name.key", '-out', "$name.csr");
		$self->_openssl(
			'ca', '-config', 'openssl.conf', '-batch', '-notext',
			'-name', $certificate->{signer},
			'-startdate', $certificate->{dates}[0],
			'-enddate', $certificate->{dates}[1],
			'-extensions', "with_$name",
			'-in', "$name.csr", '-out', "$name.pem");
	}
	return;
}

sub _configure
{
	my ($self, $gateway) = @_;
	my $folder = $self->{folder};
	my ($to) = $gateway->url =~ m{^http://(.*)$};
	my $servers = join '', map {
		my $certificate = $_->{certificate} // 'good';
		my $http2 = $_->{http2} ? ' http2' : '';
		my $location = $_->{location} // 'proxy_pass http://gateway;';
		my $more = $_->{more} // '';

		<<"END" } values %{ $self->{ports} };
	server {
		listen $_->{address}:$_->{port} ssl$http2;
		ssl_certificate $folder/$certificate.pem;
		ssl_certificate_key $folder/$certificate.key;
		keepalive_requests @{[ $_->{requests} // 1_000_000 ]};
		location / { $location }
		$more
	}
END
	my $scratch = join '', map { "\t${_}_temp_path $folder/$_;\n" }
	  qw(client_body proxy fastcgi uwsgi scgi);

	append_to_file("$folder/nginx.conf", <<"END");
daemon off;
worker_processes 1;
pid $folder/nginx.pid;
error_log $folder/error.log;
events { worker_connections 2000; }
http {
$scratch
	log_format seen '\$server_addr:\$server_port \$connection '
		'\$connection_requests \$server_protocol \$request_uri \$msec';
	access_log $folder/access.log seen;
	upstream gateway { server $to; keepalive 500; keepalive_requests 1000000; }
	proxy_http_version 1.1;
	proxy_set_header Connection "";
	proxy_buffering off;
$servers}
END
	return;
}

sub _start
{
	my ($self) = @_;
	my $folder = $self->{folder};

	$self->spawn("$folder/output", program('nginx'), '-p', $folder, '-e',
		"$folder/error.log", '-c', "$folder/nginx.conf");
	return if wait_until(sub { $self->_listens }, 10);
	$self->stop;
	croak 'nginx did not start: ' . slurp_file("$folder/output");
}

sub _listens
{
	my ($self) = @_;

	foreach my $port (values %{ $self->{ports} })
	{
		return 0
		  unless IO::Socket::INET->new(
			PeerAddr => $port->{address}, PeerPort => $port->{port});
	}
	return 1;
}

sub port
{
	my ($self, $name) = @_;
	return $self->{ports}{$name}{port};
}

sub url
{
	my ($self, $name) = @_;
	return "https://$host:" . $self->port($name);
}

sub ca_file
{
	my ($self) = @_;
	return "$self->{folder}/ca.pem";
}

# The authority of certificate 'unknown'.
sub other_ca_file
{
	my ($self) = @_;
	return "$self->{folder}/nobody.pem";
}

# ca_file after all that the system trusts, as an administrator may have it;
# undef where the system has no such file.
sub large_ca_file
{
	my ($self) = @_;
	my $bundle = '/etc/ssl/certs/ca-certificates.crt';
	my $file = "$self->{folder}/large.pem";

	return undef unless -s $bundle;
	append_to_file($file, slurp_file($bundle) . slurp_file($self->ca_file))
	  unless -e $file;
	return $file;
}

# The file of a certificate, and that of its key.
sub certificate
{
	my ($self, $name) = @_;
	return map { "$self->{folder}/$name.$_" } 'pem', 'key';
}

# The requests that came to a port and are over, as hashes: connection (a
# number), nth (on that connection), protocol, path, at (when it was over, in
# seconds of the Unix epoch).
sub requests
{
	my ($self, $name) = @_;
	my $here = "$self->{ports}{$name}{address}:" . $self->port($name);

	return
	  map {
		my (undef, $connection, $nth, $protocol, $path, $at) = split / /;
		{
			connection => $connection,
			nth => $nth,
			protocol => $protocol,
			path => $path,
			at => $at
		}
	  }
	  grep { /^\Q$here\E / } split /\n/,
	  slurp_file("$self->{folder}/access.log");
}

# How many connections have carried them.
sub connections
{
	my ($self, $name) = @_;
	my %seen = map { $_->{connection} => 1 } $self->requests($name);

	return scalar keys %seen;
}

# Forget them.
sub reset
{
	my ($self) = @_;

	truncate "$self->{folder}/access.log", 0 or croak "could not truncate: $!";
	return;
}

# How many connections are open to a port now, as the system says.
sub open_connections
{
	my ($self, $name) = @_;
	my $port = sprintf '%04X', $self->port($name);

	# local address : port, remote address : port, state; 01 is ESTABLISHED
	return scalar(my @open = slurp_file('/proc/net/tcp') =~
		  /^\s*\d+: \S+:$port \S+:\S+ 01 /mg);
}

# End it, and start it again on the same ports: TERM drops what is under way,
# QUIT does not.
sub restart
{
	my ($self, $signal) = @_;

	$self->stop($signal);
	$self->_start;
	return;
}

1;
