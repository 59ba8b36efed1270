-- A minute of calls, played at once: tierlimit.now is set to each second in
-- turn, of the minute that has just gone by.

\pset footer off
\pset null ''
\setenv PGHOST :HOST
\setenv PGUSER :USER
\setenv PGDATABASE :DBNAME

\echo
\echo '== The tiers =='
\echo

SELECT tier, max(max) FILTER (WHERE name = 'minute') AS "per minute",
	max(max) FILTER (WHERE name = 'day') AS "per day"
FROM tierlimit.tier_limit WHERE enforce GROUP BY tier ORDER BY 2;

CREATE TEMPORARY TABLE played (second integer, LIKE tierlimit.decision);

DO $$
DECLARE
	start timestamptz := date_trunc('second', clock_timestamp()) - interval '1 minute';
	caller record;
BEGIN
	FOR second IN 0..60 LOOP
		PERFORM set_config('tierlimit.now', (start + second * interval '1 second')::text, false);
		FOR caller IN
			SELECT * FROM (VALUES ('ann', 'free', 1), ('bob', 'pro', 3), ('eve', 'enterprise', 5))
				AS c (key, tier, calls), generate_series(1, calls)
		LOOP
			INSERT INTO played
				SELECT second, d.* FROM tierlimit.check(caller.key, caller.tier) d;
		END LOOP;
	END LOOP;
END
$$;

\echo '== A minute of calls =='
\echo 'Each second ann calls once, bob three times and eve five times.'
\echo

SELECT key, tier, count(*) AS calls,
	count(*) FILTER (WHERE allowed) AS admitted,
	count(*) FILTER (WHERE NOT allowed) AS denied,
	min(second) FILTER (WHERE NOT allowed) AS "first denied at second"
FROM played GROUP BY key, tier ORDER BY key;

\echo '== Some answers to ann =='
\echo 'Her first 30 calls fill the minute. The first of them leaves it at second 60:'
\echo 'that is when retry_after says to come back, and when she is admitted again.'
\echo

SELECT second, allowed, "limit", remaining, retry_after, http_status AS http, error_code, error
FROM played WHERE key = 'ann' AND second IN (0, 1, 29, 30, 31, 59, 60) ORDER BY second;

\echo '== An upgrade =='
\echo 'The key "shop" is registered as free, and makes 31 calls, by the real clock now.'
\echo

SET tierlimit.now = '';
INSERT INTO tierlimit.api_key (name, tier) VALUES ('shop', 'free');

SELECT count(*) FILTER (WHERE allowed) AS admitted, count(*) FILTER (WHERE NOT allowed) AS denied
FROM tierlimit.check_many(array_fill('shop'::text, ARRAY[31]));

\echo 'BEGIN; UPDATE tierlimit.api_key SET tier = ''enterprise'' WHERE name = ''shop'';'
\echo 'Before COMMIT, another session is told:'
\echo

\setenv ASK 'SELECT allowed, tier, "limit", remaining, error FROM tierlimit.check(''shop'')'
BEGIN;
UPDATE tierlimit.api_key SET tier = 'enterprise' WHERE name = 'shop';
\! psql -X -P footer=off -c "$ASK"
COMMIT;

\echo 'After COMMIT, what was counted goes on counting, under the new limit:'
\echo

\! psql -X -P footer=off -c "$ASK"

\echo '== What shop has used =='
\echo

SELECT limit_name, "limit", used, remaining FROM tierlimit.usage('shop');

\echo '== A bill =='
\echo 'Another 120 calls of shop, at 2 credits; a month of its tier includes 100.'
\echo

SELECT count(*) AS calls FROM generate_series(1, 120) i, tierlimit.check('shop', NULL, 2 + 0 * i) d WHERE d.allowed;

SELECT unit, used, included, overage, unit_price, amount
FROM tierlimit.billing_report(tierlimit._now()) WHERE subject = 'shop';

\echo '== The last ten minutes of shop and bob =='
\echo

SELECT to_char(s.bucket, 'HH24:MI') AS minute, s.requests AS shop, s.chart, b.requests AS bob, b.chart
FROM tierlimit.usage_chart('shop', '1 minute', 10) s JOIN tierlimit.usage_chart('bob', '1 minute', 10) b USING (bucket)
ORDER BY bucket;
