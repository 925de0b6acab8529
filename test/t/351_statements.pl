# What the documents say can be done, can: each statement and command in them
# is run as it stands, in order, and answers what it is shown to answer.
#
# An HTML comment right before a block says how it is run, or why not:
#
#	as ROLE			as that role; the superuser otherwise
#	in DATABASE		from here on in that database, made if need be
#	at the end		when all others of the page have been run
#	meanwhile		while the program of the block before runs, whose output
#					is what is shown
#	through pgbouncer	by the pooler that the page's ini block sets up
#	not run: REASON
#
# A block without a language that follows another at once is its answer.
# Python with psycopg2, and pgbouncer, are used where there are such: "make
# doc-test" installs them.

use strict;
use warnings;

use AnyvodDoc;
use AnyvodTest;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

# How many blocks may be left out, of all pages; and at least are run.
my $most_not_run = 6;
my $least_run = 60;

my $simulator = start_simulator();
my $node = anyvod_node('statements', extension => 0,
	conf => "wal_level = logical\nanyvod.detection_delay = '300ms'");
my $folder = PostgreSQL::Test::Utils::tempdir_short();
my $python = -x '/usr/bin/python3'
  && system('/usr/bin/python3 -c "import psycopg2" >/dev/null 2>&1') == 0;
my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';

# Programs that the pages' commands find where they look for them, and where
# what they write goes.
symlink "$AnyvodDoc::top/extras", "$folder/extras" or die "could not link: $!";
mkdir "$folder/media" or die "could not make a folder: $!";
append_to_file("$folder/key", "sk-test\n");
chmod 0600, "$folder/key";
$ENV{HOME} = $folder;
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
delete $ENV{PGDATABASE};

my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
my %run = (run => 0, 'not run' => 0, 'left out' => 0);
my $database;
my $with_extension;
my $sets_address;
my $running;

# What the readers of a page are taken to have; not all of it is on the page.
# The second of a page's is for when it has made the extension itself.
my $extension = <<'END';
CREATE EXTENSION anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod;
CREATE USER MAPPING FOR PUBLIC SERVER anyapi;
GRANT USAGE ON FOREIGN SERVER anyapi TO app;
END
my $orders = <<'END';
CREATE TABLE orders (id integer PRIMARY KEY, task_id text);
GRANT SELECT ON orders TO app;
END
my @pages = (
	[
		'README.md',
		undef,
		<<'END' ],
INSERT INTO anyvod_tasks (task_id, state, task_type, model, started_at, ended_at, settled_at)
SELECT 'came-' || i, 'succeeded', 'AigcImageTask', 'GEM 2.5', now() - interval '1 day',
	now() - interval '1 day' + (20 + i) * interval '1 s', now() - interval '1 day'
FROM generate_series(1, 40) AS i;
END
	[
		'doc/reference.md',
		$extension . $orders . <<'END' ],
INSERT INTO orders VALUES (1, '1500-AigcImageTask-18'), (2, 'image-t200-2');
INSERT INTO anyvod_tasks (task_id, state, task_type, model, started_at, ended_at, settled_at)
SELECT 'came-' || i, 'succeeded', 'AigcVideoTask', 'Kling 2.1', now() - interval '1 day',
	now() - interval '1 day' + interval '60 s', now() - i * interval '1 s'
FROM generate_series(1, 200) AS i;
INSERT INTO anyvod_tasks (task_id) VALUES ('video-t3600000-progress-41'), ('1500-AigcImageTask-18'),
	('1500-AigcImageTask-t500-18');
END
	[ 'doc/cookbook.md', $extension ],
	[ 'doc/operations.md', $extension . $orders ]);

