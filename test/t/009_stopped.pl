# What was counted stays so when the session that called is stopped, in the
# middle of a transaction of many calls: no call is counted by half, or lost.

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
INSERT INTO tierlimit.tier VALUES ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('wide', 'hour', '1 hour', 1000000000), ('wide', 'day', '1 day', 1000000000);
SQL

my $endless = q{
SELECT count(*) FROM (SELECT generate_series(1, 1000000000) i) n,
	tierlimit.check('stopped', 'wide', 1 + i % 2)};
my $admitted = 'SELECT admitted FROM tierlimit.stat';

# One row: both windows have counted the same calls.
my $used = "SELECT DISTINCT used FROM tierlimit.usage('stopped', 'wide')";

for my $stop ('pg_cancel_backend(pid)', 'pg_terminate_backend(pid)', 'statement_timeout')
{
	my $before = sql($admitted) - sql($used);
	my $settings = $stop eq 'statement_timeout' ? 'SET statement_timeout = 200;' : '';
	my @errors = ('') x 4;
	my @sessions = map {
		IPC::Run::start(
			[ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', "$settings BEGIN; $endless" ],
			'2>', \$errors[$_]);
	} 0 .. 3;

	if ($stop ne 'statement_timeout')
	{
		my $running = "pg_stat_activity WHERE state = 'active' AND query ~ '^ BEGIN'
			AND backend_xid IS NULL AND pid <> pg_backend_pid()";
		my $used_before = sql($used);

		wait_until("SELECT count(*) = 4 AND ($used) > $used_before + 1000 FROM $running");
		sql("SELECT $stop FROM $running");
	}
	$_->finish for @sessions;

	is(scalar(grep { /canceling statement due to|terminating connection due to/ } @errors),
		4, "$stop: stopped four sessions in their loops");
	is(sql($admitted) - sql($used),
		$before, "$stop: usage is what was admitted before the sessions stopped");
}

is(sql("SELECT 1000000000 - remaining FROM tierlimit.check('stopped', 'wide')"),
	sql($used), 'the key can be called again');

$node->stop;
done_testing();
