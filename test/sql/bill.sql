-- Bills, by two price lists as they are published, and by what may change meanwhile.
SET timezone = 'UTC';
SET datestyle = 'ISO';

CREATE FUNCTION pg_temp.calls(at timestamptz, key text, tier text, n integer, cost bigint DEFAULT 1) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tierlimit.now', at::text, false);
	RETURN (SELECT count(*) FILTER (WHERE allowed) FROM generate_series(1, n) i, tierlimit.check(left(key, 99 + i), tier, cost));
END
$$;
-- the log writer may be keeping bills itself
CREATE PROCEDURE pg_temp.keep_bills() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tierlimit.log_flush();
	LOOP
		BEGIN
			UPDATE tierlimit.bill_period SET touched_at = '-infinity';
			EXIT WHEN NOT tierlimit._keep_bills();
		EXCEPTION WHEN lock_not_available THEN
			NULL;
		END;
	END LOOP;
END
$$;
CREATE FUNCTION pg_temp.bill(at timestamptz, who text) RETURNS TABLE (subject text, keys bigint, tier text, period_start timestamptz, period_end timestamptz,
	unit text, used bigint, denied bigint, included bigint, overage bigint, unit_price numeric, amount numeric)
	LANGUAGE sql AS $$ SELECT * FROM tierlimit.billing_report($1) b WHERE b.subject = $2 $$;

--
-- Requests a minute and a day, at a price a month
--
INSERT INTO tierlimit.tier (name, price) VALUES ('bill free', 0), ('bill pro', 29.99);
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('bill free', 'minute', '1 minute', 30), ('bill free', 'day', '1 day', 1000),
	('bill pro', 'minute', '1 minute', 120), ('bill pro', 'day', '1 day', 50000);
INSERT INTO tierlimit.api_key (name, tier, created_at) VALUES ('bill hobby', 'bill free', '2026-01-01'), ('bill shop', 'bill pro', '2026-01-01');
SELECT sum(pg_temp.calls(timestamptz '2026-02-10 08:00+00' + i * interval '1 minute', 'bill hobby', NULL, 31)) FROM generate_series(1, 40) i;
SELECT sum(pg_temp.calls(timestamptz '2026-02-10 08:00+00' + i * interval '1 minute', 'bill shop', NULL, 31)) FROM generate_series(1, 40) i;
SELECT pg_temp.calls('2026-03-01 00:00+00', 'bill shop', NULL, 7);
SELECT * FROM pg_temp.bill('2026-02-28 23:59:59.999999', 'bill hobby');
SELECT * FROM pg_temp.bill('2026-02-01', 'bill shop');
SELECT unit, used, amount FROM pg_temp.bill('2026-03-01', 'bill shop');
-- who is not registered has the tier of the last call, and pays no price
SELECT pg_temp.calls('2026-02-11 08:00+00', 'bill guest', 'bill pro', 3), pg_temp.calls('2026-02-11 08:01+00', 'bill guest', 'bill free', 2);
SELECT keys, tier, unit, used, amount FROM pg_temp.bill('2026-02-15', 'bill guest');

--
-- Credits a calendar month, what is over costs; from the 31st in a zone with summer time
--
INSERT INTO tierlimit.tier (name, price) VALUES ('bill credits', 99), ('bill large', 499);
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, overage_price) VALUES
	('bill credits', 'month', '1 month', 'calendar', 'credits', 10000, false, 0.0005),
	('bill credits', 'hour', '1 hour', 'calendar', 'credits', 7, false, 1000000),
	('bill large', 'month', '1 month', 'calendar', 'credits', 100000, false, 0.0001),
	('bill large', 'requests', '1 month', 'calendar', 'requests', 10, false, 1.25);
INSERT INTO tierlimit.api_key (name, tier, billing_anchor, billing_timezone, created_at) VALUES
	('bill 31st', 'bill credits', '2025-12-31 00:00 Europe/Berlin', 'Europe/Berlin', '2026-01-01');
SELECT pg_temp.calls('2026-01-30 22:59:59.999999+00', 'bill 31st', NULL, 1, 9000);
SELECT pg_temp.calls('2026-01-30 23:00:00+00', 'bill 31st', NULL, 4, 3000);
SELECT pg_temp.calls('2026-02-27 22:59:59+00', 'bill 31st', NULL, 1, 1);
SELECT pg_temp.calls('2026-02-27 23:00:00+00', 'bill 31st', NULL, 1, 500);
SELECT pg_temp.calls('2026-03-30 21:59:59.999999+00', 'bill 31st', NULL, 1, 9501);
SELECT pg_temp.calls('2026-03-30 22:00:00+00', 'bill 31st', NULL, 1, 20000);
SELECT DISTINCT b.period_start, b.period_end, b.unit, b.used, b.included, b.overage, b.unit_price, b.amount
FROM generate_series(timestamptz '2026-01-15', '2026-04-15', '1 month') at, pg_temp.bill(at, 'bill 31st') b ORDER BY 1, 3;

-- a refund counts when it is given
SELECT tierlimit.refund('bill 31st', 20000);
SELECT pg_temp.calls('2026-04-10 00:00+00', 'bill 31st', NULL, 1, 12000);
SET tierlimit.now = '2026-04-29 21:59:59+00';
SELECT tierlimit.refund('bill 31st', 1500);
SELECT unit, used, overage, amount FROM pg_temp.bill('2026-04-15', 'bill 31st');