sub sql
{
	my ($sql, $in) = @_;
	return $node->safe_psql($in // $database, $sql);
}

# From now on in that database, which is made anew for each page.
sub enter
{
	my ($name, $prelude) = @_;

	if (defined $database && $prelude)
	{
		sql('ALTER SYSTEM RESET ALL', 'postgres');
		$node->reload;
		sql("DROP DATABASE IF EXISTS $_ WITH (FORCE)", 'postgres')
		  foreach qw(shop managed elsewhere);
		sql("DROP ROLE IF EXISTS $_", 'postgres')
		  foreach qw(studio_a studio_b team prometheus shop);
		$simulator->reset;
	}
	sql("CREATE DATABASE $name", 'postgres')
	  if sql("SELECT count(*) FROM pg_database WHERE datname = '$name'", 'postgres') == 0;
	$database = $name;
	$ENV{PGDATABASE} = $name;
	sql('CREATE ROLE app LOGIN', 'postgres')
	  if $prelude && sql("SELECT count(*) FROM pg_roles WHERE rolname = 'app'", 'postgres') == 0;
	sql($prelude) if $prelude;
	lead_to_simulator();
	return;
}

# The pages' servers have the real gateway's address: lead them to ours.
sub lead_to_simulator
{
	my $url = quote_literal($simulator->url);

	return if sql("SELECT count(*) FROM pg_extension WHERE extname = 'anyvod'") == 0;
	sql($with_extension) if $with_extension && $database eq 'shop';
	$with_extension = undef if $database eq 'shop';
	# or that of a simulator that somebody would start
	sql("ALTER SERVER anyapi OPTIONS (SET base_url $url)")
	  if sql("SELECT count(*) FROM pg_foreign_server WHERE srvname = 'anyapi'"
		  . " AND array_to_string(srvoptions, ',') ~ ':8080'") > 0;
	foreach my $server ($sets_address ? () : split /\n/, sql(
			'SELECT srvname FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw'
			  . " WHERE fdwname = 'anyvod' AND coalesce(array_to_string(srvoptions, ','), '') !~ 'base_url'"))
	{
		sql("ALTER SERVER $server OPTIONS (ADD base_url $url)");
	}
	sql("ALTER USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (SET api_key_file '$folder/key')")
	  if sql("SELECT count(*) FROM pg_user_mappings WHERE array_to_string(umoptions, ',') ~ 'api_key_file=/etc'") > 0;
	sql("ALTER SERVER tasks OPTIONS (ADD host '" . $node->host . "', ADD port '" . $node->port . "')")
	  if sql("SELECT count(*) FROM pg_foreign_server WHERE srvname = 'tasks'"
		  . " AND array_to_string(srvoptions, ',') !~ 'port'") > 0;
	return;
}

# An answer without what is never the same: numbers behind a point, times,
# ports, names of files, widths of columns.
sub plain
{
	my ($text) = @_;

	$text =~ s/127\.0\.0\.1:\d+/HOST/g;
	$text =~ s/\b[0-9a-f]{16}(_\d+)?\.(png|mp4)/HASH$1.$2/g;
	$text =~ s/\bHASH(_\d+)?\b/HASH/g;
	$text =~ s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d/TIME/g;
	$text =~ s/(?:\d+ days? )?\d\d:\d\d:\d\d(?:\.\d+)?/SPAN/g;
	$text =~ s/\b\d+\.\d{2,}\b/NUMBER/g;
	$text =~ s/-{2,}/--/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/^ | $//mg;
	$text =~ s/\n+/\n/g;
	return $text;
}

# Start what a block says, in the folder; returns what is to be finished.  A
# script's lines are numbered as the page's, so that psql names these.
sub start
{
	my ($block, %how) = @_;
	my %run = (block => $block, out => '', err => '');
	my $name = $block->{file} =~ s/\W/_/gr;
	my $script = "$folder/" . $name;
	my @command =
	    $block->{language} eq 'sql'
	  ? ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-P', 'footer=off',
		'-U', $how{role} // $superuser, '-h', $how{host} // $node->host, '-p', $how{port} // $node->port,
		'-d', $database, '-f', $name)
	  : $block->{language} eq 'python' ? ('/usr/bin/python3', $name)
	  : ('sh', '-e', $name);

	unlink $script;
	append_to_file($script,
		($block->{language} eq 'sql' ? "\n" x $block->{line} : '') . $block->{text});
	local $ENV{PGUSER} = $how{role} // $superuser;
	chdir $folder or die "could not enter $folder: $!";
	$run{harness} = IPC::Run::start(\@command, '<', \undef, '>', \$run{out}, '2>', \$run{err});
	return \%run;
}

