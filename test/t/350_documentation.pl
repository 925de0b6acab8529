# doc/reference.md says what there is, and nothing else: each function with
# its arguments, column, setting, option, error and wait event is in the page
# and in the server, or the sources.  doc/operations.md has each message that
# the log can hold, CONTRIBUTING.md each file of the sources.  Links lead
# somewhere.

use strict;
use warnings;

use AnyvodDoc;
use AnyvodTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $reference = AnyvodDoc->new('doc/reference.md');
my $node = anyvod_node('documentation', base_url => 'http://127.0.0.1:1');
my $sources = join '', map { slurp_file($_) } glob("$AnyvodDoc::top/src/*.[ch] $AnyvodDoc::top/src/*/*.[ch]");

# Rows of a query, as arrays.
sub rows
{
	my ($sql) = @_;

	return map { [ split /\|/, $_, -1 ] } split /\n/,
	  $node->safe_psql('postgres', $sql);
}

# Two lists without order: what is missing, and what is too much?
sub is_same
{
	my ($documented, $there, $name) = @_;
	my %documented = map { $_ => 1 } @$documented;
	my %there = map { $_ => 1 } @$there;

	is(join("\n", sort grep { !$documented{$_} } keys %there),
		'', "$name: nothing is left out");
	is(join("\n", sort grep { !$there{$_} } keys %documented),
		'', "$name: nothing is made up");
	cmp_ok(scalar(keys %there), '>', 0, "$name: there is something to compare");
	return;
}

# Types by the names that the page uses.
sub type_names
{
	my ($text) = @_;

	$text =~ s/timestamp with time zone/timestamptz/g;
	$text =~ s/double precision/float8/g;
	return $text;
}

my $members = "pg_depend d WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass"
  . " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'anyvod')";

#
# Functions
#

my %functions;

foreach my $row (
	rows(<<"END"))
SELECT p.proname, CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE '' END, pg_get_function_arguments(p.oid),
	' RETURNS ' || pg_get_function_result(p.oid),
	CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
	CASE WHEN p.proisstrict THEN 'strict' ELSE 'not strict' END,
	'parallel ' || CASE p.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END,
	CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'PUBLIC' ELSE 'owner' END,
	p.prosecdef
