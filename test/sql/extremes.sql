-- The ends of time, and the order of conditions.
SET client_min_messages = warning;
SET timezone = 'UTC';

INSERT INTO tierlimit.tier VALUES ('ends');
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max) VALUES
	('ends', 'minute', 'sliding', '1 minute', 1), ('ends', 'year', 'sliding', '366 days', 2);
INSERT INTO tierlimit.tier VALUES ('ends calendar');
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max) VALUES ('ends calendar', 'year', 'calendar', '1 year', 1);
-- nothing that can't be written is answered
SET tierlimit.now = '294276-12-31 23:59:30+00';
SELECT allowed, limit_name, remaining, retry_after, reset_at FROM generate_series(1, 3) i, tierlimit.check(left('ends', 3 + i), 'ends');
SELECT limit_name, used, resets_at FROM tierlimit.usage('ends', 'ends');
SELECT allowed, limit_name, remaining, retry_after, reset_at FROM generate_series(1, 2) i, tierlimit.check(left('ends calendar', 12 + i), 'ends calendar');
SELECT h.* FROM tierlimit.peek('ends', 'ends') d, jsonb_each_text(tierlimit.headers(d)) h;
SELECT tierlimit.status(d) - 'elapsed' AS status FROM tierlimit.peek('ends', 'ends') d;
SET tierlimit.now = '4714-11-24 00:00:30+00 BC';
SELECT allowed, limit_name, remaining, retry_after, reset_at FROM generate_series(1, 2) i, tierlimit.check(left('begins', 5 + i), 'ends');
SELECT limit_name, used, resets_at FROM tierlimit.usage('begins', 'ends');
SELECT tierlimit.log_flush();
SELECT count(*) FROM tierlimit.request_log WHERE tier ~ '^ends' AND error_code = 0;

-- conditions of any cost are asked before a call is charged
SET tierlimit.now = '2026-10-01 00:00:00+00';
INSERT INTO tierlimit.tier VALUES ('filtered');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('filtered', 'hour', '1 hour', 100);
INSERT INTO tierlimit.api_key (name, tier, key_hash) VALUES ('filtered', 'filtered', sha256('tl_filtered'));
CREATE FUNCTION costly(i integer) RETURNS boolean LANGUAGE plpgsql COST 5000 AS $$ BEGIN RETURN i = 3; END $$;
CREATE TABLE filtered AS SELECT i, 'filtered'::text AS key FROM generate_series(1, 10) i;
ANALYZE filtered;
SELECT count(*) FROM filtered WHERE (tierlimit.check(key, 'filtered')).allowed AND costly(i);
SELECT count(*) FROM filtered WHERE (tierlimit.authorize('tl_' || key)).allowed AND costly(i);
SELECT count(*) FROM filtered WHERE (SELECT bool_and(allowed) FROM tierlimit.check_many(ARRAY[key], 'filtered')) AND costly(i);
SELECT used FROM tierlimit.usage('filtered');
SELECT count(*) FROM filtered WHERE tierlimit.refund(key) = 1 AND costly(i);
SELECT used FROM tierlimit.usage('filtered');
-- each row is a call, also where they ask for the same
SELECT count(*) FROM filtered, LATERAL tierlimit.check(key, 'filtered');
SELECT used FROM tierlimit.usage('filtered');
TRUNCATE filtered;
INSERT INTO filtered SELECT i, 'filtered' FROM generate_series(1, 2000) i;
ANALYZE filtered;
SELECT count(*), count(*) FILTER (WHERE allowed) AS allowed FROM filtered, LATERAL tierlimit.check(key, 'filtered');
SELECT used FROM tierlimit.usage('filtered');
DROP TABLE filtered;
DELETE FROM tierlimit.api_key WHERE name = 'filtered';
DELETE FROM tierlimit.tier WHERE name IN ('filtered', 'ends', 'ends calendar');
