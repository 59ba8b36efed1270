# What simulate() says of random traffic is what the limiter has decided, under the
# same tier; and what it would have decided under another one: that is tried in
# another database.  And long work is seen, and gone when it is cancelled.
#
# TIERLIMIT_SEED chooses other operations, TIERLIMIT_ROUNDS more of them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $rounds = $ENV{TIERLIMIT_ROUNDS} // 6;
my $seed = $ENV{TIERLIMIT_SEED} // 1;
note("TIERLIMIT_SEED=$seed");

my $node = start_node("log_statement = none\ntierlimit.window_slots = 64\nautovacuum = off",
	allows_streaming => 1);

# Both databases play the same operations, since they draw the same numbers.  All
# calls are of the tier "anonymous", so that those without a key are as well.
my $setup = <<'SQL';
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('anonymous'), ('strict');
CREATE TABLE op (no serial, at timestamptz, what text, key text, ip inet, cost bigint, requests integer, id text);
CREATE TABLE answer (key text, allowed boolean);

CREATE FUNCTION pick(VARIADIC anyarray) RETURNS anyelement LANGUAGE sql AS
	$$ SELECT $1[1 + floor(random() * cardinality($1))::integer] $$;

-- the limits of a round, for a tier
CREATE FUNCTION set_limits(tier text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM tierlimit.tier_limit l WHERE l.tier = set_limits.tier;
	INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce)
	SELECT tier, name, period::interval, kind, unit, max, enforce FROM (
		SELECT name, period, kind, unit, least + floor(random() * least)::bigint AS max, random() < 0.9 AS enforce, random() AS chance
		FROM (VALUES ('minute', '1 minute', 'sliding', 'requests', 3), ('spend', '1 hour', 'sliding', 'credits', 15),
			('days', '2 days', 'sliding', 'requests', 15), ('hour', '1 hour', 'calendar', 'requests', 6),
			('day', '1 day', 'calendar', 'credits', 25), ('week', '1 week', 'calendar', 'requests', 40),
			('month', '1 month', 'calendar', 'requests', 60)) AS l (name, period, kind, unit, least)) c
	WHERE chance < 0.6 OR name = 'hour';
END
$$;

-- the keys of a round: on their own or of an account, with calendars of their own or
-- not, registered or not; where calls have equal times, the log does not tell their
-- order, which matters if keys of an account have several calendars
CREATE FUNCTION make_keys(round integer, equal_times boolean) RETURNS void LANGUAGE sql AS $$
	INSERT INTO tierlimit.api_key (name, tier, account, billing_anchor, billing_timezone)
	SELECT format('%s %s', round, name), 'anonymous', round || ' ' || account,
		CASE WHEN NOT (equal_times AND account = 'company') THEN anchor::timestamptz END,
		CASE WHEN equal_times AND account = 'company' THEN 'Australia/Sydney' ELSE zone END
	FROM (VALUES ('a', NULL, NULL, 'UTC'), ('b', NULL, NULL, 'America/New_York'), ('c', NULL, '2025-01-31 07:00+00', 'Europe/Berlin'),
		('d', 'company', NULL, 'UTC'), ('e', 'company', '2025-08-31 22:30+00', 'Asia/Kolkata'), ('f', 'company', NULL, 'Europe/Berlin'),
		('g', 'pair', '2020-02-29 00:00+00', 'America/New_York'), ('h', 'pair', '2020-02-29 00:00+00', 'America/New_York'))
		AS k (name, account, anchor, zone) $$;

