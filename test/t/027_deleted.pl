# A key that is deleted and made anew starts afresh, whatever happens in between;
# and the log keeps what the old one has used.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

# So few slots that a large limit of a day is made of sums of minutes.
my $node = start_node(<<'CONF', name => 'primary', allows_streaming => 1);
max_prepared_transactions = 2
tierlimit.window_slots = 16
CONF

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('plan');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('plan', 'hour', '1 hour', 10), ('plan', 'day', '1 day', 1000);
SQL

# What is left of the hour's ten, before another call of the key.
sub left
{
	my ($key) = @_;
	return sql("SELECT remaining FROM tierlimit.usage('$key', 'plan') WHERE limit_name = 'hour'");
}

# Register a key and have it called six times.
sub use_key
{
	my ($key) = @_;
	sql(<<"SQL");
INSERT INTO tierlimit.api_key (name, tier) VALUES ('$key', 'plan');
SELECT count(*) FROM generate_series(1, 6) i, tierlimit.check('$key', cost => i);
SELECT tierlimit.log_flush();
SQL
	return;
}

my $delete = sub { "DELETE FROM tierlimit.api_key WHERE name = '$_[0]'" };
my $insert = sub { "INSERT INTO tierlimit.api_key (name, tier) VALUES ('$_[0]', 'plan')" };

# The deletions that hold, and those that are undone.
my %ends = (
	'two transactions' => [ 9, sub { sql($delete->($_[0])); sql($insert->($_[0])) } ],
	'one transaction' => [ 9, sub { sql('BEGIN;' . $delete->($_[0]) . ';' . $insert->($_[0]) . ';COMMIT') } ],
	'a trigger that does not wait for COMMIT' => [ 9, sub {
		sql('BEGIN; SET CONSTRAINTS ALL IMMEDIATE;' . $delete->($_[0]) . ';' . $insert->($_[0]) . '; COMMIT') } ],
	'not made anew' => [ 9, sub { sql($delete->($_[0])) } ],
	'a prepared transaction' => [ 9, sub {
		sql('BEGIN;' . $delete->($_[0]) . ";PREPARE TRANSACTION 'deletes'");
		is(left($_[0]), 4, 'prepared: nothing is forgotten yet');
		sql("COMMIT PREPARED 'deletes'") } ],
	'a prepared transaction that is rolled back' => [ 3, sub {
		sql('BEGIN;' . $delete->($_[0]) . ";PREPARE TRANSACTION 'deletes'");
		sql("ROLLBACK PREPARED 'deletes'") } ],
	'ROLLBACK' => [ 3, sub { sql('BEGIN;' . $delete->($_[0]) . '; ROLLBACK') } ],
	'ROLLBACK TO SAVEPOINT' => [ 3, sub {
		sql('BEGIN; SAVEPOINT s;' . $delete->($_[0]) . '; ROLLBACK TO s; COMMIT') } ],
	'an update' => [ 3, sub { sql("UPDATE tierlimit.api_key SET description = '' WHERE name = '$_[0]'") } ],
	'a role that may only delete' => [ 9, sub {
		sql('DROP ROLE IF EXISTS deleter; CREATE ROLE deleter; GRANT USAGE ON SCHEMA tierlimit TO deleter;'
			. 'GRANT SELECT, DELETE ON tierlimit.api_key TO deleter; SET ROLE deleter;'
			. $delete->($_[0]) . '; RESET ROLE; DROP OWNED BY deleter; DROP ROLE deleter') } ],
);

