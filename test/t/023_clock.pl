# A clock that was wrong heals, and spreads to nobody else: neither one that a
# session has of its own, nor the server's, as rows of the log show that it was.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node("log_statement = none\ntierlimit.log_retention = '36500d'");

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('one'), ('three'), ('monthly'), ('ip');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, kind) VALUES
	('one', 'minute', '1 minute', 1, 'sliding'), ('three', 'day', '1 day', 3, 'sliding'),
	('monthly', 'month', '1 month', 3, 'calendar'), ('ip', 'minute', '1 minute', 100, 'sliding');
CREATE TABLE secret AS SELECT name, tierlimit.create_key(name, 'three') AS secret FROM (VALUES ('ann'), ('bob')) AS k (name);
SQL

# at(TIME, CALL...): what calls answer by a clock of their own.
sub at
{
	my ($time, @calls) = @_;
	return sql(join "\n", "SET tierlimit.now = '$time';", @calls);
}

my $check = "SELECT allowed, retry_after FROM tierlimit.check('%s', '%s');";
my $used = "SELECT used FROM tierlimit.usage('%s', '%s');";
my $close = "abs(extract(epoch FROM decided_at - clock_timestamp())) < 30";

#
# A clock that was eleven seconds ahead, for one call
#

my $one = sprintf $check, 'ahead', 'one';
is(at('2026-01-01 12:00:11+00', $one), 't|', 'ahead: a call is admitted');
is(at('2026-01-01 12:00:00+00', $one), 'f|60', 'ahead: the next one has to wait for a period');
is(at('2026-01-01 12:00:59+00', $one), 'f|1', 'ahead: by the clock that is right');
is(at('2026-01-01 12:01:00+00', $one), 't|', 'ahead: and is admitted then');

# A little ahead, as clocks are.
$one = sprintf $check, 'a little', 'one';
is(at('2026-01-01 12:00:00.9+00', $one), 't|', 'a little ahead: a call is admitted');
is(at('2026-01-01 12:00:00+00', $one), 'f|61', 'a little ahead: it is believed, and retry_after counts from the real time');
is(at('2026-01-01 12:01:00+00', $one), 'f|1', 'a little ahead: one second earlier it is denied');
is(at('2026-01-01 12:01:01+00', $one), 't|', 'a little ahead: then it is admitted');

#
# Far ahead, and then by the server's clock
#

for my $case ([ 'k1', 'three' ], [ 'k2', 'monthly' ])
{
	my ($key, $tier) = @$case;

	at('2030-01-01 00:00:00+00', sprintf($check, $key, $tier));
	is(sql("SELECT allowed, $close FROM tierlimit.check('$key', '$tier')"), 't|t', "$tier, far ahead: the next call is decided now");
	is(sql(sprintf $used, $key, $tier), '2', "$tier, far ahead: what was counted counts now");
	sql('SELECT tierlimit.log_flush()');
	is(sql("SELECT count(*) FROM tierlimit.request_log WHERE key = '$key' AND at > clock_timestamp()"),
		'0', "$tier, far ahead: in the log, too");
	is(differences(), '', "$tier, far ahead: usage is the sum of the log");
	sql("SELECT tierlimit.reset('$key'), tierlimit.reset('$key')") for 1 .. 2;
	is(sql("SELECT $close FROM tierlimit.check('$key', '$tier')"), 't', "$tier, far ahead: also after a reset");
	is(sql("SELECT $close FROM tierlimit.check('another', '$tier')"), 't', "$tier, far ahead: another key is not taken there");
}

# From the key to its address, and from there to another key.
my $authorize = "SELECT d.allowed FROM secret, tierlimit.authorize(secret, NULL, '192.0.2.1') d WHERE name = '%s';";
is(at('2030-01-01+00', sprintf $authorize, 'ann'), 't', 'address: a call of a key far ahead');
is(sql(sprintf("SELECT d.allowed, $close FROM secret, tierlimit.authorize(secret, NULL, '192.0.2.1') d WHERE name = '%s'", 'bob')),
	't|t', 'address: another key from there is decided now');
is(at('2030-01-01+00', sprintf $authorize, 'ann'), 't', 'address: back and forth');
is(sql(sprintf("SELECT d.allowed, $close FROM secret, tierlimit.authorize(secret, NULL, '192.0.2.1') d WHERE name = '%s'", 'ann')),
	't|t', 'address: the key itself');

# What was given back by the wrong clock was given back of what came before it.
at('2030-01-01+00', "SELECT tierlimit.check('order', 'three'), tierlimit.check('order', 'three');",
	"SELECT tierlimit.reset('order');", "SELECT tierlimit.check('order', 'three');");
