# An orderly stop of the server, in the middle of calls, loses nothing: what was
# admitted is in the log, once, and is counted when the server is back; whether its
# log writer could write it, or had come yet, or not.
#
# TIERLIMIT_STOP_ROUNDS says how often the server is stopped at a random moment
# after the first call of a database.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(usleep);

my $node = start_node("log_statement = none\nmax_prepared_transactions = 2", allows_streaming => 1);
my $spill = $node->data_dir . '/pg_stat/tierlimit.queue';

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('tight'), ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('tight', 'day', '1 day', 3000, 'requests'),
	('wide', 'hour', '1 hour', 1000000, 'requests'), ('wide', 'day', '1 day', 1000000, 'credits');
SQL

my %admitted;
my $written = 'SELECT request_id FROM tierlimit.request_log WHERE error_code = 0 AND request_id IS NOT NULL';

for my $round (1 .. 3)
{
	my $admitted = sql('SELECT admitted FROM tierlimit.stat');
	my @callers = start_callers("stop$round", 4, 'SET tierlimit.durability = async');

	wait_until("SELECT admitted > $admitted + 1000 FROM tierlimit.stat");
	$node->stop('fast');
	%admitted = (%admitted, finish_callers(@callers));
	$node->start;

	my %logged;
	$logged{$_}++ for split /\n/, sql($written);
	is(scalar(grep { !$logged{$_} } keys %admitted),
		0, "stop $round: each call that was admitted is in the log");
	is(scalar(grep { $_ > 1 } values %logged), 0, "stop $round: none is there twice");

	# A session may be stopped between the decision and its answer.
	my @unanswered = grep { !$admitted{$_} } keys %logged;
	cmp_ok(scalar(@unanswered), '<=', 4 * $round, "stop $round: no other is, but the last one of each session");
	is(differences(), '', "stop $round: usage is the sum of the log");
	cmp_ok(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'tight' AND error_code = 0"),
		'<=', 3000, "stop $round: no more is admitted than fits");
}
cmp_ok(scalar(keys %admitted), '>=', 3000, 'thousands of calls were admitted');

# Denied calls that are held back until their second is over are not lost, either.
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('nobody'::text, '{500}'))");
$node->stop('fast');
$node->start;
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'nobody'"),
	'500', 'denied calls of the last second are in the log');

#
# The log writer waits for a standby that is away
#

$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
my $caller = call_in_background('waits', "SET tierlimit.durability = sync;\n"
	. "SELECT allowed, pg_sleep(0.01) FROM tierlimit.check('waits', 'wide');\n" x 10000);
wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
my $allowed = () = slurp_file($caller->{out}) =~ /^t/mg;
is( PostgreSQL::Test::Utils::system_log('pg_ctl', '-D', $node->data_dir, '-m', 'fast', '-t', '10', 'stop'),
	0, 'no standby: the server stops');
$node->stop('immediate', fail_ok => 1);
$caller->{psql}->finish;
$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "''");
$node->start;
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'waits'"),
	$allowed + 1, 'no standby: the call that waited is logged');
is(differences(), '', 'no standby: and counted');

#
# At a random moment, which may be before the log writer has come
#

my $rounds = $ENV{TIERLIMIT_STOP_ROUNDS} // 10;
my ($lost, $twice, $answered, $spilled) = (0, 0, 0, 0);
for my $round (1 .. $rounds)
{
	my @callers = map { call_in_background("random$round.$_", join '',
		map { "SELECT '$_' FROM tierlimit.check('random', 'wide', 1, NULL, '$round.$_') WHERE allowed;\n" }
		map { "$round.$_" } ($_ * 1000 .. $_ * 1000 + 500)) } 1 .. 3;

	usleep(rand(150_000));
	$node->stop('fast');
	$_->{psql}->finish for @callers;
	$spilled++ if -e $spill;
	$node->start;
	my @ids = map { split /\n/, slurp_file($_->{out}) } @callers;
	sql('SELECT tierlimit.log_flush()');
	my %logged;
	$logged{$_}++ for split /\n/, sql("$written AND request_id LIKE '$round.%'");
	$answered += @ids;
	$lost += grep { !$logged{"$round.$_"} } @ids;
	$twice += grep { $_ > 1 } values %logged;
}
note("$answered calls were answered before $rounds stops, $spilled of which found no log writer");
is($lost, 0, "random moments: each call that was answered is in the log");
is($twice, 0, 'random moments: none is there twice');
is(differences(), '', 'random moments: usage is the sum of the log');

