-- A window that was kept under a large limit is exact under a small one.
SET timezone = 'UTC';
INSERT INTO tierlimit.tier VALUES ('big'), ('two'), ('two credits');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('big', 'day', '1 day', 50000, 'requests'), ('big', 'credits', '1 day', 50000, 'credits'),
	('two', 'day', '1 day', 2, 'requests'), ('two credits', 'day', '1 day', 10, 'credits');

-- more calls than slots, and then two that share one
DO $$
BEGIN
	FOR i IN 1 .. 1024 LOOP
		PERFORM set_config('tierlimit.now', (timestamptz '2026-04-01 00:00:00+00' + i * interval '1 microsecond')::text, false);
		PERFORM tierlimit.check('down', 'big', 5);
	END LOOP;
END
$$;
SET tierlimit.now = '2026-04-01 01:00:00+00';
SELECT remaining FROM tierlimit.check('down', 'big', 5);
SET tierlimit.now = '2026-04-01 01:01:20+00';
SELECT remaining FROM tierlimit.check('down', 'big', 5);

-- the next day, between the times at which these two leave
SET tierlimit.now = '2026-04-02 01:00:40+00';
SELECT limit_name, used, resets_at FROM tierlimit.usage('down', 'two');
SELECT allowed, remaining FROM tierlimit.peek('down', 'two');
SELECT allowed, remaining FROM tierlimit.check('down', 'two', 5);
SELECT allowed, retry_after FROM tierlimit.check('down', 'two', 5);
SELECT allowed, retry_after FROM tierlimit.check('down', 'two credits', 1);
SET tierlimit.now = '2026-04-02 01:01:19.999999+00';
SELECT allowed, retry_after FROM tierlimit.check('down', 'two', 5);
SET tierlimit.now = '2026-04-02 01:01:20+00';
SELECT allowed FROM tierlimit.check('down', 'two', 0);
SELECT allowed, remaining FROM tierlimit.check('down', 'two credits', 5);

RESET tierlimit.now;
DELETE FROM tierlimit.tier WHERE name IN ('big', 'two', 'two credits');
