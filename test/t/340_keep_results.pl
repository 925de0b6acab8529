# The README's job copies what dies soon, says so in the row, leaves the rest
# alone, and takes no URL for more than it is.

use strict;
use warnings;

use AnyvodTest;
use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $job = "$FindBin::RealBin/../../extras/keep-results";
my $simulator = start_simulator();
my $files = $simulator->url . '/files';
my $node = anyvod_node('keep', simulator => $simulator);
my $folder = PostgreSQL::Test::Utils::tempdir();

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';

# A role's rows: name, where its file is, when it dies.
sub add
{
	my ($task_id, $file_url, $expires) = @_;

	$node->safe_psql('postgres', sprintf(
			'INSERT INTO anyvod_tasks (task_id, state, file_url, expire_time, owner)'
			  . " VALUES (%s, 'succeeded', %s, now() + interval %s, 'app')",
			map { quote_literal($_) } $task_id, $file_url, $expires));
	return;
}

sub file_url
{
	my ($task_id) = @_;
	return $node->safe_psql('postgres',
		"SELECT file_url || ' ' || (expire_time = 'infinity') FROM anyvod_tasks WHERE task_id = '$task_id'");
}

$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
GRANT USAGE ON FOREIGN SERVER anyapi TO app;
INSERT INTO anyvod_tasks (task_id, state, file_url, expire_time)
VALUES ('of-others', 'succeeded', 'http://127.0.0.1:1/x.png', now() + interval '1 h');
END
add('image-1', "$files/a.png?sign=1&x=y", '5 h');
add('-o', "$files/b.mp4", '30 h');
add('no.ending', "$files/c", '30 h');
add('later', "$files/d.png", '3 days');
add('dead', "$files/e.png", '-1 h');

job_says(0, qr/\A\z/, 'all that die soon are kept');
is(join(' ', sort grep { /^[^.]/ } slurp_dir($folder)), '-o.mp4 image-1.png no.ending', 'as files');
like(slurp_file("$folder/image-1.png"), qr/\A\x89PNG/, 'with what is in them');
is(file_url('image-1'), 'https://media.example.org/image-1.png true', 'the row says where');
is(file_url('-o'), 'https://media.example.org/-o.mp4 true', 'so does one with an odd id');
is(file_url('no.ending'), 'https://media.example.org/no.ending true', 'and one without an ending');
is(file_url('later'), "$files/d.png false", 'what dies later is left alone');
is(file_url('of-others'), 'http://127.0.0.1:1/x.png false', "so are others' rows");
is($simulator->stats->{files}, 3, 'three were fetched');

job_says(0, qr/\A\z/, 'again: there is nothing to do');
is($simulator->stats->{files}, 3, 'and nothing is fetched');

# what cannot be fetched does not stop the rest; what is no URL of the web is
# not looked at
add('hostile-' . $_->[0], $_->[1], '1 h')
  foreach [ 1, 'file:///etc/passwd' ], [ 2, "$files/a.png -o /tmp/x" ],
  [ 3, '-K/etc/passwd' ], [ 4, "$files/{a,b}[1-3].png" ], [ 5, "$files/\$(id).png" ],
  [ 6, "$files/';DROP_TABLE_x;--.png" ];
add('gone', 'http://127.0.0.1:1/a.png', '1 h');
add('fine', "$files/f.png", '2 h');
job_says(1, qr/\A(?:curl: [^\n]*\n)?\S+: could not keep the file of gone\n\z/, 'one is gone');
is(file_url('fine'), 'https://media.example.org/fine.png true', 'the next is kept');
is(file_url('gone'), 'http://127.0.0.1:1/a.png false', 'the one that is gone is tried again');
is( join(' ', sort grep { /hostile/ } slurp_dir($folder)),
	'hostile-4.png hostile-5.png hostile-6.png', 'odd URLs are URLs, others are not taken');
is($simulator->stats->{files}, 7, 'each once');
is(join(' ', grep { /part/ } slurp_dir($folder)), '', 'nothing is left half');

# The job's exit status, and what it says.
sub job_says
{
	my ($status, $says, $name) = @_;
	my ($stdout, $stderr) = ('', '');

	local $ENV{PGUSER} = 'app';

	IPC::Run::run([ $job, $folder, 'https://media.example.org/', '2 days' ],
		'<', \undef, '>', \$stdout, '2>', \$stderr);
	is($? >> 8, $status, "$name: exit status");
	return like($stdout . $stderr, $says, $name);
}

done_testing();
