# The rows of the log: few for a flood, shared where that is wanted, kept as long
# as they are needed, and summed up exactly once.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node(q{
log_statement = none
timezone = 'UTC'
});

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('none'), ('wide'), ('year');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('none', 'day', '1 day', 0, 'requests'),
	('wide', 'hour', '1 hour', 1000000, 'requests'), ('wide', 'day', '1 day', 1000000, 'credits');
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'wide'), ('given back', 'wide');
SQL

#
# A flood of denied calls
#

$node->pgbench(
	'-n -c 4 -j 2 -t 20', 0,
	[qr{actually processed: 80/80}], [qr{^$}],
	'flood: four sessions are denied',
	{
		'flood.sql' => q{
			SELECT count(*) FROM (SELECT generate_series(1, 500) i) n,
				tierlimit.check('flood ' || i % 3, CASE WHEN i % 2 = 0 THEN 'none' END, 2, '/' || i % 2);
			SELECT pg_sleep(0.05);}
	});
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests), sum(credits) FROM tierlimit.request_log WHERE key ~ 'flood'"),
	'40000|80000', 'flood: each call is in the sums');
is( sql("SELECT max(count) FROM (SELECT count(*) FROM tierlimit.request_log WHERE key ~ 'flood'
		 GROUP BY key, endpoint, error_code, date_trunc('second', at)) g"),
	'1', 'flood: a row for each key, endpoint, code and second');
is(sql("SELECT count(DISTINCT (key, endpoint, error_code)) FROM tierlimit.request_log WHERE key ~ 'flood'"),
	'6', 'flood: of two kinds of calls of three keys');

#
# tierlimit.log_granularity
#

$node->append_conf('postgresql.conf', 'tierlimit.log_granularity = 1000');
$node->reload;
sql("SELECT pg_sleep(0.5)");
sql(<<'SQL');
SELECT count(*) FROM (SELECT generate_series(1, 1000) i) n, tierlimit.check('shared ' || i % 2, 'wide', i % 5, '/' || i % 3);
SELECT tierlimit.log_flush();
SQL
is(sql("SELECT sum(requests), sum(credits) FROM tierlimit.request_log WHERE key ~ 'shared'"),
	'1000|2000', 'granularity: sums are right');
cmp_ok(sql("SELECT count(*) FROM tierlimit.request_log WHERE key ~ 'shared'"),
	'<=', 60, 'granularity: calls alike share rows');
is(differences(), '', 'granularity: usage is the sum of the log');

# Nothing that was given back in between is forgotten.
sql('SELECT tierlimit.log_flush()');
my $given_back = "SELECT used FROM tierlimit.usage('given back')";
sql(<<'SQL');
SELECT count(*) FROM tierlimit.check_many(array_fill('given back'::text, '{5}'));
SELECT tierlimit.log_flush();
SELECT count(*) FROM tierlimit.check_many(array_fill('given back'::text, '{5}'));
SELECT tierlimit.reset('given back');
SELECT count(*) FROM tierlimit.check_many(array_fill('given back'::text, '{2}'));
SQL
is(sql($given_back), "2\n2", 'granularity, reset: calls after it count');
$node->restart;
is(sql($given_back), "2\n2", 'granularity, reset: so they do after a restart');
sql(<<'SQL');
SELECT count(*) FROM tierlimit.check_many(array_fill('given back'::text, '{3}'));
SELECT tierlimit.refund('given back', 4, 4);
SELECT count(*) FROM tierlimit.check_many(array_fill('given back'::text, '{3}'));
SQL
is(sql($given_back), "4\n4", 'granularity, refund: calls after it count');
$node->restart;
is(sql($given_back), "4\n4", 'granularity, refund: so they do after a restart');
$node->append_conf('postgresql.conf', 'tierlimit.log_granularity = 0');
$node->reload;

#
# At the same moment: the limits are exact after a restart, too
#

my $then = sql("SELECT date_trunc('hour', now()) - interval '10 days'");
my $moment = "SELECT set_config('tierlimit.now', (timestamptz '$then' + interval '20 seconds')::text, false) \\g /dev/null\n";
sql(<<"SQL");
INSERT INTO tierlimit.tier VALUES ('two');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('two', 'burst', '10 seconds', 1), ('two', 'hour', '1 hour', 100);
SET tierlimit.now = '$then';
SELECT tierlimit.check('moment', 'two');
$moment
SELECT tierlimit.refund('moment');
SELECT tierlimit.check('moment', 'two');
SQL
is(sql("$moment SELECT used FROM tierlimit.usage('moment', 'two')"), "1\n1", 'refund and call of one moment: the call counts');
$node->restart;
is(sql("$moment SELECT used FROM tierlimit.usage('moment', 'two')"), "1\n1", 'refund and call of one moment: so it does after a restart');

#
# Sums
#

