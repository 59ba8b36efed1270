# Windows that are not in memory are read from the log once, however many
# sessions want them; and each database has its own way to its log.

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
log_statement = none
max_worker_processes = 20
});

my $install = <<'SQL';
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('day');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('day', 'day', '1 day', 200);
SQL
sql($install);

#
# Two sessions, one key
#

my $rebuilds = 'SELECT rebuilds FROM tierlimit.stat';
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('both'::text, '{50}'), 'day')");
$node->restart;

# A lock on the log makes both wait for it.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
my @sessions = map { call_in_background("both$_", "SELECT remaining FROM tierlimit.check('both', 'day')") } 1 .. 2;
wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE query ~ 'both' AND pid <> pg_backend_pid()
	AND wait_event IN ('relation', 'Extension', 'TierlimitRebuild')");
is( sql("SELECT string_agg(wait_event_type, ' ' ORDER BY wait_event_type DESC) FROM pg_stat_activity
		 WHERE query ~ 'both' AND pid <> pg_backend_pid()"),
	'Lock Extension', 'two sessions: one reads, the other waits for it');
$locker->query_safe('COMMIT');
$_->{psql}->finish for @sessions;
is(join(' ', sort map { slurp_file($_->{out}) =~ s/\s//gr } @sessions), '148 149', 'two sessions: both count');
is(sql($rebuilds), '1', 'two sessions: the key was read once');
is(differences(), '', 'two sessions: usage is the sum of the log');

# One that can't read gives the other a chance.
$node->restart;
$locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log');
@sessions = map { call_in_background("failed$_", "SET lock_timeout = '1s'; SELECT remaining FROM tierlimit.check('both', 'day')") } 1 .. 2;
usleep(2_500_000);
$locker->query_safe('COMMIT');
$locker->quit;
$_->{psql}->finish for @sessions;
like(slurp_file($_->{out}) . slurp_file($_->{err}), qr/^14\d$|lock timeout/m, 'a reader that fails: is told, or reads later') for @sessions;
my $left = sql("SELECT remaining FROM tierlimit.peek('both', 'day')");
is(sql("SELECT remaining FROM tierlimit.check('both', 'day')"), $left, 'a reader that fails: leaves no claim');
is(differences(), '', 'a reader that fails: usage is the sum of the log');

# Many sessions, many keys, after a restart.
sql("SELECT count(*) FROM tierlimit.check_many(ARRAY(SELECT 'key ' || i % 200 FROM generate_series(1, 2000) i), 'day')");
$node->restart;
$node->pgbench(
	'-n -c 8 -j 2 -t 5', 0,
	[qr{actually processed: 40/40}], [qr{^$}],
	'many sessions: they call',
	{ 'rebuild.sql' => "SELECT count(*) FROM (SELECT i FROM generate_series(0, 199) i ORDER BY random()) n, tierlimit.check('key ' || i, 'day');" });
is(sql($rebuilds), '200', 'many sessions: each of 200 keys was read once');
is(sql("SELECT DISTINCT used FROM generate_series(0, 199) i, tierlimit.usage('key ' || i, 'day')"),
	'50', 'many sessions: all calls are counted, of before and after');

#
# Calls under a tier without limits
#

sql(<<'SQL');
INSERT INTO tierlimit.tier VALUES ('open');
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('alone', 'open', NULL), ('member', 'open', 'team');
SQL
for my $key ('alone', 'member')
{
	is( sql("SELECT count(*) FROM tierlimit.check_many(array_fill('$key'::text, '{150}')) WHERE allowed;
			 UPDATE tierlimit.api_key SET tier = 'day' WHERE name = '$key';
			 SELECT count(*) FROM tierlimit.check_many(array_fill('$key'::text, '{100}')) WHERE allowed"),
		"150\n50", "no limits, then some: calls of $key just before count");
}

$node->stop;
done_testing();