my $n = 0;
for my $after ('', ', a crash', ', a restart')
{
	for my $end (sort keys %ends)
	{
		my ($left, $do) = @{ $ends{$end} };
		my $key = 'key ' . ++$n;

		use_key($key);
		$do->($key);
		if ($after eq ', a crash')
		{
			$node->stop('immediate');
			$node->start;
		}
		elsif ($after eq ', a restart')
		{
			$node->restart;
		}
		is(sql("SELECT remaining FROM tierlimit.check('$key', 'plan')"), $left, "$end$after");
	}
}
is(differences(), '', 'memory and log agree');
is(sql("SELECT count(*) FROM (SELECT key FROM tierlimit.request_log GROUP BY key HAVING sum(requests) <> 7) k"),
	'0', 'what was used stays in the log, for bills');

#
# Sums of minutes, which stand for the rows of a minute that is over: one in which the
# key was deleted has none, whichever came first.  The newest calls, which are read one
# by one, are of a later minute.
#

for my $summed ('before', 'after')
{
	my $minute = sql("SELECT date_trunc('minute', now(), 'UTC') + interval '1 hour'");
	my $at = sub { "SET tierlimit.now = '" . sql("SELECT timestamptz '$minute' + interval '$_[0] seconds'") . "';" };
	my $sum = "SELECT tierlimit._sum_log('$minute'::timestamptz + interval '1 minute')";
	my $used = $at->(180) . "SELECT used FROM tierlimit.usage('summed', 'large')";
	my $database = "summed_$summed";
	my $test = "summed up $summed the deletion";

	sql("CREATE DATABASE $database");
	sql(<<'SQL', $database);
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('large');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('large', 'day', '1 day', 1000);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('summed', 'large');
SQL
	sql($at->(10) . "SELECT count(*) FROM generate_series(1, 100) i, tierlimit.check('summed', cost => i)", $database);
	sql('SELECT tierlimit.log_flush()', $database);
	sql($sum, $database) if $summed eq 'before';
	is(sql("SELECT sum(requests) FROM tierlimit.usage_minute WHERE subject = 'summed'", $database),
		$summed eq 'before' ? '100' : '', "$test: the sum of the minute before it");
	sql($at->(20) . $delete->('summed'), $database);
	sql($at->(120) . "SELECT count(*) FROM generate_series(1, 30) i, tierlimit.check('summed', 'large', i)", $database);
	sql('SELECT tierlimit.log_flush()', $database);
	sql($sum, $database) if $summed eq 'after';
	is(sql($used, $database), '30', "$test: what came before is forgotten");
	$node->restart;
	is(sql($used, $database), '30', "$test: and after a restart");
}