#
# Nothing can be written: what is queued is kept until it can
#

my $kept = "SELECT sum(requests) FROM tierlimit.request_log WHERE key LIKE 'kept %'";
my $pending = 'SELECT log_pending FROM tierlimit.stat';

sql("BEGIN; LOCK TABLE tierlimit.request_log; PREPARE TRANSACTION 'locks'");
$node->stop('fast');
ok(!-e $spill, 'locked: nothing is kept where nothing is queued');
$node->start;
sql("COMMIT PREPARED 'locks'");

# (the keys are in memory before the log is locked)
sql("SELECT count(*) FROM generate_series(0, 4) i, tierlimit.check('kept ' || i, 'wide')");
sql('SELECT tierlimit.log_flush()');
sql("BEGIN; LOCK TABLE tierlimit.request_log; PREPARE TRANSACTION 'locks'");
is(sql("SELECT count(*) FROM generate_series(1, 500) i, tierlimit.check('kept ' || i % 5, 'wide') WHERE allowed"),
	'500', 'locked: calls are admitted');
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('locked out'::text, '{300}'))");
$node->stop('fast');
ok(-e $spill, 'locked: they are kept in a file');
$node->start;
ok(!-e $spill, 'locked: the file is gone when it was read');
is(sql($pending), '800', 'locked: they are pending again');
$node->stop('fast');
ok(-e $spill, 'still locked: they are kept again');

# Also where the buffer would be too small for them now.
$node->append_conf('postgresql.conf', "tierlimit.log_buffer = '1MB'");
$node->start;
is(sql($pending), '800', 'still locked, smaller buffer: they are pending again');
my $cold = call_in_background('cold', "SELECT used FROM tierlimit.usage('kept 1', 'wide') WHERE unit = 'requests'");
sql("COMMIT PREPARED 'locks'");
sql('SELECT tierlimit.log_flush()');
is(sql($kept), '505', 'unlocked: each is in the log, once');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'locked out'"), '300', 'unlocked: denied ones, too');
is(sql($pending), '0', 'unlocked: nothing is pending');
$cold->{psql}->finish;
is(slurp_file($cold->{out}), "101\n", 'unlocked: who asked before was told of them');
is(differences(), '', 'unlocked: usage is the sum of the log');

# A larger buffer than the one that was left: it comes with the start after.
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('a longer name'::text, '{5000}'), 'wide')");
sql('SELECT tierlimit.log_flush()');
sql("BEGIN; LOCK TABLE tierlimit.request_log; PREPARE TRANSACTION 'locks'");
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('a longer name'::text, '{4000}'), 'wide')");
$node->stop('fast');
$node->append_conf('postgresql.conf', "tierlimit.log_buffer = '1301kB'");
$node->start;
sql("COMMIT PREPARED 'locks'");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT string_agg(DISTINCT key, ','), sum(requests) FROM tierlimit.request_log WHERE length(key) IN (0, 13)"),
	'a longer name|9000', 'larger buffer: each is in the log');

# Held denials have their room in a full buffer.
$node->append_conf('postgresql.conf', "tierlimit.log_buffer = '1MB'");
$node->restart;
sql("SELECT allowed FROM tierlimit.check('full', 'wide')");
sql('SELECT tierlimit.log_flush()');
sql("SELECT count(*) FROM tierlimit.check_many(ARRAY(SELECT 'denied ' || i FROM generate_series(1, 300) i))");
usleep(400_000);
sql("BEGIN; LOCK TABLE tierlimit.request_log; PREPARE TRANSACTION 'locks'");
like(error_of("SELECT count(*) FROM generate_series(1, 100000) i, tierlimit.check(left('full', 4 + i), 'wide')"),
	qr/could not write to the request log/, 'full buffer: calls are told');
my $admitted_full = sql('SELECT admitted - 1 FROM tierlimit.stat');
$node->stop('fast');
$node->start;
sql("COMMIT PREPARED 'locks'");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key LIKE 'denied %'"), '300', 'full buffer: denials that were held are in the log');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'full'"), $admitted_full + 1, 'full buffer: so is what was admitted');
is(sql($pending), '0', 'full buffer: nothing is pending');

