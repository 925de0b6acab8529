# The gallery in a real browser, with files that the simulator serves: they
# are seen, hostile texts and URLs do nothing, nothing is complained of, and
# nobody else is asked.  "make gallery-test" installs the browser; without one
# this is left out.  KEEP=1 keeps the pictures, tap/tmp_check/gallery*.png.

use strict;
use warnings;

use AnyvodBrowser;
use AnyvodTest;
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = PostgreSQL::Test::Utils::tempdir_short();
my $browser = AnyvodBrowser->new($folder, width => 1280, height => 1000)
  or plan skip_all => 'there is no chromium with chromedriver';
my $simulator = start_simulator();
my $files = $simulator->url . '/files';
my $node = anyvod_node('browser', simulator => $simulator,
	conf => 'anyvod.detection_delay = 200ms');
my $pictures = $PostgreSQL::Test::Utils::tmp_check;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Write the gallery, and have the browser open it from its file.  Arguments
# are psql's.
sub open_gallery
{
	my (@arguments) = @_;
	my ($page, $trouble) = run_command(
		[
			'psql', '-XAt', @arguments, '-f', "$FindBin::RealBin/../../extras/gallery.sql",
			'-d', $node->connstr('postgres')
		]);

	is($trouble, '', 'the page is written');
	open my $out, '>', "$folder/gallery.html" or die "could not write: $!";
	print $out $page;
	close $out;
	$browser->open("file://$folder/gallery.html");
	return;
}

# How many elements match, and how many of these are seen.
sub count
{
	my ($selector) = @_;
	return $browser->run('return document.querySelectorAll(arguments[0]).length',
		$selector);
}

sub seen
{
	my ($selector) = @_;
	return $browser->run(<<'END', $selector);
return [...document.querySelectorAll(arguments[0])]
	.filter(e => e.getClientRects().length > 0).length
END
}

# Scroll to the end and back, as media are loaded when they come near.
my $all_loaded = <<'END';
scrollTo(0, scrollY + 500 > document.body.scrollHeight ? 0 : scrollY + 500);
return [...document.images].every(e => e.complete && e.naturalWidth > 1) &&
	[...document.querySelectorAll("video")].every(e => e.readyState > 0);
END

# Tracked tasks, in the ordinary way.
my @prompts = (
	'A lighthouse on a cliff at dawn, long exposure, film grain',
	'Paper boats on a river of ink, top view',
	'A fox in fresh snow, shallow depth of field',
	'Isometric city of glass at night',
	'Terraced hills under two moons, gouache',
	'A slow pan over dunes, wind in the sand',
	'Time lapse of a harbour, fog lifting',
	'Macro shot of a dew drop on moss');
my @models = qw(image-mGEM-v2.5 image-mHunyuan-v3.0 video-mKling-v2.1 image-mQwen-v1.0 video-mVidu-vq2);
my @ids = map {
	# the latest is a video
	sprintf('%s-t%d-full-%d', $models[ $_ % @models ],
		$_ == 52 ? 4000 : 300 + ($_ * 7919) % 2900, $_)
} 1 .. 60;

# most videos first, so that the latest are of all kinds
foreach my $some ([ grep { /^video/ && !/-52$/ } @ids ],
	[ (grep { /^image|-52$/ } @ids),
		'image-mGEM-v2.5-fail40000-extContentModerationFailed-full-a',
		'video-mKling-v2.1-fail70000-extModelGenerateFailed-full-b' ])
{
	sql('INSERT INTO anyvod_tasks (task_id) VALUES '
		  . join(', ', map { "('$_')" } @$some));
	poll_until($node, "SELECT count(*) FROM anyvod_tasks WHERE state = 'pending'", '0')
	  or BAIL_OUT('tasks were not filled in');
}
sql('INSERT INTO anyvod_tasks (task_id) VALUES '
	  . join(', ', map { "('$_')" } 't3600000-jump47-video-mKling-v3.0-1',
		't3600000-jump82-image-mGEM-v2.5-2', 't3600000-wait3600000-video-3',
		'http503-4'));
poll_until($node, "SELECT count(*) FROM anyvod_tasks WHERE status IS NOT NULL AND state = 'pending'", '3')
  or BAIL_OUT('tasks are not tracked');
