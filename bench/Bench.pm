package Bench;

# Bench - what the rows of bench/measure share
#
# Running programs on a certain processor, psql, nginx as the gateway that is
# not to be in the way, processor times, medians, and the table.  Which rows
# there are is not known here.

use strict;
use warnings;

use Carp;
use Exporter 'import';
use IO::Socket::INET;
use POSIX ();
use Time::HiRes ();

our @EXPORT = qw(
  $quick $runs $nginx
  new_row note_run print_table in_each_tree each_run
  limits client output
  psql psql_on one_core two_cores any_core pin
  processes processor_seconds sleeps memory worker_pid wait_until now
  median setting worker_on worker_off empty_table
);

our $quick = $ENV{QUICK};
our $runs = $ENV{RUNS} || ($quick ? 1 : 5);
our $nginx;

my $scratch = $ENV{SCRATCH} or die "bench/run calls this\n";
my $programs = $ENV{BENCH_PROGRAMS};

# The source trees that are compared, each by the folder of its server's
# socket; and the one that is measured now.
my %trees = (this => $ENV{PGHOST});
$trees{other} = $ENV{OTHER_PGHOST} if $ENV{OTHER_PGHOST};
my $tree = 'this';

# Where the client, a backend or the worker runs, and where nginx does.  With a
# single processor all is on that.
my $client_core = 0;
my $server_core = `nproc` > 1 ? 1 : 0;

# How long a condition may take to come true, in seconds.
my $patience = 300;

sub now
{
	return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC());
}

