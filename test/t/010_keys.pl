# How long a key may be, and how much memory one takes.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('', extra => [ '--encoding=UTF8', '--no-locale' ]);

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('once'), ('pro');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('once', 'hour', '1 hour', 1),
	('pro', 'minute', '1 minute', 120), ('pro', 'day', '1 day', 50000);
SQL

#
# Long keys
#

is( sql("SELECT string_agg(c.allowed::text, ' ')
		 FROM tierlimit.check_many(ARRAY[
			repeat('x', 254) || 'a', repeat('x', 254) || 'b', repeat('x', 254),
			repeat('x', 254) || 'a', repeat('x', 254) || 'b',
			repeat('ä', 127) || 'a', repeat('ä', 127) || 'b', repeat('ä', 127) || 'a'], 'once') c"),
	'true true true false false true true false',
	'long keys: those of 255 bytes that differ in their ends are counted apart');
like(error_of("SELECT * FROM tierlimit.check(repeat('x', 256), 'once')"),
	qr/ERROR:  22023: /, 'long keys: 256 bytes are refused');
like(error_of("SELECT * FROM tierlimit.check(repeat('ä', 128), 'once')"),
	qr/ERROR:  22023: /, 'long keys: so are 256 bytes of 128 characters');

#
# Bytes per key
#

my $bytes_per_key = sql(<<'SQL');
SET log_statement = none;
SELECT memory_used AS before FROM tierlimit.stat \gset
SELECT setseed(0.5);
CREATE TEMP TABLE arrival AS
	SELECT 'user:' || 1000000 + key AS key,
		timestamptz '2026-01-01 12:00:00+00' + random() * interval '1 minute' AS at
	FROM generate_series(1, 50) key, generate_series(1, 120);
SELECT count(*) FILTER (WHERE c.allowed)
	FROM (SELECT key, set_config('tierlimit.now', at::text, false)
		  FROM arrival ORDER BY at OFFSET 0) a, tierlimit.check(a.key, 'pro', length(a.set_config) / 10) c;
SELECT ceil((memory_used - :before) / 50.0) FROM tierlimit.stat;
SQL
note($bytes_per_key);
my (undef, $counted, $bytes) = split(/\n/, $bytes_per_key);
is($counted, 6000, 'bytes per key: 50 keys were called 120 times within their minute');
cmp_ok($bytes, '<=', 2048, 'bytes per key: two kilobytes hold 120 calls in two windows');

$node->stop;
done_testing();
