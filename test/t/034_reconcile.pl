# Random traffic of some weeks, and what reports and bills say of it.
#
# A client notes what each call answered.  What usage_report() says by any step, zone and
# key, what the log has, and what is on bills, written and running, must be that, to the
# unit; each call is on one bill; and a bill that is written never changes.
#
# The weeks go by within seconds: the functions that keep bills take their time from
# sim.now() in place of now(), by their search_path.  The calls are the same each time,
# unless TIERLIMIT_SEED has another number up to 2147483647.

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
tierlimit.log_retention = '36500d'
tierlimit.request_memory = '1d'
autovacuum = off
jit = off
CONF

my $sim = <<'SQL';
CREATE EXTENSION tierlimit;
CREATE SCHEMA sim;

-- The time of the play, which only goes forward.
CREATE TABLE sim.clock (at timestamptz);
INSERT INTO sim.clock VALUES ('2026-02-26 21:00+00');
CREATE FUNCTION sim.now() RETURNS timestamptz LANGUAGE sql STABLE RETURN (SELECT at FROM sim.clock);
-- _sum_log() rounds the time that it is asked for by this; the log writer asks for its own
CREATE FUNCTION sim.date_trunc(text, timestamptz, text) RETURNS timestamptz LANGUAGE sql STABLE
	RETURN pg_catalog.date_trunc($1, least($2, sim.now() - interval '1 minute'), $3);
ALTER FUNCTION tierlimit._keep_bills() SET search_path = sim, pg_catalog, pg_temp;
ALTER FUNCTION tierlimit._open_priced_periods(timestamptz, timestamptz) SET search_path = sim, pg_catalog, pg_temp;
ALTER FUNCTION tierlimit._begin_bills() SET search_path = sim, pg_catalog, pg_temp;
ALTER FUNCTION tierlimit._reopen_changed_periods() SET search_path = sim, pg_catalog, pg_temp;
ALTER FUNCTION tierlimit._sum_log(timestamptz) SET search_path = sim, pg_catalog, pg_temp;
ALTER FUNCTION tierlimit._bill_late_rows(timestamptz[], text[], text[], text[], integer[], integer[], bigint[], timestamptz)
	SET search_path = sim, pg_catalog, pg_temp;
INSERT INTO tierlimit.log_state (summed_until) SELECT at FROM sim.clock;

INSERT INTO tierlimit.tier (name, price) VALUES ('free', NULL), ('pro', 29.99), ('credits', 99), ('week', 5), ('open', NULL), ('day', 0.5);
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, overage_price) VALUES
	('free', 'minute', '1 minute', 'sliding', 'requests', 4, true, NULL), ('free', 'today', '1 day', 'sliding', 'credits', 300, true, NULL),
	('pro', 'minute', '1 minute', 'sliding', 'requests', 20, true, NULL), ('pro', 'month', '1 month', 'calendar', 'requests', 40, false, 0.25),
	('credits', 'month', '1 month', 'calendar', 'credits', 400, false, 0.01), ('credits', 'calls', '1 month', 'calendar', 'requests', 500, true, NULL),
	('credits', 'hour', '1 hour', 'calendar', 'credits', 50, false, 1000),
	('week', 'week', '7 days', 'calendar', 'credits', 90, false, 2), ('week', 'minute', '1 minute', 'sliding', 'requests', 10, true, NULL),
	('day', 'day', '1 day', 'calendar', 'requests', 7, false, 0.125);
INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 2), ('/v1/slow', 9);

-- Whose calls there are, with the calendars that their keys may have.
CREATE TABLE sim.caller (n integer, name text, account text);
INSERT INTO sim.caller VALUES (1, 'ann', NULL), (2, 'bob', NULL), (3, 'cat', 'acme'), (4, 'dan', 'acme'), (5, 'eve', NULL),
	(6, 'fay', 'beta'), (7, 'gus', NULL), (8, 'hal', NULL), (9, 'guest', NULL), (10, 'visitor', NULL);
