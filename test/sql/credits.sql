-- Credits, refunds and resets.
SET client_min_messages = warning;
SET timezone = 'UTC';

INSERT INTO tierlimit.tier VALUES ('metered');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max) VALUES
  ('metered', 'minute', '1 minute', 'requests', 5),
  ('metered', 'daily credits', '1 day', 'credits', 20);

SET tierlimit.now = '2026-03-01 00:00:00+00';
SELECT allowed, limit_name, remaining, cost FROM tierlimit.check('k', 'metered', 7);
SET tierlimit.now = '2026-03-01 00:00:10+00';
SELECT allowed, limit_name, remaining, cost FROM tierlimit.check('k', 'metered', 8);
-- too much for what is left: waits for the first 7 to leave
SELECT allowed, limit_name, remaining, retry_after, error_code FROM tierlimit.check('k', 'metered', 6);
-- waits for both
SELECT allowed, limit_name, remaining, retry_after FROM tierlimit.check('k', 'metered', 20);
-- cost above max: never
SELECT allowed, limit_name, remaining, retry_after FROM tierlimit.check('k', 'metered', 21);
-- fits exactly
SELECT allowed, limit_name, remaining, retry_after FROM tierlimit.check('k', 'metered', 5);
-- a call that costs nothing is still a request
SELECT allowed, limit_name, remaining, cost FROM tierlimit.check('k', 'metered', 0);
SELECT allowed, limit_name, remaining, cost FROM tierlimit.check('k', 'metered', 0);
SELECT allowed, limit_name, remaining, retry_after FROM tierlimit.check('k', 'metered', 0);
SELECT limit_name, unit, "limit", used, remaining, resets_at FROM tierlimit.usage('k', 'metered');

-- a refund gives back the newest, and says how many credits
SELECT tierlimit.refund('k', 6, 2);
SELECT limit_name, unit, used, resets_at FROM tierlimit.usage('k', 'metered');
-- ... as many as there are
SELECT tierlimit.refund('k', 100, 100);
SELECT tierlimit.refund('k', 100, 100);
SELECT limit_name, unit, used, resets_at FROM tierlimit.usage('k', 'metered');
SELECT tierlimit.refund('never seen');
SELECT tierlimit.refund('k', 0, 0);

-- the newest: of a minute with old and new calls the new ones go
SELECT * FROM calls('n', 'metered', 5, '2026-03-02 00:00:00+00', '10 seconds', 2);
SELECT tierlimit.refund('n', 4, 2);
SELECT limit_name, used, resets_at FROM tierlimit.usage('n', 'metered');
SET tierlimit.now = '2026-03-02 00:01:00+00';
SELECT limit_name, used FROM tierlimit.usage('n', 'metered');
-- what has left the minute is given back to the day only
SET tierlimit.now = '2026-03-02 00:05:00+00';
SELECT tierlimit.refund('n', 2, 1);
SELECT limit_name, used FROM tierlimit.usage('n', 'metered');

-- a tier without credits knows what was spent, too
SELECT * FROM calls('f', 'free', 3, '2026-03-02 00:00:00+00', '10 seconds', 4);
SELECT tierlimit.refund('f', 5, 1);
SELECT tierlimit.refund('f', 100, 1);
SELECT limit_name, used FROM tierlimit.usage('f', 'free');

-- ... roughly; once the tier limits credits it knows them exactly
INSERT INTO tierlimit.tier VALUES ('growing');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('growing', 'day', '1 day', 1000);
SET tierlimit.now = '2026-03-02 00:00:00+00';
SELECT allowed FROM tierlimit.check('g', 'growing');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max) VALUES ('growing', 'credits', '1 day', 'credits', 2);
SET tierlimit.now = '2026-03-02 00:00:40+00';
SELECT allowed FROM tierlimit.check('g', 'growing');
SET tierlimit.now = '2026-03-03 00:00:00+00';
SELECT allowed FROM tierlimit.check('g', 'growing');

-- a reset forgets all
SELECT tierlimit.reset('f');
SELECT limit_name, used FROM tierlimit.usage('f', 'free');
SELECT tierlimit.reset('f');

-- numbers as large as they get
INSERT INTO tierlimit.tier VALUES ('huge');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max, enforce) VALUES
  ('huge', 'minute', '1 minute', 'credits', 9223372036854775807, true),
  ('huge', 'shadow', '1 hour', 'credits', 1, false);
SET tierlimit.now = '2026-03-03 00:00:00+00';
SELECT allowed, remaining FROM tierlimit.check('h', 'huge', 9223372036854775807);
SELECT allowed, remaining, retry_after FROM tierlimit.check('h', 'huge', 1);
SET tierlimit.now = '2026-03-03 00:01:00+00';
SELECT allowed, remaining FROM tierlimit.check('h', 'huge', 9223372036854775807);
SELECT limit_name, used, remaining FROM tierlimit.usage('h', 'huge');
SELECT tierlimit.refund('h', 9223372036854775807);
SELECT limit_name, used, remaining FROM tierlimit.usage('h', 'huge');