my $answers = "SELECT used FROM tierlimit.usage('acme')";
sql(<<"SQL");
SELECT tierlimit.log_flush();
-- hours that are summed up already
SELECT set_config('tierlimit.now', (timestamptz '$then' + interval '34 minutes')::text, false);
SELECT count(*) FROM (SELECT generate_series(1, 300) i) n, tierlimit.check('late ' || i % 3, 'wide', i, '/' || i % 2);
SELECT count(*) FROM (SELECT generate_series(1, 30) i) n, tierlimit.check('late ' || i % 3);
SELECT tierlimit.refund('late 1', 7, 2), tierlimit.reset('late 2');
SELECT set_config('tierlimit.now', (timestamptz '$then' + interval '60 minutes')::text, false);
SELECT tierlimit.check('late 0', 'wide'), tierlimit.check('late 0', 'none');
SELECT tierlimit.log_flush();
SQL
is(sums_differ(), '', 'late rows: sums are those of the log');

# When no log writer is there, sum up this hour and the next.
wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer'");
sql("SELECT tierlimit._sum_log(date_trunc('hour', now()) + interval '2 hours')");
is(sums_differ(), '', 'this hour summed up: sums are those of the log');
my $minute = q{SELECT count(*) FROM tierlimit.usage_minute m
	WHERE (requests, credits) IS DISTINCT FROM (SELECT (sum(requests), sum(credits)) FROM tierlimit.request_log
		WHERE error_code = 0 AND at >= minute AND at < minute + interval '1 minute'
			AND CASE WHEN is_account THEN account = subject ELSE key = subject AND account IS NULL END)};
sql(<<'SQL');
SELECT count(*) FROM (SELECT generate_series(1, 300) i) n, tierlimit.check('acme', 'wide', i);
SELECT tierlimit.refund('acme', 10, 3);
SELECT tierlimit.log_flush();
SQL
is(sums_differ(), '', 'rows after that: sums are those of the log');
is(differences(), '', 'rows after that: usage is the sum of the log');
my $used = sql($answers);
for my $mode ('fast', 'immediate')
{
	$node->stop($mode);
	$node->start;
	is(sql($answers), $used, "$mode: windows come back from sums as from rows");
	sql("SELECT tierlimit.check('acme'), tierlimit.refund('acme'), tierlimit.log_flush()");
	is(sums_differ(), '', "$mode: sums are those of the log");
}

#
# Partitions and retention
#

my $partitions = q{SELECT string_agg(right(inhrelid::regclass::text, 8), ' ' ORDER BY inhrelid::regclass::text)
	FROM pg_inherits WHERE inhparent = 'tierlimit.request_log'::regclass AND inhrelid::regclass::text ~ '\d{8}$'};
my $ahead = q{SELECT string_agg(to_char((now() AT TIME ZONE 'UTC')::date + i, 'YYYYMMDD'), ' ' ORDER BY i) FROM generate_series(%s) i};
is(sql($partitions), sql(sprintf($ahead, '0, 2')), 'partitions: today, tomorrow and the day after');

# The upkeep is done when a log writer starts.
sub upkeep
{
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer';
		SELECT pg_sleep(0.3)");
	sql("UPDATE tierlimit.log_state SET dropped_at = now() - interval '1 day';
		SELECT tierlimit.check('acme'); SELECT tierlimit.log_flush(); SELECT pg_sleep(0.3)");
	return;
}

sql(<<'SQL');
SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - i) FROM unnest('{1,5,9,40,100}'::int[]) i;
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT date_trunc('day', now(), 'UTC') - i * interval '1 day', 'kept', 'wide', 0, 1, 1 FROM unnest('{1,5,9,40,100}'::int[]) i;
SQL
upkeep();
is(sql($partitions), sql(sprintf($ahead, '-40, 2') =~ s/FROM/FILTER (WHERE i IN (-40,-9,-5,-1,0,1,2)) FROM/r),
	'retention: what is older than 62 days is dropped');
$node->append_conf('postgresql.conf', "tierlimit.log_retention = '7d'");
sql("INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('year', 'month', '30 days', 10)");
$node->reload;
upkeep();
is(sql($partitions), sql(sprintf($ahead, '-40, 2') =~ s/FROM/FILTER (WHERE i IN (-9,-5,-1,0,1,2)) FROM/r),
	'retention: what the longest limit needs is kept');
sql("DELETE FROM tierlimit.tier_limit WHERE tier = 'year'");
upkeep();
is(sql($partitions), sql(sprintf($ahead, '-40, 2') =~ s/FROM/FILTER (WHERE i IN (-5,-1,0,1,2)) FROM/r),
	'retention: without it, no longer');
is(sql("SELECT sum(requests) FROM tierlimit.usage_hourly WHERE key ~ '^late'"),
	sql("SELECT 300 - 2 - 100 + 1"), 'retention: sums of hours are kept');

$node->stop;
done_testing();
