# Hostile arguments to every function, in every kind of encoding: whatever is
# said, the server lives on and answers with a documented SQLSTATE.
#
# What the extension has is read from the catalog, so that a new function is
# called as well.  ANYVOD_FUZZ_SEED repeats a run, ANYVOD_FUZZ_CALLS is how
# many statements each database and client encoding gets (default 150).

use strict;
use warnings;

use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{ANYVOD_FUZZ_SEED} // (time ^ $$);
my $calls = $ENV{ANYVOD_FUZZ_CALLS} || 150;
srand($seed);
diag("ANYVOD_FUZZ_SEED=$seed ANYVOD_FUZZ_CALLS=$calls");

# database => [encoding, client encodings]
my %databases = (
	in_utf8 => [ 'UTF8', 'UTF8', 'GBK' ],
	in_ascii => [ 'SQL_ASCII', 'SQL_ASCII' ],
	in_latin1 => [ 'LATIN1', 'UTF8', 'LATIN1' ],
	in_euc_cn => [ 'EUC_CN', 'UTF8', 'EUC_CN' ]);

# What doc/reference.md documents; then what PostgreSQL says before anyvod is
# asked: of values that are none of their type, of characters that an encoding
# lacks, of constraints.
my %documented = map { $_ => 1 } qw(
  22023 42704 42501 HV00N HV000 53000 57014 28000 P0002 53400 54000 54001
  22P02 58030 38000 55000 25001 42809 HV00D
  22021 22P05 22003 22004 22007 22008 2202E 23502 23505 23514 0A000 42710
  2D000 25006 39P01
);

my $simulator = start_simulator(keys => ['sk-random']);
my $node = anyvod_node('random', extension => 0);
my @functions;

sub one_of
{
	return $_[ rand @_ ];
}

