# Shared memory is bounded: when it is full, the keys that were not called for
# longest make room, and are rebuilt from the log when they come again.  So
# answers stay exact, however little memory there is.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('tierlimit.memory = 1MB');

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('once'), ('day');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('once', 'minute', '1 minute', 1),
	('day', 'hour', '1 hour', 3), ('day', 'day', '1 day', 4);
SQL

my $fits = 'SELECT memory_used <= memory_total, memory_total FROM tierlimit.stat';

# What calls of so many keys, one after the other, are told: "code|count".
sub flood
{
	my ($prefix, $count, $tier, $clock) = @_;
	my @answers = split /\n/, sql("SET tierlimit.now = '$clock';
		SELECT c.error_code, count(*) FROM (SELECT generate_series(1, $count) i) n,
		tierlimit.check('$prefix ' || i, '$tier') c GROUP BY 1 ORDER BY 1");
	return join ' ', @answers;
}

# What of evictions and rebuilds has happened since it was asked last.
my ($evictions, $rebuilds) = (0, 0);

sub happened
{
	my ($evictions_now, $rebuilds_now) =
	  split /\|/, sql('SELECT evictions, rebuilds FROM tierlimit.stat');
	my @more = ($evictions_now - $evictions, $rebuilds_now - $rebuilds);

	($evictions, $rebuilds) = ($evictions_now, $rebuilds_now);
	return @more;
}

#
# Many more keys than fit
#

my $count = 8000;

is(flood('key', $count, 'once', '2026-01-01 12:00:00+00'),
	"0|$count", 'many keys: each of them is called once');
is(sql($fits), 't|1048576', 'many keys: no more is used than there is');
my $keys = sql('SELECT keys FROM tierlimit.stat');
cmp_ok($keys, '>=', 1000, 'many keys: a thousand fit into a megabyte');
cmp_ok($keys, '<=', $count / 2, 'many keys: but not half of these do');

my ($evicted, $rebuilt) = happened();
cmp_ok($evicted, '>=', $count - $keys - 100, 'many keys: the others made room');
is($rebuilt, 0, 'many keys: of none of them the log knew');

is(flood('key', $count, 'once', '2026-01-01 12:00:59.999999+00'),
	"1008|$count", 'a second round: all are held to their limits');
is(sql($fits), 't|1048576', 'a second round: no more is used than there is');
($evicted, $rebuilt) = happened();
cmp_ok($rebuilt, '>=', $count * 0.7, 'a second round: most keys came back from the log');
cmp_ok($evicted, '>=', $count * 0.7, 'a second round: others made room for them');

is(flood('key', $count, 'once', '2026-01-01 12:01:00+00'),
	"0|$count", 'when their minutes are over, all fit again');
is(sql('SELECT admitted, denied FROM tierlimit.stat'),
	2 * $count . "|$count", 'each call was counted once');

#
# Keys in random order, on the server's clock, of several sessions
#

$node->restart;
happened() for 1 .. 2;
($evictions, $rebuilds) = (0, 0);
$node->pgbench(
	'-n -c 4 -j 2 -t 5', 0,
	[qr{actually processed: 20/20}], [qr{^$}],
	'random keys: four sessions call them',
	{
		'random.sql' => q{
			SELECT count(*) FROM (SELECT i FROM generate_series(1, 8000) i ORDER BY random() LIMIT 1500) n,
				tierlimit.check('random ' || i, 'day');}
	});
($evicted, $rebuilt) = happened();
cmp_ok($evicted, '>', 5000, 'random keys: many have made room');
cmp_ok($rebuilt, '>', 5000, 'random keys: and came back');
is(sql($fits), 't|1048576', 'random keys: no more is used than there is');

sql('SELECT tierlimit.log_flush()');
my $logged = q{(SELECT key, coalesce(sum(requests) FILTER (WHERE error_code = 0), 0) AS admitted,
	coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0) AS denied
	FROM tierlimit.request_log WHERE key ~ '^random' GROUP BY key)};
is( sql("SELECT sum(admitted + denied), max(admitted), count(*) FILTER (WHERE denied > 0 AND admitted < 3) FROM $logged l"),
	'30000|3|0', 'random keys: all calls are logged, no key has more than fit, none was denied less');
is( sql("SELECT count(*) FROM $logged l, tierlimit.usage(l.key, 'day') u WHERE u.used <> l.admitted"),
	'0', 'random keys: usage is what was admitted, of keys in memory and others');

$node->stop;
done_testing();
