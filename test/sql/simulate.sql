-- What another tier would have done.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
INSERT INTO tierlimit.tier VALUES ('sim_wide'), ('sim_three'), ('sim_spend'), ('sim_daily'), ('sim_shadow'), ('sim_none'), ('sim_closed');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit, kind, enforce) VALUES
	('sim_wide', 'minute', '1 minute', 1000, 'requests', 'sliding', true),
	('sim_three', 'minute', '1 minute', 3, 'requests', 'sliding', true),
	('sim_spend', 'minute', '1 minute', 10, 'credits', 'sliding', true),
	('sim_daily', 'day', '1 day', 3, 'requests', 'calendar', true),
	('sim_shadow', 'minute', '1 minute', 1, 'requests', 'sliding', false),
	('sim_closed', 'minute', '1 minute', 0, 'requests', 'sliding', true);

CREATE FUNCTION pg_temp.at(t text) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('tierlimit.now', CASE WHEN t = '' THEN '' ELSE '2027-03-01 ' || t || '+00' END, false) $$;
-- the day of these tests
CREATE FUNCTION pg_temp.simulate(tier text, key text DEFAULT NULL) RETURNS TABLE (key text, requests bigint, admitted bigint, denied bigint, first_denied_at timestamptz)
	LANGUAGE sql AS $$ SELECT * FROM tierlimit.simulate(tier, '2027-03-01', '2027-03-02', key) $$;

SELECT pg_temp.at('10:00:00');
SELECT count(*) FROM tierlimit.check_many(array_fill('sim a'::text, ARRAY[5]), 'sim_wide');
SELECT pg_temp.at('10:00:30');
SELECT count(*) FROM tierlimit.check_many(ARRAY['sim b', 'sim a', 'sim b', 'sim a', 'sim b'], 'sim_wide');
SELECT pg_temp.at('10:01:00');
SELECT count(*) FROM tierlimit.check_many(ARRAY['sim a', 'sim b', 'sim a', 'sim a', 'sim a'], 'sim_wide');

SELECT * FROM pg_temp.simulate('sim_three');
SELECT * FROM pg_temp.simulate('sim_three', 'sim b');
SELECT * FROM pg_temp.simulate('sim_wide');
SELECT * FROM pg_temp.simulate('sim_shadow');
SELECT * FROM pg_temp.simulate('sim_none');
SELECT * FROM pg_temp.simulate('sim_closed');
SELECT * FROM pg_temp.simulate('sim_daily');
-- windows are empty at the beginning, and the end is not in it
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-01 10:00:30', '2027-03-01 10:01:00');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-01 10:01:00.000001', '2027-03-02');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-01 10:01:00', '2027-03-01 10:01:00');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-02', '2027-03-01');
SELECT * FROM tierlimit.simulate('sim_three', '-infinity', 'infinity', 'sim b');

-- a row that stands for several calls: each has its share of the credits, the first
-- ones one more; and what one of them is denied, the others that cost as much are, too
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits) VALUES
	('2027-03-03 00:00:00+00', 'sim c', 'sim_wide', 0, 4, 10), ('2027-03-03 00:01:00+00', 'sim c', 'sim_wide', 1008, 2000000000, 2000000000),
	('2027-03-03 00:02:00+00', 'sim c', 'sim_wide', 0, 3, 0), ('2027-03-03 00:03:00+00', 'sim c', 'sim_wide', 0, 2, 21);
SELECT * FROM tierlimit.simulate('sim_spend', '2027-03-03', '2027-03-04');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-03', '2027-03-04');

-- which rows are calls that a limit has decided: not the refusals of the gate, and
-- callers without a key are those of an address, or of none
INSERT INTO tierlimit.request_log (at, key, ip, error_code, requests, credits)
	SELECT '2027-03-05 00:00:00+00'::timestamptz + code * interval '1 millisecond', 'sim d', '192.0.2.1', code, 1, 1
	FROM generate_series(1000, 1012) code;
