# Random operations: every answer is compared with that of test/model.sql.
#
# A failure shows the operation, both answers and what was done before.  The
# operations are the same each time, unless TIERLIMIT_SEED has another number up
# to 2147483647.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $seed = $ENV{TIERLIMIT_SEED} // 1;
note "TIERLIMIT_SEED=$seed";

my $node = start_node(<<'CONF', allows_streaming => 1);
tierlimit.window_slots = 4096
timezone = 'UTC'
# the play is in 2024
tierlimit.log_retention = '36500d'
# for the model: many small queries over tables that grow quickly
autovacuum = off
jit = off
plan_cache_mode = force_generic_plan
enable_seqscan = off
CONF

# Keys alone and of accounts, with calendars that change to winter time.
my $callers = <<'SQL';
INSERT INTO model.caller (name, account, anchor, timezone) VALUES
	('ann', NULL, NULL, 'UTC'),
	('bob', NULL, '2024-01-31 10:30:15.25+00', 'Europe/Berlin'),
	('cat', 'acme', '2023-12-31 23:59:59.999999+00', 'America/New_York'),
	('dan', 'acme', '2023-12-31 23:59:59.999999+00', 'America/New_York'),
	('eve', 'eve', NULL, 'Australia/Lord_Howe');
SQL

# go_on(NAME, SEED, PARAMETERS): model.play() in that database.
sub go_on
{
	my ($name, $its_seed, $parameters) = @_;

	my ($status, $stdout, $stderr) =
	  $node->psql($name, "CALL model.play($its_seed, $parameters)");
	is($status, 0, "$name: all answers are right")
	  ? note $stderr =~ s/.*NOTICE:\s*//r
	  : diag "TIERLIMIT_SEED=$seed\n$stderr";
	return;
}

# play(NAME, TIERS, PARAMETERS): the same, in a new database.
sub play
{
	my ($name, $tiers, $parameters) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, join("\n", 'CREATE EXTENSION tierlimit;',
		slurp_file("$FindBin::Bin/../model.sql"), $tiers, $callers));
	go_on($name, $seed, $parameters);
	return;
}

#
# With more slots than a window ever has calls, all is exact.
#

# A key that changes tiers keeps its windows: all have the same.
my $same_windows = <<'SQL';
INSERT INTO tierlimit.tier VALUES ('free'), ('pro'), ('trial'), ('shadow');
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, error_code)
SELECT t.tier, l.name, l.period, l.kind, l.unit, ceil(l.max * t.share), l.enforce AND t.tier <> 'shadow', l.error_code
FROM (VALUES ('free', 0.5), ('pro', 1), ('trial', 0.3), ('shadow', 1)) AS t (tier, share), (VALUES
	('burst',       interval '10 seconds', 'sliding',  'requests',    5, true,  NULL::integer),
	('minute',      '1 minute',            'sliding',  'requests',   10, true,  NULL),
	('spend',       '1 minute',            'sliding',  'credits',    25, true,  NULL),
	('this minute', '1 minute',            'calendar', 'requests',   10, true,  NULL),
	('hour',        '1 hour',              'sliding',  'credits',   150, true,  1009),
	('this hour',   '1 hour',              'calendar', 'credits',   150, false, NULL),
	('today',       '1 day',               'calendar', 'credits',   600, true,  NULL),
	('day',         '1 day',               'sliding',  'requests',  250, true,  NULL),
	('month',       '30 days',             'sliding',  'requests', 1000, false, NULL),
	('this month',  '1 month',             'calendar', 'requests', 1000, true,  NULL)
) AS l (name, period, kind, unit, max, enforce, error_code);
SQL

# A call that comes to the gate is charged to its address as well, and one without
# a key to who that may be.
$same_windows .= <<'SQL';
INSERT INTO tierlimit.tier VALUES ('ip'), ('anonymous');
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, error_code) VALUES
	('ip',        'burst',     '10 seconds', 'sliding',  'requests',   4, true,  NULL),
	('ip',        'minute',    '1 minute',   'sliding',  'credits',   30, true,  NULL),
	('ip',        'hour',      '1 hour',     'sliding',  'requests', 100, true,  1008),
	('ip',        'this hour', '1 hour',     'calendar', 'requests',  90, false, NULL),
	('ip',        'today',     '1 day',      'calendar', 'credits',  700, true,  NULL),
	('anonymous', 'minute',    '1 minute',   'sliding',  'requests',   4, true,  NULL),
	('anonymous', 'this hour', '1 hour',     'calendar', 'credits',   60, true,  NULL),
	('anonymous', 'day',       '1 day',      'sliding',  'requests', 120, true,  NULL);
SQL
play('same_windows', $same_windows, "6000, '1000 s', true");

