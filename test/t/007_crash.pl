# A backend that dies in the middle of counting takes the server down with it,
# which then starts anew, and counts what the log holds.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node(q{
restart_after_crash = on
log_statement = none
});

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('small'), ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('small', 'hour', '1 hour', 100),
	('wide', 'hour', '1 hour', 1000000000), ('wide', 'day', '1 day', 1000000000);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'wide');
SQL

my $counters = 'SELECT checks, admitted, denied, keys, memory_used FROM tierlimit.stat';
my $logged = "SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'acme' AND error_code = 0";
$node->restart;
my $fresh = sql($counters);

for my $round (1 .. 3)
{
	# Four sessions call few keys, over and over.
	my $load = q{
		SELECT count(*) FROM (SELECT generate_series(1, 1000000000) i) n,
			tierlimit.check(CASE i % 3 WHEN 0 THEN 'acme' ELSE 'k' || i % 1000 END, 'wide')};
	my $used = sql("SELECT min(used) FROM tierlimit.usage('acme')");
	my @sessions = map {
		IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', $load ],
			'2>', \my $errors);
	} 1 .. 4;

	wait_until("SELECT min(used) > $used + 1000 AND min(used) < 2 * ($logged)
		FROM tierlimit.usage('acme')");
	my $written = sql($logged);
	kill_process('KILL', sql("SELECT max(pid) FROM pg_stat_activity
		WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()"));
	$_->finish for @sessions;

	wait_until('SELECT true');
	is(sql($counters), $fresh, "crash $round: memory is as after a start");
	cmp_ok(sql("SELECT min(used) FROM tierlimit.usage('acme')"),
		'>=', $written, "crash $round: what was written before is counted");
	is(differences(), '', "crash $round: counts are those of the log");
	is( sql("SELECT error_code, count(*)
			 FROM generate_series(1, 1100) i, tierlimit.check('key $round ' || i % 10, 'small')
			 GROUP BY 1 ORDER BY 1"),
		"0|1000\n1008|100",
		"crash $round: limits are exact");
	is(sql("SELECT sum(used) FROM generate_series(0, 9) i, tierlimit.usage('key $round ' || i, 'small')"),
		'1000', "crash $round: what was admitted is counted");
	is(sql("UPDATE tierlimit.api_key SET status = 'disabled';
			SELECT error FROM tierlimit.check('acme');
			UPDATE tierlimit.api_key SET status = 'active';
			SELECT error_code FROM tierlimit.check('acme')"),
		"API_KEY_DISABLED\n0", "crash $round: changes of keys bind");
}

$node->stop;
done_testing();