CREATE TABLE sim.calendar (n integer, anchor timestamptz, timezone text);
INSERT INTO sim.calendar VALUES (1, NULL, 'UTC'), (2, '2026-01-31 00:00 Europe/Berlin', 'Europe/Berlin'), (3, NULL, 'Asia/Kolkata'),
	(4, '2025-12-31 23:59:59.999999+00', 'America/New_York'), (5, NULL, 'Australia/Lord_Howe'), (6, '2026-01-15 10:23:45.678+00', 'UTC'),
	(7, '2026-01-30 02:30 Europe/Berlin', 'Europe/Berlin');
INSERT INTO tierlimit.api_key (name, tier, account, billing_anchor, billing_timezone, created_at)
SELECT c.name, (ARRAY['free', 'pro', 'credits', 'week', 'open', 'day'])[1 + c.n % 6], c.account, k.anchor, k.timezone, timestamptz '2026-02-01' + c.n * interval '1 hour'
FROM sim.caller c JOIN sim.calendar k USING (n);

-- What a client was told; when a subject was last decided about.
CREATE TABLE sim.told (seq bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, key text, account text, tier text, endpoint text, request_id text, requests bigint, credits bigint, denied bigint);
CREATE TABLE sim.last (subject text PRIMARY KEY, at timestamptz);
-- What bills were written, and what was in force when a calendar period ended.
CREATE TABLE sim.bill (LIKE tierlimit.bill);
CREATE TABLE sim.ended (subject text, is_account boolean, period_end timestamptz, keys bigint, tier text, price numeric,
	requests_included numeric, requests_price numeric, credits_included numeric, credits_price numeric);

CREATE FUNCTION sim.pick(n integer) RETURNS integer LANGUAGE sql VOLATILE RETURN 1 + floor(random() * n)::integer;
CREATE FUNCTION sim.pick(VARIADIC texts text[]) RETURNS text LANGUAGE sql VOLATILE RETURN texts[sim.pick(cardinality(texts))];

-- What is in force now, for each calendar period that ends from one time on to another.  (What
-- was called in a period that is not open yet is billed by what is in force when it is summed
-- up, at most an hour later.)
CREATE PROCEDURE sim.note_ends(since timestamptz, until timestamptz) LANGUAGE sql AS $$
	WITH subject AS (
		SELECT DISTINCT ON (coalesce(account, name)) coalesce(account, name) AS subject, account IS NOT NULL AS is_account,
			count(*) OVER (PARTITION BY coalesce(account, name)) AS keys, tier, billing_anchor, billing_timezone
		FROM tierlimit.api_key ORDER BY coalesce(account, name), created_at, name COLLATE "C"),
	counted AS (
		SELECT s.*, t.price, coalesce((SELECT max(period) FROM tierlimit.tier_limit l WHERE l.tier = s.tier AND kind = 'calendar'), '1 month') AS length
		FROM subject s JOIN tierlimit.tier t ON t.name = s.tier)
	INSERT INTO sim.ended
	SELECT c.subject, c.is_account, e.period_end, c.keys, c.tier, c.price, r.max, r.overage_price, k.max, k.overage_price
	FROM counted c
		LEFT JOIN tierlimit.tier_limit r ON r.tier = c.tier AND r.kind = 'calendar' AND r.period = c.length AND r.unit = 'requests'
		LEFT JOIN tierlimit.tier_limit k ON k.tier = c.tier AND k.kind = 'calendar' AND k.period = c.length AND k.unit = 'credits',
		generate_series(since, until + interval '2 days', interval '12 hours') AS at,
		tierlimit._calendar_period(c.length, c.billing_anchor, c.billing_timezone, at) e
	WHERE e.period_end > since AND e.period_end <= until AND EXISTS (SELECT FROM tierlimit.bill_period p
		WHERE p.subject = c.subject AND p.is_account = c.is_account AND p.period_end = e.period_end)
	GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10;