# Windows come and go with the tiers.
play('other_windows', <<'SQL', "5000, '1000 s', true");
INSERT INTO tierlimit.tier VALUES ('small'), ('large'), ('calendar'), ('requests'), ('open');
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce) VALUES
	('small',    'minute',     '1 minute',   'sliding',  'requests',    5, true),
	('small',    'spend',      '10 minutes', 'sliding',  'credits',    30, true),
	('large',    'minute',     '1 minute',   'sliding',  'requests',   10, true),
	('large',    'spend',      '10 minutes', 'sliding',  'credits',    90, true),
	('large',    'today',      '1 day',      'calendar', 'requests',  200, true),
	('large',    'day',        '1 day',      'sliding',  'requests',  250, true),
	('calendar', 'this hour',  '1 hour',     'calendar', 'requests',   30, true),
	('calendar', 'spend',      '1 hour',     'calendar', 'credits',   150, false),
	('calendar', 'this month', '1 month',    'calendar', 'requests', 1000, true),
	('requests', 'minute',     '1 minute',   'sliding',  'requests',   10, false),
	('requests', '2 hours',    '2 hours',    'sliding',  'requests',   60, true);
SQL

#
# It also is when the server is restarted now and then, and windows come back
# from the log, ...
#

play('restarts', $same_windows, "700, '1000 s', true");
for my $round (1 .. 3)
{
	sql('SELECT tierlimit.log_flush()', 'restarts');
	$node->stop($round % 2 ? 'fast' : 'immediate');
	$node->start;
	go_on('restarts', ($seed + $round) % 2**31, "700, '1000 s', true");
}

#
# ... when a standby takes over, which has known all of it from the log before, ...
#

play('promoted', $same_windows, "700, '1000 s', true");
for my $round (1 .. 2)
{
	my $standby = PostgreSQL::Test::Cluster->new("standby_$round");

	$node->backup("backup_$round");
	$standby->init_from_backup($node, "backup_$round", has_streaming => 1);
	$standby->start;
	go_on('promoted', ($seed + 3 + $round) % 2**31, "700, '10 s', true");
	sql('SELECT tierlimit.log_flush()', 'promoted');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	is($standby->safe_psql('promoted', 'SELECT * FROM model.differences()'), '', 'promoted: the standby answers the same');
	$node->stop('immediate');
	$standby->promote;
	$node = use_node($standby);
	is(sql('SELECT * FROM model.differences()', 'promoted'), '', 'promoted: so it does when it is promoted');
	like(sql('SELECT * FROM model.repeated()', 'promoted'), qr/^([1-9]\d*)\|\1$/, 'promoted: requests of before are known');
}
go_on('promoted', ($seed + 6) % 2**31, "700, '1000 s', true");

#
# ... and when others need the memory all the time.
#

my $filler = <<'SQL';
INSERT INTO tierlimit.tier VALUES ('filler');
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
	SELECT 'filler', i || ' hours', i * interval '1 hour', 1 FROM generate_series(1, 24) i;
SQL

sub evicted_and_rebuilt
{
	return split /\|/, sql('SELECT evictions, rebuilds FROM tierlimit.stat', 'evicted');
}

$node->append_conf('postgresql.conf', 'tierlimit.memory = 1MB');
$node->restart;
play('evicted', "$same_windows$filler", "1500, '1000 s', true, 80");
my ($evicted, $rebuilt) = evicted_and_rebuilt();
cmp_ok($evicted, '>', 10000, 'evicted: keys made room all the time');
cmp_ok($rebuilt, '>', 100, 'evicted: and came back');
$node->append_conf('postgresql.conf', 'tierlimit.memory = 64MB');

#
# With 16 slots, windows are exact up to a max of 16 ...
#

$node->append_conf('postgresql.conf', 'tierlimit.window_slots = 16');
$node->restart;

my $tiers = <<'SQL';
INSERT INTO tierlimit.tier VALUES ('free'), ('pro');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max)
SELECT t.tier, l.name, l.period, l.unit, ceil(l.max * t.share)
FROM (VALUES ('free', 0.7), ('pro', 1)) AS t (tier, share), (VALUES %s) AS l (name, period, unit, max);
SQL

play('few_slots', sprintf($tiers, <<'SQL'), "5000, '3 s', true");
	('spend',  interval '10 seconds', 'credits',  16),
	('minute', '1 minute',            'requests', 16)
SQL

# ... also for a key that was on a tier with more, ...
play('downgraded', <<'SQL', "4000, '1500 ms', false");
INSERT INTO tierlimit.tier VALUES ('exact'), ('large');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max) VALUES
	('exact', 'minute', '1 minute', 'requests', 12), ('exact', 'spend', '2 minutes', 'credits', 16),
	('large', 'minute', '1 minute', 'requests', 100), ('large', 'spend', '2 minutes', 'credits', 1000);
SQL

# ... and admit no more than max with a larger one, but may deny for a 16th of
# the period longer.
play('full_slots', sprintf($tiers, <<'SQL'), "5000, '70 ms', false");
	('20 seconds', interval '20 seconds', 'credits',   400),
	('minute',     '1 minute',            'requests',  150),
	('2 minutes',  '2 minutes',           'credits',  2000)
SQL
is( $node->safe_psql('full_slots',
		'SELECT sum(model.admitted_over(l)) FROM tierlimit.tier_limit l'),
	'0', 'full_slots: no call was admitted over a limit');

$node->stop;
done_testing();
