package AnyvodUpgrade;

# AnyvodUpgrade - is an extension that was updated what a fresh one is?
#
#	use AnyvodUpgrade;
#
#	my $fresh = extension_objects($node, 'fresh');
#	my $updated = extension_objects($node, 'updated');
#	is_deeply([ extension_differences($fresh, $updated) ], [], 'the same');
#
# extension_objects() describes all that belongs to the extension: functions
# as CREATE FUNCTION would have them, types with their labels and attributes,
# tables and views with columns, constraints, indexes, triggers, policies and
# rules, the wrapper, each with owner, privileges and comment; and what the
# extension says of itself.  An object of a kind that it cannot describe is an
# error: nothing goes uncompared.

use strict;
use warnings;

use Exporter 'import';
use JSON::PP ();

our @EXPORT = qw(extension_objects extension_differences extension_script
  write_extension_script);

# Privileges, whatever their order.
my $acl = q{(SELECT string_agg(a::text, ', ' ORDER BY a::text) FROM unnest(%s) AS a)};

sub acl_of
{
	my ($column) = @_;

	return sprintf $acl, $column;
}

# What is dumped as given by the extension's script.
my $init_privs = q{(SELECT string_agg(format('%s:%s:%s', i.objsubid, i.privtype,
	i.initprivs), ' ' ORDER BY i.objsubid) FROM pg_init_privs AS i
	WHERE i.classoid = m.classid AND i.objoid = m.objid)};

my $columns = q{(SELECT jsonb_agg(jsonb_build_array(a.attname,
	format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
	a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression,
	a.attstattarget, (SELECT jsonb_agg(o) FROM unnest(a.attoptions) AS o
		WHERE o NOT LIKE 'pg_attver=%%'), pg_get_expr(d.adbin, d.adrelid), } .
  acl_of('a.attacl') . q{, col_description(a.attrelid, a.attnum)) ORDER BY a.attnum)
	FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d
		ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped)};

# Members of a catalog: its name, what describes an object, and which.
sub members_of
{
	my ($catalog, $definition, $condition) = @_;

	return "SELECT pg_describe_object(m.classid, m.objid, 0) AS identity,"
	  . " jsonb_build_array($definition, $init_privs,"
	  . " obj_description(m.objid, '$catalog')) AS definition"
	  . " FROM m JOIN $catalog AS o"
	  . " ON m.classid = '$catalog'::regclass AND m.objid = o.oid"
	  . ' WHERE '
	  . ($condition // 'true');
}

# What hangs on the extension's tables and views.
sub parts_of
{
	my ($catalog, $relation, $definition, $condition) = @_;

	return "SELECT pg_describe_object('$catalog'::regclass, o.oid, 0),"
	  . " jsonb_build_array($definition, obj_description(o.oid, '$catalog'))"
	  . " FROM $catalog AS o WHERE o.$relation IN (SELECT objid FROM m"
	  . " WHERE classid = 'pg_class'::regclass) AND $condition";
}

my @kinds = (
	members_of('pg_proc',
		q{pg_get_functiondef(o.oid), o.proowner::regrole, } . acl_of('o.proacl')),
	members_of(
		'pg_type',
		q{o.typtype, o.typcategory, o.typowner::regrole, }
		  . acl_of('o.typacl')
		  . q{, (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder)
			FROM pg_enum AS e WHERE e.enumtypid = o.oid), }
		  . sprintf($columns, 'o.typrelid'),
		# not those that follow another: arrays, and rows of tables and views
		q{o.typcategory <> 'A' AND (o.typrelid = 0 OR
			(SELECT relkind FROM pg_class WHERE oid = o.typrelid) = 'c')}),
	members_of(
		'pg_class',
		q{o.relkind, o.relpersistence, o.relreplident, o.reloptions,
			o.relrowsecurity, o.relforcerowsecurity, o.relowner::regrole, }
		  . acl_of('o.relacl')
		  . q{, CASE WHEN o.relkind IN ('v', 'm') THEN pg_get_viewdef(o.oid) END, }
		  . sprintf($columns, 'o.oid')),
	members_of(
		'pg_foreign_data_wrapper',
		q{o.fdwhandler::regproc, o.fdwvalidator::regproc, o.fdwoptions,
			o.fdwowner::regrole, } . acl_of('o.fdwacl')),
	parts_of('pg_constraint', 'conrelid',
		'pg_get_constraintdef(o.oid), o.convalidated', 'true'),
	parts_of('pg_trigger', 'tgrelid',
		'pg_get_triggerdef(o.oid), o.tgenabled', 'NOT o.tgisinternal'),
	parts_of(
		'pg_policy', 'polrelid', q{o.polcmd, o.polpermissive,
			o.polroles::regrole[], pg_get_expr(o.polqual, o.polrelid),
			pg_get_expr(o.polwithcheck, o.polrelid)}, 'true'),
	parts_of('pg_rewrite', 'ev_class', 'pg_get_ruledef(o.oid), o.ev_enabled',
		q{o.rulename <> '_RETURN'}),
	parts_of('pg_statistic_ext', 'stxrelid', 'pg_get_statisticsobjdef(o.oid)',
		'true'),
	q{SELECT pg_describe_object('pg_class'::regclass, i.indexrelid, 0),
		jsonb_build_array(pg_get_indexdef(i.indexrelid), i.indisvalid,
			i.indisclustered, obj_description(i.indexrelid, 'pg_class'))
		FROM pg_index AS i WHERE i.indrelid IN (SELECT objid FROM m
			WHERE classid = 'pg_class'::regclass)},
	q{SELECT 'extension', jsonb_build_array(x.extnamespace::regnamespace,
		x.extrelocatable, x.extconfig::regclass[], x.extcondition,
		obj_description(x.oid, 'pg_extension')) FROM x},
	q{SELECT 'unknown: ' || pg_describe_object(m.classid, m.objid, 0), NULL
		FROM m WHERE m.classid NOT IN ('pg_proc'::regclass,
			'pg_type'::regclass, 'pg_class'::regclass,
			'pg_foreign_data_wrapper'::regclass)});

