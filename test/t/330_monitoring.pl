# The figures for Prometheus: the exporter takes the queries and shows what
# the views show, to a role that is made for it; each alert is about figures
# that there are, and is raised when it should be.  "make monitor-test"
# fetches the programs; without them this is left out.

use strict;
use warnings;

use AnyvodDoc;
use AnyvodTest;
use File::Copy ();
use FindBin;
use HTTP::Tiny;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $extras = "$FindBin::RealBin/../../extras/prometheus";

sub program
{
	my ($name) = @_;

	foreach my $folder (split(/:/, $ENV{PATH}))
	{
		return "$folder/$name" if -x "$folder/$name";
	}
	return;
}

my $exporter = program('prometheus-postgres-exporter');
my $promtool = program('promtool');

if (!defined $exporter || !defined $promtool)
{
	BAIL_OUT('there is no exporter, or no promtool') if $ENV{ANYVOD_MONITOR};
	plan skip_all => 'there is no prometheus-postgres-exporter with promtool';
}

#
# The rules, by themselves
#

my $folder = PostgreSQL::Test::Utils::tempdir();

File::Copy::copy("$extras/rules.yaml", $folder);
File::Copy::copy("$FindBin::RealBin/../prometheus/rules_test.yaml", $folder);
command_like(
	[ $promtool, 'check', 'rules', "$folder/rules.yaml" ],
	qr/SUCCESS: 4 rules found/, 'promtool accepts the rules');
command_ok([ $promtool, 'test', 'rules', "$folder/rules_test.yaml" ],
	'alerts are raised when they should be');

#
# The exporter
#

my $simulator = start_simulator();
my $node = anyvod_node('monitoring', simulator => $simulator);

$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN;
CREATE SERVER limited FOREIGN DATA WRAPPER anyvod;
GRANT USAGE ON FOREIGN SERVER anyapi, limited TO app;
CREATE ROLE prometheus LOGIN IN ROLE pg_monitor;
CREATE POLICY prometheus ON anyvod_tasks FOR SELECT TO prometheus USING (true);
END
$node->safe_psql('postgres',
	'ALTER SERVER limited OPTIONS (ADD base_url ' . quote_literal($simulator->url) . ')');
$node->safe_psql('postgres', <<'END', extra_params => [ '-U', 'app' ]);
INSERT INTO anyvod_tasks (task_id) VALUES ('image-1'), ('image-2'), ('image-3'), ('fail-4'), ('t3600000-5');
INSERT INTO anyvod_tasks (task_id, server) VALUES ('http429-ra3600-6', 'limited');
INSERT INTO anyvod_tasks (task_id, state, file_url, expire_time, settled_at)
VALUES ('dies', 'succeeded', 'https://a.example/1.png', now() + interval '5 h', now()),
	('dead', 'succeeded', 'https://a.example/1.png', now() - interval '5 h', now()),
	('kept', 'succeeded', 'https://a.example/1.png', 'infinity', now());
END
poll_until($node, "SELECT count(*) FROM anyvod_tasks WHERE status IS NOT NULL", 5)
  or BAIL_OUT('tasks are not tracked');
poll_until($node, "SELECT state FROM anyvod_stat_server WHERE server = 'limited'", 'paused')
  or BAIL_OUT('the server is not paused');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $pid = fork() // BAIL_OUT("could not fork: $!");

if ($pid == 0)
{
	$ENV{DATA_SOURCE_NAME} = $node->connstr('postgres') . " user=prometheus sslmode=disable";
	# not the handles of that name, which the test framework ties
	open my $log, '>', "$folder/exporter.log" or POSIX::_exit(127);
	POSIX::dup2(fileno($log), 1);
	POSIX::dup2(fileno($log), 2);
	exec { $exporter } $exporter, "--web.listen-address=127.0.0.1:$port",
	  "--extend.query-path=$extras/queries.yaml", '--disable-default-metrics',
	  '--disable-settings-metrics'
	  or POSIX::_exit(127);
}

END
{
	if ($pid)
	{
		local $?;
		kill 'TERM', $pid;
		waitpid $pid, 0;
	}
}

# The page of figures: each by its name and labels but for the exporter's own,
# "server".
my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef, https_proxy => undef);

