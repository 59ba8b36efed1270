-- Sliding windows: exact to the microsecond.
SET client_min_messages = warning;
SET timezone = 'UTC';

-- 30 requests between 12:00:00 and 12:00:30 ...
SELECT * FROM calls('bob', 'free', 30, '2026-01-01 12:00:00+00', '1 second');
-- ... then none until 12:01:00 ...
SELECT * FROM calls('bob', 'free', 30, '2026-01-01 12:00:30+00', '1 second');
SET tierlimit.now = '2026-01-01 12:00:59.999999+00';
SELECT allowed, remaining, retry_after, decided_at, reset_at FROM tierlimit.check('bob', 'free');
SET tierlimit.now = '2026-01-01 12:01:00+00';
SELECT allowed, remaining, retry_after, decided_at, reset_at FROM tierlimit.check('bob', 'free');
SELECT allowed, remaining, retry_after, decided_at, reset_at FROM tierlimit.check('bob', 'free');
-- ... and then one for each that falls out
SELECT * FROM calls('bob', 'free', 4, '2026-01-01 12:01:01+00', '500 ms');
SELECT * FROM tierlimit.usage('bob', 'free');

-- both windows at once: 30 a minute until the 1000 of the day are used up; then
-- both are full, and the one that frees last governs
SELECT * FROM calls('eve', 'free', 1010, '2026-01-02 00:00:00+00', '2 seconds');
-- the minute is empty, the day is not
SET tierlimit.now = '2026-01-02 12:00:00+00';
SELECT allowed, "limit", remaining, retry_after, error_code, error, http_status, limit_name, reset_at
FROM tierlimit.check('eve', 'free');
-- a denied call is counted nowhere
SELECT * FROM tierlimit.usage('eve', 'free');

-- retry_after: then it is admitted, and one second earlier it is not
SELECT * FROM calls('tom', 'free', 30, '2026-01-03 00:00:00.25+00');
SET tierlimit.now = '2026-01-03 00:00:10.75+00';
SELECT retry_after FROM tierlimit.check('tom', 'free');
SET tierlimit.now = '2026-01-03 00:00:59.75+00';
SELECT allowed, retry_after FROM tierlimit.check('tom', 'free');
SET tierlimit.now = '2026-01-03 00:01:00.25+00';
SELECT allowed, retry_after FROM tierlimit.check('tom', 'free');

-- max 0 admits nothing, ever
INSERT INTO tierlimit.tier VALUES ('closed');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('closed', 'minute', '1 minute', 0);
SELECT allowed, "limit", remaining, retry_after, error_code, reset_at FROM tierlimit.check('x', 'closed');

-- no limits: everything is admitted
INSERT INTO tierlimit.tier VALUES ('unlimited');
SELECT allowed, "limit", remaining, limit_name, tier, reset_at FROM tierlimit.check('x', 'unlimited');
SELECT * FROM tierlimit.usage('x', 'unlimited');

-- peek: the same answer, nothing counted
SET tierlimit.now = '2026-01-04 00:00:00+00';
SELECT allowed, remaining, reset_at FROM tierlimit.peek('kim', 'free');
SELECT allowed, remaining, reset_at FROM tierlimit.peek('kim', 'free');
SELECT allowed, remaining, reset_at FROM tierlimit.check('kim', 'free');
-- looking from the future changes nothing either
SET tierlimit.now = '2030-01-01 00:00:00+00';
SELECT remaining, decided_at FROM tierlimit.peek('kim', 'free');
SELECT limit_name, used FROM tierlimit.usage('kim', 'free');
SET tierlimit.now = '2026-01-04 00:00:01+00';
SELECT remaining, decided_at FROM tierlimit.peek('kim', 'free');

-- the clock never goes backwards for a key
SET tierlimit.now = '2026-01-03 23:00:00+00';
SELECT remaining, decided_at FROM tierlimit.check('kim', 'free');

-- check_many: one decision per element, in order, each on its own
SET tierlimit.now = '2026-01-05 00:00:00+00';
SELECT key, allowed, remaining, error_code FROM tierlimit.check_many(ARRAY['a', 'b', 'a', NULL, '', 'c'], 'free');
SELECT count(*) FILTER (WHERE allowed), count(*) FROM tierlimit.check_many(array_fill('d'::text, ARRAY[40]), 'free');
SELECT * FROM tierlimit.check_many(NULL, 'free');
SELECT * FROM tierlimit.check_many('{}', 'free');

-- the longest and the shortest window there is
INSERT INTO tierlimit.tier VALUES ('extreme');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('extreme', 'second', '1 second', 1), ('extreme', 'leap year', '366 days', 3);
SELECT * FROM calls('max', 'extreme', 6, '2026-01-01 00:00:00+00', '700 ms');
SELECT limit_name, error_code, retry_after, reset_at FROM tierlimit.check('max', 'extreme');
SET tierlimit.now = '2027-01-02 00:00:00+00';
SELECT allowed, limit_name, remaining FROM tierlimit.check('max', 'extreme');