# extension_objects($node, $database): what there is, as a hash of
# definitions.
sub extension_objects
{
	my ($node, $database) = @_;
	my $text = $node->safe_psql($database,
		"WITH x AS (SELECT * FROM pg_extension WHERE extname = 'anyvod'),"
		  . ' m AS (SELECT classid, objid FROM pg_depend, x'
		  . " WHERE refclassid = 'pg_extension'::regclass"
		  . " AND refobjid = x.oid AND deptype = 'e'),"
		  . ' found (identity, definition) AS ('
		  . join(' UNION ALL ', @kinds)
		  . ') SELECT jsonb_object_agg(identity, definition::text) FROM found');
	my $objects = JSON::PP->new->decode($text);
	my @unknown = grep { /^unknown: / } keys %$objects;

	die "cannot describe @unknown\n" if @unknown;
	return $objects;
}

# extension_differences($expected, $found): a line for each.
sub extension_differences
{
	my ($expected, $found) = @_;
	my %all = (%$expected, %$found);
	my @differences;

	foreach my $object (sort keys %all)
	{
		if (!exists $found->{$object})
		{
			push @differences, "missing: $object";
		}
		elsif (!exists $expected->{$object})
		{
			push @differences, "too many: $object";
		}
		elsif ($expected->{$object} ne $found->{$object})
		{
			push @differences,
			  "different: $object\n  expected $expected->{$object}\n"
			  . "  found    $found->{$object}";
		}
	}
	return @differences;
}

# The folder of extensions of the server under test, which is a copy of its
# installation that ends with the tests.
sub script_folder
{
	my $share = `pg_config --sharedir`;

	chomp $share;
	return "$share/extension";
}

my %written;

# extension_script($name): the text of a script, "anyvod--$name.sql".
sub extension_script
{
	my ($name) = @_;

	return PostgreSQL::Test::Utils::slurp_file(
		script_folder() . "/anyvod--$name.sql");
}

# write_extension_script($name, $text): make one, for as long as the test runs.
sub write_extension_script
{
	my ($name, $text) = @_;
	my $file = script_folder() . "/anyvod--$name.sql";

	die "$file exists\n" if -e $file && !$written{$file};
	$written{$file} = $$;
	open my $handle, '>', $file or die "$file: $!\n";
	print $handle $text;
	close $handle or die "$file: $!\n";
	return;
}

END
{
	unlink grep { $written{$_} == $$ } keys %written;
}

1;