my @untyped;

sub figures
{
	my $answer = $http->get("http://127.0.0.1:$port/metrics");
	my %figures;

	return unless $answer->{success};
	@untyped = $answer->{content} =~ /^# TYPE (anyvod_\w+) untyped$/mg;
	while ($answer->{content} =~ /^(anyvod_\w+)\{(.*)\} (\S+)$/mg)
	{
		my ($name, $labels, $value) = ($1, $2, $3);

		$labels = join ',', sort grep { !/^server=/ } $labels =~ /\w+="[^"]*"/g;
		$figures{"$name\{$labels}"} = 0 + $value;
	}
	return %figures;
}

my %figures;

ok(wait_until(sub { %figures = figures(); %figures > 0 }), 'the exporter shows figures')
  or diag(slurp_file("$folder/exporter.log"));
unlike(slurp_file("$folder/exporter.log"), qr/level=(?:error|warn)/i,
	'and complains of nothing');

is("@untyped", '', 'each figure is a gauge or a counter');

my %server = (anyapi => 'foreign_server="anyapi",mapped_role="public"',
	limited => 'foreign_server="limited",mapped_role=""');

sub is_figure
{
	my ($name, $value) = @_;
	return is($figures{$name}, $value, $name);
}

is_figure('anyvod_worker_up{datname="postgres"}', 1);
is_figure('anyvod_worker_pending{datname="postgres"}', 2);
is_figure('anyvod_worker_restarts_total{datname="postgres"}', 0);
is_figure('anyvod_worker_state_info{datname="postgres",state="serving"}', 1);
cmp_ok($figures{'anyvod_worker_polls_total{datname="postgres"}'}, '>=', 6, 'polls');
cmp_ok($figures{'anyvod_worker_request_p95_seconds{datname="postgres"}'}, '<', 60, 'in seconds');
is_figure("anyvod_answers_total{$server{anyapi},verdict=\"succeeded\"}", 3);
is_figure("anyvod_answers_total{$server{anyapi},verdict=\"failed\"}", 1);
is_figure("anyvod_answers_total{$server{limited},verdict=\"rate_limited\"}", 1);
is_figure("anyvod_server_paused{$server{anyapi}}", 0);
is_figure("anyvod_server_paused{$server{limited}}", 1);
cmp_ok($figures{"anyvod_server_paused_seconds{$server{limited}}"}, '>', 1800, 'for long');
is_figure('anyvod_results_alive{}', 4);
is_figure('anyvod_results_expiring_within_day{}', 1);
cmp_ok(abs($figures{'anyvod_results_next_expiry_seconds{}'} - 5 * 3600), '<', 600, 'in five hours');

# what a rule asks for, there is
my %names = map { /^(\w+)/; $1 => 1 } keys %figures;

my @exprs = slurp_file("$extras/rules.yaml") =~ /^\s+expr: (.*)$/mg;

is(scalar(@exprs), 4, 'rules');
is(join(' ', grep { !$names{$_} } map { /\b(anyvod_\w+)/g } @exprs),
	'', 'each alert is about figures that there are');

# so there is what doc/operations.md shows
my ($shown) = grep { /^anyvod_worker_up/ } map { $_->{text} } AnyvodDoc->new('doc/operations.md')->blocks;
my @shown = $shown =~ /^(\w+)/mg;

cmp_ok(scalar(@shown), '>', 5, 'figures in the documents');
is(join(' ', grep { !$names{$_} } @shown), '', 'are there');

$node->safe_psql('postgres', 'ALTER SYSTEM SET anyvod.worker = off');
$node->reload;
ok(wait_until(sub { %figures = figures(); ($figures{'anyvod_worker_up{datname="postgres"}'} // 1) == 0 }),
	'a worker that is off is not up');
is_figure('anyvod_worker_state_info{datname="postgres",state="off"}', 1);

# the role sees no more than it is to
$node->safe_psql('postgres', 'DROP POLICY prometheus ON anyvod_tasks');
ok(wait_until(sub { %figures = figures(); ($figures{'anyvod_results_alive{}'} // 1) == 0 }),
	'without the policy there are no results');

done_testing();
