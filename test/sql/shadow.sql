-- Shadow limits: counted and reported, but they never deny.
SET client_min_messages = warning;
SET timezone = 'UTC';

INSERT INTO tierlimit.tier VALUES ('shadow'), ('half shadow');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, enforce) VALUES
  ('shadow', 'minute', '1 minute', 2, false),
  ('half shadow', 'minute', '1 minute', 2, false),
  ('half shadow', 'hour', '1 hour', 4, true);

SELECT * FROM calls('s', 'shadow', 4, '2026-04-01 00:00:00+00', '1 second');
SELECT "limit", used, remaining, resets_at FROM tierlimit.usage('s', 'shadow');
-- beside a limit that is enforced, that one answers
SELECT * FROM calls('h', 'half shadow', 5, '2026-04-01 00:00:00+00', '1 second');
SELECT limit_name, "limit", used, remaining FROM tierlimit.usage('h', 'half shadow');
-- once enforced, it denies, by what it has counted
UPDATE tierlimit.tier_limit SET enforce = true WHERE tier = 'shadow';
SELECT allowed, "limit", remaining, retry_after FROM tierlimit.check('s', 'shadow');