-- of a tier that is changed in mid-period, what holds at the end
UPDATE tierlimit.api_key SET tier = 'bill large' WHERE name = 'bill 31st';
SELECT tier, unit, used, included, overage, unit_price, amount FROM pg_temp.bill('2026-04-15', 'bill 31st');
-- and nothing that is changed after the end, in a zone's own time
SET tierlimit.now = '2026-04-29 22:00:00+00';
UPDATE tierlimit.api_key SET tier = 'bill credits' WHERE name = 'bill 31st';
UPDATE tierlimit.tier_limit SET max = 1, overage_price = 1000 WHERE tier = 'bill large' AND unit = 'credits';
UPDATE tierlimit.tier SET price = 1000000 WHERE name = 'bill large';
UPDATE tierlimit.tier SET name = 'bill huge' WHERE name = 'bill large';
SELECT tier, unit, used, included, overage, unit_price, amount FROM pg_temp.bill('2026-04-15', 'bill 31st');

--
-- Accounts
--
RESET tierlimit.now;
INSERT INTO tierlimit.api_key (name, tier, account, billing_anchor, created_at) VALUES
	('bill one', 'bill credits', 'bill team', '2026-01-10', '2026-01-02'), ('bill two', 'bill free', 'bill team', NULL, '2026-01-01'),
	('bill three', 'bill pro', NULL, NULL, '2026-01-03');
SELECT pg_temp.calls('2026-06-01 00:00+00', 'bill one', NULL, 3), pg_temp.calls('2026-06-02 00:00+00', 'bill two', NULL, 2), pg_temp.calls('2026-06-03 00:00+00', 'bill three', NULL, 5);
-- the oldest key's tier and anchor hold for all
SELECT keys, tier, period_start, unit, used, amount FROM pg_temp.bill('2026-06-15', 'bill team');
-- who joins it leaves what was used before on a bill of its own
UPDATE tierlimit.api_key SET account = 'bill team' WHERE name = 'bill three';
SELECT pg_temp.calls('2026-06-04 00:00+00', 'bill three', NULL, 4);
SELECT subject, keys, tier, unit, used, amount FROM tierlimit.billing_report('2026-06-15') WHERE subject IN ('bill team', 'bill three');

--
-- Periods that are over
--
RESET tierlimit.now;
CALL pg_temp.keep_bills();
SELECT count(*) FROM tierlimit.bill WHERE subject ~ '^bill' AND period_end > now();
SELECT count(*) FROM tierlimit.bill_period WHERE subject ~ '^bill' AND period_end < now() - interval '2 days';
CREATE TEMP TABLE before AS SELECT * FROM tierlimit.bill WHERE subject ~ '^bill';
SELECT period_start, period_end, tier, unit, used, included, overage, unit_price, amount FROM tierlimit.bill WHERE subject = 'bill 31st' AND period_start < '2026-05-01' ORDER BY 1, 4;
SELECT 'differs', b.* FROM before b, pg_temp.bill(b.period_start, b.subject) r WHERE r.unit = b.unit
	AND (r.period_start, r.period_end, r.keys, r.tier, r.used, r.denied, r.included, r.overage, r.unit_price, r.amount)
		IS DISTINCT FROM (b.period_start, b.period_end, b.keys, b.tier, b.used, b.denied, b.included, b.overage, b.unit_price, b.amount);
-- what comes later for one of them is on the next bill
SELECT pg_temp.calls('2026-02-20 00:00+00', 'bill guest', 'bill free', 2, 10);
RESET tierlimit.now;
SELECT used FROM pg_temp.bill('2026-02-15', 'bill guest');
SELECT period_start = date_trunc('month', now()) AS now, unit, used FROM pg_temp.bill(now(), 'bill guest');
SELECT sum(used) FROM (SELECT used FROM tierlimit.bill WHERE subject = 'bill guest' AND unit = 'credits'
	UNION ALL SELECT used FROM pg_temp.bill(now(), 'bill guest') WHERE unit = 'credits') x;
SELECT sum(credits) FROM tierlimit.usage_report('2026-01-01', 'infinity', '1 month', 'bill guest');
-- neither the log nor the keys are needed any more
BEGIN;
DELETE FROM tierlimit.api_key WHERE name ~ '^bill';
DELETE FROM tierlimit.request_log WHERE at < '2026-07-01';
UPDATE tierlimit.tier SET price = 7 WHERE name ~ '^bill';
SELECT count(*) > 20 AS bills, count(*) FILTER (WHERE (r.keys, r.tier, r.used, r.amount) IS DISTINCT FROM (b.keys, b.tier, b.used, b.amount)) AS differ
FROM before b LEFT JOIN LATERAL pg_temp.bill(b.period_start, b.subject) r ON r.unit = b.unit;
ROLLBACK;

--
-- What prices may be
--
INSERT INTO tierlimit.tier (name, price) VALUES ('bill wrong', -1);
INSERT INTO tierlimit.tier (name, price) VALUES ('bill wrong', 'NaN');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, overage_price) VALUES ('bill free', 'week', '7 days', 1, 0.1);
INSERT INTO tierlimit.tier_limit (tier, name, period, max, enforce, overage_price) VALUES ('bill free', 'week', '7 days', 1, false, -0.1);
SELECT * FROM tierlimit.billing_report(NULL);
SELECT * FROM tierlimit.billing_report('infinity');

DELETE FROM tierlimit.api_key WHERE name ~ '^bill';
DELETE FROM tierlimit.tier WHERE name ~ '^bill';