# Let it run on until its end, or until it has said what is expected.
sub finish
{
	my ($run, $expected) = @_;

	if (defined $expected)
	{
		wait_until(sub {
				$run->{harness}->pump_nb if $run->{harness}->pumpable;
				return index(plain($run->{out}), plain($expected)) >= 0
				  || !$run->{harness}->pumpable; });
		$run->{harness}->kill_kill(grace => 5);
		return 1;
	}
	$run->{harness}->finish;
	return $run->{harness}->full_result(0) == 0;
}

# Run a block; with an answer, again until that comes.  Returns its name and
# what was wrong, '' if nothing was.
sub trouble_with
{
	my ($block, $answer, %how) = @_;
	my $endless = $block->{text} =~ /\\watch/;
	my $wrong;

	wait_until(
		sub {
			my $run = start($block, %how);
			my $good = finish($run, $endless ? $answer->{text} : undef);

			$wrong = '';
			$wrong = $run->{err} || 'it failed' unless $good;
			return 1 if !$good || !$answer;
			my ($got, $shown) = map { plain($_) } $run->{out}, $answer->{text};
			my $same = $endless ? index($got, $shown) >= 0 : $got eq $shown;

			# of what goes on and on, the beginning will do
			$wrong = 'answered:' . "\n" . substr($run->{out}, 0, 2000) . "instead of:\n$answer->{text}" unless $same;
			return $same || $block->{text} !~ /\A\s*(?:SELECT|WITH|TABLE)\b/i;
		});
	return $wrong;
}

# The pooler of a page, on a port of its own.
sub start_pgbouncer
{
	my ($page) = @_;
	my ($ini) = grep { $_->{language} eq 'ini' } $page->blocks;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $text = $ini->{text};
	my %ours = (
		listen_port => $port, auth_type => 'trust', auth_file => "$folder/users");

	$text =~ s/host=\S+/host=$ENV{PGHOST} port=$ENV{PGPORT}/ or die 'no host';
	$text =~ s/^$_ = .*$/$_ = $ours{$_}/m or die "no $_" foreach sort keys %ours;
	append_to_file("$folder/pgbouncer.ini", "${text}unix_socket_dir = $folder\n");
	append_to_file("$folder/users", qq("app" ""\n"$superuser" ""\n));
	my $run = { out => '', err => '' };
	$run->{harness} = IPC::Run::start([ $pgbouncer, "$folder/pgbouncer.ini" ],
		'<', \undef, '>', \$run->{out}, '2>', \$run->{err});
	wait_until(sub {
			my $runs = $run->{harness}->pumpable;

			$run->{harness}->pump_nb if $runs;
			return -S "$folder/.s.PGSQL.$port" || !$runs; });
	die "pgbouncer: $run->{err}" unless -S "$folder/.s.PGSQL.$port";
	return ($run, $port);
}

my ($pooler, $pooler_port);

