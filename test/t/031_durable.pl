# Who waits until a call is durable waits for what they asked for, and is told
# that the call counts when the wait ends otherwise; nobody else waits with them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time usleep);

my $node = start_node('log_statement = none', allows_streaming => 1);

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('wide', 'hour', '1 hour', 1000000, 'requests'), ('wide', 'day', '1 day', 1000000, 'credits');
INSERT INTO tierlimit.api_key (name, tier) VALUES ('timed out', 'wide');
SQL

my $sync = 'SET tierlimit.durability = sync';
my $waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
my $used = "SELECT used FROM tierlimit.usage('%s', 'wide') WHERE unit = 'requests'";
my $counted = qr/DETAIL: .*What was to be made durable is counted/;

#
# A standby that is away
#

$node->append_conf('postgresql.conf', "synchronous_standby_names = 'away'");
$node->reload;
wait_until("SHOW synchronous_standby_names", 'away');
my @waiting = map { call_in_background("waits$_", "$sync; SELECT allowed FROM tierlimit.check('waits $_', 'wide')") } 1 .. 2;
wait_until($waits, '2');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type <> 'client backend'"),
	'0', 'standby away: the log writer does not wait for it');

my $since = time;
is( sql("SET synchronous_commit = local; SELECT count(*)
		 FROM (SELECT generate_series(1, 200000) i) n, tierlimit.check('async', 'wide', i % 3) WHERE allowed"),
	'200000', 'standby away: who did not ask for it goes on');
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'async'"), '200000', 'standby away: and is logged');
is(sql("SET synchronous_commit = local; $sync; SELECT allowed FROM tierlimit.check('local', 'wide')"),
	't', 'standby away: who asks for the disk only waits for that');
is(sql("$sync; SELECT used FROM tierlimit.usage('waits 1', 'wide') WHERE unit = 'requests'"), '1', 'standby away: who looks does not wait');
cmp_ok(time - $since, '<', 30, 'standby away: in time');
is(sql($waits), '2', 'standby away: those who asked for it wait');

my ($status, $out, $warning) = $node->psql('postgres', "$sync; SET statement_timeout = '300ms';
	SELECT allowed FROM tierlimit.check('impatient', 'wide')");
like($warning, qr/WARNING:  canceling wait for synchronous replication/, 'standby away: a cancel ends the wait as that of a commit');
is(sql(sprintf($used, 'impatient')), '1', 'standby away: the call counts');

# It comes.
my $archive = PostgreSQL::Test::Utils::tempdir();
my $standby;
{
	local $ENV{PGAPPNAME} = 'away';
	$standby = IPC::Run::start([ 'pg_receivewal', '--synchronous', '-D', $archive, '-d', $node->connstr('postgres') . ' application_name=away' ],
		'>', \my $stdout, '2>', \my $stderr);
}
$_->{psql}->finish for @waiting;
is(slurp_file($_->{out}), "t\n", 'standby there: who waited has the answer') for @waiting;
is(sql("$sync; SELECT allowed FROM tierlimit.check('waits 1', 'wide')"), 't', 'standby there: calls wait for no longer than it takes');
$standby->kill_kill;
$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "''");
$node->reload;
wait_until("SHOW synchronous_standby_names", '');

#
# A wait that ends with an ERROR
#

sql("SELECT count(*) FROM (VALUES ('timed out'), ('cancelled'), ('own lock')) v (key), tierlimit.check(key, 'wide'); SELECT tierlimit.log_flush()");
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
like(error_of("$sync; SET statement_timeout = '300ms'; SELECT tierlimit.check('timed out', 'wide')"),
	qr/57014: .*statement timeout.*$counted/s, 'timeout: the ERROR says that the call counts');
like(error_of("$sync; SET statement_timeout = '300ms'; SELECT tierlimit.refund('timed out')"),
	qr/57014: .*statement timeout.*$counted/s, 'timeout: so does that of a refund');
is(sql(sprintf($used, 'timed out')), '1', 'timeout: both count');
my $cancelled = call_in_background('cancelled', "$sync; SELECT tierlimit.check('cancelled', 'wide')");
wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'SELECT tierlimit.check' AND pid <> pg_backend_pid()
	AND wait_event IN ('Extension', 'TierlimitLogWrite')");
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ 'SELECT tierlimit.check' AND pid <> pg_backend_pid()");
$cancelled->{psql}->finish;
like(slurp_file($cancelled->{err}), qr/user request.*$counted/s, 'cancel: the ERROR says so, too');
is(sql(sprintf($used, 'cancelled')), '2', 'cancel: the call counts');
$locker->query_safe('COMMIT');
$locker->quit;

like(error_of("BEGIN; LOCK TABLE tierlimit.request_log; $sync; SELECT tierlimit.check('own lock', 'wide')"),
	qr/55P03: +could not write to the request log.*$counted/s, 'log locked: the ERROR of the log writer says so');
is(sql(sprintf($used, 'own lock')), '2', 'log locked: the call counts');
is(differences(), '', 'usage is the sum of the log');

$node->stop;
done_testing();
