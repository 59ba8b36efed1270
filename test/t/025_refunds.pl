# What is given back is the same whatever is in memory, and of the key that it is
# given back to; and a call that is named goes from wherever it was charged.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('log_statement = none');

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('a'), ('b'), ('both'), ('ip'), ('month');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit, kind) VALUES
	('a', 'minute', '1 minute', 10, 'requests', 'sliding'), ('b', 'day', '1 day', 10, 'requests', 'sliding'),
	('both', 'hour', '1 hour', 100, 'requests', 'sliding'), ('both', 'credits', '1 hour', 1000, 'credits', 'sliding'),
	('ip', 'hour', '1 hour', 100, 'requests', 'sliding'), ('month', 'month', '1 month', 10, 'requests', 'calendar');
CREATE TABLE secret (name text, secret text);
INSERT INTO secret SELECT name, tierlimit.create_key(name, 'both', account) FROM (VALUES
	('alone', NULL), ('k1', 'acme'), ('k2', 'acme')) AS k (name, account);
SQL

sub used
{
	my ($key, $tier) = @_;
	return sql(sprintf("SELECT string_agg(used::text, ' ' ORDER BY unit DESC) FROM tierlimit.usage('%s', %s)",
		$key, defined $tier ? "'$tier'" : 'NULL'));
}

# forget(): the server starts, so that all is in the log only.
sub forget
{
	$node->restart;
	return;
}

#
# Under another tier
#

for my $forgotten (0, 1)
{
	my $key = "moved $forgotten";
	my $test = $forgotten ? 'moved, after a restart' : 'moved';

	sql("INSERT INTO tierlimit.api_key (name, tier) VALUES ('$key', 'b')");
	sql("SELECT count(*) FROM tierlimit.check_many(array_fill('$key'::text, '{10}'))");
	sql("UPDATE tierlimit.api_key SET tier = 'a' WHERE name = '$key'");
	forget() if $forgotten;
	is(sql("SELECT tierlimit.refund('$key', 3, 3)"), '3', "$test: a refund gives what was counted under any tier");
	is(used($key, 'b'), '7', "$test: it is given back under both");
	sql('SELECT tierlimit.log_flush()');
	forget() if $forgotten;
	is(sql("SELECT tierlimit.reset('$key')"), '', "$test: a reset");
	forget() if $forgotten;
	is(used($key), '0', "$test: nothing is counted under its tier");
	is(used($key, 'b'), '0', "$test: nor under the one of before");
	is(differences(), '', "$test: usage is the sum of the log");
}

#
# Of keys of one account
#

for my $forgotten (0, 1)
{
	my $test = $forgotten ? 'account, after a restart' : 'account';

	sql("SELECT tierlimit.reset('k1')");
	sql("SELECT tierlimit.check('k1', NULL, 5), tierlimit.check('k2', NULL, 7), tierlimit.check('k2', NULL, 7)");
	forget() if $forgotten;
	is(sql("SELECT tierlimit.refund('k1', 100, 100)"), '5', "$test: a key gives back what is its own");
	is(used('k2'), '2 14', "$test: and nothing of another's");
	is(sql("SELECT tierlimit.refund('k1', 100, 100)"), '0', "$test: and no more");
	is(sql("SELECT tierlimit.refund('k2', 7, 1)"), '7', "$test: the other one");
	is(used('k1'), '1 7', "$test: what is left");
	is(differences(), '', "$test: usage is the sum of the log");
}
sql("SELECT tierlimit.check('k1', NULL, 5)");
sql("SELECT tierlimit.reset('k2')");
is(used('k1'), '0 0', 'account: a reset is of all its keys');
forget();
is(used('k1'), '0 0', 'account: also after a restart');

#
# By request_id: a call goes from wherever it was charged
#

my $authorize = "SELECT d.allowed FROM secret, tierlimit.authorize(secret, '/x', '192.0.2.1', %d, '%s') d WHERE name = '%s'";

