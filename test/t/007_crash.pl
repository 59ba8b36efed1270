# A backend that dies in the middle of counting takes the server down with it,
# which then starts anew, and counts from zero.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'tierlimit'
restart_after_crash = on
log_statement = none
});
$node->start;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('small'), ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('small', 'hour', '1 hour', 100),
	('wide', 'minute', '1 minute', 1000000000), ('wide', 'hour', '1 hour', 1000000000);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'wide');
SQL

my $memory = 'SELECT keys, memory_used FROM tierlimit.stat';
my $counters = 'SELECT checks, admitted, denied, keys, memory_used FROM tierlimit.stat';
$node->restart;
my $fresh = sql($counters);

for my $round (1 .. 3)
{
	# Four sessions call few keys, over and over.
	my $load = q{
		SELECT count(*) FROM (SELECT generate_series(1, 1000000000) i) n,
			tierlimit.check(CASE i % 3 WHEN 0 THEN 'acme' ELSE 'k' || i % 1000 END, 'wide')};
	my @sessions = map {
		IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', $load ],
			'2>', \my $errors);
	} 1 .. 4;

	$node->poll_query_until('postgres',
		"SELECT min(used) > 1000 * $round FROM tierlimit.usage('acme')")
	  or die 'the sessions do not run';
	my $pid = sql("SELECT max(pid) FROM pg_stat_activity
		WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()");
	is(PostgreSQL::Test::Utils::system_log('pg_ctl', 'kill', 'KILL', $pid),
		0, "crash $round: killed a backend");
	$_->finish for @sessions;

	$node->poll_query_until('postgres', 'SELECT true')
	  or die 'the server did not come back';
	is(sql($counters), $fresh, "crash $round: memory is as after a start");
	is(sql("SELECT used FROM tierlimit.usage('acme')"),
		"0\n0", "crash $round: counts start anew");
	is( sql("SELECT error_code, count(*)
			 FROM generate_series(1, 1100) i, tierlimit.check('key ' || i % 10, 'small')
			 GROUP BY 1 ORDER BY 1"),
		"0|1000\n1008|100",
		"crash $round: limits are exact");
	is(sql("SELECT sum(used) FROM generate_series(0, 9) i, tierlimit.usage('key ' || i, 'small')"),
		'1000', "crash $round: what was admitted is counted");
	is(sql("UPDATE tierlimit.api_key SET status = 'disabled';
			SELECT error FROM tierlimit.check('acme');
			UPDATE tierlimit.api_key SET status = 'active';
			SELECT error_code FROM tierlimit.check('acme')"),
		"API_KEY_DISABLED\n0", "crash $round: changes of keys bind");
}

$node->stop;
done_testing();