# wait_until($what, $condition, $pause): so many seconds between two looks,
# which take processor time from what they look at.
sub wait_until
{
	my ($what, $condition, $pause) = @_;
	my $deadline = now() + $patience;

	until ($condition->())
	{
		croak "waited too long: $what" if now() > $deadline;
		Time::HiRes::sleep($pause // 0.02);
	}
	return;
}


#
# Source trees
#

# in_each_tree($code, $backwards): run it for this tree and, if there is one,
# for the other.
sub in_each_tree
{
	my ($code, $backwards) = @_;
	my @order = grep { $trees{$_} } 'this', 'other';

	foreach my $which ($backwards ? reverse @order : @order)
	{
		$tree = $which;
		local $ENV{PGHOST} = $trees{$which};
		$code->();
	}
	$tree = 'this';
	return;
}

# each_run($code, $n): so many runs in each tree, by turns.
sub each_run
{
	my ($code, $n) = @_;

	in_each_tree($code, $_ % 2 == 0) foreach 1 .. ($n // $runs);
	return;
}


#
# Figures
#

sub median
{
	my (@figures) = @_;
	my @sorted = sort { $a <=> $b } @figures;

	return $sorted[ int(0.5 * $#sorted + 0.5) ];
}

my @rows;

# new_row(%row): a line of the table.
#
#	name => 'status'	by which it is selected
#	what => '...'		in words
#	unit => '/s'		of the figure and the limit
#	limit => 'easy'		what the limit is; none: the floor is the figure's
#	floor => [ '>=', 0.85 ]	of the ratio of both, or of the figure
#	of => 'figure'		which of them; default the ratio, if there is a limit
#	later => 1			a later change will reach the floor
sub new_row
{
	my (%row) = @_;
	my $row =
	  { %row, of => $row{of} // (defined $row{limit} ? 'ratio' : 'figure') };

	$row->{$_} = { figures => [], limits => [], ratios => [], cpu_ratios => [] }
	  foreach keys %trees;
	push @rows, $row;
	return $row;
}

# A figure and its limit in one run of the tree that is measured now; and what
# processor time both take, where others on the processors matter.
sub note_run
{
	my ($row, $figure, $limit, $cpu, $limit_cpu) = @_;
	my $of_tree = $row->{$tree};

	push @{ $of_tree->{figures} }, $figure;
	note_figure("$row->{name} $row->{what}", $figure, $row->{unit});
	return unless defined $limit;
	push @{ $of_tree->{limits} }, $limit;
	push @{ $of_tree->{ratios} }, $figure / $limit;
	note_figure("$row->{name} limit: $row->{limit}", $limit, $row->{unit});
	return unless defined $cpu;
	push @{ $of_tree->{cpu_ratios} }, $limit_cpu / $cpu;
	note_figure("$row->{name} $row->{what}", $cpu, 'us');
	note_figure("$row->{name} limit: $row->{limit}", $limit_cpu, 'us');
	return;
}

# A raw figure goes to the file of results.
sub note_figure
{
	my ($what, $figure, $unit) = @_;

	open my $file, '>>', "$scratch/results.tsv" or croak "results: $!";
	print $file join("\t", $tree, $what, $figure, $unit), "\n";
	close $file;
	return;
}

# Whether this tree reaches the floor, in words.
sub reached
{
	my ($row) = @_;
	my ($sign, $floor) = @{ $row->{floor} };
	my $median = median(@{ $row->{this}{"$row->{of}s"} });

	return 'yes' if $sign eq '>=' ? $median >= $floor : $median <= $floor;
	return $row->{later} ? 'not reached yet' : '**no**';
}

sub with_commas
{
	my $digits = sprintf '%.0f', shift;

	1 while $digits =~ s/^(-?\d+)(\d{3})/$1,$2/;
	return $digits;
}

# A figure as it is read best.
sub shown
{
	my ($figure) = @_;
	my $size = abs $figure;

	return $size == 0 ? '0'
	  : $size < 1 ? sprintf('%.3f', $figure)
	  : $size < 10 ? sprintf('%.2f', $figure)
	  : $size < 100 ? sprintf('%.1f', $figure)
	  : with_commas($figure);
}

# "median (minimum to maximum)"
sub spread
{
	my (@figures) = @_;
	my @sorted = sort { $a <=> $b } @figures;

	return shown(median(@figures))
	  . ( @figures > 1
		? ' (' . shown($sorted[0]) . ' to ' . shown($sorted[-1]) . ')'
		: '');
}

# The floor in words: what it is of, and the bound.
sub floor_in_words
{
	my ($row) = @_;
	my ($sign, $floor) = @{ $row->{floor} };
	my $bound = ($sign eq '>=' ? 'at least ' : 'at most ') . $floor;

	return $row->{of} eq 'ratio' ? "ratio $bound" : "$bound $row->{unit}";
}

# The cells of a row that belong to one tree.
sub cells
{
	my ($row, $which) = @_;
	my $of_tree = $row->{$which};
	my $cpu = $of_tree->{cpu_ratios};

	return (
		spread(@{ $of_tree->{figures} }) . " $row->{unit}",
		@{ $of_tree->{limits} }
		? "$row->{limit}: " . spread(@{ $of_tree->{limits} })
		: '',
		join '; by processor time ',
		map { spread(@$_) } grep { @$_ } $of_tree->{ratios}, $cpu);
}

# What was measured with.
sub heading
{
	my ($postgres) = output('psql', '--version') =~ /([\d.]+\w*)/;
	my ($nginx_version) = output('sh', '-c',
		'PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; nginx -v 2>&1') =~
	  m{nginx/([\d.]+)};
	my ($libcurl) = limits('version', '-');
	my $processors = `nproc`;
	my ($model) = output('cat', '/proc/cpuinfo') =~ /^model name\s*:\s*(.+)$/m;

	chomp $processors;
	return
		"PostgreSQL $postgres, libcurl $libcurl, nginx $nginx_version;"
	  . " $processors processors"
	  . (defined $model ? " ($model)" : '') . '; '
	  . ( $runs > 1
		? "medians of $runs runs (least to most)"
		: 'one run')
	  . ($quick ? ', smaller' : '') . ".\n";
}

# The table as Markdown, printed and kept.
sub print_table
{
	my @columns = ('What', 'Figure', 'Limit', 'Ratio');
	my $table = heading();

	push @columns, map { "$_, other tree" } 'Figure', 'Limit', 'Ratio'
	  if $trees{other};
	$table .= "\n| "
	  . join(' | ', @columns, 'Floor', 'Reached') . " |\n|---|"
	  . '--:|' x @columns
	  . "---|\n";
	foreach my $row (grep { @{ $_->{this}{figures} } } @rows)
	{
		my @cells = ($row->{what}, cells($row, 'this'));

		push @cells, cells($row, 'other') if $trees{other};
		$table .= '| '
		  . join(' | ', @cells, floor_in_words($row), reached($row)) . " |\n";
	}
	print "\n$table";
	open my $file, '>', "$scratch/table.md" or croak "table.md: $!";
	print $file $table;
	close $file;
	return;
}


#
# Programs
#

# What a command says; it is to succeed.
sub output
{
	my (@command) = @_;

	open my $pipe, '-|', @command or croak "$command[0]: $!";
	my @lines = <$pipe>;
	close $pipe or croak "failed: @command";
	return join '', @lines;
}

sub on_core
{
	my ($core, @command) = @_;
	return defined $core ? ('taskset', '-c', $core, @command) : @command;
}

my $core_of_client;		# undef: any

# Let a process and its threads run on one processor only, undef: on any.
sub pin
{
	my ($pid, $core) = @_;

	output('taskset', '-a', '-p', '-c',
		$core // "$client_core,$server_core", $pid);
	return;
}

sub place
{
	my ($client, $server) = @_;

	$core_of_client = $client;
	pin($_, $server) foreach $nginx->pids;
	return;
}

# Client and nginx: on one processor, on two, or wherever.
sub one_core { return place($client_core, $client_core) }
sub two_cores { return place($client_core, $server_core) }
sub any_core { return place(undef, undef) }

# limits(@arguments): requests a second and processor microseconds a request,
# as bench/limits.c says; or, with -d, each request's time.
sub limits
{
	my (@arguments) = @_;

	return split ' ',
	  output(on_core($core_of_client, "$programs/limits", @arguments));
}

# client(@arguments): the times that bench/client.c says.
sub client
{
	my (@arguments) = @_;

	return split ' ', output("$programs/client", @arguments);
}


#
# The database
#

# What statements, each a transaction of its own, return.
sub psql
{
	my (@statements) = @_;
	my $said = output('psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1',
		map { ('-c', $_) } @statements);

	chomp $said;
	return $said;
}

# psql_on($sql, $first): run a statement in a backend on the client's
# processor, after another that warms it up; returns its seconds and the
# backend's processor seconds.
sub psql_on
{
	my ($sql, $first) = @_;
	my $script = "$scratch/tmp/script.sql";
	my $pinning =
	  defined $core_of_client
	  ? "\\! taskset -p -c $core_of_client \$PID >/dev/null"
	  : '';

	open my $file, '>', $script or croak "$script: $!";
	print $file <<"END";
SELECT pg_backend_pid() AS pid \\gset
\\setenv PID :pid
$pinning
\\o /dev/null
$first;
\\! cat /proc/\$PID/schedstat
SELECT extract(epoch FROM clock_timestamp()) AS begin \\gset
$sql;
SELECT extract(epoch FROM clock_timestamp()) - :begin AS took \\gset
\\! cat /proc/\$PID/schedstat
\\o
\\echo :took
END
	close $file;
	my @said = split /\n/,
	  output('psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-f',
		$script);
	my ($before, $after) = map { /^(\d+)/ } @said[ 0, 1 ];

	return ($said[2], ($after - $before) / 1e9);
}

sub setting
{
	my (%settings) = @_;

	psql("ALTER SYSTEM SET $_ = '$settings{$_}'") foreach keys %settings;
	psql('SELECT pg_reload_conf()');
	return;
}

sub empty_table
{
	psql('TRUNCATE anyvod_tasks', 'TRUNCATE plain', 'CHECKPOINT');
	return;
}

# Pids of anyvod's processes in this server: all, or those of some kind.
sub processes
{
	my ($kind) = @_;

	return split ' ',
	  psql('SELECT pid FROM pg_stat_activity'
		  . " WHERE backend_type LIKE 'anyvod "
		  . ($kind // '')
		  . "%'");
}

# Processor seconds of a process.
sub processor_seconds
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/schedstat" or croak "schedstat: $!";
	my ($ns) = split ' ', scalar <$file>;
	close $file;
	return $ns / 1e9;
}

# How often a process has gone to sleep.
sub sleeps
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/status" or croak "status: $!";
	my ($times) =
	  join('', <$file>) =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	close $file;
	return $times;
}

# Bytes of a process's own memory.
sub memory
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/status" or croak "status: $!";
	my ($kb) = join('', <$file>) =~ /^RssAnon:\s+(\d+) kB/m;
	close $file;
	return 1024 * $kb;
}

sub worker_pid
{
	return psql('SELECT pid FROM pg_stat_activity'
		  . " WHERE backend_type = 'anyvod worker'"
		  . ' AND datname = current_database()');
}

# Let the worker start, if there is something to do; returns its pid.
sub worker_on
{
	my $pid;

	setting('anyvod.worker' => 'on');
	wait_until('a worker', sub { $pid = worker_pid() });
	pin($pid, $core_of_client);
	return $pid;
}

sub worker_off
{
	setting('anyvod.worker' => 'off');
	wait_until('no worker', sub { !worker_pid() });
	return;
}


package Bench::Session;

# A session that runs a statement in the background.

use strict;
use warnings;

use File::Basename;
use POSIX ();
use Time::HiRes ();

use lib dirname(__FILE__) . '/../test/perl';
use parent 'AnyvodTest::Child';

sub new
{
	my ($class, $sql) = @_;
	my $self = bless {}, $class;

	$self->spawn('/dev/null', 'psql', '-X', '-q', '-c', $sql);
	Time::HiRes::sleep(0.1);
	return $self;
}

sub is_running
{
	my ($self) = @_;
	return waitpid($self->pid, POSIX::WNOHANG()) == 0;
}


package Bench::Nginx;

# nginx as a gateway that costs next to nothing: its responses come from memory.

use strict;
use warnings;

use Carp;
use File::Basename;
use POSIX ();
use Time::HiRes ();

use lib dirname(__FILE__) . '/../test/perl';
use parent 'AnyvodTest::Child';

# Responses are as long as usual ones, 1.1 kB.
my $padding = 'a quiet harbour at dawn, fishing boats at anchor, ' x 13;

# When the tasks were begun: an hour ago.
my $begun = POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time - 3600));

# The columns of a running task's row that has been polled, and SQL for their
# values.
sub columns { return 'status, progress, task_type, model, started_at' }
sub row { return "'PROCESSING', 40, 'AigcImageTask', 'GEM 2.5', '$begun'" }

# A task's response; nginx puts in the task's id and a request id that is
# another each time.
sub response
{
	my ($status, $progress, $more) = @_;
	my $outer = $status eq 'FINISH' ? 'FINISH' : 'PROCESSING';

	return qq({"Response":{"Status":"$outer","TaskType":"AigcImageTask",)
	  . qq("RequestId":"\$request_id","CreateTime":"$begun",)
	  . ($outer eq 'FINISH' ? qq("FinishTime":"$begun",) : '')
	  . qq("AigcImageTask":{"Status":"$outer","TaskId":"\$task",)
	  . qq("Progress":$progress,"ErrCode":0,"ErrCodeExt":"","Message":"",)
	  . qq("Input":{"ModelName":"GEM","ModelVersion":"2.5",)
	  . qq("Prompt":"$padding"}$more}}});
}

my $files = ',"Output":{"FileInfos":[{"StorageMode":"Temporary",'
  . '"FileUrl":"https://files.example.com/out/$task.png",'
  . '"ExpireTime":"2099-03-11T08:00:30Z"}]}';

# new($folder): nginx that listens on three ports, http, https (HTTP/1.1) and
# http2.  Tasks named "run-..." run, and so do those named "slow-...", whose
# responses take 100 ms; "end-..." have ended.
sub new
{
	my ($class, $folder) = @_;
	my $self = bless {
		folder => $folder,
		http => free_port(),
		https => free_port(),
		http2 => free_port()
	}, $class;

	mkdir $folder or croak "$folder: $!";
	$self->make_certificate;
	$self->configure;
	$self->start;
	return $self;
}

sub free_port
{
	my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1')
	  or croak "no port: $!";

	return $socket->sockport;
}

sub make_certificate
{
	my ($self) = @_;
	my $folder = $self->{folder};

	system('openssl req -x509 -nodes -newkey ec -days 2'
		  . ' -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost'
		  . ' -addext subjectAltName=DNS:localhost'
		  . " -keyout $folder/key.pem -out $folder/certificate.pem"
		  . " >$folder/openssl.log 2>&1") == 0
	  or croak 'openssl failed';
	return;
}

sub configure
{
	my ($self) = @_;
	my $folder = $self->{folder};
	my $path = '/tencent-vod/v1/query';
	my $scratch = join '', map { "\t${_}_temp_path $folder/$_;\n" }
	  qw(client_body proxy fastcgi uwsgi scgi);
	my $run = response('PROCESSING', 40, '');
	my $end = response('FINISH', 100, $files);
	# auth_delay is the only way of waiting that nginx has
	my $slow = 'auth_basic gateway; auth_basic_user_file /dev/null;'
	  . ' auth_delay 100ms; error_page 401 =200';
	my $locations = <<"END";
		location ~ ^$path/(?<task>run-.*)\$ { return 200 '$run'; }
		location ~ ^$path/(?<task>end-.*)\$ { return 200 '$end'; }
		location ~ ^$path/(?<task>slow-.*)\$ { $slow \@slow; }
		location \@slow { return 200 '$run'; }
		location = /requests { stub_status; }
END

	open my $file, '>', "$folder/nginx.conf" or croak "nginx.conf: $!";
	print $file <<"END";
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid $folder/nginx.pid;
error_log $folder/error.log;
events { worker_connections 10000; }
http {
$scratch
	access_log off;
	default_type application/json;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	http2_max_concurrent_streams 128;
	ssl_certificate $folder/certificate.pem;
	ssl_certificate_key $folder/key.pem;
	server { listen 127.0.0.1:$self->{http} backlog=4096; $locations }
	server { listen 127.0.0.1:$self->{https} ssl backlog=4096; $locations }
	server { listen 127.0.0.1:$self->{http2} ssl http2; $locations }
}
END
	close $file;
	return;
}

sub start
{
	my ($self) = @_;
	my $folder = $self->{folder};

	local $ENV{PATH} = "$ENV{PATH}:/usr/local/sbin:/usr/sbin:/sbin";
	$self->spawn("$folder/output", 'nginx', '-p', $folder, '-e',
		"$folder/error.log", '-c', "$folder/nginx.conf");
	Bench::wait_until(
		'nginx',
		sub {
			IO::Socket::INET->new(
				PeerAddr => '127.0.0.1', PeerPort => $self->{http2});
		});
	return;
}

# Its processes: the one that watches and the one that works.
sub pids
{
	my ($self) = @_;

	open my $file, '<', "/proc/$self->{pid}/task/$self->{pid}/children"
	  or croak "no nginx: $!";
	my @children = split ' ', <$file> // '';
	close $file;
	return ($self->{pid}, @children);
}

sub base_url
{
	my ($self, $how) = @_;

	return $how eq 'http'
	  ? "http://127.0.0.1:$self->{http}"
	  : "https://localhost:$self->{$how}";
}

# The URL of a task, up to a number.
sub url
{
	my ($self, $how, $prefix) = @_;
	return $self->base_url($how) . "/tencent-vod/v1/query/$prefix";
}

sub ca_file
{
	my ($self) = @_;
	return "$self->{folder}/certificate.pem";
}

# A file of the system's authorities and nginx's own.
sub bundle
{
	my ($self) = @_;
	my $bundle = "$self->{folder}/bundle.pem";

	Bench::output('sh', '-c', 'cat /etc/ssl/certs/ca-certificates.crt'
		  . " $self->{folder}/certificate.pem >$bundle");
	return $bundle;
}

# How many requests have come so far.
sub requests
{
	my ($self) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1', PeerPort => $self->{http})
	  or croak "no nginx: $!";

	print $socket "GET /requests HTTP/1.0\r\n\r\n";
	my ($requests) = join('', <$socket>) =~ /^ \d+ \d+ (\d+)/m;
	return $requests;
}

1;
