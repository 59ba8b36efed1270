# The log writer of a database can be ended at any time, and comes back when it
# is needed: nothing that was admitted is lost, or logged twice.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(usleep);

my $node = start_node('log_statement = none');

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('tight'), ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('tight', 'day', '1 day', 100000, 'requests'),
	('wide', 'hour', '1 hour', 100000000, 'requests'), ('wide', 'day', '1 day', 100000000, 'credits');
SQL

# Wait for sessions; each call that was admitted is in the log, once.
sub all_logged
{
	my ($test, @callers) = @_;
	my %admitted = finish_callers(@callers);
	my %logged;

	is(differences(), '', "$test: usage is the sum of the log");
	$logged{$_}++ for split /\n/, sql('SELECT request_id FROM tierlimit.request_log
		WHERE error_code = 0 AND request_id IS NOT NULL');
	is(scalar(grep { !$logged{$_} } keys %admitted), 0, "$test: each call is in the log");
	is(scalar(grep { $_ > 1 } values %logged), 0, "$test: none is there twice");
	cmp_ok(scalar(keys %admitted), '>', 1000, "$test: there were calls");
	return;
}

# End the log writer, and wait until it is gone.
sub end_worker
{
	my ($how) = @_;
	my $pid = worker_pid() or return 0;

	sql("SELECT $how($pid)");
	wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	return 1;
}

#
# While sessions call
#

my @callers = (start_callers('terminated_async', 2, 'SET tierlimit.durability = async'),
	start_callers('terminated_sync', 2, 'SET tierlimit.durability = sync'));
wait_until('SELECT admitted > 100 FROM tierlimit.stat');
my $ended = 0;
for (1 .. 3)
{
	$ended += end_worker('pg_terminate_backend');
	usleep(1_200_000);
}
cmp_ok($ended, '>=', 2, 'terminated: the log writer comes back each time');
end_sessions();
all_logged('terminated', @callers);

#
# While the table is locked
#

sql("SELECT tierlimit.check('locked', 'tight')");
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
is(sql("SELECT count(*) FROM tierlimit.check_many(array_fill('locked'::text, '{1000}'), 'tight') WHERE allowed"),
	'1000', 'table locked: calls are admitted');
wait_until("SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'tierlimit log writer' AND wait_event_type = 'Lock'");
my $pid = worker_pid();
sql("SELECT pg_terminate_backend($pid)");
usleep(500_000);
$locker->query_safe('COMMIT');
sql("SELECT tierlimit.check('locked', 'tight')");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'locked'"),
	'1002', 'terminated while the table is locked: nothing is lost, nothing twice');

# For longer than it tries to write what is left.
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('locked'::text, '{1000}'), 'tight')");
end_worker('pg_terminate_backend');
$locker->query_safe('COMMIT');
is(error_of("SELECT tierlimit.check('locked', 'tight')"), '', 'gone while the table is locked: the next call finds no fault');
for (1 .. 50)
{
	last if error_of("SELECT tierlimit.check('locked', 'tight')") eq '';
	usleep(200_000);
}
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'locked'"),
	sql("SELECT used FROM tierlimit.usage('locked', 'tight')"), 'gone while the table is locked: the next log writer writes what was left');
cmp_ok(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'locked'"),
	'>=', '2002', 'gone while the table is locked: nothing is lost');
is(differences(), '', 'gone while the table is locked: usage is the sum of the log');
$locker->quit;

#
# Cancelled
#

sql("SELECT count(*) FROM tierlimit.check_many(array_fill('nobody'::text, '{100}'));
	SELECT pg_sleep(0.3);
	SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer';
	SELECT pg_sleep(0.3);
	SELECT tierlimit.check('locked', 'tight');
	SELECT pg_sleep(1.5);
	SELECT tierlimit.log_flush()");
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'nobody'"),
	'100', 'cancelled: denied calls that it held back are logged');
is(sql('SELECT log_pending FROM tierlimit.stat'), '0', 'cancelled: nothing is pending');

#
# It ends in time however much there is to write
#

my $endless = q{
	SELECT count(*) FROM (SELECT generate_series(1, 1000000000) i) n, tierlimit.check('busy ' || i % 100, 'wide')};
my @busy = map { call_in_background("busy$_", $endless) } 1 .. 4;
wait_until("SELECT log_pending > 10000 FROM tierlimit.stat");
my $flush = call_in_background('flush', "SET statement_timeout = '10s'; SELECT tierlimit.log_flush()");
$pid = worker_pid();
$flush->{psql}->finish;
is(slurp_file($flush->{err}), '', 'busy: log_flush() ends while others go on calling');
sql("SELECT pg_terminate_backend($pid)");
usleep(3_000_000);
is(sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"),
	'0', 'busy: the log writer leaves when it is told to');
end_sessions();
$_->{psql}->finish for @busy;
is(differences(), '', 'busy: usage is the sum of the log');

#
# Settings of others
#

sql(<<'SQL');
ALTER DATABASE postgres SET default_transaction_read_only = on;
ALTER DATABASE postgres SET search_path = 'nowhere';
ALTER DATABASE postgres SET lock_timeout = '1ms';
ALTER DATABASE postgres SET timezone = 'Asia/Kathmandu';
SQL
end_worker('pg_terminate_backend');
is(sql("SET tierlimit.durability = sync; SELECT allowed FROM tierlimit.check('set', 'tight')"),
	't', "settings of the database: it writes nevertheless");

$node->stop;
done_testing();
