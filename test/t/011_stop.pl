# An orderly stop of the server, in the middle of calls, loses nothing: what was
# admitted is in the log, once, and is counted when the server is back.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('log_statement = none', allows_streaming => 1);

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

$node->stop;
done_testing();