FROM pg_proc p WHERE p.oid IN (SELECT d.objid FROM $members AND d.classid = 'pg_proc'::regclass)
END
{
	my ($name, $call, $arguments, $result, $volatile, $strict, $parallel, $execute, $definer) = @$row;

	$arguments =~ s/\bIN //g if $call;
	$arguments =~ s/::\w+//g;
	$functions{$name} = {
		declaration => type_names("$call$name($arguments)$result"),
		arguments => type_names($arguments =~ s/,? ?\bOUT .*//r),
		attributes => "`$volatile` · `$strict` · `$parallel` · `EXECUTE: $execute`",
		execute => $execute,
	};
	is($definer, 'f', "$name runs with its caller's rights");
}

my %by_hand = map { $_ => 1 } grep { /^anyvod_/ } $reference->sections_of('Functions');
my @internal = $reference->table('Not called by hand', 'function');

is_same(
	[ keys %by_hand, map { $_->[0] =~ /^(\w+)/ } @internal ],
	[ keys %functions ],
	'functions');
foreach my $name (sort grep { $functions{$_} } keys %by_hand)
{
	my $section = join "\n", $reference->section($name);
	my ($declaration, $attributes) = $section =~ /^```text\n(.*?)\n```\n(.*)$/ms
	  ? ($1, (split /\n/, $2)[0])
	  : ('', '');

	is($declaration =~ s/\s+/ /gr, $functions{$name}{declaration}, "$name: its declaration");
	is($attributes, $functions{$name}{attributes}, "$name: its attributes");
	like($section, qr/^```sql\n.*\b$name\b/ms, "$name: an example")
	  unless $name =~ /^anyvod_(?:wake|stat_reset)$/;
}
foreach my $row (@internal)
{
	my ($name, $arguments) = $row->[0] =~ /^(\w+)\((.*)\)$/;

	is($arguments, $functions{$name}{arguments}, "$name: its arguments");
	is($row->[1], $functions{$name}{execute}, "$name: who may call it");
}

#
# Types, the table, views
#

is_same(
	[ map { $_->[0] } $reference->table('anyvod_state', 'label') ],
	[ map { $_->[0] } rows('SELECT unnest(enum_range(NULL::anyvod_state))') ],
	'anyvod_state');

my @relations = map { $_->[0] }
  rows("SELECT c.relname FROM pg_class c WHERE c.oid IN (SELECT d.objid FROM $members)"
	  . " AND c.relkind IN ('r', 'v', 'm', 'p', 'f')");

is_same(
	[ 'anyvod_tasks', grep { /^anyvod_/ } $reference->sections_of('Views') ],
	\@relations, 'tables and views');
is_same(
	[ grep { /^anyvod_/ } $reference->sections_of('Types') ],
	[
		map { $_->[0] }
		  rows("SELECT t.typname FROM pg_type t WHERE t.oid IN (SELECT d.objid FROM $members)"
			# since 18 those that come with a table or a type are members too
			  . " AND t.typcategory <> 'A' AND (t.typrelid = 0 OR EXISTS"
			  . " (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))")
	],
	'types');
foreach my $relation ('anyvod_result', @relations)
{
	is( join("\n", map { "$_->[0] $_->[1]" } $reference->table($relation, 'column')),
		join("\n",
			map { $_->[0] . ' ' . type_names($_->[1]) } rows(<<"END")),
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = '$relation'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
END
		"$relation: its columns and their types, in order");
}

my %default = map { $_->[0] => $_->[1] =~ s/::\w+//r } rows(<<'END');
SELECT a.attname, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.adrelid = 'anyvod_tasks'::regclass
END
my %not_null = map { $_->[0] => 1 } rows(
	"SELECT attname FROM pg_attribute WHERE attrelid = 'anyvod_tasks'::regclass AND attnum > 0 AND attnotnull");

foreach my $row ($reference->table('anyvod_tasks', 'column'))
{
	my ($column, undef, $default, $remark) = @$row;

	is($default, $default{$column} // '', "anyvod_tasks.$column: its default");
	is(($remark =~ /not null|primary key/ ? 1 : 0), $not_null{$column} // 0,
		"anyvod_tasks.$column: whether it may be null");
}

#
# Settings
#

my %context = (sighup => 'reload', postmaster => 'restart', superuser => 'superuser');

is_same(
	[ map { join ', ', @$_[ 0 .. 3 ] } $reference->table('Settings', 'setting') ],
	[
		map {
			my ($name, $unit, $default, $min, $max, $context) = @$_;

			join ', ', $name, "$default$unit",
			  ($min ne '' ? "`$min$unit` to `$max$unit`" : ''),
			  $context{$context} // $context;
		} rows("SELECT name, coalesce(' ' || unit, ''), boot_val, min_val, max_val, context"
			  . " FROM pg_settings WHERE name LIKE 'anyvod.%'")
	],
	'settings');

#
# Options: the validator says which there are, and what they take.
#

my %defined = $sources =~ /^#define SERVER_(\w+) (.+)$/mg;
my %factor = (kB => 1024, MB => 1024 * 1024, ms => 1, s => 1000, d => 24 * 3600 * 1000);

sub in_base_unit
{
	my ($value) = @_;
	my ($number, $unit) = $value =~ /^([\d.]+)(\w*)$/ or return $value;

	return $number * ($factor{$unit} // 1);
}

# What goes wrong with an option of a new server, '' if nothing does.
sub trouble_with
{
	my ($option, $value) = @_;
	my (undef, undef, $trouble) = $node->psql('postgres',
		"BEGIN; CREATE SERVER s FOREIGN DATA WRAPPER anyvod OPTIONS ($option "
		  . quote_literal($value) . '); ROLLBACK');

	return $trouble;
}

foreach my $of ([ 'Of a server', "ALTER SERVER anyapi OPTIONS (ADD zzzzzzzz '1')" ],
	[ 'Of a user mapping', "ALTER USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (ADD zzzzzzzz '1')" ])
{
	my ($title, $sql) = @$of;
	my (undef, undef, $hint) = $node->psql('postgres', $sql);
	my ($there) = $hint =~ /Valid options in this context are: (.*)\.$/m;

	is_same([ map { $_->[0] } $reference->table($title, 'option') ],
		[ split /, /, $there // '' ], $title);
}
foreach my $row ($reference->table('Of a server', 'option'))
{
	my ($option, $default, $range) = @$row;

	if (defined $defined{ uc $option })
	{
		my $expected = $defined{ uc $option } =~ s/^"(.*)"$/$1/r;

		$expected = eval $expected if $expected =~ /^[\d(]/;
		is(in_base_unit($default), $expected, "$option: its default");
	}
	else
	{
		unlike($default, qr/\d/, "$option: no default");
	}
	next unless $range;
	my ($min, $max) = $range =~ /^`?([\w.]+)`? to `?([\w.]+)`?$/;

	is(trouble_with($option, $min), '', "$option: the least value is taken");
	is(trouble_with($option, $max), '', "$option: and the greatest");
	like(trouble_with($option, in_base_unit($min) * 0.49), qr/invalid value/,
		"$option: less is not");
	like(trouble_with($option, in_base_unit($max) + 1), qr/invalid value/,
		"$option: more is not");
}

#
# Errors, NOTIFY, processes: what the sources say
#

my $errcodes = slurp_file(qx(pg_config --sharedir) =~ s/\n//r . '/errcodes.txt');
my %sqlstate = reverse $errcodes =~ /^(\w{5})\s+\w\s+(ERRCODE_\w+)/mg;

is_same(
	[ map { $_->[0] } $reference->table('Errors', 'SQLSTATE') ],
	[
		map { $sqlstate{$_} // $_ }
		  $sources =~ /(?:errcode\(|sqlstate = |error_make\(task, )(ERRCODE_\w+)/g
	],
	'errors');
{
	my %listed = map { $_->[0] => 1 } $reference->table('Errors', 'SQLSTATE');
	my @named = map { join("\n", $reference->section($_)) =~ s{127\.0\.0\.1:\d+}{}gr =~ /\b(\d[0-9A-Z]\d\d\d|HV00\w|P000\d)\b/g }
	  sort keys %by_hand;

	is(join(' ', grep { !$listed{$_} } @named), '', "functions' errors are in the table");
	cmp_ok(scalar(@named), '>', 20, 'there are some');
}
is_same(
	[ map { $_->[0] } $reference->table('NOTIFY', 'channel') ],
	[ $sources =~ /#define UPDATE_CHANNEL "(\w+)"/ ],
	'channels');
is_same(
	[ grep { $_ } map { $_->[0] } $reference->table('Processes', 'backend_type') ],
	[ $sources =~ /launcher_process\("\w+",\s*"([^"]+)"\)/g ],
	'processes');
is_same(
	[ map { $_->[0] } $reference->table('Processes', 'wait event (type Extension)') ],
	[ $sources =~ /compat_wait_event\("(\w+)"\)/g ],
	'wait events');

#
# What the log can hold, and which alerts there are
#

is_same(
	[ map { $_->[0] } AnyvodDoc->new('doc/operations.md')->table('Monitoring', 'alert') ],
	[ slurp_file("$AnyvodDoc::top/extras/prometheus/rules.yaml") =~ /- alert: (\w+)/g ],
	'alerts');

{
	my %messages;

	while ($sources =~ /ereport\((?:LOG|WARNING|elevel),\s*\((?:errcode\w*\([^;]*?\),\s*)?errmsg\("((?:[^"\\]|\\.)*)"/g)
	{
		$messages{ $1 =~ s/\\"/"/gr =~ s/%%/%/gr =~ s/%\w/.../gr } = 1;
	}
	while ($sources =~ /(?:problem = |return )"((?:[^"\\]|\\.)* file of option (?:[^"\\]|\\.)*)"/g)
	{
		$messages{ $1 =~ s/\\"/"/gr =~ s/%\w/.../gr
			  =~ s/^could not \w+/could not .../r } = 1;
	}
	is_same(
		[
			map { $_->[0] =~ s/`.*//r } AnyvodDoc->new('doc/operations.md')
			  ->table('Messages', 'message')
		],
		[ keys %messages ],
		'messages of the log');
}

