package AnyvodBrowser;

# AnyvodBrowser - a headless Chromium, driven through chromedriver
#
#	my $browser = AnyvodBrowser->new($folder) or plan skip_all => '...';
#	$browser->open("file://$page");
#	is($browser->run('return document.title'), 'anyvod', 'title');
#	$browser->picture($file);
#	is_deeply([ $browser->console ], [], 'nothing was complained of');
#
# It reaches 127.0.0.1 only: no other name is resolved.  It ends with the
# object, by pid.  See "make gallery-test" for how it is installed.

use strict;
use warnings;

use Carp;
use HTTP::Tiny;
use JSON::PP;
use MIME::Base64 ();
use POSIX ();
use Time::HiRes ();

# Seconds that it may take to start, and a command to be answered.
my $patience = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 60;

# Where program $name is, undef if it is not installed.
sub _find
{
	my ($name) = @_;

	foreach my $folder (split(/:/, $ENV{PATH}), '/usr/bin')
	{
		return "$folder/$name" if -x "$folder/$name";
	}
	return;
}

# new($folder, %options): a browser with its files in a folder, undef if there
# is none.
#
#	width => 1280, height => 900	of the window
sub new
{
	my ($class, $folder, %options) = @_;
	my $driver = _find('chromedriver') // return;
	my $chromium = _find('chromium') // return;
	my $self = bless {
		owner => $$,
		log => "$folder/chromedriver.log",
		http => HTTP::Tiny->new(timeout => $patience, proxy => undef,
			http_proxy => undef, https_proxy => undef),
	}, $class;

	$self->_spawn($folder, $driver, '--port=0');
	my $session = $self->_ask('POST', '/session', {
		capabilities => { alwaysMatch => {
			browserName => 'chrome',
			'goog:loggingPrefs' => { browser => 'ALL' },
			'goog:chromeOptions' => {
				binary => $chromium,
				args => [
					'--headless=new',
					'--no-sandbox',
					'--disable-gpu',
					'--disable-dev-shm-usage',
					'--disable-background-networking',
					'--disable-component-update',
					'--no-first-run',
					'--no-proxy-server',
					'--hide-scrollbars',
					'--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
					"--user-data-dir=$folder/chromium",
					sprintf('--window-size=%d,%d',
						$options{width} // 1280, $options{height} // 900),
				],
			},
		} } });
	$self->{session} = "/session/$session->{sessionId}";
	return $self;
}

# Start chromedriver in a process group of its own; it says on which port.
sub _spawn
{
	my ($self, $folder, @command) = @_;
	my $deadline = time + $patience;
	my $pid = fork() // croak "could not fork: $!";

	if ($pid == 0)
	{
		setpgrp(0, 0);
		$ENV{HOME} = $ENV{XDG_CONFIG_HOME} = $ENV{XDG_CACHE_HOME} = $folder;
		CORE::open STDIN, '<', '/dev/null' or POSIX::_exit(127);
		CORE::open my $log, '>', $self->{log} or POSIX::_exit(127);
		POSIX::dup2(fileno($log), 1);
		POSIX::dup2(fileno($log), 2);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	until ($self->{port})
	{
		my $said = '';

		if (CORE::open my $log, '<', $self->{log})
		{
			local $/;
			$said = <$log> // '';
		}
		($self->{port}) = $said =~ /started successfully on port (\d+)/;
		croak "chromedriver did not start: $said" if time > $deadline;
		Time::HiRes::sleep(0.02);
	}
	return;
}

# A command of WebDriver; returns its value.
sub _ask
{
	my ($self, $method, $path, $content) = @_;
	my %request = $method eq 'GET' ? () : (
		content => JSON::PP->new->utf8->encode($content // {}),
		headers => { 'Content-Type' => 'application/json' });
	my $answer = $self->{http}->request($method,
		"http://127.0.0.1:$self->{port}$path", \%request);

	croak "$method $path: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return JSON::PP->new->utf8->allow_nonref->decode($answer->{content})
	  ->{value};
}

sub open
{
	my ($self, $url) = @_;
	return $self->_ask('POST', "$self->{session}/url", { url => $url });
}

# Run a script in the page; returns what it returns.
sub run
{
	my ($self, $script, @arguments) = @_;
	return $self->_ask('POST', "$self->{session}/execute/sync",
		{ script => $script, args => \@arguments });
}

# A command of Chromium's own protocol.
sub devtools
{
	my ($self, $command, %parameters) = @_;
	return $self->_ask('POST', "$self->{session}/goog/cdp/execute",
		{ cmd => $command, params => \%parameters });
}

# Wait until a script returns something true; returns whether it did.
sub wait_for
{
	my ($self, $script) = @_;
	my $deadline = time + $patience;

	until ($self->run($script))
	{
		return 0 if time > $deadline;
		Time::HiRes::sleep(0.05);
	}
	return 1;
}

# The window's picture, as a PNG.
sub picture
{
	my ($self, $file) = @_;
	my $value = $self->_ask('GET', "$self->{session}/screenshot");

	CORE::open my $out, '>:raw', $file or croak "$file: $!";
	print $out MIME::Base64::decode_base64($value);
	close $out or croak "$file: $!";
	return;
}

# What was said on the console since the last call.
sub console
{
	my ($self) = @_;
	my $entries =
	  $self->_ask('POST', "$self->{session}/se/log", { type => 'browser' });

	return map { "$_->{level} $_->{message}" } @$entries;
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} // return;

	return if $self->{owner} != $$;
	local ($?, $!, $@);
	eval { $self->_ask('DELETE', $self->{session}) if $self->{session}; };
	kill 'TERM', -$pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->stop;
	return;
}

1;