$$;

-- Have bills written, as the log writer may do at any time.
CREATE PROCEDURE sim.keep_bills(until timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tierlimit.log_flush();
	LOOP
		BEGIN
			PERFORM tierlimit._sum_log(until);
			EXIT WHEN NOT tierlimit._keep_bills();
		EXCEPTION WHEN lock_not_available THEN
			NULL;
		END;
	END LOOP;
END
$$;

-- What the log says was given back of a key's calls; a client is told of its credits at most.
CREATE TABLE sim.before (account text, tier text, endpoint text, requests bigint, credits bigint);
CREATE FUNCTION sim.given_back(who text) RETURNS SETOF sim.before LANGUAGE sql AS $$
	SELECT account, tier, tierlimit._endpoint_pattern(endpoint), sum(requests), sum(credits)
	FROM tierlimit.request_log WHERE key = who AND request_id IS NULL AND error_code = 0 AND (requests < 0 OR credits < 0) GROUP BY 1, 2, 3
$$;
CREATE FUNCTION sim.before_giving_back(who text) RETURNS void LANGUAGE sql AS $$
	SELECT tierlimit.log_flush();
	TRUNCATE sim.before;
	INSERT INTO sim.before SELECT * FROM sim.given_back(who);
$$;
CREATE FUNCTION sim.note_given_back(who text, now timestamptz) RETURNS void LANGUAGE sql AS $$
	SELECT tierlimit.log_flush();
	INSERT INTO sim.told (at, key, account, tier, endpoint, requests, credits, denied)
	SELECT now, who, account, tier, endpoint, sum(requests), sum(credits), 0
	FROM (SELECT * FROM sim.given_back(who) UNION ALL SELECT account, tier, endpoint, -requests, -credits FROM sim.before) x
	GROUP BY account, tier, endpoint HAVING sum(requests) <> 0 OR sum(credits) <> 0;
$$;

-- One operation.
CREATE PROCEDURE sim.do_one(wild boolean) LANGUAGE plpgsql AS $$
DECLARE
	now timestamptz := sim.now();
	what double precision := random();
	number integer := sim.pick(10);
	who sim.caller := c FROM sim.caller c WHERE c.n = number;
	calendar sim.calendar := c FROM sim.calendar c WHERE c.n = number % 7 + 1;
	known boolean := EXISTS (SELECT FROM tierlimit.api_key WHERE name = who.name);
	its_account text := (SELECT account FROM tierlimit.api_key WHERE name = who.name);
	its_last timestamptz := (SELECT at FROM sim.last WHERE subject = coalesce(its_account, who.name));
	its_tier text;
	endpoint text := sim.pick('/v1/slow', '/v1/fast', '/other', NULL);
	id text;
	cost bigint;
	d tierlimit.decision;
	back bigint;
	told_before bigint;
	charged sim.told;
BEGIN
	PERFORM set_config('tierlimit.now', now::text, false);
	-- a decision that is made late, or by a clock that is behind
	IF (what < 0.67 OR what BETWEEN 0.72 AND 0.74) AND random() < 0.1 THEN
		now := greatest(CASE WHEN wild THEN '-infinity' ELSE coalesce(its_last, '-infinity') END, now - random() * interval '4 days');
		PERFORM set_config('tierlimit.now', now::text, false);
	END IF;

	IF what < 0.62 THEN
		SELECT coalesce(max(name), 'open') INTO its_tier FROM (SELECT name FROM tierlimit.tier ORDER BY random() LIMIT 1) x;
		FOR i IN 1 .. CASE WHEN random() < 0.2 THEN sim.pick(12) ELSE 1 END LOOP
			id := CASE WHEN random() < 0.3 THEN gen_random_uuid()::text END;
			cost := CASE WHEN random() < 0.3 THEN sim.pick(40) ELSE 1 END;
			d := tierlimit.check(who.name, CASE WHEN NOT known AND random() < 0.9 THEN its_tier END, cost, endpoint, id);
			INSERT INTO sim.told (at, key, account, tier, endpoint, request_id, requests, credits, denied)
			VALUES (d.decided_at, CASE WHEN d.tier IS NOT NULL THEN who.name END, its_account, d.tier,
				CASE WHEN endpoint = '/v1/slow' THEN endpoint WHEN endpoint ~ '^/v1/' THEN '/v1/*' END, CASE WHEN d.allowed THEN id END,
				d.allowed::integer, CASE WHEN d.allowed THEN cost ELSE 0 END, (NOT d.allowed)::integer);
		END LOOP;
	ELSIF what < 0.67 THEN
		PERFORM sim.before_giving_back(who.name);
		told_before := max(seq) FROM sim.told;
		back := tierlimit.refund(who.name, sim.pick(60), sim.pick(3) - 1);
		PERFORM sim.note_given_back(who.name, now);
		IF back <> coalesce((SELECT -sum(t.credits) FROM sim.told t WHERE seq > told_before), 0) THEN
			RAISE 'a refund of % at % returned %', who.name, now, back;
		END IF;
	ELSIF what < 0.72 THEN
		SELECT * INTO charged FROM sim.told t WHERE request_id IS NOT NULL ORDER BY seq DESC OFFSET sim.pick(5) LIMIT 1;
		IF FOUND THEN
			back := tierlimit.refund(charged.key, request_id => charged.request_id);
			PERFORM tierlimit.log_flush();
			INSERT INTO sim.told (at, key, account, tier, endpoint, request_id, requests, credits, denied)
				SELECT now, charged.key, l.account, l.tier, tierlimit._endpoint_pattern(l.endpoint), NULL, requests, -back, 0
				FROM tierlimit.request_log l WHERE l.request_id = charged.request_id AND error_code = 0 AND requests < 0;
			-- (once)
			UPDATE sim.told SET request_id = NULL WHERE seq = charged.seq;
			who.name := charged.key;
		END IF;
	ELSIF what < 0.74 THEN
		PERFORM sim.before_giving_back(who.name);
		PERFORM tierlimit.reset(who.name);
		PERFORM sim.note_given_back(who.name, now);
	ELSIF what < 0.80 THEN
		CALL sim.keep_bills(now - random() * interval '5 hours');
	ELSIF what < 0.84 THEN
		UPDATE tierlimit.api_key SET tier = (SELECT name FROM tierlimit.tier ORDER BY random() LIMIT 1) WHERE name = who.name;
	ELSIF what < 0.86 THEN
		UPDATE tierlimit.api_key SET account = sim.pick('acme', 'beta', NULL, NULL) WHERE name = who.name;
	ELSIF what < 0.88 THEN
		UPDATE tierlimit.api_key SET (billing_anchor, billing_timezone) = (calendar.anchor, calendar.timezone)
		WHERE name = who.name;
	ELSIF what < 0.90 THEN
		its_tier := (SELECT name FROM tierlimit.tier ORDER BY random() LIMIT 1);
		UPDATE tierlimit.tier SET name = left(its_tier, 7) || ' ' || sim.pick(1000) WHERE name = its_tier;
	ELSIF what < 0.92 THEN
		UPDATE tierlimit.tier SET price = nullif(sim.pick(5), 5) WHERE name = (SELECT name FROM tierlimit.tier ORDER BY random() LIMIT 1);
	ELSIF what < 0.95 THEN
		UPDATE tierlimit.tier_limit SET max = greatest(max + sim.pick(11) - 6, 1), overage_price = CASE WHEN NOT enforce THEN nullif(sim.pick(5), 5) END
		WHERE (tier, name) = (SELECT tier, name FROM tierlimit.tier_limit ORDER BY random() LIMIT 1);
	ELSIF what < 0.97 THEN
		DELETE FROM tierlimit.api_key WHERE name = who.name;
	ELSE
		INSERT INTO tierlimit.api_key (name, tier, account, billing_anchor, billing_timezone, created_at)
		SELECT who.name, (SELECT name FROM tierlimit.tier ORDER BY random() LIMIT 1), who.account, c.anchor, c.timezone, now
		FROM sim.calendar c WHERE c.n = who.n AND who.n < 9 ON CONFLICT DO NOTHING;
	END IF;
	-- the log writer looks every some minutes for whose calendar was changed
	IF what >= 0.80 THEN
		UPDATE tierlimit.bill_state SET opened_until = least(opened_until, now - interval '10 minutes');
		COMMIT;
		CALL sim.keep_bills(NULL);
	END IF;
	IF what NOT BETWEEN 0.74 AND 0.80 THEN
		INSERT INTO sim.last SELECT DISTINCT subject, now
		FROM unnest(ARRAY[who.name, its_account, (SELECT account FROM tierlimit.api_key WHERE name = who.name)]) subject WHERE subject IS NOT NULL
		ON CONFLICT (subject) DO UPDATE SET at = greatest(last.at, excluded.at);
	END IF;
END
$$;

CREATE PROCEDURE sim.play(seed double precision, operations integer, wild boolean) LANGUAGE plpgsql AS $$
DECLARE
	was timestamptz;
BEGIN
	PERFORM setseed(seed);
	FOR i IN 1 .. operations LOOP
		was := sim.now();
		-- what nobody looks after for longer than a billing period goes by what is found then
		IF random() < 0.02 THEN
			FOR hours IN 1 .. sim.pick(6) LOOP
				UPDATE sim.clock SET at = at + interval '11:11';
				COMMIT;
				PERFORM set_config('tierlimit.now', sim.now()::text, false);
				CALL sim.keep_bills(NULL);
			END LOOP;
		END IF;
		UPDATE sim.clock SET at = date_trunc('milliseconds', at + random() * CASE
			WHEN random() < 0.4 THEN interval '1 hour' ELSE interval '30 seconds' END);
		-- now and then just after the end of a period
		IF random() < 0.05 AND sim.now() < date_trunc('hour', was) + interval '1 hour' THEN
			UPDATE sim.clock SET at = date_trunc('hour', was) + interval '1 hour' + random() * interval '50 seconds';
		END IF;
		COMMIT;
		CALL sim.note_ends(was, sim.now());
		CALL sim.do_one(wild);
		COMMIT;
	END LOOP;
	PERFORM set_config('tierlimit.now', sim.now()::text, false);
	PERFORM tierlimit.log_flush();
END
$$;

-- The rows of all running bills that have usage: those of the times at which a period is
-- open, and those of rows of the log that are on no bill yet.
CREATE PROCEDURE sim.collect_running() LANGUAGE plpgsql AS $$
DECLARE
	next timestamptz;
BEGIN
	CREATE TEMP TABLE IF NOT EXISTS running (subject text, keys bigint, tier text, period_start timestamptz, period_end timestamptz,
		unit text, used bigint, denied bigint, included bigint, overage bigint, unit_price numeric, amount numeric);
	CREATE TEMP TABLE IF NOT EXISTS rows (subject text, at timestamptz);
	TRUNCATE running, rows;
	FOR next IN SELECT DISTINCT period_start FROM tierlimit.bill_period LOOP
		INSERT INTO running SELECT * FROM tierlimit.billing_report(next) EXCEPT SELECT * FROM running;
	END LOOP;
	INSERT INTO rows SELECT coalesce(account, key), at FROM tierlimit.request_log l
		WHERE tierlimit._summed_key(key, tier, error_code) IS NOT NULL
			AND NOT EXISTS (SELECT FROM tierlimit.bill b WHERE b.subject = coalesce(l.account, l.key) AND at >= period_start AND at < period_end)
			AND NOT EXISTS (SELECT FROM running b WHERE b.subject = coalesce(l.account, l.key) AND at >= period_start AND at < period_end);
	LOOP
		SELECT min(at) INTO next FROM rows;
		EXIT WHEN next IS NULL;
		INSERT INTO running SELECT * FROM tierlimit.billing_report(next) EXCEPT SELECT * FROM running;
		DELETE FROM rows r USING running b WHERE b.subject = r.subject AND r.at >= b.period_start AND r.at < b.period_end;
		-- a period in which nothing is left after refunds has no rows
		DELETE FROM rows WHERE at = next;
	END LOOP;
	DELETE FROM running r USING tierlimit.bill b WHERE b.subject = r.subject AND b.period_start = r.period_start AND b.unit = r.unit;
END
$$;

CREATE VIEW sim.logged AS
	SELECT at, tierlimit._summed_key(key, tier, error_code) AS key, account, tier, tierlimit._endpoint_pattern(endpoint) AS endpoint,
		CASE error_code WHEN 0 THEN requests ELSE 0 END AS requests, CASE error_code WHEN 0 THEN credits ELSE 0 END AS credits,
		CASE error_code WHEN 0 THEN 0 ELSE requests END AS denied
	FROM tierlimit.request_log;
SQL

# Each of these has no rows.
my %wrong = (
	'what the client was told is in the log' => q{
		SELECT * FROM (SELECT key, account, tier, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied FROM sim.told GROUP BY 1, 2, 3 EXCEPT
			SELECT key, account, tier, sum(requests), sum(credits), sum(denied) FROM sim.logged GROUP BY 1, 2, 3) x},
	'and nothing else' => q{
		SELECT * FROM (SELECT key, account, tier, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied
			FROM sim.logged GROUP BY 1, 2, 3 HAVING (sum(requests), sum(credits), sum(denied)) <> (0, 0, 0) EXCEPT
			SELECT key, account, tier, sum(requests), sum(credits), sum(denied) FROM sim.told GROUP BY 1, 2, 3) x},
	'usage_report() says what the log has' => q{
		SELECT s.*, r.* FROM (VALUES (interval '30 minutes', 'Australia/Lord_Howe'), ('1 hour', 'UTC'), ('3 hours', 'America/New_York'),
				('1 day', 'UTC'), ('1 day', 'Europe/Berlin'), ('7 days', 'Asia/Kolkata'), ('1 month', 'Europe/Berlin')) s (step, zone), LATERAL (
			SELECT * FROM (SELECT *, true FROM tierlimit.usage_report('2026-02-01', 'infinity', step, NULL, zone)) r
				FULL JOIN (SELECT tierlimit._bucket(at, step, zone) AS bucket, key, account, tier, endpoint, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied, true
					FROM sim.logged GROUP BY 1, 2, 3, 4, 5 HAVING sum(requests) <> 0 OR sum(credits) <> 0 OR sum(denied) <> 0) l
				ON l.bucket = r.bucket AND l.requests = r.requests AND l.credits = r.credits AND l.denied = r.denied
					AND (l.key, l.account, l.tier, l.endpoint) IS NOT DISTINCT FROM (r.key, r.account, r.tier, r.endpoint)
			WHERE l.bucket IS NULL OR r.bucket IS NULL) r LIMIT 3},
	'and what the client was told, where no clock was wrong' => q{
		SELECT * FROM tierlimit.usage_report('2026-02-01', 'infinity', '1 day', NULL, 'Europe/Berlin') r
			FULL JOIN (SELECT date_trunc('day', at, 'Europe/Berlin') AS bucket, key, account, tier, endpoint, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied
				FROM sim.told GROUP BY 1, 2, 3, 4, 5 HAVING sum(requests) <> 0 OR sum(credits) <> 0 OR sum(denied) <> 0) l
			ON l.bucket = r.bucket AND l.requests = r.requests AND l.credits = r.credits AND l.denied = r.denied
				AND (l.key, l.account, l.tier, l.endpoint) IS NOT DISTINCT FROM (r.key, r.account, r.tier, r.endpoint)
		WHERE (l.bucket IS NULL OR r.bucket IS NULL) AND current_database() = 'forward' LIMIT 3},
	'so it does by key, and from any time to any other' => q{
		SELECT c.name, s.*, r.* FROM sim.caller c, (SELECT (SELECT min(at) FROM sim.told) + i * interval '37:11:13.7' AS since,
				sim.now() - i * interval '29:13:17.3' AS until FROM generate_series(0, 9, 3) i) s, LATERAL (
			SELECT coalesce(sum(requests), 0) AS requests, coalesce(sum(credits), 0), coalesce(sum(denied), 0)
				FROM tierlimit.usage_report(since, until, '1 day', name, 'Asia/Kathmandu') EXCEPT
			SELECT coalesce(sum(requests), 0), coalesce(sum(credits), 0), coalesce(sum(denied), 0)
				FROM sim.logged WHERE key = name AND at >= since AND at < until) r
		WHERE since < until LIMIT 3},
	'periods do not overlap' => q{
		WITH p AS (SELECT DISTINCT subject, is_account, period_start, period_end FROM tierlimit.bill UNION ALL
			SELECT subject, is_account, period_start, period_end FROM tierlimit.bill_period)
		SELECT a.*, b.period_start, b.period_end FROM p a JOIN p b ON a.subject = b.subject AND a.is_account = b.is_account
			AND a.period_start <= b.period_start AND b.period_start < a.period_end AND a.ctid_ IS DISTINCT FROM b.ctid_},
	'all that is in the sums is in a period' => q{
		SELECT coalesce(account, key), sum(requests), sum(credits), sum(denied)
		FROM sim.logged l, tierlimit.log_state s WHERE at < summed_until AND key IS NOT NULL AND NOT EXISTS (
			SELECT FROM tierlimit.bill b WHERE subject = coalesce(l.account, l.key) AND at >= period_start AND at < period_end) AND NOT EXISTS (
			SELECT FROM tierlimit.bill_period b WHERE subject = coalesce(l.account, l.key) AND at >= period_start AND at < period_end)
		-- (there is no bill of nothing)
		GROUP BY 1 HAVING (sum(requests), sum(credits), sum(denied)) <> (0, 0, 0)},
	'each call is on one bill' => q{
		SELECT subject, l.*, b.* FROM (SELECT coalesce(account, key) AS subject, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied
				FROM sim.logged WHERE key IS NOT NULL GROUP BY 1) l
			FULL JOIN (SELECT subject, sum(used) FILTER (WHERE unit = 'requests') AS requests, sum(used) FILTER (WHERE unit = 'credits') AS credits,
					sum(denied) FILTER (WHERE unit = 'requests') AS denied
				FROM (SELECT subject, unit, used, denied FROM tierlimit.bill UNION ALL SELECT subject, unit, used, denied FROM running) x GROUP BY 1) b USING (subject)
		WHERE (coalesce(l.requests, 0), coalesce(l.credits, 0), coalesce(l.denied, 0))
			<> (coalesce(b.requests, 0), coalesce(b.credits, 0), coalesce(b.denied, 0))},
	'bills that were written are still the same' => q{SELECT * FROM sim.bill EXCEPT ALL SELECT * FROM tierlimit.bill},
	'and reported' => q{
		SELECT DISTINCT ON (b.subject, b.period_start, b.unit) b.* FROM sim.bill b WHERE NOT EXISTS (SELECT FROM tierlimit.billing_report(b.period_end - interval '1 microsecond') r
			WHERE r.subject = b.subject AND (r.keys, r.tier, r.period_start, r.period_end, r.unit, r.used, r.denied, r.included, r.overage, r.unit_price, r.amount)
				IS NOT DISTINCT FROM (b.keys, b.tier, b.period_start, b.period_end, b.unit, b.used, b.denied, b.included, b.overage, b.unit_price, b.amount)) AND random() < 0.1},
	'amounts are made of the numbers beside them' => q{
		SELECT * FROM tierlimit.bill WHERE CASE unit WHEN 'period' THEN amount <> unit_price
			ELSE overage <> coalesce(greatest(used - included, 0), 0) OR amount <> coalesce(overage * unit_price, 0) END},
	'bills have what was in force at the end of their periods' => q{
		SELECT e.*, b.* FROM sim.ended e JOIN tierlimit.bill b USING (subject, is_account, period_end)
		WHERE (b.keys, b.tier) IS DISTINCT FROM (e.keys, e.tier)
			OR unit = 'period' AND unit_price IS DISTINCT FROM e.price
			OR unit = 'requests' AND (b.included, unit_price) IS DISTINCT FROM (e.requests_included, e.requests_price)
			OR unit = 'credits' AND (b.included, unit_price) IS DISTINCT FROM (e.credits_included, e.credits_price) LIMIT 5},
);
$wrong{'periods do not overlap'} =~ s/AND a.ctid_.*?ctid_/AND a.period_end <> b.period_end/;
$wrong{'periods do not overlap'} .= ' UNION ALL SELECT subject, is_account, period_start, min(period_end), period_start, max(period_end) FROM p GROUP BY 1, 2, 3 HAVING count(*) > 1';

# all_is_right(NAME, WHEN): none of that is wrong.
sub all_is_right
{
	my ($name, $when) = @_;

	for my $what (sort keys %wrong)
	{
		my $setup = $what eq 'each call is on one bill' ? 'CALL sim.collect_running();' : '';
		is( sql("SET tierlimit.now = '" . sql('SELECT sim.now()', $name) . "'; SET client_min_messages = warning; $setup $wrong{$what}", $name),
			'', "$name, $when: $what") or diag "TIERLIMIT_SEED=$seed";
	}
	is(sums_differ($name), '', "$name, $when: sums are those of the log");
	sql('INSERT INTO sim.bill SELECT * FROM tierlimit.bill EXCEPT ALL SELECT * FROM sim.bill', $name);
	return;
}

for my $play ([ 'forward', 'false' ], [ 'wild', 'true' ])
{
	my ($name, $wild) = @$play;

	sql("CREATE DATABASE $name");
	sql($sim, $name);
	for my $round (1 .. 3)
	{
		sql(sprintf('CALL sim.play(%f, 350, %s)', (($seed * 7 + $round * 3 + length $wild) % 2**20) / 2**20, $wild), $name);
		all_is_right($name, "round $round");
		$node->stop($round % 2 ? 'immediate' : 'fast');
		$node->start;
		all_is_right($name, "round $round, after a restart") if $round == 1;
	}

	# to the end of all periods, after which nothing is left but bills
	sql("UPDATE sim.clock SET at = at + interval '65 days'", $name);
	sql('BEGIN; SELECT set_config(\'tierlimit.now\', sim.now()::text, false); CALL sim.keep_bills(sim.now()); COMMIT', $name);
	all_is_right($name, 'at the end');
	is(sql(q{SELECT count(*) > 30, sum(amount) > 0 FROM tierlimit.bill}, $name), 't|t', "$name: there are bills");
	note sql('SELECT (SELECT count(*) FROM sim.told), (SELECT count(*) FROM tierlimit.bill), (SELECT count(*) FROM sim.ended), (SELECT count(*) FROM tierlimit.bill_carried), sim.now()', $name);
	sql("UPDATE tierlimit.tier SET price = price + 1; UPDATE tierlimit.tier_limit SET max = max + 1;
		UPDATE tierlimit.api_key SET account = NULL; DELETE FROM tierlimit.api_key;
		DELETE FROM tierlimit.request_log; UPDATE tierlimit.log_state SET kept_since = sim.now()", $name);
	is(sql($wrong{$_}, $name), '', "$name, whatever is changed: $_") for 'bills that were written are still the same', 'and reported';
}

$node->stop;
done_testing();