is(sql(sprintf $used, 'order', 'three'), '1', 'order: a reset by the wrong clock');
is(sql("SELECT allowed, remaining FROM tierlimit.check('order', 'three')"), 't|1', 'order: keeps what came after it');
is(differences(), '', 'order: in the log, too');
$node->restart;
is(sql(sprintf $used, 'order', 'three'), '2', 'order: also after a restart');

# By the right clock, what was counted by the wrong one can be given back.
at('2030-01-01+00', "SELECT tierlimit.check('back 1', 'three', 1, NULL, 'id 1');", "SELECT tierlimit.check('back 2', 'three');");
is(sql("SELECT tierlimit.refund('back 1', request_id => 'id 1')"), '1', 'given back: a call of the wrong clock');
is(sql(sprintf $used, 'back 1', 'three'), '0', 'given back: is not counted any more');
sql("SELECT tierlimit.reset('back 2')");
is(sql(sprintf $used, 'back 2', 'three'), '0', 'given back: nor is one that was reset');
is(sql("SELECT allowed, remaining FROM tierlimit.check('back 2', 'three')"), 't|2', 'given back: the next call is the first one');
is(differences(), '', 'given back: usage is the sum of the log');

#
# A reset by the wrong clock, of one subject, and whoever else its calls counted for
#

sql(<<'SQL');
UPDATE tierlimit.tier_limit SET period = '1 hour', max = 20 WHERE tier = 'ip';
INSERT INTO secret SELECT name, tierlimit.create_key(name, 'three', account) FROM (VALUES ('cyd', NULL),
	('dan', NULL), ('eve', NULL), ('fay', 'acc'), ('gus', 'acc')) AS k (name, account);
SQL

