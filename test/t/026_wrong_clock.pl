# Random calls, of which some are by a clock that is ahead, after times at which the
# server was off, or its own clock was ahead: every answer is compared with that of
# test/model.sql, where what was counted later than now counts as of now.
#
# Nobody sets the computer's clock for that.  A call by a wrong clock is one by a
# session's own; and between two rounds of calls, while the server has nothing in
# memory, the times in the log are moved, and those in the model with them.  So what
# memory counts is not believed because of whose clock it is, never because the
# server's clock was set back while it ran: that is up to 023_clock.pl.
#
# A failure shows the operation, both answers and what was done before.  The
# operations are the same each time, unless TIERLIMIT_SEED has another number up
# to 2147483647.  Times are the computer's, and compared to half a minute: a round
# must not take that long.  It takes less than a second.

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

my $node = start_node(<<'CONF');
timezone = 'UTC'
# as the limits below, this ends when nothing else happens
tierlimit.request_memory = '585s'
tierlimit.log_retention = '36500d'
autovacuum = off
jit = off
CONF

sql('CREATE EXTENSION tierlimit');
# (no partition comes while the model reads the log)
wait_until('SELECT NOT tierlimit._add_log_partitions()');
sql(slurp_file("$FindBin::Bin/../model.sql"));
sql(<<'SQL');
INSERT INTO tierlimit.tier VALUES ('small'), ('large'), ('ip'), ('anonymous');
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max)
SELECT t.tier, l.name, l.period, l.kind, l.unit, l.max * t.times
FROM (VALUES ('small', 1), ('large', 2)) AS t (tier, times), (VALUES
	('minutes',   interval '10 minutes 40 seconds', 'sliding',  'requests',   5),
	('spend',     '30 minutes 44 seconds',          'sliding',  'credits',   25),
	('hour',      '1 hour 48 seconds',              'sliding',  'requests',  15),
	('this hour', '1 hour',                         'calendar', 'credits',   50),
	('day',       '1 day 52 seconds',               'sliding',  'credits',  150),
	('today',     '1 day',                          'calendar', 'requests',  40)
) AS l (name, period, kind, unit, max);
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max) VALUES
	('ip',        'minutes', '5 minutes 42 seconds',  'requests',  6),
	('ip',        'hours',   '2 hours 46 seconds',    'credits',  60),
	('anonymous', 'minutes', '20 minutes 50 seconds', 'requests',  6);
INSERT INTO model.caller (name, account) VALUES ('ann', NULL), ('bob', NULL), ('cat', 'acme'), ('dan', 'acme');
INSERT INTO tierlimit.api_key (name, tier, account, key_hash)
	SELECT name, CASE WHEN name IN ('ann', 'cat') THEN 'small' ELSE 'large' END, account, sha256(model.secret(name)::bytea)
	FROM model.caller;
CALL model.next_round(0, 0, 0);
SQL

# For how many minutes the server is off after each round; and, if it is found then that
# its clock was ahead, by how many minutes, and for how long.
my @rounds = (
	[ 1,    0,    0 ],
	[ 5,    3,    20 ],
	[ 12,   0,    0 ],
	[ 1,    90,   15 ],
	[ 31,   0,    0 ],
	[ 4,    0,    0 ],
	[ 2,    2000, 60 ],
	[ 50,   0,    0 ],
	[ 7,    10,   200 ],
	[ 61,   0,    0 ],
	[ 1500, 0,    0 ],
	[ 0,    0,    0 ]);

for my $round (0 .. $#rounds)
{
	my $its_seed = ($seed * 100 + $round) % 2**31;
	my ($status, $stdout, $stderr) =
	  $node->psql('postgres', "CALL model.play_wrong_clock($its_seed, 60)");

	is($status, 0, "round $round: all answers are right")
	  ? note $stderr =~ s/.*NOTICE:\s*//r
	  : diag "TIERLIMIT_SEED=$seed\n$stderr";
	last if $status != 0 || $round == $#rounds;
	sql('SELECT tierlimit.log_flush()');
	$node->stop($round % 2 ? 'fast' : 'immediate');
	$node->start;
	sql('CALL model.next_round(' . join(', ', @{ $rounds[$round] }) . ')');
}

# Whoever calls by the clock that is right counts nothing later than now any more.
sql("SELECT tierlimit.check(name) FROM model.caller;
	SELECT tierlimit.authorize(NULL, NULL, ip) FROM model.origin; SELECT tierlimit.authorize(NULL)");
sql('SELECT tierlimit.log_flush()');
is(sql("SELECT count(*) FROM tierlimit.request_log WHERE error_code = 0 AND at > clock_timestamp()"), '0', 'in the end the log has nothing later than now');
is(differences(), '', 'in the end memory and log agree');

$node->stop;
done_testing();