# A literal of any bytes: escapes reach the server as they are, whatever the
# client's encoding is.
sub literal
{
	my ($bytes) = @_;

	$bytes =~ s/([^ -~]|['\\])/sprintf '\\x%02x', ord $1/ge;
	return "E'$bytes'";
}

# "Chinese" as it is written in UTF-8 and in GB2312, half of each, and others.
my @odd_bytes = (
	"\xe4\xb8\xad\xe6\x96\x87", "\xd6\xd0\xce\xc4", "\xe4\xb8", "\xd6",
	"\xe9", "\xff", "\xf0\x9f\x98\x80", "\x01", "\x1b[2J", "\n", '%s%n%p', "'",
	'\\', '"', "\xc2\x9b", "\x7f");

sub bytes
{
	return join '',
	  map { one_of('a', 'T', '1', '.', '-', '/', ' ', @odd_bytes) }
	  1 .. one_of(1, 2, 3, 8, 70);
}

sub any_text
{
	return one_of(
		("'t100'") x 5, "'unknown'", "'fail-1'", "'delay20-x'", "''", "'.'", "'..'",
		"repeat('x', @{[one_of(63, 64, 256, 257, 100000)]})",
		"'../../v1/x'", "'a?b#c'", literal(bytes()), literal(bytes()));
}

sub any_name
{
	return one_of(("'anyapi'") x 6,
		"'nobody'", "'elsewhere'", "''", "'ANYAPI'",
		"repeat('n', 200)::name",
		literal(bytes()) . '::name');
}

sub any_array
{
	my @elements = map { one_of('NULL', any_text()) } 1 .. one_of(1, 2, 5, 40);

	return one_of(
		"'{}'::text[]",
		"ARRAY[" . join(', ', @elements) . ']::text[]',
		"ARRAY[" . join(', ', @elements) . ']::text[]',
		"ARRAY[[" . any_text() . ", 'b'], ['c', NULL]]",
		"'[-5:-3]={t1,t2,t3}'::text[]",
		"'[2147483646:2147483647]={t1,t2}'::text[]",
		"array_fill('t1'::text, ARRAY[@{[one_of(1000, 30000)]}])",
		"array_fill(NULL::text, ARRAY[3, 3, 3])",
		"ARRAY['base_url=' || " . any_text() . ", 'timeout=5']",
		"ARRAY['api_key=' || " . any_text() . ']');
}

# Keys that an answer's reader knows, and whatever follows.
my @keys = qw(Response Status TaskType AigcVideoTask Output FileInfos FileInfo
  FileUrl ExpireTime Input ModelName Progress ErrCode ErrCodeExt Message Error
  Code error code message data success CreateTime RequestId);

sub any_document
{
	my ($depth) = @_;
	my $kind = $depth > 5 ? 0 : int rand 4;

	return '{'
	  . join(',',
		map { '"' . one_of(@keys) . '":' . any_document($depth + 1) }
		  1 .. one_of(0, 1, 2, 5))
	  . '}'
	  if $kind >= 2;
	return '['
	  . join(',', map { any_document($depth + 1) } 1 .. one_of(0, 1, 3)) . ']'
	  if $kind == 1;
	return one_of(
		'null', 'true', 'false', '0', '-1', '1e3', '7e-9', '9' x 400,
		'"FINISH"', '"AigcVideo"', '"http://a/b"', '"9999-12-31T00:00:00Z"',
		'"2026-01-01T00:00:00Z"', '"0"', '""', '"\u4e2d"', '"\ud83d\ude00"',
		'"\u0000"', '"' . (one_of(@odd_bytes) =~ s/["\\\x00-\x1f]//gr) . '"');
}

sub any_jsonb
{
	my $depth = one_of(5, 127, 128, 129, 5000);

	return one_of(
		(literal(any_document(0)) . '::jsonb') x 6,
		"(repeat('[', $depth) || repeat(']', $depth))::jsonb",
		"(repeat('{\"Response\":', $depth) || '1' || repeat('}', $depth))::jsonb",
		"jsonb_build_object('Response', jsonb_build_object('Status', repeat('x', 3000000)))",
		"(SELECT jsonb_build_object('Response', jsonb_object_agg('k' || n, '{}'::jsonb)) FROM generate_series(1, 70) AS n)");
}

sub any_interval
{
	return one_of(
		"'0'", "'-1 day'", "'1 ms'", "'20 ms'", "'1 microsecond'",
		"'178000000 years'", "'-178000000 years'", "'2147483647 months'",
		"'1e10 days'", "'infinity'", "'soon'") . '::interval';
}

my %value_of = (
	text => \&any_text,
	name => \&any_name,
	'text[]' => \&any_array,
	jsonb => \&any_jsonb,
	interval => \&any_interval,
	oid => sub { one_of(0, 1417, 1418, 1259, 4294967295, 3118, 1249) });

# A value of that type; one of twenty is NULL, as is each of an unknown type.
sub value
{
	my ($type) = @_;

	return "NULL::$type" if rand(20) < 1 || !$value_of{$type};
	return '(' . $value_of{$type}->() . ")::$type";
}

sub call
{
	my ($name, $kind, $needed, @types) = split /\|/, one_of(@functions);
	my $most = @types;
	my @arguments;

	# with or without those that have a default
	$most = $needed + int rand($most - $needed + 1);
	@arguments = map { value($types[$_]) } 0 .. $most - 1;
	return "CALL $name(" . join(', ', @arguments) . ')' if $kind eq 'p';
	return "SELECT count(r::text) FROM $name(" . join(', ', @arguments) . ') AS r';
}

my @options = qw(base_url timeout connect_timeout rate_limit max_concurrency
  max_response_size ca_file proxy api_key api_key_file nonsense);

sub option_value
{
	return literal(
		one_of(
			'', '0', '-1', '1', '30s', '1e400', 'NaN', 'infinity', '16MB', '0x10',
			'99999999999999999999', 'http://127.0.0.1:1', 'https://a:b@c',
			'http://[::1', '/etc/passwd', 'relative', bytes(), bytes()) =~
		  s/\0//gr);
}

# Anything but a call: options, rows, settings.
sub other
{
	my $option = one_of(@options);

	return one_of(
		"ALTER SERVER spare OPTIONS (ADD $option @{[option_value()]})",
		"ALTER SERVER spare OPTIONS (ADD $option @{[option_value()]})",
		"ALTER USER MAPPING FOR PUBLIC SERVER spare OPTIONS (ADD $option @{[option_value()]})",
		"INSERT INTO anyvod_tasks (task_id, server) VALUES (@{[value('text')]}, @{[value('name')]})",
		"INSERT INTO anyvod_tasks (task_id, response) VALUES (@{[value('text')]}, @{[value('jsonb')]})",
		"UPDATE anyvod_tasks SET state = 'pending', owner = @{[value('name')]}",
		"UPDATE anyvod_tasks SET server = @{[value('name')]}",
		"SELECT anyvod_tasks_changed()",
		"SELECT count(s::text) FROM anyvod_stat_server AS s",
		"SELECT count(s::text) FROM anyvod_stat_worker AS s");
}

# One statement; what it changes is undone but for one in four.
sub statement
{
	my $statement = rand(4) < 3 ? call() : other();
	my $begin = one_of('', 'BEGIN', 'BEGIN',
		'BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY');

	return "$statement;\n" if $begin eq '' || $statement =~ /^CALL/;
	# a timeout that comes late ends the first ROLLBACK
	return "$begin;\n$statement;\nROLLBACK;\nROLLBACK;\n";
}

# Feed a script of that many statements to psql.
sub run_script
{
	my ($database, $client) = @_;
	my $script =
	    "SET statement_timeout = '200ms';\n"
	  . join('', map { statement() } 1 .. $calls)
	  . "\\echo alive\n";
	my ($out, $err) = ('', '');
	my %codes;

	# for whoever looks into a failure
	append_to_file(
		"$PostgreSQL::Test::Utils::log_path/calls-$database-$client.sql",
		$script);
	local $ENV{PGCLIENTENCODING} = $client;
	IPC::Run::run(
		[
			$node->installed_command('psql'), '-XAtq',
			'-v', 'VERBOSITY=sqlstate', '-d', $node->connstr($database)
		],
		'<', \$script, '>', \$out, '2>', \$err);

	$codes{$1}++ while $err =~ /^(?:psql:\S+ )?ERROR:  (\w{5})$/mg;
	my @strange = grep { !$documented{$_} } sort keys %codes;
	my $answered = () = $out =~ /^\d+$/mg;

	like($out, qr/^alive$/m, "$database, client $client: the session survives");
	is("@strange", '', "$database, client $client: every SQLSTATE is documented");
	cmp_ok($answered, '>', $calls / 20,
		"$database, client $client: some calls have an answer");
	note(join ' ', map { "$_=$codes{$_}" } sort keys %codes);
	return;
}

foreach my $database (sort keys %databases)
{
	my ($encoding, @clients) = @{ $databases{$database} };

	$node->safe_psql('postgres',
		"CREATE DATABASE $database TEMPLATE template0 ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C'"
	);
	anyvod_database(
		$node, $database,
		simulator => $simulator,
		api_key => 'sk-random',
		options => "timeout '2s'");
	$node->safe_psql($database, <<'END');
CREATE SERVER spare FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR PUBLIC SERVER spare;
CREATE FOREIGN DATA WRAPPER another;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER another;
END
	@functions = split /\n/, $node->safe_psql($database, <<'END');
SELECT concat_ws('|', p.proname, p.prokind, p.pronargs - p.pronargdefaults,
				 (SELECT string_agg(format_type(t, NULL), '|' ORDER BY i)
				  FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, i)))
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND
	d.refobjid = e.oid
WHERE e.extname = 'anyvod' AND d.deptype = 'e' AND
	p.prorettype <> 'trigger'::regtype
ORDER BY 1
END
	cmp_ok(scalar @functions, '>=', 10, "$database: there are functions to call");
	run_script($database, $_) foreach @clients;
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_activity WHERE backend_type = \'anyvod launcher\''),
	1, 'the launcher lives');
my $log = slurp_file($node->logfile);
unlike($log, qr/terminated by signal|TRAP:|PANIC|stack smashing/,
	'no process was lost');
unlike($log, qr/XX00\d/, 'no internal error was logged');

$node->stop;
done_testing();
