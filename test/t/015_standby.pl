# Standbys: a call that waits for the disk waits for a synchronous one; and one
# that is promoted, or an archive that is recovered to a point in time, goes on
# counting from the log.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(usleep);

my $primary = start_node('log_statement = none', name => 'primary', allows_streaming => 1, has_archiving => 1);

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('day');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('day', 'day', '1 day', 100, 'requests'), ('day', 'week', '7 days', 1000, 'credits');
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('acme', 'day', NULL), ('member', 'day', 'team');
SELECT tierlimit.check('acme', NULL, 3);
SELECT tierlimit.log_flush();
SQL

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
my $recovered = PostgreSQL::Test::Cluster->new('recovered');
$recovered->init_from_backup($primary, 'backup', has_restoring => 1, standby => 0);
$recovered->append_conf('postgresql.conf', "recovery_target_name = 'here'\nrecovery_target_action = 'promote'");

# What usage() says of the two keys, on a server.
sub usage_on
{
	my ($node) = @_;
	return $node->safe_psql('postgres', "SELECT string_agg(used::text, ' ')
		FROM unnest('{acme,member}'::text[]) key, tierlimit.usage(key)");
}

#
# A synchronous standby
#

$primary->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'");
$primary->reload;
wait_until("SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = 'standby'");

# The checkpointer tells the others of the setting.
usleep(500_000);
my $sync = 'SET tierlimit.durability = sync;';
is(sql("$sync SELECT allowed FROM tierlimit.check('acme', NULL, 3)"), 't', 'standby there: a call is admitted');
$standby->stop;
wait_until("SELECT count(*) = 0 FROM pg_stat_replication WHERE application_name = 'standby'");

my $caller = call_in_background('waits', "$sync SELECT allowed FROM tierlimit.check('acme', NULL, 3)");
wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'SyncRep'");
usleep(500_000);
is(slurp_file($caller->{out}), '', 'standby away: an admitted call waits for it');
like(error_of("$sync SET statement_timeout = '500ms'; SELECT * FROM tierlimit.check('member', NULL, 5)"),
	qr/WARNING:  01000: canceling wait for synchronous replication/, 'standby away: the wait can be cancelled, as that of a COMMIT');
is(sql("SELECT string_agg(used::text, ' ') FROM tierlimit.usage('acme')"), '3 9', 'standby away: the call that waits is counted');
is(sql("SELECT string_agg(used::text, ' ') FROM tierlimit.peek('member') p, LATERAL (SELECT 100 - p.remaining - 1 AS used) u"),
	'1', 'standby away: the charge stands though the wait was cancelled');
is(sql("SELECT allowed FROM tierlimit.check('new key', 'day')"), 't',
	'standby away: a call that does not wait for the disk is admitted');

$standby->start;
$caller->{psql}->finish;
like(slurp_file($caller->{out}), qr/^t$/m, 'standby back: the call that waited is admitted');
sql('SELECT tierlimit.log_flush()');
$primary->wait_for_catchup($standby);
is(usage_on($standby), '3 9 1 5', 'standby back: it has the calls that waited');

#
# A point in time
#

sql("SELECT tierlimit.log_flush()");
my $here = usage_on($primary);
sql("SELECT pg_create_restore_point('here')");
sql("$sync SELECT * FROM tierlimit.check('acme', NULL, 10); SELECT * FROM tierlimit.check('later', 'day')");
sql('SELECT pg_switch_wal()');
$recovered->start;
$recovered->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
is(usage_on($recovered), $here, 'point in time: counts are those of then');
is($recovered->safe_psql('postgres', "SELECT used FROM tierlimit.usage('later', 'day')"), "0\n0", 'point in time: later calls are not counted');
use_node($recovered);
is(differences(), '', 'point in time: usage is the sum of the log');
is( $recovered->safe_psql('postgres', "SELECT count(*) FROM tierlimit.check_many(array_fill('acme'::text, '{200}')) WHERE allowed"),
	'97', 'point in time: it goes on counting');
is(differences(), '', 'point in time: and logging');
use_node($primary);

#
# Promotion
#

is(sql("$sync SELECT count(*) FROM tierlimit.check_many(array_fill('member'::text, '{10}')) WHERE allowed"), '10', 'calls before the fail-over');
my $last = usage_on($primary);
$primary->stop('immediate');
$standby->promote;
use_node($standby);
$standby->adjust_conf('postgresql.conf', 'synchronous_standby_names', "''");
$standby->reload;
is(usage_on($standby), $last, 'promoted: counts are those of the primary');
is(sql("SELECT count(*) FROM tierlimit.check_many(array_fill('member'::text, '{200}')) WHERE allowed"),
	'89', 'promoted: it admits what is left');
is(differences(), '', 'promoted: usage is the sum of the log');

$_->stop for $recovered, $standby;
done_testing();
