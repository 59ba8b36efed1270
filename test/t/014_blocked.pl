# While the log can't be written, calls are admitted until the buffer is full;
# then callers are told why, and nothing is counted.  When the cause has gone,
# all goes on, and nothing is lost.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time usleep);

my $node = start_node(q{
tierlimit.log_buffer = 1MB
log_statement = none
});

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('wide', 'day', '1 day', 100000000);
SELECT tierlimit.check('warm', 'wide');
SQL

my $blocked = qr/ERROR:  55P03: +could not write to the request log.*DETAIL: .*lock timeout/s;
my $used = "SELECT used FROM tierlimit.usage('%s', 'wide')";
my $logged = "SELECT sum(requests) FROM tierlimit.request_log WHERE key = '%s'";

#
# A long transaction of many calls
#

my $many = $ENV{TIERLIMIT_MANY_CALLS} // 150000;
is( sql("BEGIN; SELECT count(*) FILTER (WHERE c.allowed)
		 FROM (SELECT generate_series(1, $many) i) n, tierlimit.check('many', 'wide', i % 3) c; COMMIT"),
	"$many", 'one transaction: many more calls than the buffer holds are admitted');
sql('SELECT tierlimit.log_flush()');
is(sql(sprintf($logged, 'many')), "$many", 'one transaction: all are logged');

#
# Another session holds the table
#

my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log IN ACCESS EXCLUSIVE MODE');
my $admitted = sql('SELECT admitted FROM tierlimit.stat');
my $since = time;
like(error_of("SELECT count(*) FROM (SELECT generate_series(1, 1000000) i) n, tierlimit.check('many', 'wide', i % 3) c"),
	$blocked, 'table locked: when the buffer is full, a call is told why');
cmp_ok(time - $since, '<', 30, 'table locked: in bounded time');
my $counted = sql('SELECT admitted FROM tierlimit.stat');
cmp_ok($counted, '>', $admitted + 1000, 'table locked: calls are admitted as long as there is room');
is(sql(sprintf($used, 'many')), $many + $counted - $admitted, 'table locked: just these are counted');
$since = time;
like(error_of("SET tierlimit.durability = sync; SELECT * FROM tierlimit.check('many', 'wide')"),
	$blocked, 'table locked: a call that is to wait for the disk is told so');
cmp_ok(time - $since, '<', 5, 'table locked: soon, since it has lasted for long');
is(sql('SELECT admitted FROM tierlimit.stat'), $counted, 'table locked: and is not counted');
is(sql("SELECT allowed FROM tierlimit.peek('many', 'wide')"), 't', 'table locked: peek answers');

$locker->query_safe('COMMIT');
wait_until("SELECT log_pending = 0 FROM tierlimit.stat");
is(sql(sprintf($logged, 'many')), $many + $counted - $admitted, 'unlocked: nothing was lost');
is(sql("SET tierlimit.durability = sync; SELECT allowed FROM tierlimit.check('many', 'wide')"),
	't', 'unlocked: calls are admitted again');
is(differences(), '', 'unlocked: usage is the sum of the log');

#
# The calling session itself holds it
#

$since = time;
like(error_of("BEGIN; LOCK TABLE tierlimit.request_log; SET tierlimit.durability = sync;
	SELECT * FROM tierlimit.check('own lock', 'wide')"),
	$blocked, 'own lock, sync: the call ends with an ERROR');
cmp_ok(time - $since, '<', 20, 'own lock, sync: in bounded time');
is(sql(sprintf($used, 'own lock')), '1', 'own lock, sync: it stays counted, as it is on its way to the log');
wait_until('SELECT log_pending = 0 FROM tierlimit.stat');
is(sql(sprintf($logged, 'own lock')), '1', 'own lock, sync: where it arrives later');
is(sql("BEGIN; LOCK TABLE tierlimit.request_log; SELECT allowed FROM tierlimit.check('own lock', 'wide'); COMMIT"),
	't', 'own lock, async: the call is admitted');

#
# It can't be written for another reason
#

sql('SELECT tierlimit.log_flush()');
sql("ALTER TABLE tierlimit.request_log ADD CONSTRAINT refuse CHECK (key <> 'refused')");
sql("SELECT allowed FROM tierlimit.check('refused', 'wide')");
$since = time;
usleep(100_000) while error_of("SET tierlimit.durability = sync; SET statement_timeout = '10s';
	SELECT * FROM tierlimit.check('other', 'wide')") !~ /23514: .*refuse/s && time - $since < 30;
cmp_ok(time - $since, '<', 30, 'refused row: callers are told the cause');
sql('ALTER TABLE tierlimit.request_log DROP CONSTRAINT refuse');
wait_until('SELECT log_pending = 0 FROM tierlimit.stat');
is(sql(sprintf($logged, 'refused')), '1', 'refused row: is written when the cause has gone');
is(differences(), '', 'refused row: usage is the sum of the log');
$locker->quit;

#
# No log writer can be started, ever
#

$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
$since = time;
like(error_of("SELECT count(*) FROM (SELECT generate_series(1, 1000000) i) n, tierlimit.check('many', 'wide', i % 3) c"),
	qr/ERROR:  53000: +could not write to the request log.*HINT: .*max_worker_processes/s,
	'no log writer: when the buffer is full, a call is told which setting to increase');
cmp_ok(time - $since, '<', 20, 'no log writer: in bounded time');
my $kept = sql('SELECT admitted FROM tierlimit.stat');
cmp_ok($kept, '>', 1000, 'no log writer: calls are admitted as long as there is room');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
sql('SELECT tierlimit.log_flush()');
is(sql(sprintf($logged, 'many')), $many + $counted - $admitted + 1 + $kept, 'no log writer: nothing is lost');

$node->stop;
done_testing();
