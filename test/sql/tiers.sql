-- Tiers: which limit governs, and what a change of tier keeps.
SET client_min_messages = warning;
SET timezone = 'UTC';

-- an upgrade in mid-window keeps what is used
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'free');
SELECT * FROM calls('acme', NULL, 31, '2026-02-01 00:00:00+00', '1 second');
UPDATE tierlimit.api_key SET tier = 'pro' WHERE name = 'acme';
SELECT * FROM calls('acme', NULL, 91, '2026-02-01 00:00:31+00', '0.1 second');
SELECT limit_name, "limit", used, remaining FROM tierlimit.usage('acme');

-- so does a downgrade: the minute has to drain to below its new max
UPDATE tierlimit.api_key SET tier = 'free' WHERE name = 'acme';
SET tierlimit.now = '2026-02-01 00:00:45+00';
SELECT allowed, "limit", remaining, retry_after FROM tierlimit.check('acme');
SET tierlimit.now = '2026-02-01 00:01:37+00';
SELECT allowed, remaining FROM tierlimit.check('acme');
SET tierlimit.now = '2026-02-01 00:01:38+00';
SELECT allowed, remaining FROM tierlimit.check('acme');
SELECT limit_name, "limit", used, remaining FROM tierlimit.usage('acme');
-- what is used under one tier is used under another
SELECT limit_name, "limit", used, remaining FROM tierlimit.usage('acme', 'enterprise');

-- the tier that the caller names goes before the key's own
SELECT tier, "limit" FROM tierlimit.check('acme', 'enterprise');

-- when allowed, the limit with the fewest further calls governs
INSERT INTO tierlimit.tier VALUES ('mixed');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max) VALUES
  ('mixed', 'calls',   '1 minute', 'requests', 10),
  ('mixed', 'credits', '1 hour',   'credits',  100);
SET tierlimit.now = '2026-02-02 00:00:00+00';
SELECT limit_name, remaining FROM tierlimit.peek('m', 'mixed', 1);
SELECT limit_name, remaining FROM tierlimit.peek('m', 'mixed', 9);
-- 100 credits are ten calls of 10, as many as the minute has: the shorter one
SELECT limit_name, remaining FROM tierlimit.peek('m', 'mixed', 10);
SELECT limit_name, remaining FROM tierlimit.peek('m', 'mixed', 11);
-- two limits with equally many calls left
INSERT INTO tierlimit.tier VALUES ('tied');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('tied', 'hour', '1 hour', 3), ('tied', 'day', '1 day', 3), ('tied', 'minute', '1 minute', 3);
SELECT * FROM calls('t', 'tied', 4, '2026-02-02 00:00:00+00');
-- when denied, of two that free at the same time the longer one
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('closed', 'day', '1 day', 0);
SELECT limit_name, error_code, retry_after FROM tierlimit.check('t', 'closed');

-- codes by period, and one of our own
INSERT INTO tierlimit.error_code VALUES (2001, 429, 'BURST', 'Slow down.', NULL);
INSERT INTO tierlimit.tier VALUES ('coded');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, error_code) VALUES
  ('coded', 'second', '1 second', 1, 2001);
SELECT * FROM calls('c', 'coded', 2, '2026-02-02 00:00:00+00');
SELECT error, http_status FROM tierlimit.check('c', 'coded');
UPDATE tierlimit.error_code SET http_status = 503, name = 'TOO_FAST' WHERE code = 2001;
SELECT error, http_status FROM tierlimit.check('c', 'coded');
INSERT INTO tierlimit.tier SELECT 'by ' || p FROM unnest(ARRAY['1 hour', '61 minutes', '1 day', '25 hours']) p;
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
SELECT 'by ' || p, 'only', p::interval, 0 FROM unnest(ARRAY['1 hour', '61 minutes', '1 day', '25 hours']) p;
SELECT p, d.error_code, d.error FROM unnest(ARRAY['1 hour', '61 minutes', '1 day', '25 hours']) p, tierlimit.check('k', 'by ' || p) d;

-- a tier has at most 32 limits
INSERT INTO tierlimit.tier VALUES ('greedy');
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
SELECT 'greedy', 'limit ' || i, i * interval '1 minute', 10 FROM generate_series(1, 32) i;
SELECT count(*) FROM tierlimit.usage('g', 'greedy');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('greedy', 'one more', '1 day', 10);
DELETE FROM tierlimit.tier WHERE name IN ('greedy', 'closed');
SELECT allowed FROM tierlimit.check('g', 'greedy');

-- what the tables accept
INSERT INTO tierlimit.tier VALUES ('');
INSERT INTO tierlimit.tier VALUES (repeat('x', 64));
INSERT INTO tierlimit.tier VALUES (E'tab\there');
INSERT INTO tierlimit.tier VALUES ('größer');
CREATE FUNCTION try_limit(kind text, period interval, max bigint DEFAULT 1) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	failed text;
BEGIN
	INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max) VALUES ('unlimited', 'try', kind, period, max);
	DELETE FROM tierlimit.tier_limit WHERE tier = 'unlimited';
	RETURN 'accepted';
EXCEPTION WHEN check_violation THEN
	GET STACKED DIAGNOSTICS failed = CONSTRAINT_NAME;
	RETURN failed;
END
$$;
SELECT period, try_limit('sliding', period::interval) FROM unnest(ARRAY['1 second', '0.999999 seconds', '366 days',
  '366 days 1 microsecond', '1 month', '1 year', '0', '-1 day', '1 day -1 hour', '36 hours']) period;
SELECT period, try_limit('calendar', period::interval) FROM unnest(ARRAY['1 minute', '1 hour', '1 day', '1 week', '1 month',
  '3 months', '1 year', '2 months', '30 days', '24 hours', '15 minutes', '1 month 1 day', '0']) period;
SELECT try_limit('rolling', '1 day'), try_limit('sliding', '1 day', -1);
