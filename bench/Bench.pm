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
  note_figure new_row note_run print_table with_commas
  limits client h2load output
  psql psql_on one_core two_cores any_core pin
  processor_seconds sleeps memory worker_pid wait_until now
  median quantile setting work worker_on worker_off
);

our $quick = $ENV{QUICK};
our $runs = $ENV{RUNS} || ($quick ? 1 : 5);
our $nginx;

my $scratch = $ENV{SCRATCH} or die "bench/run calls this\n";
my $programs = $ENV{BENCH_PROGRAMS};

# Where the client, a backend or the worker runs, and what it asks.  With a
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
# Figures
#

sub quantile
{
	my ($part, @figures) = @_;
	my @sorted = sort { $a <=> $b } @figures;

	return undef unless @sorted;
	return $sorted[ int($part * $#sorted + 0.5) ];
}

sub median
{
	return quantile(0.5, @_);
}

my @rows;

# new_row(%row): a line of the table.
#
#	name => 'status'	by which it is asked for
#	what => '...'		in words
#	unit => '/s'		of the figure and the limit
#	limit => 'easy'		what the limit is; none: the goal is the figure's
#	goal => [ '>=', 0.85 ]	of the ratio of both, or of the figure
#	of => 'figure'		which of them; default the ratio, if there is a limit
#	aside => 'us'		unit of another figure that is shown with the first
sub new_row
{
	my (%row) = @_;
	my $row = { figures => [], limits => [], ratios => [], asides => [], %row };

	$row->{of} //= defined $row->{limit} ? 'ratio' : 'figure';
	push @rows, $row;
	return $row;
}

# A figure and its limit in one run.
sub note_run
{
	my ($row, $figure, $limit, $aside) = @_;

	push @{ $row->{figures} }, $figure;
	note_figure("$row->{name} $row->{what}", $figure, $row->{unit});
	if (defined $aside)
	{
		push @{ $row->{asides} }, $aside;
		note_figure("$row->{name} $row->{what}", $aside, $row->{aside});
	}
	return unless defined $limit;
	push @{ $row->{limits} }, $limit;
	push @{ $row->{ratios} }, $figure / $limit;
	note_figure("$row->{name} limit: $row->{limit}", $limit, $row->{unit});
	return;
}

# A raw figure goes to the file of results.
sub note_figure
{
	my ($what, $figure, $unit) = @_;

	open my $file, '>>', "$scratch/results.tsv" or croak "results: $!";
	print $file join("\t", $what, $figure, $unit // ''), "\n";
	close $file;
	return;
}

# Whether some figure of a row reaches its goal.
sub reaches
{
	my ($row, $reached) = @_;
	my ($sign, $goal) = @{ $row->{goal} };

	return $sign eq '>=' ? $reached >= $goal : $reached <= $goal;
}

# Whether the goal is met; or that it cannot be, as the limit itself, which was
# measured beside it, is beyond it.
sub verdict
{
	my ($row) = @_;

	return ''
	  unless $row->{goal};
	return 'yes'
	  if reaches($row, median(@{ $row->{ $row->{of} . 's' } }));
	return '**no** (limit)'
	  if $row->{of} eq 'figure'
	  && @{ $row->{limits} }
	  && !reaches($row, median(@{ $row->{limits} }));
	return '**no**';
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

# The goal in words: what it is of, and the bound.
sub goal
{
	my ($row) = @_;

	return '' unless $row->{goal};
	my ($sign, $goal) = @{ $row->{goal} };
	my $bound = ($sign eq '>=' ? 'at least ' : 'at most ')
	  . ($goal >= 1000 ? with_commas($goal) : $goal);

	return $row->{of} eq 'ratio' ? "ratio $bound" : $bound;
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
	my $table = heading();

	$table .= "\n| What | Figure | Limit | Ratio | Goal | Met |\n"
	  . "|---|--:|--:|--:|--:|---|\n";
	foreach my $row (grep { @{ $_->{figures} } } @rows)
	{
		my @cells = (
			$row->{what},
			spread(@{ $row->{figures} })
			  . ($row->{unit} ne '' ? " $row->{unit}" : ''),
			@{ $row->{limits} }
			? "$row->{limit}: " . spread(@{ $row->{limits} })
			: '',
			@{ $row->{ratios} } ? spread(@{ $row->{ratios} }) : '',
			goal($row),
			verdict($row));

		$cells[1] .= ', ' . spread(@{ $row->{asides} }) . " $row->{aside}"
		  if @{ $row->{asides} };
		$table .= '| ' . join(' | ', @cells) . " |\n";
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
	pin($_, $server) foreach $nginx->pids, $ENV{SIMULATOR_PID};
	return;
}

# Who asks and who answers: on one processor, on two, or wherever.
sub one_core { return place($client_core, $client_core) }
sub two_cores { return place($client_core, $server_core) }
sub any_core { return place(undef, undef) }

# limits(@arguments): requests a second, processor microseconds a request and
# connections, as bench/limits.c says; or, with -d, its lines.
sub limits
{
	my (@arguments) = @_;

	return split ' ',
	  output(on_core($core_of_client, "$programs/limits", @arguments));
}

# h2load(@arguments): requests a second that nginx can give.
sub h2load
{
	my (@arguments) = @_;
	my ($rate) =
	  output(on_core($core_of_client, 'h2load', @arguments)) =~
	  m{^finished in .*, ([\d.]+) req/s}m;

	return $rate // croak "h2load @arguments: no rate";
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
	my ($before) = $said[0] =~ /^(\d+)/;
	my ($after) = $said[1] =~ /^(\d+)/;

	return ($said[2], ($after - $before) / 1e9);
}

sub setting
{
	my (%settings) = @_;

	psql("ALTER SYSTEM SET $_ = '$settings{$_}'") foreach keys %settings;
	psql('SELECT pg_reload_conf()');
	return;
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

# What the worker of this database says of itself.
sub work
{
	my ($column) = @_;

	return psql("SELECT $column FROM anyvod_stat_worker"
		  . ' WHERE datname = current_database()') || 0;
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


package Bench::Nginx;

# nginx as a gateway that costs next to nothing: it answers from memory.

use strict;
use warnings;

use Carp;
use File::Basename;
use POSIX ();
use Time::HiRes ();

use lib dirname(__FILE__) . '/../test/perl';
use parent 'AnyvodTest::Child';

# The answers are as long as usual ones, 1.1 kB.
my $padding = 'a quiet harbour at dawn, fishing boats at anchor, ' x 13;

# When the tasks were begun: an hour ago.
my $begun = POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time - 3600));

# The columns of a running task's row that has been asked for, and SQL for
# their values.
sub columns { return 'status, progress, task_type, model, started_at' }
sub row { return "'PROCESSING', 40, 'AigcImageTask', 'GEM 2.5', '$begun'" }

# A task's answer; nginx puts in the task's id and a request id that is
# another each time.
sub answer
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

# new($folder, $simulator): nginx that answers on three ports, http, https and
# http2.  Tasks named "run-..." run, "end-..." have ended, and of "life-..." it
# is a file that says how far they are.  Those named "slow-..." run and are
# answered after 100 ms; of "every-..." and "every-slow-..." it is logged when
# they were asked about, too.
sub new
{
	my ($class, $folder, $simulator) = @_;
	my $self = bless {
		folder => $folder,
		http => free_port(),
		https => free_port(),
		http2 => free_port(),
		simulator => $simulator
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
		  . " -keyout $folder/key.pem -out $folder/ca.pem"
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
	my %body = (
		run => answer('PROCESSING', 40, ''),
		end => answer('FINISH', 100, $files),
		begun => answer('PROCESSING', 10, ''),
		half => answer('PROCESSING', 50, ''));
	my ($to) = $self->{simulator} =~ m{^http://(.*)$};
	# auth_delay is the only way of waiting that nginx has
	my $slow = 'auth_basic gateway; auth_basic_user_file /dev/null;'
	  . ' auth_delay 100ms; error_page 401 =200';
	my $log = "access_log $folder/times.log times buffer=1m flush=1s;";
	my $locations = <<"END";
		location ~ ^$path/(?<task>run-.*)\$ { return 200 '$body{run}'; }
		location ~ ^$path/(?<task>end-.*)\$ { return 200 '$body{end}'; }
		location ~ ^$path/(?<task>life-.*)\$ {
			if (-f $folder/ended) { return 200 '$body{end}'; }
			if (-f $folder/half) { return 200 '$body{half}'; }
			return 200 '$body{begun}';
		}
		location ~ ^$path/(?<task>slow-.*)\$ { $slow \@slow; }
		location ~ ^$path/(?<task>every-slow-.*)\$ { $slow \@every; }
		location ~ ^$path/(?<task>every-.*)\$ { $log return 200 '$body{run}'; }
		location \@slow { return 200 '$body{run}'; }
		location \@every { $log return 200 '$body{run}'; }
		location / { proxy_pass http://simulator; }
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
	log_format times '\$msec \$request_time \$task';
	default_type application/json;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	http2_max_concurrent_streams 128;
	ssl_certificate $folder/ca.pem;
	ssl_certificate_key $folder/key.pem;
	upstream simulator { server $to; keepalive 4000; keepalive_requests 1000000000; }
	proxy_http_version 1.1;
	proxy_set_header Connection "";
	server { listen 127.0.0.1:$self->{http} backlog=4096; $locations }
	server { listen 127.0.0.1:$self->{https} ssl; $locations }
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
	return "$self->{folder}/ca.pem";
}

# How far the tasks named "life-..." are: 'begun', 'half' or 'ended'.
sub life
{
	my ($self, $how_far) = @_;

	unlink "$self->{folder}/half", "$self->{folder}/ended";
	return if $how_far eq 'begun';
	open my $file, '>', "$self->{folder}/$how_far" or croak "$how_far: $!";
	close $file;
	return;
}

# lateness($every, [ $begin, $end ], ...): how late questions were that came
# within each of these spans, as lists of seconds.
#
# A task whose wait is $every seconds, neither more nor less, is due that long
# after its last answer was read.  So its question is late by what is more
# between that answer's last byte and the question's first; the way of both and
# the reading count as well.  nginx knows these times to a millisecond.
sub lateness
{
	my ($self, $every, @spans) = @_;
	my @late = map { [] } @spans;
	my @answered;

	Time::HiRes::sleep(1.5);	# until nginx has written all
	open my $log, '<', "$self->{folder}/times.log" or croak "times.log: $!";
	while (my $line = <$log>)
	{
		my ($end, $taken, $task) = $line =~ /^(\S+) (\S+) \D+(\d+)$/;
		my $begin = $end - $taken;
		my $last = $answered[$task];

		$answered[$task] = $end;
		next unless defined $last;
		foreach my $i (0 .. $#spans)
		{
			push @{ $late[$i] }, $begin - $last - $every
			  if $begin >= $spans[$i][0] && $begin < $spans[$i][1];
		}
	}
	close $log;
	return @late;
}

# Forget what was logged.
sub truncate_log
{
	my ($self) = @_;

	truncate "$self->{folder}/times.log", 0 or croak "times.log: $!";
	return;
}

1;
