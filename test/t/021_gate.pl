# The gate under load: keys and addresses are charged together or not at all, a
# request that is repeated once, and all of it comes back after a restart.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('log_statement = none');

# Eight keys and eight addresses, of which some keys and some addresses fill up.
sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('narrow'), ('broad'), ('ip'), ('once');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('narrow', 'hour', '1 hour', 60), ('broad', 'hour', '1 hour', 5000),
	('ip', 'address', '1 hour', 300), ('once', 'hour', '1 hour', 1000);
INSERT INTO tierlimit.api_key (name, tier, key_hash)
	SELECT 'key ' || i, CASE WHEN i <= 4 THEN 'narrow' ELSE 'broad' END, sha256(('secret ' || i)::bytea)
	FROM generate_series(1, 8) i;
CREATE TABLE answer (key text, ip inet, code integer, request_id text);
SQL

# Run a statement 32 sessions at a time.
sub stampede
{
	my ($name, $times, $statement) = @_;

	$node->pgbench(
		"-n -c 32 -j 2 -t $times", 0,
		[qr{actually processed: \d+/\d+}], [qr{^$}],
		"$name: pgbench runs", { ($name =~ s/ /_/gr) . '.sql' => $statement });
	return;
}

#
# Keys and addresses
#

stampede('keys and addresses', 150, <<'SQL');
\set k random(1, 8)
\set a random(1, 8)
INSERT INTO answer SELECT d.key, ('192.0.2.' || :a)::inet, d.error_code
FROM tierlimit.authorize('secret ' || :k, '/v1', ('192.0.2.' || :a)::inet) d;
SQL

my $by_key = 'SELECT key, count(*) FILTER (WHERE code = 0) AS admitted FROM answer GROUP BY 1';
my $by_address = "SELECT host(ip) AS ip, count(*) FILTER (WHERE code = 0) AS admitted FROM answer GROUP BY 1";
# (what is counted for an address: the gate says how much is left)
my $left = "SELECT 300 - a.admitted - 1 AS expected, d.remaining, d.error_code
	FROM ($by_address) a, tierlimit.authorize('secret 8', '/v1', a.ip::inet) d";

is(sql("SELECT count(*) FROM answer"), '4800', 'keys and addresses: each call was answered');
is(sql("SELECT string_agg(DISTINCT code::text, ' ' ORDER BY code::text) FROM answer"),
	'0 1008 1011', 'keys and addresses: some keys were full, and some addresses');
is(sql("SELECT count(*) FROM ($by_key) a, tierlimit.usage(a.key) u WHERE u.used <> a.admitted OR u.used > u.limit"),
	'0', 'keys and addresses: what is counted for keys is what was admitted');
is(sql("SELECT count(*) FROM ($by_address) a WHERE a.admitted > 300"),
	'0', 'keys and addresses: no address is over its limit');
is(sql('SELECT tierlimit.log_flush();
		SELECT sum(requests) FROM tierlimit.request_log WHERE error_code = 0'),
	"\n" . sql('SELECT count(*) FROM answer WHERE code = 0'),
	'keys and addresses: the log has what was admitted');
is(sql('SELECT sum(requests) FROM tierlimit.request_log WHERE error_code <> 0'),
	sql('SELECT count(*) FROM answer WHERE code <> 0'),
	'keys and addresses: the log has what was denied');
is(sql('SELECT count(*) FROM tierlimit.verify() WHERE difference <> 0'),
	'0', 'keys and addresses: memory and log agree');

#
# After a restart
#

$node->restart;
is(sql("SELECT count(*) FROM ($by_key) a, tierlimit.usage(a.key) u WHERE u.used <> a.admitted"),
	'0', 'restart: keys count what was admitted');
is(sql("SELECT count(*) FROM ($left) l WHERE expected >= 0 AND (remaining <> expected OR error_code <> 0)
			OR expected < 0 AND error_code <> 1011"),
	'0', 'restart: so do addresses');

#
# Requests that are repeated
#

sql('TRUNCATE answer');
stampede('one request', 20, <<'SQL');
\set r random(1, 40)
INSERT INTO answer SELECT d.key, NULL::inet, d.error_code, 'r ' || :r || ' ' || d.decided_at || ' ' || d.remaining
FROM tierlimit.check('repeater', 'once', 1, NULL, 'r ' || :r) d;
SQL
is(sql('SELECT count(DISTINCT request_id) FROM answer'),
	'40', 'one request: all who repeat one get the same answer');
is(sql("SELECT used FROM tierlimit.usage('repeater', 'once')"), '40', 'one request: is charged once');
$node->restart;
is( sql(q{SELECT count(*) FROM generate_series(1, 40) r, tierlimit.check('repeater', 'once', 1, NULL, 'r ' || r) d
		WHERE NOT EXISTS (SELECT FROM answer WHERE request_id = 'r ' || r || ' ' || d.decided_at || ' ' || d.remaining)}),
	'0', 'restart: requests get the same answer again');
is(sql("SELECT used FROM tierlimit.usage('repeater', 'once')"), '40', 'restart: and are not charged');

$node->stop;
done_testing();