# as people would have asked for them
foreach my $i (0 .. $#ids)
{
	sql("UPDATE anyvod_tasks SET response = jsonb_set(response, ARRAY['Response', "
		  . "response #>> '{Response,TaskType}', 'Input', 'Prompt'], "
		  . quote_literal(JSON::PP->new->allow_nonref->encode($prompts[ $i % @prompts ]))
		  . ") WHERE task_id = '$ids[$i]'");
}
sql("UPDATE anyvod_tasks SET expire_time = now() + interval '5 h' WHERE task_id = '$ids[3]'");

open_gallery();
ok($browser->wait_for($all_loaded), 'pictures and videos are loaded');
is_deeply([ $browser->console ], [], 'nothing is complained of');
is($browser->run('return document.compatMode'), 'CSS1Compat', 'no quirks');
is_deeply(
	$browser->run(<<'END'), [], 'nobody else is asked');
return performance.getEntriesByType("resource").map(e => e.name)
	.filter(e => !e.startsWith("http://127.0.0.1:"))
END
$browser->run('scrollTo(0, 0)');
$browser->picture("$pictures/gallery.png");

is(count('.succeeded li'), 60, 'results');
is(count('.succeeded img'), 36, 'of them pictures');
is(count('video'), 24, 'and videos');
is_deeply(
	$browser->run('return [...document.querySelectorAll("progress")].map(e => e.value).sort((a, b) => a - b)'),
	[ 0, 0, 47, 82 ], 'running tasks have their bars');
is($browser->run('return document.querySelector("li.failed .code").textContent') =~ /Failed$/,
	1, 'failures have their reason');
is(count('.charts svg'), 10, 'two histograms a model');
is($browser->run(<<'END'), 62, 'a histogram counts each task once');
return [...document.querySelectorAll("rect.duration title")]
	.reduce((sum, e) => sum + Number(e.textContent), 0)
END
is($browser->run(<<'END'), 0, 'no bar of a histogram is outside of it');
return [...document.querySelectorAll("rect")].filter(e => {
	const r = e.getBBox(), max = e.parentNode.viewBox.baseVal;
	return r.x < 0 || r.y < 0 || r.x + r.width > max.width || r.y + r.height > max.height;
}).length
END

# the count-downs run
my $shown = 'return [...document.querySelectorAll("[data-until]")].map(e => e.textContent).join()';
my $before = $browser->run($shown);

like($before, qr/\A(?:expires in (?:6 d 2\d:\d\d:\d\d|7 d 00:00:\d\d|0\d:\d\d:\d\d),?){60}\z/,
	'results say when they expire');
is(count('.soon'), 1, 'and which soon');
ok($browser->wait_for("$shown !== '$before'" =~ s/^return (.*) !== /return $1 !== /r),
	'that counts down');

# and so does the time that is left, where it is known
$shown = 'return [...document.querySelectorAll(".pending [data-about]")].map(e => e.textContent).join()';
like($browser->run($shown), qr/\A(?:about \d+ (?:s|min|h) left|any moment now)\z/,
	'a task of a kind that is known says how much time is left');
is(count('.pending [data-since]'), 3, 'others say how long they have been running');
$browser->run('document.querySelector("[data-about]").dataset.about = Math.floor(Date.now() / 1000) + 125');
ok($browser->wait_for("$shown === 'about 2 min left'" =~ s/^return (.*) === /return $1 === /r),
	'that counts down');
$browser->run('document.querySelector("[data-about]").dataset.about = 1');
ok($browser->wait_for("$shown === 'any moment now'" =~ s/^return (.*) === /return $1 === /r),
	'to its end');

# the filter
foreach my $case ([ pending => 4, 0, 0 ], [ succeeded => 0, 60, 0 ],
	[ failed => 0, 0, 2 ], [ abandoned => 0, 0, 0 ], [ all => 4, 60, 2 ])
{
	my ($state, @expected) = @$case;

	$browser->run('document.querySelector(`label[for=${arguments[0]}]`).click()', $state);
	is_deeply([ map { seen("$_ li") } '.pending', '.succeeded', '.failed' ],
		\@expected, "filter: $state");
}

# light and dark, wide and narrow
my $paper = 'return getComputedStyle(document.body).backgroundColor';
my $light = $browser->run($paper);

$browser->devtools('Emulation.setEmulatedMedia',
	features => [ { name => 'prefers-color-scheme', value => 'dark' } ]);
isnt($browser->run($paper), $light, 'a dark page for those who wish for one');
$browser->picture("$pictures/gallery-dark.png");
$browser->devtools('Emulation.setDeviceMetricsOverride',
	width => 360, height => 740, deviceScaleFactor => 1, mobile => JSON::PP::true);
cmp_ok($browser->run('return document.documentElement.scrollWidth'), '<=', 360,
	'a telephone does not scroll sideways');
$browser->picture("$pictures/gallery-narrow.png");
$browser->devtools('Emulation.clearDeviceMetricsOverride');
$browser->devtools('Emulation.setEmulatedMedia', features => []);
is_deeply([ $browser->console ], [], 'still nothing is complained of');

# a few of each as a whole, for the README
open_gallery('-v', 'results=8', '-v', 'title=Studio');
$browser->wait_for($all_loaded);
$browser->run('document.activeElement.blur(); scrollTo(0, 0)');
$browser->devtools('Emulation.setDeviceMetricsOverride', width => 1200,
	height => $browser->run('return document.documentElement.scrollHeight'),
	deviceScaleFactor => 1, mobile => JSON::PP::false);
$browser->picture("$pictures/gallery-whole.png");
$browser->devtools('Emulation.clearDeviceMetricsOverride');

# Hostile rows: what they say is seen, what they try is not done.
my @hostile = (
	'<script>window.taken = 1</script>',
	'"><img src=x onerror="window.taken = 2"><x y="',
	q{' onmouseover='window.taken = 3' x='},
	'</p></div></li></ul></section></style></script><script>window.taken = 4</script>',
	'<svg onload=window.taken=5><a href="javascript:window.taken=6">x</a>',
	'<meta http-equiv=refresh content="0;url=javascript:window.taken=7">');
my @urls = (
	'javascript:window.taken=8', 'JaVaScRiPt:window.taken=9',
	"java\nscript:window.taken=10", "\x01javascript:window.taken=11",
	'data:text/html,<script>window.taken=12</script>',
	"$files/a.png\" onload=\"window.taken=13",
	"$files/a.png' onload='window.taken=14",
	"$files/a.png\"><script>window.taken=15</script>");
my $n = 0;

sql('DELETE FROM anyvod_tasks');
foreach my $text (@hostile)
{
	my $response = JSON::PP->new->encode(
		{ Response => { AigcImageTask => { Input => { Prompt => $text } } } });

	sql(sprintf(
			'INSERT INTO anyvod_tasks (task_id, state, file_url, model, error_code,'
			  . ' error_message, response, settled_at, started_at, ended_at, created_at)'
			  . ' SELECT %s || state, state::anyvod_state, %s, %3$s, %3$s, %3$s, %4$s,'
			  . ' now(), now() - interval \'9 s\', now() - interval \'1 s\', now() - interval \'10 s\''
			  . ' FROM unnest(ARRAY[\'succeeded\', \'failed\', \'abandoned\']) state',
			quote_literal('hostile' . ++$n), quote_literal("$files/$n.png"),
			quote_literal($text), quote_literal($response)));
}
sql('INSERT INTO anyvod_tasks (task_id, state, file_url, settled_at) VALUES '
	  . join(', ', map { sprintf("('url%d', 'succeeded', %s, now())", ++$n, quote_literal($_)) } @urls));
open_gallery();
ok($browser->wait_for($all_loaded), 'pictures beside hostile texts are loaded');
is($browser->run(<<'END'), scalar(@hostile), 'links lead to the web');
return [...document.querySelectorAll("a")].filter(e => e.protocol === "http:").length
END
is(count('a'), scalar(@hostile), 'all of them');
is(count('.succeeded .prompt'), scalar(@hostile), 'texts are texts');
is_deeply(
	$browser->run('return [...document.querySelectorAll(".succeeded .prompt")].map(e => e.textContent).sort()'),
	[ sort @hostile ], 'as they were written');
$browser->run(<<'END');
for (const e of document.querySelectorAll("body *"))
	for (const what of ["mouseover", "load", "error", "focus"])
		if (!e.closest(".media"))
			e.dispatchEvent(new Event(what, {bubbles: true}));
for (const e of document.querySelectorAll("a")) {
	e.target = "";
	e.addEventListener("click", event => event.preventDefault());
	e.click();
}
END
is($browser->run('return window.taken'), undef, 'what they try is not done');
is_deeply([ $browser->console ], [], 'and not even refused');

# would it be refused?  Another script, an element with a handler.
$browser->run(<<'END');
const s = document.createElement("script");
s.textContent = "window.taken = 20";
document.body.append(s);
document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.taken = 21">');
document.querySelector("h1").innerHTML = '<a href="javascript:window.taken=22">x</a>';
document.querySelector("h1 a").click();
END
is($browser->run('return window.taken'), undef, 'the policy keeps other scripts off');
cmp_ok(scalar(grep { /Content Security Policy/ } $browser->console), '>=', 3,
	'and says so');

$browser->stop;
done_testing();
