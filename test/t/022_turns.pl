# Log writers are started when there is a place for them: until then calls go on,
# and of many databases each gets its turn.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time);

# One place for a log writer, beside the launchers of ours and of logical replication.
my $node = start_node("log_statement = none\nmax_worker_processes = 3");

my $install = <<'SQL';
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('wide', 'day', '1 day', 1000000);
SQL
my @databases = map { "db$_" } 1 .. 12;

sql($install);
sql('SELECT tierlimit.log_flush()');
sql("CREATE DATABASE $_ TEMPLATE postgres") for @databases;

# What goes on in the server.
my $writers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer'";

#
# Many databases that call all the time: more than there are queues, or places
#

my $calls = "SELECT allowed, pg_sleep(0.002) FROM tierlimit.check('key', 'wide');\n" x 1500;
my $since = time;
my @callers = map { call_in_background("calls $_", $calls, $_) } @databases;

is(sql($writers) <= 1 ? 'one' : 'several', 'one', 'there is one log writer at a time');
$_->{psql}->finish for @callers;
note(sprintf '%d databases with 1500 calls each took %.1f s', scalar(@databases), time - $since);
for my $i (0 .. $#databases)
{
	my $err = slurp_file($callers[$i]->{err});
	is($err, '', "$databases[$i]: no call failed");
	sql('SELECT tierlimit.log_flush()', $databases[$i]);
	is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'key'", $databases[$i]),
		'1500', "$databases[$i]: each call is logged, once");
}
is(sql('SELECT log_pending FROM tierlimit.stat'), '0', 'nothing is pending');

#
# Others have all places
#

$node->append_conf('postgresql.conf', "max_worker_processes = 4\nmax_parallel_workers = 4
parallel_setup_cost = 0\nparallel_tuple_cost = 0\nmin_parallel_table_scan_size = 0
max_parallel_workers_per_gather = 2\nparallel_leader_participation = off");
$node->restart;
# (each process takes a page of four rows at a time)
sql("CREATE TABLE busy AS SELECT repeat('x', 1900) FROM generate_series(1, 32) i; ALTER TABLE busy SET (parallel_workers = 2)");
my $take_places = 'SELECT count(pg_sleep(0.2)) FROM busy';
my $parallel = call_in_background('parallel', $take_places);
wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'parallel worker'");
is(sql("SELECT count(*) FROM tierlimit.check_many(array_fill('busy'::text, '{1000}'), 'wide') WHERE allowed"),
	'1000', 'no place: calls go on');
is(sql($writers), '0', 'no place: there is no log writer');
cmp_ok(sql('SELECT log_pending FROM tierlimit.stat'), '>=', 1000, 'no place: they are pending');
$parallel->{psql}->finish;
# Nobody calls any more.
wait_until("SELECT sum(requests) = 1000 FROM tierlimit.request_log WHERE key = 'busy'");
like(slurp_file($node->logfile), qr/WARNING:  could not start the log writer of the database/,
	"no place: the server's log tells it");

#
# The launcher, and a log writer that has not come yet, are ended
#

my $launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'tierlimit launcher'";
my $pid = sql($launcher);
kill_process('TERM', $pid);
wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tierlimit launcher' AND pid <> $pid");
sql("SELECT allowed FROM tierlimit.check('key', 'wide')");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'key'"), '1', 'after the end of the launcher: the next one serves');
kill_process('TERM', sql($launcher));
is(sql("SELECT allowed FROM tierlimit.check('key', 'wide', 1, 'without a launcher')", 'db1'), 't', 'without a launcher: calls go on');
wait_until("SELECT count(*) = 1 FROM tierlimit.request_log WHERE endpoint = 'without a launcher'", 't', 'db1');

# A database that is dropped while its calls wait for a writer.
wait_until($writers, '0');
$parallel = call_in_background('parallel again', $take_places);
wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'parallel worker'");
sql("SELECT allowed FROM tierlimit.check('key', 'wide')", 'db2');
is(error_of('DROP DATABASE db2'), '', 'a database whose calls wait for a log writer can be dropped');
$parallel->{psql}->finish;
wait_until('SELECT log_pending = 0 FROM tierlimit.stat');
sql("SELECT allowed FROM tierlimit.check('key', 'wide')", 'db3');
sql('SELECT tierlimit.log_flush()', 'db3');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'key'", 'db3'), '1501', 'others go on');

$node->stop;
done_testing();
