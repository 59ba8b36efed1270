# While the log can't be read or written, each wait of a call has a bound; whether
# calls go on meanwhile is for the operator to say; and an ERROR has counted
# nothing, or says what it counted.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time usleep);

my $node = start_node("log_statement = none\ntierlimit.log_buffer = '1MB'");

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('wide'), ('none');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('wide', 'hour', '1 hour', 10000000, 'requests'), ('wide', 'day', '1 day', 10000000, 'credits'), ('none', 'hour', '1 hour', 0, 'requests');
INSERT INTO tierlimit.api_key (name, tier) VALUES ('registered', 'wide');
SELECT count(*) FROM (VALUES ('warm'), ('many'), ('lost')) v (key), tierlimit.check(key, 'wide');
SELECT tierlimit.log_flush();
SQL

sub set_policy
{
	my ($policy) = @_;
	$node->append_conf('postgresql.conf', "tierlimit.on_log_failure = '$policy'");
	$node->reload;
	wait_until('SHOW tierlimit.on_log_failure', $policy);
	return;
}

sub logged_since
{
	my ($offset) = @_;
	return slurp_file($node->logfile, $offset);
}

#
# Go on
#

my $locker = $node->background_psql('postgres');
my $offset = -s $node->logfile;
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
my $since = time;
my @cold = (
	call_in_background('cold_check', "\\set VERBOSITY verbose\nSELECT tierlimit.check('cold', 'wide')"),
	call_in_background('cold_peek', "\\set VERBOSITY verbose\nSELECT tierlimit.peek('cold peek', 'wide')"),
	call_in_background('cold_usage', "\\set VERBOSITY verbose\nSELECT tierlimit.usage('cold usage', 'wide')"),
	call_in_background('cold_refund', "\\set VERBOSITY verbose\nSELECT tierlimit.refund('cold refund')"),
	call_in_background('cold_second', "\\set VERBOSITY verbose\nSELECT pg_sleep(0.5), tierlimit.check('cold', 'wide')"));
is(sql("SELECT allowed FROM tierlimit.check('warm', 'wide')"), 't', 'continue: calls of keys in memory go on');
like(error_of("SET lock_timeout = '200ms'; SELECT tierlimit.check('cold too', 'wide')"),
	qr/ERROR:  55P03: canceling statement due to lock timeout/, "continue: a shorter lock_timeout of the caller's holds");
sleep(4);
is(sql("SELECT allowed FROM tierlimit.check('warm', 'wide')"), 't', 'continue: also later');
is(sql("SELECT log_lag > '2 seconds' FROM tierlimit.stat"), 't', 'continue: log_lag tells how much a crash would lose');
like(logged_since($offset), qr/WARNING:  the request log .* has not been written for.*\n.*A crash would lose/, "continue: so does the server's log");
$_->{psql}->finish for @cold[0 .. 3];
cmp_ok(time - $since, '>', 9, 'cold keys: calls wait');
cmp_ok(time - $since, '<', 15, 'cold keys: as long as for the log writer');
like(slurp_file($_->{err}), qr/ERROR:  55P03: could not read the request log.*DETAIL:.*lock.*HINT:/s,
	'cold keys: and are told why') for @cold[0 .. 3];
$cold[4]{psql}->finish;
like(slurp_file($cold[4]{err}), qr/ERROR:  55P03: could not read /, 'cold keys: so is who waited for another one');
$locker->query_safe('COMMIT');
is(sql("SELECT tierlimit.log_flush(); SELECT used FROM tierlimit.usage('cold', 'wide') WHERE unit = 'requests'"), "\n0", 'cold keys: nothing was counted');
is(sql("SHOW lock_timeout; SELECT allowed FROM tierlimit.check('cold', 'wide'); SHOW lock_timeout"), "0\nt\n0",
	"the caller's lock_timeout is as it was");

# The configuration, too.
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.api_key');
$since = time;
like(error_of("SELECT tierlimit.check('registered too')"), qr/ERROR:  55P03: could not read the configuration.*HINT:/s,
	'locked configuration: a call is told why');
cmp_ok(time - $since, '<', 15, 'locked configuration: after as long a wait');
$locker->query_safe('COMMIT');

