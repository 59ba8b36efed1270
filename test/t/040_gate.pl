# Who has no key leaves little behind, whatever they vary, and is counted as
# before after a restart; and what a change of the configuration makes a session
# read again.

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
INSERT INTO tierlimit.tier VALUES ('anonymous'), ('ip'), ('none');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('anonymous', 'hour', '1 hour', 5), ('ip', 'hour', '1 hour', 1000000), ('none', 'hour', '1 hour', 0);
INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 2);
SQL

#
# Callers without a key, across restarts
#

sql(<<'SQL');
SELECT count(*) FROM generate_series(1, 3), LATERAL tierlimit.authorize(NULL, '/v1/x', '192.0.2.1');
SELECT d.error_code FROM generate_series(1, 3) i, tierlimit.authorize(NULL, '/v1/x', ('192.0.2.' || i)::inet) d;
SELECT tierlimit.authorize(NULL, '/v1/x', '2001:db8::1'), tierlimit.authorize(NULL, '/v1/x', '2001:db8::2', NULL, 'once');
SELECT tierlimit.authorize(NULL, '/v1/x', NULL, NULL, 'once'), tierlimit.authorize(NULL, '/v1/x');
-- a key of that name, called from there
SELECT count(*) FROM tierlimit.check_many(array_fill('192.0.2.2'::text, '{4}'), 'ip');
SQL
my $left = q{SELECT string_agg(remaining || '/' || error_code, ' ') FROM
	unnest('{192.0.2.1,192.0.2.2,192.0.2.3,2001:db8::3,NULL}'::inet[]) ip, tierlimit.authorize(NULL, '/v1/x', ip)};
my $once = q{SELECT string_agg(remaining::text, ' ') FROM
	unnest('{2001:db8::2,2001:db8::9,NULL,192.0.2.9}'::inet[]) ip, tierlimit.authorize(NULL, '/v1/x', ip, NULL, 'once')};
is(sql($left), '2/0 3/0 3/0 2/0 2/0', 'anonymous: each address is counted');
for my $mode ('fast', 'immediate')
{
	sql('SELECT tierlimit.log_flush()');
	$node->stop($mode);
	$node->start;
	is( sql("SELECT string_agg(used::text, ' ') FROM unnest('{192.0.2.1,192.0.2.3,2001:db8::/64}'::text[]) a, tierlimit.usage(a, 'anonymous')"),
		$mode eq 'fast' ? '3 2 3' : '4 3 4', "anonymous, $mode: usage comes back");
	is(sql("SELECT used FROM tierlimit.usage('192.0.2.1', 'ip')"),
		$mode eq 'fast' ? '3' : '4', "anonymous, $mode: so does that of addresses");
	is(sql($left), $mode eq 'fast' ? '1/0 2/0 2/0 1/0 1/0' : '0/0 1/0 1/0 0/0 0/0',
		"anonymous, $mode: and counts on");
}
is(differences(), '', 'anonymous: memory and log agree');
like(sql($once), qr/^\d \d \d \d$/, 'anonymous: who repeats a request is admitted again');
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT string_agg(coalesce(host(ip), 'none'), ' ' ORDER BY ip) FROM tierlimit.request_log WHERE request_id = 'once'"),
	'192.0.2.9 2001:db8::2 none', 'anonymous: and not charged, except for the address that is new');

#
# Floods
#

# Wrong secrets, paths, addresses and unknown keys, all different; and one key
# that is known.
my %flood = (
	'wrong secrets' => q{tierlimit.authorize('tl_' || i, '/made/up/' || i, '2001:db8::'::inet + (i::bigint << 64))},
	'unknown keys' => q{tierlimit.check('made up ' || i, NULL, 1, '/v1/' || i)},
	'one key' => q{tierlimit.check('denied', 'none', 1, '/v1/' || i)});
for my $name (sort keys %flood)
{
	# (rows are counted by the second)
	sql('SELECT tierlimit.log_flush(); TRUNCATE tierlimit.request_log; SELECT pg_sleep(1)');
	sql("SELECT count(*) FROM (SELECT generate_series(1, 5000) i OFFSET 0) n, LATERAL $flood{$name} d");
	sql('SELECT tierlimit.log_flush()');
	is( sql("SELECT sum(requests) AS requests FROM tierlimit.request_log WHERE error_code <> 0"),
		'5000', "flood of $name: each call is in the sums");
	cmp_ok(
		sql("SELECT max(rows) FROM (SELECT count(*) AS rows FROM tierlimit.request_log
			WHERE error_code <> 0 GROUP BY date_trunc('second', at)) s"),
		'<=', 1000, "flood of $name: at most 1,000 rows a second");
	cmp_ok(sql("SELECT count(*) FROM tierlimit.request_log WHERE endpoint IS NOT NULL AND error_code <> 0"),
		'>=', 800, "flood of $name: some with all that is known");
}

