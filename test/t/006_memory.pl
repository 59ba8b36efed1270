# Shared memory is bounded: when it is full, keys that count nothing any more
# make room, those that do stay exact, and a call that finds no room says so.

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
tierlimit.memory = 1MB
});
$node->start;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub error_of
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $stderr;
}

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('once'), ('second'), ('day');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('once', 'minute', '1 minute', 1),
	('second', 'second', '1 second', 10),
	('day', 'day', '1 day', 10);
SQL

# Call more keys than fit, one after the other.
sub flood
{
	my ($prefix, $tier, $clock) = @_;
	return "SET tierlimit.now = '$clock';
		SELECT count(*) FROM (SELECT generate_series(1, 100000) i) n,
		tierlimit.check('$prefix ' || i, '$tier')";
}

my $out_of_memory = qr/ERROR:  53200: .*HINT:  .*"tierlimit.memory"/s;
my $fits = 'SELECT memory_used <= memory_total, memory_total FROM tierlimit.stat';
my $counters = 'SELECT keys, admitted FROM tierlimit.stat';
my $evictions = 'SELECT evictions FROM tierlimit.stat';

#
# Full, and no window has run empty
#

like(error_of(flood('key', 'once', '2026-01-01 12:00:00+00')),
	$out_of_memory, 'memory full: the call of one more key raises an error');
is(sql($fits), 't|1048576', 'memory full: no more is used than there is');

my ($keys, $admitted) = split(/\|/, sql($counters));
cmp_ok($keys, '>=', 1000, 'memory full: a thousand keys fit into a megabyte');
is($admitted, $keys, 'memory full: each was counted');

my $one_more = "SET tierlimit.now = '2026-01-01 12:00:59+00';
	SELECT * FROM tierlimit.check('one more', 'once')";
like(error_of($one_more), $out_of_memory, 'memory full: the next call of another key fails, too');
is(sql($counters), "$keys|$admitted", 'memory full: calls that fail are not counted');
is( sql("SET tierlimit.now = '2026-01-01 12:00:59+00';
		 SELECT used FROM tierlimit.usage('one more', 'once')"),
	'0', 'memory full: nothing is left of them');
is( sql("SET tierlimit.now = '2026-01-01 12:00:59.999999+00';
		 SELECT error_code, used, count(*)
		 FROM (SELECT generate_series(1, $keys) i) n,
			tierlimit.check('key ' || i, 'once'), tierlimit.usage('key ' || i, 'once')
		 GROUP BY 1, 2"),
	"1008|1|$keys",
	'memory full: all keys that were counted before are held to their limits');

#
# Full, and all windows have run empty
#

like(error_of(flood('new', 'once', '2026-01-01 12:01:59.999999+00')),
	$out_of_memory, 'windows run empty: other keys fill the memory again');
is(sql($counters), $keys . '|' . 2 * $admitted,
	'windows run empty: as many keys as before, and each was counted');
cmp_ok(sql($evictions), '>=', $keys, 'windows run empty: all others have made room');

#
# On the server's clock
#

$node->restart;
my $full = 0;
for my $round (1 .. 3)
{
	$full++ if error_of(flood("round $round", 'second', '')) =~ $out_of_memory;
	sql('SELECT pg_sleep(1.01)');
}
# A slow machine makes room as fast as it fills it.
cmp_ok(sql($evictions), '>=', $keys,
	"server's clock: keys whose seconds are over make room");
note("memory was full $full times");
is( sql("SELECT allowed FROM tierlimit.check('one more', 'once')"),
	't', "server's clock: when their seconds are over, a call fits again");

# Keys that are counted for a day fill the memory; then some of them go, and
# others come that count nothing, or soon will not.
$node->restart;
like(error_of(flood('key', 'day', '')), $out_of_memory, 'memory full for a day: no other key fits');

for (
	[ 'keys of a second', 90, "tierlimit.check('brief ' || i, 'second'), pg_sleep(i / 90 * 1.1)" ],
	[ 'unknown keys', 1000, "tierlimit.check('unknown ' || i)" ])
{
	my ($others, $count, $call) = @$_;
	sql("SELECT tierlimit.reset('key ' || i) FROM generate_series(1, 100) i;
		 SELECT $call FROM generate_series(1, $count) i");
	is( sql("SELECT count(*) FILTER (WHERE c.allowed)
			 FROM generate_series(1, 100) i, tierlimit.check('key ' || i, 'day') c"),
		'100', "memory full for a day: $others make room");
}

$node->stop;
done_testing();
