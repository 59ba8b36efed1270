-- Calendar windows: anchors, month ends, time zones, summer time.
SET client_min_messages = warning;
SET timezone = 'UTC';

INSERT INTO tierlimit.tier VALUES ('monthly'), ('daily'), ('all calendars');
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max) VALUES
  ('monthly', 'month', 'calendar', '1 month', 2),
  ('daily', 'day', 'calendar', '1 day', 2);
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max)
SELECT 'all calendars', p, 'calendar', p::interval, 100
FROM unnest(ARRAY['1 minute', '1 hour', '1 day', '1 week', '1 month', '3 months', '1 year']) p;

-- without an anchor: minutes, hours, days, Mondays, months, quarters, years
SET tierlimit.now = '2026-05-14 15:16:17.5+00';
SELECT limit_name, kind, used, resets_at FROM tierlimit.usage('u', 'all calendars');
SELECT limit_name, resets_at - '2026-01-01 00:00+00' AS ends FROM tierlimit.usage('u', 'all calendars') WHERE limit_name = '1 year';

-- the count starts anew when the period ends, not before
SELECT * FROM calls('u', 'monthly', 3, '2026-05-31 23:59:58+00', '0.5 seconds');
SET tierlimit.now = '2026-05-31 23:59:59.999999+00';
SELECT allowed, retry_after, reset_at, error_code FROM tierlimit.check('u', 'monthly');
SET tierlimit.now = '2026-06-01 00:00:00+00';
SELECT allowed, remaining, reset_at FROM tierlimit.check('u', 'monthly');
-- what was counted in a period that has ended can't be given back in the next
SELECT tierlimit.refund('u', 10, 10);
SELECT used, remaining FROM tierlimit.usage('u', 'monthly');
SET tierlimit.now = '2026-07-01 00:00:00+00';
SELECT tierlimit.refund('u', 10, 10);
SELECT used, remaining FROM tierlimit.usage('u', 'monthly');

-- an anchor on the 31st: the last day of shorter months, and the 31st again
INSERT INTO tierlimit.api_key (name, tier, billing_anchor) VALUES
  ('end of month', 'monthly', '2023-12-31 10:30:00+00');
CREATE FUNCTION period_ends(key text, since timestamptz, n integer) RETURNS SETOF timestamptz
LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM set_config('tierlimit.now', since::text, false);
		since := (SELECT resets_at FROM tierlimit.usage(key));
		RETURN NEXT since;
	END LOOP;
END
$$;
SELECT * FROM period_ends('end of month', '2023-12-31 10:30:00+00', 16);
-- just before, and long before the anchor
SET tierlimit.now = '2024-02-29 10:29:59.999999+00';
SELECT resets_at FROM tierlimit.usage('end of month');
SET tierlimit.now = '2001-02-28 11:00:00+00';
SELECT resets_at FROM tierlimit.usage('end of month');
-- 29 February, a year on
INSERT INTO tierlimit.tier VALUES ('yearly');
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max) VALUES ('yearly', 'year', 'calendar', '1 year', 2);
INSERT INTO tierlimit.api_key (name, tier, billing_anchor) VALUES ('leap', 'yearly', '2024-02-29 00:00:00+00');
SELECT * FROM period_ends('leap', '2024-02-29 00:00:00+00', 5);

-- days follow the wall clock: one of 23 hours and one of 25
INSERT INTO tierlimit.api_key (name, tier, billing_timezone) VALUES ('berlin', 'daily', 'Europe/Berlin');
SELECT e AS ends, e AT TIME ZONE 'Europe/Berlin' AS wall_clock, e - lag(e) OVER (ORDER BY e) AS length
FROM period_ends('berlin', '2026-03-27 12:00:00+00', 4) e;
SELECT e AS ends, e AT TIME ZONE 'Europe/Berlin' AS wall_clock, e - lag(e) OVER (ORDER BY e) AS length
FROM period_ends('berlin', '2026-10-23 12:00:00+00', 4) e;
-- 02:30 does not exist on one day, and is there twice on another
INSERT INTO tierlimit.api_key (name, tier, billing_timezone, billing_anchor) VALUES
  ('half past two', 'daily', 'Europe/Berlin', '2026-01-01 02:30 Europe/Berlin');
SELECT e AT TIME ZONE 'Europe/Berlin' AS wall_clock, e - lag(e) OVER (ORDER BY e) AS length
FROM period_ends('half past two', '2026-03-27 12:00:00+00', 4) e;
SELECT e AT TIME ZONE 'Europe/Berlin' AS wall_clock, e - lag(e) OVER (ORDER BY e) AS length
FROM period_ends('half past two', '2026-10-23 12:00:00+00', 4) e;
-- calls of a day of 25 hours
SELECT * FROM calls('berlin', NULL, 26, '2026-10-24 22:00:00+00', '1 hour');
-- hours are hours: nothing happens to them; where the zone is half an hour off, they begin there
INSERT INTO tierlimit.tier VALUES ('hourly');
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max) VALUES ('hourly', 'hour', 'calendar', '1 hour', 2);
INSERT INTO tierlimit.api_key (name, tier, billing_timezone) VALUES ('kolkata', 'hourly', 'Asia/Kolkata');
SELECT * FROM period_ends('kolkata', '2026-03-29 00:00:00+00', 2);
-- a day that a country left out
INSERT INTO tierlimit.api_key (name, tier, billing_timezone) VALUES ('apia', 'daily', 'Pacific/Apia');
SELECT e AT TIME ZONE 'Pacific/Apia' AS wall_clock FROM period_ends('apia', '2011-12-29 00:00:00+00', 3) e;

-- a new anchor in mid-period keeps what is counted
INSERT INTO tierlimit.api_key (name, tier) VALUES ('moving', 'monthly');
SELECT * FROM calls('moving', NULL, 2, '2026-08-20 00:00:00+00');
UPDATE tierlimit.api_key SET billing_anchor = '2026-08-15 00:00:00+00' WHERE name = 'moving';
SELECT allowed, reset_at FROM tierlimit.check('moving');
SET tierlimit.now = '2026-09-15 00:00:00+00';
SELECT allowed, reset_at FROM tierlimit.check('moving');

-- a wrong zone is refused
\set VERBOSITY terse
INSERT INTO tierlimit.api_key (name, tier, billing_timezone) VALUES ('wrong', 'daily', 'Mars/Olympus');
INSERT INTO tierlimit.api_key (name, tier, billing_anchor) VALUES ('wrong', 'daily', 'infinity');