#
# The sources
#

is_same(
	[
		map { split /, / } AnyvodDoc->new('CONTRIBUTING.md')->prose =~
		  /^\| [^|]*\| (\w+\.[ch](?:, \w+\.c)*) \|/mg
	],
	[ map { s/.*\///r } glob("$AnyvodDoc::top/src/*.c $AnyvodDoc::top/src/*/*.c"), 'compat.h' ],
	'the sources');

#
# Links
#

my @pages = map { s/^\Q$AnyvodDoc::top\E\///r }
  glob("$AnyvodDoc::top/*.md"), glob("$AnyvodDoc::top/doc/*.md");
my %anchors = map { my $page = $_; $page => { map { $_ => 1 } AnyvodDoc->new($page)->anchors } } @pages;

foreach my $page (@pages)
{
	my ($folder) = $page =~ /^(.*\/)?/;
	my @lost;

	foreach my $link (AnyvodDoc->new($page)->links)
	{
		next if $link =~ /^https?:/;
		my ($to, $anchor) = split /#/, $link, 2;
		my $target = $to eq '' ? $page : ($folder // '') . $to;

		1 while $target =~ s/[^\/]+\/\.\.\///;
		push @lost, $link
		  if !-e "$AnyvodDoc::top/$target"
		  || (defined $anchor && !$anchors{$target}{$anchor});
	}
	is("@lost", '', "$page: links lead somewhere");
}

done_testing();
