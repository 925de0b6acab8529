# anyvod_query() gives the jsonb that PostgreSQL makes of the answer, in a
# database of any encoding.

use strict;
use warnings;
use utf8;

use AnyvodTest;
use AnyvodTest::Peer;
use Encode;
use Test::More;

# ANYVOD_FUZZ_SEED repeats a run.
my $seed = $ENV{ANYVOD_FUZZ_SEED} // (time ^ $$);
diag("ANYVOD_FUZZ_SEED=$seed");
srand $seed;

# A random JSON text: white space, escapes, names that come twice.
sub random_json
{
	my ($depth) = @_;
	my $space = (' ') x int rand 2;
	my @scalars = (
		'null', 'true', 'false', int(rand 1e6) - 5e5, rand(1e3), '1e' . int rand 50,
		map { qq("$_") } '', 'a', 'b c', '\\n', '\\"', '\\\\', '\\u00e9', 'ü', '{', ',');

	return $space . $scalars[ rand @scalars ] . $space
	  if $depth == 0 || rand() < 0.3;
	return '[' . join(',', map { random_json($depth - 1) } 1 .. rand 5) . ']'
	  if rand() < 0.5;
	return '{'
	  . join(',', map { qq("k@{[int rand 4]}":) . random_json($depth - 1) } 1 .. rand 5)
	  . '}';
}

# Responses about a task that runs, by what is odd about them
my @values = (
	'{}', '[]', '""', 'null', 'true', 'false', '0', '-0', '-0.0', '1E+2',
	'12345678901234567890.123456789e-30', '[[], {}, [[[]]], [{"a": []}]]',
	'{"": "", "a": {"": {"": ""}}}',
	'{"b": 1, "a": 2, "b": 3, "aa": 4, "": 5, "a": {"c": [], "c": 7}}',
	'["a", "a,b", "[", "}", ":", "{\"a\": 1}", "  ", " a "]',
	'["\"", "\\\\", "\/", "\b\f\n\r\t", "\u0041", "\ud83d\ude00", "a\u00e9b"]',
	'{"\u0041": 1, "A": 2, "\"": 3, "a\"b": "c\\\\"}',
	'[true, false, null, 1, "1", [1], {"1": 1}, "true", "null"]',
	"[\t1 ,\r\n2,3 , 4 ] ", "{ \"a\" : [ ] , \"b\" :\n{ } }",
	'"' . ('long ' x 5000) . '"', '["' . join('", "', 1 .. 500) . '"]',
	'[' . join(', ', 1 .. 5000) . ']', '{' . join(', ', map { qq("k$_": $_) } 1 .. 300) . '}',
	('[' x 50) . (']' x 50), '"Grüße 😀 你好"', '{"Größe": "ÿ"}',
	map { random_json(1 + int rand 8) } 1 .. 200);
my @answers = map {
	qq({"Response": {"TaskType": "AigcImageTask", "AigcImageTask":)
	  . qq( {"Status": "PROCESSING", "Odd": $_}, "Last": $_}})
} @values;
my $peer = AnyvodTest::Peer->new(
	sub {
		my ($client, $note) = @_;

		while (AnyvodTest::Peer::read_head($client, $note) =~ m{query/(\d+) })
		{
			my $body = encode_utf8($answers[$1]);

			syswrite $client,
			  "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n"
			  . $body;
		}
	});
my $node = anyvod_node('jsonb', extension => 0);
my %encodings =
  (UTF8 => 'utf8', SQL_ASCII => 'sql_ascii', LATIN1 => 'latin1');

foreach my $encoding (sort keys %encodings)
{
	my $database = $encodings{$encoding};

	$node->safe_psql('postgres',
		"CREATE DATABASE $database ENCODING '$encoding' TEMPLATE template0"
		  . " LOCALE 'C'");
	anyvod_database($node, $database, base_url => $peer->url);
	my $script = 'CREATE TABLE expected (i integer, answer text);'
	  . " SET client_encoding = '"
	  . ($encoding eq 'SQL_ASCII' ? 'SQL_ASCII' : 'UTF8') . "';\n";
	foreach my $i (0 .. $#answers)
	{
		# no character that the database does not have, escaped or not
		next
		  if $encoding eq 'LATIN1' && $answers[$i] =~ /😀|ud83d/
		  || $encoding eq 'SQL_ASCII' && $answers[$i] =~ /\\u(?!0041)/;
		$script .= "INSERT INTO expected VALUES ($i, \$odd\$"
		  . encode_utf8($answers[$i]) . "\$odd\$);\n";
	}
	$node->safe_psql($database, $script);
	is( $node->safe_psql(
			$database,
			'SELECT i, anyvod_query(i::text) FROM expected'
			  . ' WHERE anyvod_query(i::text) IS DISTINCT FROM answer::jsonb'),
		'',
		"what is odd in an answer is the same in jsonb, $encoding");
	cmp_ok(
		$node->safe_psql($database, 'SELECT count(*) FROM expected'),
		'>', @answers / 2, 'of many answers');
}

done_testing();