for my $forgotten (0, 1)
{
	for my $key ('alone', 'k1')
	{
		my $test = "request of $key" . ($forgotten ? ', after a restart' : '');
		my $id = "id $key $forgotten";
		my $of_address = "SELECT sum(requests) FROM tierlimit.request_log WHERE error_code = 0 AND ip = '192.0.2.1'";

		sql("SELECT tierlimit.reset('$key')");
		sql('SELECT tierlimit.log_flush()');
		my $before = sql($of_address) || 0;
		sql(sprintf $authorize, 5, $id, $key);
		sql(sprintf $authorize, 7, "$id later", $key);
		forget() if $forgotten;
		is(sql("SELECT tierlimit.refund('$key', request_id => '$id')"), '5', "$test: it is given back, whole");
		is(used($key), '1 7', "$test: the later one stays");
		is(sql("SELECT tierlimit.refund('$key', request_id => '$id')"), '0', "$test: twice gives back once");
		is(sql("SELECT tierlimit.refund('$key', request_id => 'another')"), '0', "$test: nor is one that never was");
		sql('SELECT tierlimit.log_flush()');
		is(sql($of_address), $before + 1, "$test: the address has it back, too");
		is(sql("SELECT requests, credits, endpoint, ip FROM tierlimit.request_log WHERE request_id = '$id' AND requests < 0"),
			'-1|-5|/x|192.0.2.1', "$test: the log says so");
		forget() if $forgotten;
		is(used($key), '1 7', "$test: after that");
		is(sql(sprintf($authorize, 5, $id, $key) =~ s/d.allowed/d.allowed, d.repeated/r), 't|f', "$test: who repeats it is charged");
		is(sql(sprintf($authorize, 5, $id, $key) =~ s/d.allowed/d.allowed, d.repeated/r), 't|t', "$test: once");
		is(used($key), '2 12', "$test: that is counted");
		is(differences(), '', "$test: usage is the sum of the log");
	}
}

# The address has all of it back, also if the key was given back a part before, or all;
# and no more than all, if the address was.
sql("INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES ('ip', 'credits', '1 hour', 1000, 'credits')");
for my $case ([ 'a part of the key', "'alone', 2, 0", 3 ], [ 'the request of the key', "'alone', 0, 1", 5 ],
	[ 'all of the key', "'alone', 5, 1", 0 ], [ 'a part of the address', "'192.0.2.9', 2, 0", 5 ])
{
	for my $forgotten (0, 1)
	{
		my ($what, $first, $left) = @$case;
		my $test = "whole, after $what" . ($forgotten ? ' and a restart' : '');

		sql("SELECT tierlimit.reset('alone'); SELECT tierlimit.reset('192.0.2.9')");
		sql(sprintf($authorize, 3, "$test, older", 'alone') =~ s/192.0.2.1/192.0.2.9/r);
		sql(sprintf($authorize, 5, $test, 'alone') =~ s/192.0.2.1/192.0.2.9/r);
		sql("SELECT tierlimit.refund($first)");
		forget() if $forgotten;
		is(sql("SELECT tierlimit.refund('alone', request_id => '$test')"), $left, "$test: the key has the rest back");
		is(sql("SELECT tierlimit.refund('alone', request_id => '$test')"), '0', "$test: twice gives back once");
		for my $then ('at once', 'later')
		{
			is(used('alone'), '1 3', "$test: the key counts the other call, $then");
			is(used('192.0.2.9', 'ip'), '1 3', "$test: so does the address, $then");
			forget() if $forgotten;
		}
		is(differences(), '', "$test: usage is the sum of the log");
	}
}
sql("DELETE FROM tierlimit.tier_limit WHERE (tier, name) = ('ip', 'credits')");

# At its own time: what comes after it stays for as long as it would have.
sql("SET tierlimit.now = '2026-01-01 12:00:00+00'; SELECT tierlimit.check('timed', 'both', 1, NULL, 'first');
	SET tierlimit.now = '2026-01-01 12:30:00+00'; SELECT tierlimit.check('timed', 'both', 1, NULL, 'second');
	SET tierlimit.now = '2026-01-01 12:40:00+00'; SELECT tierlimit.refund('timed', request_id => 'first')");
is(sql("SET tierlimit.now = '2026-01-01 12:50:00+00'; SELECT used, resets_at = '2026-01-01 13:30:00+00' FROM tierlimit.usage('timed', 'both') WHERE unit = 'requests'"),
	'1|t', 'by request: a call is given back at its own time');

# One that was given back without its name is not known any more, either.
is(sql("SELECT allowed, repeated FROM tierlimit.check('unnamed', 'both', 3, NULL, 'x')"), 't|f', 'unnamed: a call');
is(sql("SELECT tierlimit.refund('unnamed', 3)"), '3', 'unnamed: is given back');
is(sql("SELECT allowed, repeated FROM tierlimit.check('unnamed', 'both', 3, NULL, 'x')"), 't|f', 'unnamed: repeated, it is charged');
is(sql("SELECT allowed, repeated FROM tierlimit.check('unnamed', 'both', 3, NULL, 'x')"), 't|t', 'unnamed: once');
is(used('unnamed', 'both'), '1 3', 'unnamed: that is counted');

# A named call gives back what is left of it.
sql("SELECT tierlimit.check('left', 'both', 1, NULL, 'z1'), tierlimit.check('left', 'both', 5, NULL, 'z2')");
is(sql("SELECT tierlimit.refund('left', 3, 0)"), '3', 'left: a part of a call is given back unnamed');
is(sql("SELECT tierlimit.refund('left', request_id => 'z2')"), '2', 'left: then the rest of it by its name');
is(sql("SELECT tierlimit.refund('left', request_id => 'z2')"), '0', 'left: and no more');
is(used('left', 'both'), '1 1', 'left: the other one stays');
sql("SELECT tierlimit.reset('left')");
is(sql("SELECT tierlimit.refund('left', request_id => 'z1')"), '0', 'left: nothing after a reset');
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests), sum(credits) FROM tierlimit.request_log WHERE key = 'left'"), '0|0', 'left: the log says so');