INSERT INTO tierlimit.request_log (at, key, ip, error_code, requests, credits) VALUES
	('2027-03-05 00:00:02+00', 'sim d', NULL, 2001, 1, 1), ('2027-03-05 00:00:02+00', NULL, NULL, 1002, 1, 1),
	('2027-03-05 00:00:02+00', NULL, '192.0.2.1', 0, 2, 2), ('2027-03-05 00:00:03+00', NULL, '192.0.2.2', 0, 3, 3),
	('2027-03-05 00:00:04+00', NULL, '192.0.2.1', 0, 2, 2), ('2027-03-05 00:00:04+00', NULL, NULL, 1008, 3, 3),
	('2027-03-05 00:00:05+00', NULL, '2001:db8::1', 0, 2, 2), ('2027-03-05 00:00:06+00', NULL, '2001:db8::2', 0, 2, 2),
	('infinity', NULL, NULL, 0, 1, 1);
SELECT * FROM tierlimit.simulate('sim_wide', '2027-03-05', '2027-03-06');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-05', 'infinity') WHERE key ~ '^sim' OR key IS NULL;
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-05', 'infinity', 'sim d');
DELETE FROM tierlimit.request_log WHERE at = 'infinity';

-- keys of an account share windows; a key that is asked for is replayed with the others
-- of all accounts that it was counted under, also with those of before
INSERT INTO tierlimit.request_log (at, key, account, tier, error_code, requests, credits) VALUES
	('2027-03-07 00:00:01+00', 'sim e', 'sim one', 'sim_wide', 0, 2, 2), ('2027-03-07 00:00:02+00', 'sim f', 'sim one', 'sim_wide', 0, 2, 2),
	('2027-03-07 00:00:03+00', 'sim f', 'sim two', 'sim_wide', 0, 2, 2), ('2027-03-07 00:00:04+00', 'sim g', 'sim two', 'sim_wide', 1008, 2, 2),
	('2027-03-07 00:00:05+00', 'sim e', NULL, 'sim_wide', 0, 4, 4), ('2027-03-07 00:00:06+00', 'sim one', NULL, 'sim_wide', 0, 1, 1);
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-07', '2027-03-08');
SELECT s.* FROM unnest(ARRAY['sim e', 'sim f', 'sim g', 'sim one']) k, tierlimit.simulate('sim_three', '2027-03-07', '2027-03-08', k) s;
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-07', '2027-03-08', 'nobody of that name');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-07', '2027-03-08', '');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-07', '2027-03-08', repeat('x', 1000));

-- what is given back: a named call, the newest units of that key, all
INSERT INTO tierlimit.request_log (at, key, account, tier, error_code, requests, credits, shadow_code, request_id) VALUES
	('2027-03-09 00:00:01+00', 'sim h', NULL, 'sim_wide', 0, 1, 1, NULL, 'first'), ('2027-03-09 00:00:02+00', 'sim h', NULL, 'sim_wide', 0, 3, 3, NULL, 'second'),
	-- only two of the second row's were admitted here; they go, but the first call doesn't
	('2027-03-09 00:00:03+00', 'sim h', NULL, 'sim_wide', 0, -3, -3, NULL, 'second'), ('2027-03-09 00:00:04+00', 'sim h', NULL, 'sim_wide', 0, 3, 3, NULL, NULL),
	('2027-03-09 00:00:05+00', 'sim h', NULL, 'sim_wide', 0, -1, -1, NULL, NULL), ('2027-03-09 00:00:06+00', 'sim h', NULL, 'sim_wide', 0, 2, 2, NULL, NULL),
	('2027-03-09 00:00:07+00', 'sim h', NULL, 'sim_wide', 0, 0, 0, 0, NULL), ('2027-03-09 00:00:08+00', 'sim h', NULL, 'sim_wide', 0, 4, 4, NULL, NULL),
	-- one of an account, and what is before it
	('2027-03-09 00:00:01+00', 'sim i', 'sim three', 'sim_wide', 0, 2, 2, NULL, NULL), ('2027-03-09 00:00:02+00', 'sim j', 'sim three', 'sim_wide', 0, 1, 1, NULL, NULL),
	('2027-03-09 00:00:03+00', 'sim i', 'sim three', 'sim_wide', 0, -1, -1, NULL, NULL),
	-- from 00:01:01 on one call of sim i is left of those, and leaves; from 00:01:02 on the one of sim j does
	('2027-03-09 00:01:00+00', 'sim i', 'sim three', 'sim_wide', 0, 2, 2, NULL, NULL), ('2027-03-09 00:01:01+00', 'sim i', 'sim three', 'sim_wide', 0, 2, 2, NULL, NULL);
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-09', '2027-03-10');
-- what was before does not count, nor can it be given back
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-09 00:00:03', '2027-03-10');

