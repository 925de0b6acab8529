# The gallery is one page that needs nothing beside it, whatever is in the
# table: each value is escaped, each URL is one of the web, and the policy
# allows the page's own style and script and no other.  What a browser makes
# of it, 321 shows.

use strict;
use warnings;

use AnyvodTest;
use Digest::SHA ();
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $script = "$FindBin::RealBin/../../extras/gallery.sql";
my $node = anyvod_node('gallery', base_url => 'http://127.0.0.1:1');

# The page, as psql prints it; further arguments are psql's.
sub page
{
	my ($database, @arguments) = @_;
	my ($page, $trouble) = run_command(
		[
			'psql', '-XAt', @arguments, '-d', $node->connstr($database),
			'-f', $script
		]);

	is($trouble, '', "no complaint (@arguments)");
	return $page;
}

# All tags but those that close: name, then attributes.
sub tags
{
	my ($page) = @_;
	my @tags;

	$page =~ s{<(style|script)>.*?</\1>}{<$1></$1>}gs;
	push @tags, [ lc $1, $2 ] while $page =~ /<([a-z!][^\s>]*)([^>]*)>/gi;
	return @tags;
}

# Is each element closed, in order?
sub is_balanced
{
	my ($page, $name) = @_;
	my %empty = map { $_ => 1 } qw(meta img input br);
	my @open;
	my @wrong;

	$page =~ s{<(style|script)>.*?</\1>}{<$1></$1>}gs;
	while ($page =~ m{<(/?)([a-z][a-z0-9]*)[^>]*?(/?)>}gi)
	{
		my ($closes, $tag, $closed) = ($1, $2, $3);

		next if $empty{$tag} || $closed;
		if (!$closes) { push @open, $tag; }
		elsif ((pop(@open) // '') ne $tag) { push @wrong, $tag; }
	}
	return is("@open @wrong", ' ', "$name: each element is closed");
}

# What every page must be.
sub is_sound
{
	my ($page, $name) = @_;
	my @tags = tags($page);
	my ($policy) = $page =~ /Content-Security-Policy" content="([^"]*)"/;
	my %text = $page =~ m{<(style|script)>(.*?)</\1>}gs;
	my @urls = map { $_->[1] =~ /\s(?:src|href)="([^"]*)"/g } @tags;

	like($page, qr/\A<!DOCTYPE html>\n.*<\/html>\n?\z/s, "$name: a page");
	is_balanced($page, $name);
	is(
		$policy,
		"default-src 'none'; img-src http: https:; media-src http: https:; "
		  . join('',
			map {
				"$_-src 'sha256-"
				  . Digest::SHA::sha256_base64($text{$_}) . "='; "
			} qw(style script))
		  . "base-uri 'none'; form-action 'none'",
		"$name: the policy allows its own style and script");
	is(scalar(grep { $_->[0] =~ /^(?:style|script)$/ } @tags),
		2, "$name: one style, one script");
	is(
		join(' ', sort { $a cmp $b } grep { !/^(?:!DOCTYPE|html|head|meta|title|style|script|body|header|h1|h2|small|nav|input|label|b|section|ul|li|div|span|p|a|img|video|audio|progress|svg|line|rect|text)$/i } map { $_->[0] } @tags),
		'', "$name: no other elements");
	is(join(' ', grep { /(?:^|\W)(?:on\w+|style)\s*=/i }
			  map { $_->[1] =~ s/"[^"]*"//gr } @tags),
		'', "$name: no handler, no style of an element");
	is(join(' ', grep { !/\Ahttps?:\/\/[!-~]+\z/ } @urls),
		'', "$name: each URL is of the web");
	return @urls;
}

is_sound(page('postgres'), 'nothing there');

# every text of a row, with what HTML would take for more
my @hostile = (
	'<script>document.title="taken"</script>',
	'"><img src=x onerror=document.title="taken">',
	q{' onmouseover='document.title="taken"' x='},
	'</p></div></li></ul></section></style></script><script>document.title="taken"</script>',
	'<!-- ]]> --> &lt;b&gt; &amp; %3Cscript%3E {{1}} `1` ${1}',
	"a\nb\tc \x{202e}txet\x{202c} \x{6c34}");
my @urls = (
	'javascript:document.title="taken"', 'JaVaScRiPt:document.title=1',
	"java\nscript:document.title=1", ' javascript:document.title=1',
	'data:text/html,<script>document.title=1</script>',
	'vbscript:x', 'file:///etc/passwd', '//127.0.0.1/a.png', '/a.png', 'a.png', '',
	'http:a.png', 'http://', "http://127.0.0.1/\n.png",
	'https://127.0.0.1/a.png" onload="document.title=1',
	"https://127.0.0.1/a.png' onload='document.title=1",
	'https://127.0.0.1/<script>document.title=1</script>.png',
	"https://127.0.0.1/`1`.png", "https://127.0.0.1/\x{202e}gnp.a",
	'xhttp://127.0.0.1/a.png', "x\nhttp://127.0.0.1/a.png",
	'http://127.0.0.1/' . 'a' x 9000 . '.png');
my @good = map { "https://127.0.0.1/files/$_" }
  ('a.png', 'b.MP4', 'c.mp3', 'd.glb', 'e', 'f.webp?x=1&y=2#z');

sub literal
{
	my ($string) = @_;
	utf8::encode($string);
	return quote_literal($string);
}

# Rows that the worker has no business with.
my $n = 0;

sub add
{
	my (%row) = @_;

	$row{task_id} = sprintf('hostile-%d', ++$n);
	$row{state} //= 'succeeded';
	return "INSERT INTO anyvod_tasks (" . join(', ', sort keys %row)
	  . ", settled_at, ended_at, started_at) VALUES ("
	  . join(', ', map { literal($row{$_}) } sort keys %row)
	  . ", now(), now(), now() - interval '1 minute');\n";
}

sub add_hostile
{
	my (@texts) = @_;
	my $sql = '';

	foreach my $text (@texts)
	{
		my $response = JSON::PP->new->encode(
			{ Response => { AigcImageTask => { Input => { Prompt => $text } } } });

		$sql .= add(model => $text, task_type => $text, response => $response,
			file_url => 'https://127.0.0.1/files/a.png');
		$sql .= add(state => $_, model => $text, error_code => $text,
			error_message => $text, response => $response)
		  foreach qw(failed abandoned);
	}
	return $sql;
}

$node->safe_psql('postgres', add_hostile(@hostile));
$node->safe_psql('postgres', join('', map { add(file_url => $_) } @urls, @good));
# pending ones that are never asked: the server is not there
$node->safe_psql('postgres',
	'INSERT INTO anyvod_tasks (task_id, model, progress, error_code, error_message)'
	  . " VALUES ('p-1', " . literal($hostile[1]) . ', 47, ' . literal($hostile[0])
	  . ', ' . literal($hostile[3]) . "), ('p-2', NULL, -5, NULL, NULL)");
# times that are none
$node->safe_psql('postgres', <<'END');
INSERT INTO anyvod_tasks (task_id, state, file_url, expire_time, started_at, ended_at, settled_at, created_at)
SELECT 'time-' || row_number() OVER (), 'succeeded', 'https://127.0.0.1/files/t.png', a, b, c, a, b
FROM unnest('{infinity,-infinity,NULL,2026-01-01,294276-01-01}'::timestamptz[]) a,
	unnest('{infinity,-infinity,2026-01-01,4713-01-01 BC}'::timestamptz[]) b,
	unnest('{infinity,-infinity,NULL,2026-01-02}'::timestamptz[]) c
END

my $page = page('postgres', '-v', 'title=<script>1</script>"\'');
my @found = is_sound($page, 'hostile rows');

my %expected =
  map { s/&/&amp;/gr => 1 } @good, 'https://127.0.0.1/files/a.png',
  'https://127.0.0.1/files/t.png';
is_deeply([ sort { $a cmp $b } keys %{ { map { $_ => 1 } @found } } ],
	[ sort { $a cmp $b } keys %expected ],
	'files of the web are shown, and nothing else');
utf8::decode($page);
foreach my $text (@hostile)
{
	my %entity = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;', '"' => '&quot;', "'" => '&#39;');
	my $escaped = $text =~ s/([&<>"'])/$entity{$1}/gr;

	is(scalar(() = $page =~ /\Q$escaped\E/g) >= 9, 1, 'a text is there as it is')
	  or diag($text);
}
like($page, qr{<video controls preload="none" src="https://127.0.0.1/files/b.MP4">},
	'a video is one');
like($page, qr{<audio controls preload="none" src="https://127.0.0.1/files/c.mp3">},
	'so is a sound');
like($page, qr{<title>&lt;script&gt;1&lt;/script&gt;&quot;&#39;</title>}, 'the title');
like($page, qr{<progress max="100" value="47">}, 'a bar');
unlike($page, qr{<progress max="100" value="-5">}, 'a progress is one');

# it writes nothing, and shows each role what it may see
$node->safe_psql('postgres', <<'END');
CREATE ROLE looker LOGIN;
GRANT USAGE ON FOREIGN SERVER anyapi TO looker;
SET ROLE looker;
INSERT INTO anyvod_tasks (task_id, state, error_code, settled_at) VALUES ('mine', 'failed', 'OfMine', now());
END
$page = do
{
	local $ENV{PGOPTIONS} = '-c default_transaction_read_only=on';
	page('postgres', '-U', 'looker');
};
is_sound($page, 'one role');
is(join(' ', $page =~ /<span class="id">([^<]*)/g), 'mine', 'rows of its own');

# the settings of a client and of a database change nothing
$page = page('postgres', '-v', 'results=3', '-P', 'format=html', '-P', 'null=nothing');
is_sound($page, 'other settings');
is(scalar(() = $page =~ /class="media"/g), 3, 'as many results as are wished for');
unlike($page, qr/>nothing</, 'nulls are left out');

$node->safe_psql('postgres',
	"CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
anyvod_database($node, 'latin', base_url => 'http://127.0.0.1:1');
$node->safe_psql('latin', q{INSERT INTO anyvod_tasks (task_id, state, error_code, settled_at)
	VALUES ('l', 'failed', chr(228), now())});
$page = page('latin');
is_sound($page, 'a database in Latin-1');
like($page, qr/<span class="code">\xc3\xa4</, 'the page is UTF-8 all the same');

done_testing();