#
# The server has no place for a log writer
#

$node->append_conf('postgresql.conf', "max_worker_processes = 2\ntierlimit.log_buffer = '8MB'");
$node->restart;
is(sql("SELECT count(*) FROM tierlimit.check_many(array_fill('no place'::text, '{500}'), 'wide') WHERE allowed"),
	'500', 'no place: calls go on');
like(error_of('SELECT tierlimit.log_flush()'), qr/all background workers of the server are in use/,
	'no place: log_flush() says what prevents it');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'no place'"), '500', 'no place: nothing is lost');

#
# A full buffer is written before the server has stopped
#

$node->append_conf('postgresql.conf', "tierlimit.flush_interval = '1min'");
$node->reload;
sql("SELECT count(*) FROM generate_series(1, 20000) i, tierlimit.check('full ' || i % 100, 'wide')");
cmp_ok(sql($pending), '>', 10000, 'full: most calls wait to be written');
$node->stop('fast');
$node->start;
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key LIKE 'full %'"), '20000', 'full: all are in the log');

#
# Where a file must not be used
#

sub leave_file
{
	sql("SELECT allowed FROM tierlimit.check('kept 1', 'wide')");
	sql('SELECT tierlimit.log_flush()');
	sql("BEGIN; LOCK TABLE tierlimit.request_log; PREPARE TRANSACTION 'locks'");
	sql("SELECT allowed FROM tierlimit.check('kept 1', 'wide')");
	$node->stop('fast');
	ok(-e $spill, 'there is a file');
	return;
}

sub start_without_file
{
	my ($test) = @_;
	my $offset = -s $node->logfile;

	$node->start;
	like(slurp_file($node->logfile, $offset), qr/WARNING:  decisions that the server had stopped with are not used/,
		"$test: the server's log tells it");
	ok(!-e $spill && -e "$spill.unused", "$test: the file is kept under another name");
	return;
}

leave_file();
PostgreSQL::Test::Utils::append_to_file($spill, 'x');
start_without_file('damaged');
sql("COMMIT PREPARED 'locks'");
is(sql($pending), '0', 'damaged: nothing is pending');

leave_file();
$node->set_standby_mode();
start_without_file('standby');
is(sql('SELECT pg_promote()'), 't', 'standby: it is promoted');
sql("COMMIT PREPARED 'locks'");
is(sql($pending), '0', 'standby: nothing is pending after that');

# Wait until the server has removed the file, which it does when it is open.
sub wait_for_removal
{
	for (1 .. 100)
	{
		return ok(1, 'the file is removed') if !-e $spill;
		usleep(100_000);
	}
	return fail('the file is removed');
}

leave_file();
$node->start;
wait_for_removal();
$node->stop('immediate');
ok(!-e $spill, 'an immediate stop leaves no file');
$node->start;
sql("COMMIT PREPARED 'locks'");
is(sql($pending), '0', 'an immediate stop is like a crash');

#
# A start that fails loses nothing; and nothing is written twice
#

my $kept_rows = "SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'kept 1'";
sql('SELECT tierlimit.log_flush()');
my $before = sql($kept_rows);
leave_file();
my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
PostgreSQL::Test::Utils::append_to_file($node->data_dir . '/pg_hba.conf', "nonsense\n");
for my $try (1, 2)
{
	ok(!$node->start(fail_ok => 1), "failed start $try");
	ok(-e $spill, "failed start $try: the file is there");
}
unlink $node->data_dir . '/pg_hba.conf';
PostgreSQL::Test::Utils::append_to_file($node->data_dir . '/pg_hba.conf', $hba);
my $copy = slurp_file($spill);
$node->start;
sql("COMMIT PREPARED 'locks'");
sql('SELECT tierlimit.log_flush()');
is(sql($kept_rows), $before + 2, 'failed starts: all is in the log');
wait_for_removal();
$node->stop('immediate');
unlink "$spill.unused";
PostgreSQL::Test::Utils::append_to_file($spill, $copy);
start_without_file('stale');
sql('SELECT tierlimit.log_flush()');
is(sql($kept_rows), $before + 2, 'stale: nothing is in the log twice');

$node->stop;
done_testing();