-- rows that lie in no order of their times are replayed in it
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT '2027-03-11 00:00:00+00'::timestamptz + (i * 7919 % 150000) * interval '0.1 seconds', 'sim ' || i % 3, 'sim_wide', 0, 1, 1
	FROM generate_series(0, 149999) i;
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-11', '2027-03-12');
SELECT count(*), min(admitted), max(admitted), max(first_denied_at) FROM tierlimit.simulate('sim_three', '-infinity', '2027-03-12') WHERE key ~ '^sim [0-9]$';

-- calendar periods are those that keys have now
INSERT INTO tierlimit.api_key (name, tier, billing_timezone, billing_anchor) VALUES
	('sim k', 'sim_wide', 'America/New_York', NULL), ('sim l', 'sim_wide', 'UTC', '2026-01-01 12:00:00+00');
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT t, k, 'sim_wide', 0, 1, 1 FROM unnest(ARRAY['sim k', 'sim l', 'sim m']) k,
		generate_series(timestamptz '2027-03-13 04:00:00+00', timestamptz '2027-03-15 04:00:00+00', '2 hours') t;
SELECT * FROM tierlimit.simulate('sim_daily', '2027-03-13', '2027-03-16');

-- days with partitions of their own, between them and around them days without
SELECT tierlimit._add_log_partition('2027-03-20'), tierlimit._add_log_partition('2027-03-22'), tierlimit._add_log_partition('2027-03-23');
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT t, 'sim n', 'sim_wide', 0, 1, 1 FROM generate_series(timestamptz '2027-03-19 00:00:00+00', timestamptz '2027-03-25 00:00:00+00', '6 hours') t;
SELECT * FROM tierlimit.simulate('sim_wide', '2027-03-19', '2027-03-26');
SELECT * FROM tierlimit.simulate('sim_daily', '2027-03-20 06:00', '2027-03-23 06:00:00.000001');
SELECT * FROM tierlimit.simulate('sim_daily', '2027-03-22', '2027-03-23');
DROP TABLE tierlimit.request_log_20270320, tierlimit.request_log_20270322, tierlimit.request_log_20270323;

-- misuse
SELECT * FROM tierlimit.simulate('nonsense', '2027-03-01', '2027-03-02');
SELECT * FROM tierlimit.simulate(NULL, '2027-03-01', '2027-03-02');
SELECT * FROM tierlimit.simulate('sim_three', NULL, '2027-03-02');
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-01', NULL);
SELECT * FROM tierlimit.stat_progress;
-- it needs no right on the log, but that to call it
CREATE ROLE planner;
GRANT USAGE ON SCHEMA tierlimit TO planner;
SET ROLE planner;
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-01', '2027-03-02');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tierlimit.simulate TO planner;
SET ROLE planner;
SELECT * FROM tierlimit.simulate('sim_three', '2027-03-01', '2027-03-02');
RESET ROLE;
DROP OWNED BY planner;
DROP ROLE planner;

SELECT pg_temp.at('');
DELETE FROM tierlimit.api_key WHERE name ~ '^sim ';
DELETE FROM tierlimit.tier WHERE name IN ('sim_wide', 'sim_three', 'sim_spend', 'sim_daily', 'sim_shadow', 'sim_none', 'sim_closed');