#
# An array
#

sql('SELECT tierlimit.log_flush()');
my $used = sql("SELECT used FROM tierlimit.usage('many', 'wide') WHERE unit = 'requests'");
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
my $error = error_of("SELECT count(*) FROM tierlimit.check_many(array_fill('many'::text, '{65536}'), 'wide')");
like($error, qr/could not write to the request log/, 'array: the log is stuck');
my ($decided, $admitted) = $error =~ /The first (\d+) of the array's 65536 calls were decided before: (\d+) were admitted/;
cmp_ok($admitted // 0, '>', 1000, 'array: the ERROR says what was counted');
is(sql("SELECT used FROM tierlimit.usage('many', 'wide') WHERE unit = 'requests'"), $used + ($admitted // 0), 'array: just that');
my $before = sql('SELECT admitted FROM tierlimit.stat');
unlike(error_of("SELECT count(*) FROM tierlimit.check_many(array_fill('many'::text, '{100}'), 'wide')"), qr/admitted/,
	'array: where nothing is counted, it says nothing');
is(sql('SELECT admitted FROM tierlimit.stat'), $before, 'array: and nothing is');
$locker->query_safe('COMMIT');
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT count(*) FROM tierlimit.check_many(array_fill('many'::text, '{200000}'), 'wide') WHERE allowed"),
	'200000', 'array: one larger than the buffer is decided');
like(error_of("SET statement_timeout = '500ms'; SELECT count(*) FROM tierlimit.check_many(array_fill('many'::text, '{1000000}'), 'wide')"),
	qr/57014: .*The first \d+ of the array's/s, 'array: a cancel says what was counted');

#
# Wait
#

set_policy('wait');
is(sql("SELECT count(*) FROM (SELECT generate_series(1, 50000) i) n, tierlimit.check('warm', 'wide', i % 3) WHERE allowed"),
	'50000', 'wait: calls go on while the log is written');
sql('SELECT tierlimit.log_flush()');
$offset = -s $node->logfile;
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
$since = time;
$before = sql('SELECT admitted FROM tierlimit.stat');
my $caller = call_in_background('overdue', "SELECT count(*) FROM (SELECT generate_series(1, 100) i) n, tierlimit.check('lost', 'wide'), pg_sleep(0.1)");
while (time - $since < 8)
{
	my $psql = call_in_background("overdue" . time, "SET statement_timeout = '1s'; SELECT 1 FROM tierlimit.check('warm', 'wide')");
	$psql->{psql}->finish;
	last if slurp_file($psql->{out}) eq '';
	usleep(200_000);
}
cmp_ok(time - $since, '>=', 1.5, 'wait: calls go on for a second');
cmp_ok(time - $since, '<', 5, 'wait: and then wait');
$before = sql('SELECT admitted FROM tierlimit.stat');
like(error_of("SELECT tierlimit.check('warm', 'wide')"), qr/could not write to the request log/, 'wait: they fail');
is(sql('SELECT admitted FROM tierlimit.stat'), $before, 'wait: having counted nothing');
cmp_ok(time - $since, '<', 25, 'wait: in bounded time');
like(logged_since($offset), qr/WARNING:  the request log .* has not been written for.*\n.*Calls wait/, "wait: the server's log tells it");
my $waits = call_in_background('goes_on', "SELECT allowed FROM tierlimit.check('warm', 'wide')");
$locker->query_safe('COMMIT');
$waits->{psql}->finish;
$caller->{psql}->finish;
is(sql("SELECT allowed FROM tierlimit.check('warm', 'wide')"), 't', 'wait: they go on when it is written');
is(differences(), '', 'usage is the sum of the log');

# A database that no log writer comes to.
$locker->quit;
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
$since = time;
my $count = 0;
while (time - $since < 20 && error_of("SELECT tierlimit.check('none of them', 'none')") eq '')
{
	$count++;
	usleep(100_000);
}
cmp_ok($count, '>', 3, 'no log writer: calls go on for a second');
cmp_ok(time - $since, '<', 16, 'no log writer: and then fail in bounded time');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'none of them'"), $count, 'no log writer: nothing is lost');

$node->stop;
done_testing();