# What a caller from an address is told: remaining, or "f".
sub from
{
	my ($address, @names) = @_;
	return map { "SELECT CASE WHEN d.allowed THEN d.remaining::text ELSE 'f' END
		FROM secret, tierlimit.authorize(secret, NULL, '$address') d WHERE name = '$_';" } @names;
}

# The key; the address, which others call from; and the account, by a second key.
for my $case ([ 'cyd', 'cyd', '192.0.2.2', '192.0.2.2' ], [ 'dan', 'dan', '192.0.2.3', '192.0.2.9' ],
	[ 'fay', 'gus', '192.0.2.4', '192.0.2.4' ])
{
	my ($key, $then, $address, $from) = @$case;
	my $test = "reset of $key, then $then from $from";

	at('2030-01-01+00', from($address, $key, $key), "SELECT tierlimit.reset('$key');", from($address, $key, $key));
	sql('SELECT tierlimit.log_flush()');
	is(sql("SELECT used FROM tierlimit.usage('$key')"), '2', "$test: two are counted");
	sql(join ' ', from($address, 'bob'));
	is(sql("SELECT used FROM tierlimit.usage('$key')"), '2', "$test: also when another has called from there");
	is(sql(join ' ', from($from, $then, $then)), "0\nf", "$test: one more is admitted");
	is(differences(), '', "$test: usage is the sum of the log");
	$node->restart;
	is(sql(join ' ', from($from, $then)), 'f', "$test: none after a restart");
	is(differences(), '', "$test: usage is the sum of the log after a restart");
}

# An address that is reset, and a key that calls by itself.
at('2030-01-01+00', from('192.0.2.5', 'eve'), "SELECT tierlimit.reset('192.0.2.5');", from('192.0.2.5', 'eve', 'eve'));
is(sql("SELECT used FROM tierlimit.usage('192.0.2.5')"), '2', 'reset of an address: two are counted');
sql("SELECT tierlimit.check('eve')");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT used FROM tierlimit.usage('192.0.2.5')"), '2', 'reset of an address: also after a call of the key');
is(differences(), '', 'reset of an address: usage is the sum of the log');
$node->restart;
is(sql("SELECT used FROM tierlimit.usage('192.0.2.5')"), '2', 'reset of an address: and after a restart');

#
# How old a request_id is does not depend on the clock
#

sql("ALTER SYSTEM SET tierlimit.request_memory = '2s'");
$node->reload;
at('2030-01-01+00', "SELECT tierlimit.check('id 2', 'three', 1, NULL, 'q');");
sql("SELECT tierlimit.check('id 2', 'three')");
sql('SELECT pg_sleep(2.5)');
is(sql("SELECT allowed, repeated FROM tierlimit.check('id 2', 'three', 1, NULL, 'q')"), 't|f', 'request_id: of a clock that was ahead');
sql('ALTER SYSTEM RESET tierlimit.request_memory');
$node->reload;
sql("SELECT set_config('tierlimit.now', (clock_timestamp() - interval '11 minutes')::text, false);
	SELECT tierlimit.check('id 3', 'three', 1, NULL, 'q')");
is(sql("SELECT allowed, repeated FROM tierlimit.check('id 3', 'three', 1, NULL, 'q')"), 't|t', 'request_id: of a clock that was behind');

#
# Rows of the future, of a server whose clock was ahead
#

# One that forgets all before, with zeros, comes into a minute that has a sum.
sql("INSERT INTO tierlimit.tier VALUES ('big'); INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('big', 'year', '360 days', 1000000)");
sql("SELECT count(*) FROM generate_series(1, 2000) i, tierlimit.check('summed', 'big', i)");
sql('SELECT tierlimit.log_flush()');
sql("INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits, shadow_code) VALUES
	(now() + interval '90 minutes', 'summed', 'big', 0, 0, 0, 0), (now() + interval '91 minutes', 'summed', 'big', 0, 1, 1, NULL)");
sql("SELECT tierlimit._sum_log(now() + interval '2 hours')");
$node->restart;
is(sql("SELECT remaining FROM tierlimit.check('summed', 'big')"), '999998', 'a sum: what comes after is counted');

# Five minutes pass: sums are for minutes before the newest calls.
sql('SELECT tierlimit.log_flush()');
sql("UPDATE tierlimit.request_log SET at = at - interval '5 minutes' WHERE key = 'summed';
	UPDATE tierlimit.usage_minute SET minute = minute - interval '5 minutes', last_at = last_at - interval '5 minutes'
	WHERE subject = 'summed'");
sql("SELECT count(*) FROM generate_series(1, 1100) i, tierlimit.check('summed', 'big', i)");
sql('SELECT tierlimit.log_flush()');
$node->restart;
is(sql("SELECT used FROM tierlimit.usage('summed', 'big')"), '1102', 'a sum: and nothing else, also after a restart');

# Numbers that have no opposite.
sql("INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits) VALUES
	(now() + interval '3 days', 'min', 'three', 0, -1, -9223372036854775808),
	(now() + interval '3 days', 'min', 'three', 0, -2147483648, -1)");
is(sql("SELECT allowed FROM tierlimit.check('min', 'three')"), 't', 'log: the smallest numbers');
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT count(*) FROM tierlimit.request_log WHERE at > now() + interval '1 day'"), '0', 'log: the smallest numbers are brought home');

# At infinity, with an id.
sql("INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits, request_id)
	VALUES ('infinity', 'inf', 'three', 0, 1, 1, 'x')");
is(sql("SELECT tierlimit.refund('inf', request_id => 'x')"), '0', 'log: a call at infinity is not known');
is(sql("SELECT allowed, repeated FROM tierlimit.check('inf', 'three', 1, NULL, 'x')"), 't|f', 'log: nor repeated');

sql(<<'SQL');
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
SELECT clock_timestamp() + later, key, 'three', 0, 1, 1
FROM (VALUES ('days', interval '-1 hour'), ('days', '3 days'), ('days', '1000 days'), ('soon', '0.5 seconds')) AS r (key, later);
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits) VALUES ('infinity', 'for ever', 'three', 0, 2, 2);
SQL
is(sql("SELECT allowed FROM tierlimit.peek('days', 'three')"), 'f', 'log: peek counts rows of the future');
is(sql("SELECT allowed, retry_after BETWEEN 82790 AND 82800 FROM tierlimit.check('days', 'three')"), 'f|t',
	'log: they count, as of now');
is(sql("SELECT allowed, $close FROM tierlimit.check('for ever', 'three')"), 't|t', 'log: rows at infinity do no harm');
is(sql("SELECT used FROM tierlimit.usage('soon', 'three')"), '1', 'log: a moment later');
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT count(*), sum(requests) FROM tierlimit.request_log WHERE key = 'days' AND error_code = 0 AND at <= clock_timestamp()"),
	'3|3', 'log: the rows are brought to the time when they were found');
is(differences(), '', 'log: usage is the sum of the log');
$node->restart;
is(sql("SELECT allowed, retry_after BETWEEN 82780 AND 82800 FROM tierlimit.check('days', 'three')"), 'f|t', 'after a restart: the same');
is(differences(), '', 'after a restart: usage is the sum of the log');

# verify() of a calendar window whose period a row is later than.
sql("SELECT tierlimit.check('month', 'monthly')");
sql('SELECT tierlimit.log_flush()');
sql("INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	VALUES (clock_timestamp() + '1 second', 'month', 'monthly', 0, 1, 1), (clock_timestamp() + '40 days', 'month', 'monthly', 0, 1, 1)");
is(sql("SELECT limit_name IS NOT NULL, counted FROM tierlimit.verify('month')"), 't|1', 'verify: survives rows of the future');

$node->stop;
done_testing();