CREATE FUNCTION make_ops(round integer, since timestamptz, n integer, equal_times boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t timestamptz := since;
	k text;
	what text;
	address inet;
BEGIN
	TRUNCATE op RESTART IDENTITY;
	FOR i IN 1 .. n LOOP
		k := format('%s %s', round, pick('a', 'b', 'c', 'd', 'd', 'e', 'e', 'f', 'g', 'h', 'u', 'v', NULL::text));
		address := CASE WHEN k IS NULL OR k LIKE '% ' THEN format('198.51.%s.%s', round, 1 + i % 2)::inet END;
		IF address IS NOT NULL THEN k := NULL; END IF;
		what := CASE WHEN random() < 0.86 THEN 'check' WHEN random() < 0.5 THEN 'refund' WHEN random() < 0.9 THEN 'refund_id' ELSE 'reset' END;
		INSERT INTO op (at, what, key, ip, cost, requests, id)
		SELECT t, what, k, address, floor(random() * 5), floor(random() * 3),
			CASE WHEN what = 'refund_id' THEN (SELECT id FROM op o WHERE o.key = k AND o.id IS NOT NULL AND o.what = 'check' ORDER BY no DESC
					LIMIT 1 OFFSET floor(random() * 5)::integer)
				WHEN what = 'check' AND random() < 0.5 THEN 'id ' || i END;
		-- each denial is a row of its own, and what is given back is told from what follows
		IF what <> 'check' OR NOT equal_times OR random() < 0.5 THEN
			t := t + CASE WHEN random() < 0.6 THEN interval '1 second' * (1 + floor(random() * 9))
				WHEN random() < 0.7 THEN interval '1 second' * (60 + floor(random() * 3600))
				ELSE interval '1 minute' * floor(60 + random() * 600) END;
		END IF;
	END LOOP;
END
$$;

CREATE FUNCTION play() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	o op;
	d tierlimit.decision;
BEGIN
	TRUNCATE answer;
	FOR o IN SELECT * FROM op ORDER BY no LOOP
		PERFORM set_config('tierlimit.now', o.at::text, false);
		IF o.what = 'check' THEN
			IF o.key IS NULL THEN
				d := tierlimit.authorize(NULL, ip => o.ip, cost => o.cost, request_id => o.id);
			ELSE
				d := tierlimit.check(o.key, 'anonymous', o.cost, NULL, o.id);
			END IF;
			INSERT INTO answer VALUES (o.key, d.allowed);
		ELSIF o.what = 'refund' THEN
			PERFORM tierlimit.refund(coalesce(o.key, host(o.ip)), o.cost, o.requests);
		ELSIF o.what = 'refund_id' AND o.key IS NOT NULL AND o.id IS NOT NULL THEN
			PERFORM tierlimit.refund(o.key, request_id => o.id);
		ELSIF o.what = 'reset' THEN
			PERFORM tierlimit.reset(coalesce(o.key, host(o.ip)));
		END IF;
	END LOOP;
	PERFORM set_config('tierlimit.now', '', false);
END
$$;
SQL
sql('CREATE DATABASE other');
sql($setup, $_) for 'postgres', 'other';

# answers(): what the limiter has decided, as simulate() puts it.
sub answers
{
	my ($database) = @_;
	return sql("SELECT key, count(*), count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed)
		FROM answer GROUP BY key ORDER BY key COLLATE \"C\" NULLS LAST", $database);
}

# simulated(TIER, ROUND, SETTINGS): what simulate() says in the first database.
sub simulated
{
	my ($tier, $since, $settings) = @_;
	return sql(($settings // '') . "SELECT key, requests, admitted, denied
		FROM tierlimit.simulate('$tier', '$since', '$since'::timestamptz + interval '1 year')");
}

my $mixed = 0;
for my $round (1 .. $rounds)
{
	my $since = sprintf('20%02d-03-04 00:00+00', 25 + $round);
	my $n = 500;
	my $wide = $round % 2 ? 1 : 1000;
	my $equal_times = $round % 2 ? 'true' : 'false';

	# Under the same limits, or in a wide tier and then under strict limits.
	for my $database ('postgres', 'other')
	{
		my $width = $database eq 'postgres' ? $wide : 1;
		sql(sprintf(<<'SQL', ($seed + $round) / 2_000_000, $width, $round, $equal_times, $round, $since, $n, $equal_times), $database);
SELECT setseed(%.9f);
SELECT set_limits('strict');
DELETE FROM tierlimit.tier_limit WHERE tier = 'anonymous';
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce)
	SELECT 'anonymous', name, period, kind, unit, max * %d, enforce FROM tierlimit.tier_limit WHERE tier = 'strict';
SELECT make_keys(%d, %s);
SELECT make_ops(%d, '%s', %d, %s);
SELECT play();
SELECT tierlimit.log_flush();
SQL
	}
	is(sql('TABLE op ORDER BY no'), sql('TABLE op ORDER BY no', 'other'), "round $round: the same is played");
	is(simulated('anonymous', $since), answers('postgres'), "round $round: the same tier decides as it did");
	is(simulated('strict', $since), answers('other'), "round $round: another one, as it does elsewhere");
	$mixed += sql("SELECT count(*) FROM answer WHERE NOT allowed", 'other') > 20;
}
cmp_ok($mixed, '>', 0, 'many calls were denied');

#
# What a standby has says the same.
#
my $of_primary = simulated('strict', '2026-03-04 00:00+00');

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
use_node($standby);
is(simulated('strict', '2026-03-04 00:00+00'), $of_primary, 'a standby simulates, too');
$standby->stop;
use_node($node);

#
# How far it is, and what is left when it ends.
#

# blocked(NAME, SETTINGS): a session that simulates, and is held up by another one
# that has locked the log.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN');
$locker->query_safe('LOCK TABLE tierlimit.request_log');

sub blocked
{
	my ($name, $settings) = @_;
	my $session = call_in_background("simulate $name", ($settings // '')
		  . "SELECT count(*) FROM tierlimit.simulate('strict', '2026-03-04', '2027-01-01'); SELECT 'next';");

	wait_until("SELECT phase FROM tierlimit.stat_progress WHERE command = 'simulate'", 'replaying calls');
	return $session;
}

my $running = "FROM tierlimit.stat_progress WHERE command = 'simulate'";
my $session = blocked('cancelled');
is(sql("SELECT p.datname, p.rows_done, p.started_at BETWEEN a.query_start AND clock_timestamp(), a.wait_event_type
	FROM tierlimit.stat_progress p JOIN pg_stat_activity a USING (pid)"), 'postgres|0|t|Lock', 'the view shows who simulates');
is(sql("SELECT count(*) $running AND datname = current_database()", 'other'), '0', 'of another database, as such');
is(sql("SELECT count(*) $running", 'other'), '1', 'but it is seen from there');
sql("SELECT pg_cancel_backend(pid) $running");
wait_until("SELECT count(*) $running", '0');
$session->{psql}->finish;
like(slurp_file($session->{err}), qr/canceling statement due to user request/, 'it was cancelled');
is(slurp_file($session->{out}), "next\n", 'and the session goes on');

$session = blocked('timeout', 'SET statement_timeout = 2000; ');
wait_until("SELECT count(*) $running", '0');
$session->{psql}->finish;
like(slurp_file($session->{err}), qr/canceling statement due to statement timeout/, 'a timeout leaves nothing');

$session = blocked('terminated');
sql("SELECT pg_terminate_backend(pid) $running");
wait_until("SELECT count(*) $running", '0');
$session->{psql}->finish;
like(slurp_file($session->{err}), qr/terminating connection/, 'nor does a session that is ended');

$session = blocked('goes on');
$locker->query_safe('COMMIT');
$session->{psql}->finish;
like(slurp_file($session->{out}), qr/^[1-9][0-9]*\nnext$/, 'it goes on when it can');
is(sql("SELECT count(*) $running"), '0', 'and is not shown any more');
$locker->quit;

# One that is at work, not waiting, is cancelled as well.
sql("INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	VALUES ('2090-01-01', 'many', 'strict', 0, 2147483647, 0);
	INSERT INTO tierlimit.tier VALUES ('nothing')");
$session = call_in_background('simulate busy', "SELECT * FROM tierlimit.simulate('nothing', '2090-01-01', '2091-01-01')");
wait_until("SELECT phase $running", 'replaying calls');
sql("SELECT pg_cancel_backend(pid) $running");
wait_until("SELECT count(*) $running", '0');
$session->{psql}->finish;
like(slurp_file($session->{err}), qr/canceling statement due to user request/, 'it was cancelled while at work');

done_testing();