# Rows that somebody else has written.
sql("INSERT INTO tierlimit.request_log (at, key, account, tier, error_code, requests, credits, request_id)
	SELECT clock_timestamp(), 'foreign', account, 'both', 0, 1, 1, 'id ' || length(account) FROM (VALUES (''), (repeat('a', 300))) AS a (account)");
for my $length (0, 300)
{
	is(sql("SELECT tierlimit.refund('foreign', request_id => 'id $length')"), '0', "foreign: an account of $length bytes is not ours to refund");
	is(sql("SELECT allowed FROM tierlimit.check('foreign', 'both', 1, NULL, 'id $length')"), 't', "foreign: nor is it in the way of a call");
}

#
# What was counted in a calendar period that is over
#

sql("INSERT INTO tierlimit.api_key (name, tier) VALUES ('monthly', 'month');
	SET tierlimit.now = '2026-01-31 23:59:00+00'; SELECT tierlimit.check('monthly'), tierlimit.check('monthly');
	SET tierlimit.now = '2026-02-01 00:01:00+00'; SELECT tierlimit.check('monthly')");
is(sql("SET tierlimit.now = '2026-02-01 00:02:00+00'; SELECT tierlimit.refund('monthly', 5, 5)"), '1',
	'period: only what was counted in the running one is given back');

# Of an address, too, by the limits of addresses; where there are none, by those of
# callers without a key.
my $at_midnight = "SELECT allowed FROM tierlimit.authorize(%s, NULL, '203.0.113.4', 5);
	SET tierlimit.now = '2026-02-02 00:01:00+00'; SELECT tierlimit.refund('203.0.113.4', 5);
	SELECT allowed FROM tierlimit.authorize(%s, NULL, '203.0.113.4', 2); SELECT tierlimit.refund('203.0.113.4', 5)";
for my $tier ('ip', 'anonymous')
{
	my $secret = $tier eq 'ip' ? "'" . sql("SELECT secret FROM secret WHERE name = 'alone'") . "'" : 'NULL';

	sql("UPDATE tierlimit.tier SET name = 'no ip' WHERE name = 'ip'; INSERT INTO tierlimit.tier VALUES ('$tier');
		INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit, kind) VALUES ('$tier', 'day', '1 day', 10, 'credits', 'calendar')");
	is(sql("SET tierlimit.now = '2026-02-01 23:59:00+00';" . sprintf($at_midnight, $secret, $secret)), "t\n0\nt\n2",
		"period of the tier $tier: only what was counted in the running one is given back");
	sql("DELETE FROM tierlimit.tier WHERE name = '$tier'; UPDATE tierlimit.tier SET name = 'ip' WHERE name = 'no ip'");
}

#
# Of an address
#

sql("INSERT INTO tierlimit.tier VALUES ('anonymous');
	INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('anonymous', 'hour', '1 hour', 50)");
for my $case ([ '198.51.100.7', '198.51.100.7' ], [ '2001:db8:1:2:3::9', '2001:db8:1:2::/64' ])
{
	my ($ip, $name) = @$case;
	my $of = "SELECT string_agg(used::text, ' ' ORDER BY u.limit) FROM tierlimit.usage('$name') u";

	sql("SELECT tierlimit.authorize(NULL, '/x', '$ip'), tierlimit.authorize(NULL, '/x', '$ip')");
	sql("SELECT tierlimit.authorize(secret, '/x', '$ip') FROM secret WHERE name = 'alone'");
	is(sql($of), '2 3', "$name: counts calls with a key and without");
	is(sql("SELECT count(*), sum(difference) FROM tierlimit.verify('$name')"), '2|0', "$name: can be verified");
	is(sql("SELECT tierlimit.refund('$name')"), '1', "$name: the newest call is given back");
	is(sql($of), '1 2', "$name: both have one call less");
	forget();
	is(sql($of), '1 2', "$name: the same after a restart");
	sql("SELECT tierlimit.reset('$name')");
	is(sql($of), '0 0', "$name: a reset");
	forget();
	is(sql($of), '0 0', "$name: also after a restart");
}

# A call that is named, of who has no key: it goes from both, and is not known any more.
# Another caller may use the same id, from another address or with a key.
for my $forgotten (0, 1)
{
	my $test = $forgotten ? 'anonymous, after a restart' : 'anonymous';
	my ($ip, $name) = $forgotten ? ('2001:db8:7:7::1', '2001:db8:7:7::/64') : ('203.0.113.5', '203.0.113.5');
	my $of = "SELECT string_agg(used::text, ' ' ORDER BY u.limit) FROM tierlimit.usage('%s') u";
	my $call = "SELECT allowed, repeated FROM tierlimit.authorize(%s, '/x', '%s', %d, 'anonymous $forgotten')";

	is(sql(sprintf $call, 'NULL', $ip, 7), 't|f', "$test: a call");
	is(sql(sprintf $call, 'NULL', '203.0.113.6', 3), 't|f', "$test: one of another address with that id");
	sql(sprintf($call, "'" . sql("SELECT secret FROM secret WHERE name = 'k1'") . "'", $ip, 5));
	forget() if $forgotten;
	is(sql("SELECT tierlimit.refund('$name', request_id => 'anonymous $forgotten')"), '7', "$test: it is given back, whole");
	is(sql("SELECT tierlimit.refund('$name', request_id => 'anonymous $forgotten')"), '0', "$test: twice gives back once");
	is(sql("SELECT tierlimit.refund('$name', request_id => 'another')"), '0', "$test: nor is one that never was");
	for my $then ('at once', 'after that')
	{
		is(sql(sprintf $of, $name), '0 1', "$test: neither counts it, but the address counts that of the key, $then");
		is(sql(sprintf $of, '203.0.113.6'), '1 1', "$test: nor is the other one given back, $then");
		forget() if $forgotten;
	}
	is(sql(sprintf $call, 'NULL', $ip, 7), 't|f', "$test: who repeats it is charged");
	is(sql(sprintf $call, 'NULL', $ip, 7), 't|t', "$test: once");
	is(sql(sprintf $of, $name), '1 2', "$test: that is counted");
	is(sql(sprintf $call, 'NULL', '203.0.113.6', 3), 't|t', "$test: the other one is known");
	is(sql("SELECT sum(difference) FROM tierlimit.verify('$name')"), '0', "$test: memory and log agree");
	sql("SELECT tierlimit.reset('203.0.113.6')");
}

# Nor is it known when it was given back unnamed, or reset.
for my $back ('refund', 'reset')
{
	my $call = "SELECT allowed, repeated FROM tierlimit.authorize(NULL, '/x', '203.0.113.7', 1, 'by $back')";

	is(sql($call), 't|f', "$back of an address: a call");
	sql("SELECT tierlimit.$back('203.0.113.7')");
	is(sql($call), 't|f', "$back of an address: repeated, it is charged");
	is(sql($call), 't|t', "$back of an address: once");
	sql("SELECT tierlimit.$back('203.0.113.7')");
	forget();
	is(sql($call), 't|f', "$back of an address: repeated after a restart, it is charged");
	is(sql("SELECT string_agg(used::text, ' ') FROM tierlimit.usage('203.0.113.7')"), '1 1', "$back of an address: that is counted");
}

#
# Large numbers
#

sql("INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT clock_timestamp() - i * interval '1 second', 'large', 'both', 0, 2000000000, 9000000000000000000 FROM generate_series(1, 3) i");
is(used('large', 'both'), '6000000000 9223372036854775807', 'large: it is counted');
sql("SELECT tierlimit.reset('large')");
sql('SELECT tierlimit.log_flush()');
is(used('large', 'both'), '0 0', 'large: and reset');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'large'"), '0', 'large: the log has as many back');
forget();
is(used('large', 'both'), '0 0', 'large: also after a restart');
is(differences(), '', 'large: usage is the sum of the log');

$node->stop;
done_testing();