# Each key that is known has its denials, also in a second that is full.
sql('SELECT tierlimit.log_flush(); TRUNCATE tierlimit.request_log');
sql("SELECT count(*) FROM (SELECT generate_series(1, 5000) i OFFSET 0) n, LATERAL tierlimit.check('denied ' || i % 2500, 'none', 1, '/v1/' || i) d");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT count(DISTINCT key), sum(requests), min(requests) FROM (SELECT key, sum(requests) AS requests
	FROM tierlimit.request_log WHERE key ~ '^denied ' GROUP BY key) k"),
	'2500|5000|2', 'flood of many keys: each has what it was denied');

# What stays: the sums of the hour that follows.
sql(<<'SQL');
SELECT tierlimit.log_flush();
TRUNCATE tierlimit.request_log;
SELECT set_config('tierlimit.now', (date_trunc('hour', now()) - interval '5 days')::text, false);
SELECT count(*) FROM (SELECT generate_series(1, 150) i OFFSET 0) n, LATERAL tierlimit.authorize('tl_' || i, '/made/up/' || i);
SELECT count(*) FROM (SELECT generate_series(1, 150) i OFFSET 0) n, LATERAL tierlimit.authorize('tl_' || i, '/v1/' || i);
SELECT count(*) FROM (SELECT generate_series(1, 150) i OFFSET 0) n, LATERAL tierlimit.check('made up ' || i, NULL, 1, '/v1/' || i);
SELECT tierlimit.authorize(NULL, '/v1/' || i, '198.51.100.1') FROM generate_series(1, 3) i;
SELECT tierlimit.log_flush();
SQL
is( sql("SELECT key, tier, endpoint, requests, credits, denied FROM tierlimit.usage_hourly
	WHERE hour = date_trunc('hour', now()) - interval '5 days' ORDER BY tier, endpoint"),
	"|anonymous|/v1/*|3|6|0\n||/v1/*|0|0|300\n|||0|0|150", 'sums: by patterns, and without what nobody knows');
is(sums_differ(), '', 'sums: are those of the log');

# Denials of several addresses that share a row are no one address's.
sql(<<'SQL');
SELECT set_config('tierlimit.now', (date_trunc('hour', now()) - interval '6 days')::text, false);
SELECT count(*) FROM generate_series(1, 4) i, tierlimit.authorize('tl_' || i, '/same', ('192.0.2.' || i / 2)::inet);
SELECT count(*) FROM generate_series(1, 4) i, tierlimit.authorize('tl_' || i, '/one', '192.0.2.7');
SELECT tierlimit.log_flush();
SQL
is(sql("SELECT endpoint, ip, requests FROM tierlimit.request_log WHERE endpoint IN ('/same', '/one') ORDER BY 1"),
	"/one|192.0.2.7|4\n/same||4", 'denials that share a row: an address if all have it');

#
# What a change makes a session read again
#

sql(<<'SQL');
INSERT INTO tierlimit.tier SELECT 't ' || i FROM generate_series(1, 10000) i;
INSERT INTO tierlimit.tier_limit (tier, name, period, max) SELECT 't ' || i, 'hour', '1 hour', i FROM generate_series(1, 10000) i;
INSERT INTO tierlimit.tier_endpoint SELECT 't ' || i, '/v1/*' FROM generate_series(1, 10000) i;
INSERT INTO tierlimit.endpoint SELECT '/' || i, i FROM generate_series(1, 10000) i;
INSERT INTO tierlimit.api_key (name, tier, key_hash) SELECT 'k ' || i, 't ' || i, sha256(('k ' || i)::bytea) FROM generate_series(1, 100) i;
ANALYZE;
SQL
my $session = $node->background_psql('postgres');
$session->query_safe("SELECT tierlimit.authorize('k 7', '/v1/x')");
# rows read by the session itself, in one transaction with its own change
my $read = q{SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables
	WHERE relid IN ('tierlimit.tier'::regclass, 'tierlimit.tier_limit'::regclass, 'tierlimit.tier_endpoint'::regclass, 'tierlimit.endpoint'::regclass)};
for my $change ("UPDATE tierlimit.tier_limit SET max = max + 1 WHERE tier = 't 5'",
	"INSERT INTO tierlimit.tier_endpoint VALUES ('t 5', '/more')",
	"UPDATE tierlimit.tier SET description = 'changed' WHERE name = 't 5'")
{
	$session->query_safe("BEGIN; $change");
	my $before = $session->query_safe($read);
	$session->query_safe("SELECT tierlimit.authorize('k 7', '/v1/x')");
	cmp_ok($session->query_safe($read) - $before, '<', 20, "10,000 tiers: little is read after $change");
	$session->query_safe('COMMIT');
}
is($session->query_safe("SELECT string_agg(\"limit\"::text, ' ') FROM unnest('{k 5,k 7}'::text[]) k, tierlimit.check(k)"),
	'6 7', '10,000 tiers: and what is read is right');
is($session->query_safe("SELECT string_agg(error_code || '/' || cost, ' ') FROM unnest('{/v1/x,/7,/more}'::text[]) e, tierlimit.authorize('k 5', e)"),
	'0/2 1006/7 0/1', '10,000 tiers: so are lists and prices');
$session->quit;

$node->stop;
done_testing();
