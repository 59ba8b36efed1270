# What is counted belongs to one database, and to the extension as it was
# created there: it ends with them, and only with them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('max_prepared_transactions = 2');

# Install the extension with one tier and one registered key.
sub install
{
	my ($database, $max) = @_;
	$node->safe_psql($database, <<SQL);
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('tier');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('tier', 'hour', '1 hour', $max);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('acme', 'tier', NULL), ('member', 'tier', 'acme');
SQL
}

# Use each of the two keys, and a hundred that are not registered, this often.
sub call
{
	my ($database, $times) = @_;
	$node->safe_psql($database, <<SQL);
SELECT count(*) FROM tierlimit.check_many(
	(SELECT array_agg('key ' || i % 100) || array_fill('acme'::text, '{$times}') ||
		array_fill('member'::text, '{$times}') FROM generate_series(1, 100 * $times) i), 'tier')
SQL
}

# Used and limit: of the two keys, one with an account of the other's name, and
# of one that is not registered.
sub usage
{
	my ($database) = @_;
	return $node->safe_psql($database, q{
		SELECT string_agg(used || '/' || "limit", ' ')
		FROM unnest('{acme,member,key 7}'::text[]) key, tierlimit.usage(key, 'tier')});
}

$node->safe_psql('postgres', 'CREATE EXTENSION tierlimit');

$node->safe_psql('postgres', 'CREATE DATABASE a');
install('a', 100);
call('a', 1);
is(usage('a'), '1/100 1/100 1/100', 'first database: a key, an account of the same name, a key');

$node->safe_psql('postgres', 'CREATE DATABASE b');
install('b', 200);
is(usage('b'), '0/200 0/200 0/200', 'second database: nothing is counted yet');
call('b', 2);
is(usage('b'), '2/200 2/200 2/200', 'second database: has its own tiers and counts');
is(usage('a'), '1/100 1/100 1/100', 'first database: is not touched by the second');

$node->safe_psql('postgres', 'CREATE DATABASE c TEMPLATE a');
is(usage('c'), '1/100 1/100 1/100', 'copied database: has the tiers, the keys and the log');
call('c', 3);
is(usage('c'), '4/100 4/100 4/100', 'copied database: goes on counting');
is(usage('a'), '1/100 1/100 1/100', 'copied database: its template is not touched');

#
# Drops
#

$node->safe_psql('postgres', 'DROP DATABASE c');
$node->safe_psql('postgres', 'DROP DATABASE b');
is(usage('a'), '1/100 1/100 1/100', 'DROP DATABASE leaves the counts of others');

my $session = $node->background_psql('a', on_error_stop => 0);

for my $kept (
	'BEGIN; DROP EXTENSION tierlimit; ROLLBACK',
	'BEGIN; SAVEPOINT s; DROP EXTENSION tierlimit; ROLLBACK TO s; COMMIT',
	'BEGIN; SAVEPOINT s; DROP SCHEMA tierlimit CASCADE; ROLLBACK TO s; COMMIT',
	"BEGIN; DROP EXTENSION tierlimit; PREPARE TRANSACTION 'drop'; ROLLBACK PREPARED 'drop'",
	'BEGIN; CREATE TABLE tier (); DROP TABLE tier; COMMIT')
{
	$session->query("SET client_min_messages = warning; $kept");
	is(usage('a'), '1/100 1/100 1/100', "$kept: keeps the counts");
}
is($session->query_safe("SELECT used FROM tierlimit.usage('acme')"),
	'1', 'rolled back drops: the session that tried goes on');

for my $dropped (
	'DROP EXTENSION tierlimit',
	'BEGIN; SAVEPOINT s; DROP EXTENSION tierlimit; RELEASE s; COMMIT',
	'DROP SCHEMA tierlimit CASCADE')
{
	$session->query("SET client_min_messages = warning; $dropped");
	my ($status, $stdout, $stderr) =
	  $node->psql('a', "SELECT * FROM tierlimit.check('acme')");
	like($stderr, qr/ERROR:  .*tierlimit.* does not exist/, "$dropped: nothing is left");

	install('a', 50);
	is(usage('a'), '0/50 0/50 0/50', "$dropped, CREATE EXTENSION: counts start anew");
	is($session->query_safe("SELECT allowed, \"limit\", remaining FROM tierlimit.check('acme')"),
		't|50|49', "$dropped, CREATE EXTENSION: a session from before sees the new one");
	call('a', 1);
	is(usage('a'), '2/50 1/50 1/50', "$dropped, CREATE EXTENSION: counts");
}

$session->query("BEGIN; DROP EXTENSION tierlimit; PREPARE TRANSACTION 'drop'; COMMIT PREPARED 'drop'");
install('a', 60);
is(usage('a'), '0/60 0/60 0/60', 'a prepared DROP EXTENSION: counts start anew');

$session->quit;
$node->safe_psql('postgres', 'DROP DATABASE a');

$node->stop;
done_testing();