sub run_block
{
	my ($page, $block, $answer) = @_;
	my $remark = $block->{remark};
	my $name = "$block->{file}:$block->{line}";
	my %how;

	if ($remark =~ s/^not run: .+//)
	{
		$run{'not run'}++;
		return;
	}
	$how{role} = $1 if $remark =~ s/\bas (\w+)//;
	enter($1) if $remark =~ s/\bin (\w+)//;
	$remark =~ s/\bat the end//;
	my $meanwhile = $remark =~ s/\bmeanwhile//;

	if ($remark =~ s/\bthrough pgbouncer//)
	{
		if (!$pgbouncer)
		{
			note("$name: left out, there is no pgbouncer");
			$run{'left out'}++;
			return;
		}
		($pooler, $pooler_port) = start_pgbouncer($page) unless $pooler;
		@how{ 'host', 'port' } = ($folder, $pooler_port);
	}
	is($remark =~ s/[\s,]+//gr, '', "$name: its remark is understood") if $remark =~ /\w/;
	if ($block->{language} eq 'python')
	{
		if (!$python)
		{
			note("$name: left out, there is no python3-psycopg2");
			$run{'left out'}++;
			return;
		}
		$run{run}++;
		$running = start($block, role => 'app');
		wait_until(sub {
				$running->{harness}->pump_nb if $running->{harness}->pumpable;
				return $running->{out} ne '' || !$running->{harness}->pumpable; });
		return;
	}
	$run{run}++;
	if (!$meanwhile)
	{
		is(trouble_with($block, $answer, %how), '', $name);
		lead_to_simulator() if $block->{text} =~ /SERVER/;
		return;
	}
	is(trouble_with($block, undef, %how), '', $name);
	return unless $running;
	finish($running, $answer->{text});
	is(plain($running->{out}), plain($answer->{text}), "$name: what the program says")
	  or diag($running->{err});
	$running = undef;
	return;
}

# Statements in the text are tried, too, and undone: those that are whole.
sub run_span
{
	my ($file, $span) = @_;

	return
	  unless $span =~ /^(?:SELECT|INSERT|UPDATE|DELETE|ALTER|GRANT|CREATE|CALL|WITH|SET) /
	  && $span !~ /\.\.\.|^\S+ \S+(?: \S+)?$/;
	my (undef, undef, $trouble) = $node->psql($database,
		$span =~ /^ALTER SYSTEM/ ? "$span;\nALTER SYSTEM RESET ALL;" : "BEGIN; $span; ROLLBACK");

	$run{run}++;
	is($trouble =~ /(ERROR: .*)/ ? $1 : '', '', "$file: $span");
	return;
}

foreach (@pages)
{
	my ($file, $prelude);

	($file, $prelude, $with_extension) = @$_;
	next unless -e "$AnyvodDoc::top/$file";
	next if $ENV{ANYVOD_DOC} && $file !~ /$ENV{ANYVOD_DOC}/;
	my $page = AnyvodDoc->new($file);
	my @blocks = $page->blocks;

	$sets_address = grep { $_->{text} =~ /^ALTER SERVER anyapi OPTIONS \(ADD base_url/m } @blocks;
	enter('shop', $prelude);
	my @later = grep { $blocks[$_]{remark} =~ /\bat the end/ } 0 .. $#blocks;
	my %later = map { $_ => 1 } @later;

	foreach my $i ((grep { !$later{$_} } 0 .. $#blocks), 'text', @later)
	{
		if ($i eq 'text')
		{
			enter('shop');
			run_span($file, $_) foreach $page->spans;
			next;
		}
		my $answer = $i < $#blocks && $blocks[ $i + 1 ]{follows} ? $blocks[ $i + 1 ] : undef;

		next if $blocks[$i]{follows};
		if ($blocks[$i]{language} =~ /^(?:sql|sh|python)$/)
		{
			run_block($page, $blocks[$i], $answer && $answer->{language} eq '' ? $answer : undef);
		}
		else
		{
			# what is no answer says what it is
			like($blocks[$i]{language}, qr/^(?:text|ini|conf|yaml)$/,
				"$file:$blocks[$i]{line}: a block has its language");
		}
	}
	$pooler->{harness}->kill_kill(grace => 5) if $pooler;
	$pooler = undef;
}

# Targets that are named, there are.
my $makefile = slurp_file("$AnyvodDoc::top/Makefile");

foreach my $file (map { $_->[0] } @pages)
{
	next unless -e "$AnyvodDoc::top/$file";
	my %missing = map { $_ => 1 } grep { $makefile !~ /^(?:[\w-]+ )*$_(?: [\w-]+)*:/m }
	  map { /(?:^|&& |sudo |[A-Za-z]=\S* )make (?:[A-Z_]+=\S+ )*([a-z][\w-]+)/ ? $1 : () } AnyvodDoc->new($file)->spans;

	is(join(' ', sort keys %missing), 'install' x ($missing{install} // 0),
		"$file: targets of the Makefile");
}

measured('%d blocks and statements run, %d left out, %d are not to be run',
	@run{ 'run', 'left out', 'not run' });
unless ($ENV{ANYVOD_DOC})
{
	cmp_ok($run{'not run'}, '<=', $most_not_run, 'few are not to be run');
	cmp_ok($run{run}, '>=', $least_run, 'most are');
}

END
{
	local $?;
	$pooler->{harness}->kill_kill(grace => 5) if $pooler;
	$running->{harness}->kill_kill(grace => 5) if $running;
}

done_testing();