use_key('at once');
sql($delete->('at once'));
is(sql("BEGIN; INSERT INTO tierlimit.api_key (name, tier) VALUES ('at once', 'plan');
	SELECT remaining FROM tierlimit.check('at once'); COMMIT"), '9', 'called by the transaction that makes it anew');

# Other transactions run: an older one, and one that deletes the key once more.
use_key('busy');
sql($delete->('busy') . ';' . $insert->('busy'));
my $older = $node->background_psql('postgres');
$older->query_safe('BEGIN; CREATE TABLE unrelated ()');
is(sql("SELECT remaining FROM tierlimit.check('busy')"), '9', 'an older transaction runs: starts afresh');
sql($delete->('busy'));
sql($insert->('busy'));
is(sql("SELECT remaining FROM tierlimit.check('busy')"), '9', 'an older transaction runs: starts afresh again');
sql($delete->('busy'));
sql($insert->('busy'));
my $again = $node->background_psql('postgres');
$again->query_safe('BEGIN;' . $delete->('busy'));
is(sql("SELECT remaining FROM tierlimit.check('busy')"), '9', 'another deletion is open: starts afresh');
is(sql("SELECT remaining FROM tierlimit.check('busy')"), '8', 'another deletion is open: counts');
$again->query_safe('COMMIT');
is(left('busy'), 10, 'it ends: forgotten');
$older->query_safe('ROLLBACK');
is(left('busy'), 10, 'all have ended: forgotten');
$_->quit for $older, $again;
is(differences(), '', 'other transactions: memory and log agree');

# A transaction that is prepared outlives a restart.
use_key('prepared');
sql('BEGIN;' . $delete->('prepared') . ";PREPARE TRANSACTION 'deletes'");
$node->restart;
is(sql("SELECT remaining FROM tierlimit.check('prepared')"), '3', 'prepared, a restart: still counted');
sql("COMMIT PREPARED 'deletes'");
sql($insert->('prepared'));
is(sql("SELECT remaining FROM tierlimit.check('prepared')") > 7, 1, 'prepared, a restart, committed: starts afresh');

#
# Sessions that know the key by its secret only
#

my $secret = sql("SELECT tierlimit.create_key('secret', 'plan')");
sql("SELECT count(*) FROM generate_series(1, 6) i, tierlimit.authorize('$secret', cost => i)");
my $session = $node->background_psql('postgres');
is($session->query_safe("SELECT remaining FROM tierlimit.authorize('$secret')"), '3', 'secret: in use');
my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; DELETE FROM tierlimit.api_key WHERE name = 'secret'");
is($session->query_safe("SELECT remaining FROM tierlimit.authorize('$secret')"),
	'2', 'secret: in use while a transaction deletes it');
$open->query_safe('COMMIT');
is($session->query_safe("SELECT error_code FROM tierlimit.authorize('$secret')"), '1001', 'secret: deleted');
$secret = sql("SELECT tierlimit.create_key('secret', 'plan')");
is($session->query_safe("SELECT remaining FROM tierlimit.authorize('$secret')"), '9', 'secret: made anew');
$open->quit;
$session->quit;

#
# All keys at a time
#

use_key("all $_") for 1 .. 3;
sql('BEGIN; TRUNCATE tierlimit.api_key; ROLLBACK');
is(left('all 1'), 4, 'TRUNCATE, ROLLBACK');
sql('TRUNCATE tierlimit.api_key');
is(left("all $_"), 10, "TRUNCATE: key $_ of 3") for 1 .. 3;
$node->restart;
is(left("all $_"), 10, "TRUNCATE, a restart: key $_ of 3") for 1 .. 3;

#
# A clock that was ahead for some calls
#

use_key('ahead');
sql("SELECT tierlimit.log_flush(); UPDATE tierlimit.request_log SET at = at + interval '10 days' WHERE key = 'ahead'");
$node->restart;
sql($delete->('ahead'));
is(left('ahead'), 10, 'rows of the future: forgotten, too');
sql($insert->('ahead'));
is(sql("SELECT string_agg(remaining::text, ' ') FROM generate_series(1, 3) i, tierlimit.check('ahead', cost => i)"),
	'9 8 7', 'rows of the future: calls count from then on');
sql('SELECT tierlimit.log_flush()');
$node->restart;
is(left('ahead'), 7, 'rows of the future: and after a restart');

#
# Deleted and made anew under load: memory never says what the log does not
#

my $load = join("\n", map { "SELECT FROM tierlimit.check('hot', 'plan');" } 1 .. 3000);
my @callers = map { call_in_background("load $_", $load) } 1 .. 2;
sql('BEGIN;' . $delete->('hot') . ';' . $insert->('hot') . ';COMMIT') for 1 .. 200;
$_->{psql}->finish for @callers;
is(join('', map { slurp_file($_->{err}) } @callers), '', 'load: no call fails');
is(differences(), '', 'load: memory and log agree');
sql($delete->('hot'));
is(left('hot'), 10, 'load: all is forgotten');

#
# A standby that is promoted
#

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
use_key('moved');
sql('SELECT tierlimit.log_flush()');
sql($delete->('moved'));
sql($insert->('moved'));
$node->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', "SELECT remaining FROM tierlimit.peek('moved')"), '9', 'standby: peek');
$standby->promote;
is($standby->safe_psql('postgres', "SELECT remaining FROM tierlimit.check('moved')"), '9', 'promoted: starts afresh');
$standby->stop;

$node->stop;
done_testing();
