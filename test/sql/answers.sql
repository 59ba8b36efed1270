-- What a service answers over HTTP: headers, status, bodies of refusals.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

-- the published contract: Free 30 / 1,000, Pro 120 / 50,000, Enterprise 600 / 500,000
INSERT INTO tierlimit.tier VALUES ('Free'), ('Pro'), ('Enterprise');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('Free',       'minute', '1 minute', 30),  ('Free',       'day', '1 day',   1000),
  ('Pro',        'minute', '1 minute', 120), ('Pro',        'day', '1 day',  50000),
  ('Enterprise', 'minute', '1 minute', 600), ('Enterprise', 'day', '1 day', 500000);

-- the headers of some of n calls at one moment
CREATE FUNCTION headers_of(key text, tier text, n integer, VARIADIC nos integer[])
RETURNS TABLE (no bigint, http_status integer, header text, value text) LANGUAGE sql AS $$
	SELECT no, (d).http_status, h.key, h.value
	FROM (SELECT row_number() OVER () AS no, d
		  FROM tierlimit.check_many(array_fill(key, ARRAY[n]), tier) d) calls,
		jsonb_each_text(tierlimit.headers(d)) h
	WHERE no = ANY (nos)
	ORDER BY no, h.key
$$;
SET tierlimit.now = '2026-08-01 12:00:00+00';
SELECT * FROM headers_of('free', 'Free', 10, 1);
SET tierlimit.now = '2026-08-01 12:00:17.25+00';
SELECT * FROM headers_of('free', 'Free', 21, 20, 21);
SELECT * FROM headers_of('pro', 'Pro', 121, 1, 120, 121);
SELECT * FROM headers_of('enterprise', 'Enterprise', 601, 1, 600, 601);
-- where the day is what is full
SELECT * FROM calls('free', 'Free', 970, '2026-08-01 12:02:00+00', '2.1 seconds');
SELECT tierlimit.headers(d) FROM tierlimit.check('free', 'Free') d;

SELECT d.http_status, tierlimit.error_body(d) AS body FROM tierlimit.check('free', 'Free') d;
SELECT tierlimit.problem(d) FROM tierlimit.check('free', 'Free') d;
-- nothing to say of what is allowed
SELECT d.http_status, tierlimit.error_body(d), tierlimit.problem(d) FROM tierlimit.check('another', 'Free') d;

-- requests a minute beside credits a day and a calendar month
INSERT INTO tierlimit.tier VALUES ('Hobbyist');
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, unit, max) VALUES
  ('Hobbyist', 'minute', 'sliding', '1 minute', 'requests', 30),
  ('Hobbyist', 'daily credits', 'sliding', '1 day', 'credits', 300),
  ('Hobbyist', 'monthly credits', 'calendar', '1 month', 'credits', 500);
CREATE FUNCTION answer(d tierlimit.decision) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT 'HTTP ' || d.http_status
	UNION ALL SELECT key || ': ' || value FROM jsonb_each_text(tierlimit.headers(d))
	UNION ALL SELECT jsonb_pretty(jsonb_build_object('status', tierlimit.status(d)))
$$;
SET tierlimit.now = '2026-08-02 00:00:00.123456+00';
SELECT answer(d) FROM tierlimit.check('coins', 'Hobbyist', 25) d;
SELECT answer(d) FROM tierlimit.check('coins', 'Hobbyist', 276) d;
SELECT answer(d) FROM tierlimit.check('coins', 'Hobbyist', 275) d;
SET tierlimit.now = '2026-08-04 00:00:00.9999+00';
SELECT answer(d) FROM tierlimit.check('coins', 'Hobbyist', 201) d;
-- never: no Retry-After
SELECT answer(d) FROM tierlimit.check('coins', 'Hobbyist', 501) d;
SELECT * FROM calls('coins', 'Hobbyist', 31, '2026-08-04 00:10:00+00', cost => 0);
SELECT answer(d) FROM tierlimit.check('coins', 'Hobbyist', 0) d;

-- every code, whether or not there is a limit to speak of
CREATE FUNCTION refusal(code integer, limit_name text DEFAULT NULL, retry_after integer DEFAULT NULL)
RETURNS tierlimit.decision LANGUAGE sql AS $$
	SELECT ROW(false, CASE WHEN limit_name IS NOT NULL THEN 30 END,
		CASE WHEN limit_name IS NOT NULL THEN 0 END, retry_after, wanted, e.name, e.http_status,
		'somebody', 'Free', limit_name, 7, '2026-08-04 00:00:00.5+00',
		CASE WHEN limit_name IS NOT NULL THEN timestamptz '2026-08-04 00:00:41+00' END, false)::tierlimit.decision
	FROM (SELECT refusal.code AS wanted) w LEFT JOIN tierlimit.error_code e ON e.code = wanted
$$;
SET tierlimit.now = '2026-08-04 00:00:00.5+00';
CREATE VIEW refusals AS
SELECT code, refusal(code, CASE WHEN code >= 1008 THEN 'minute' END, CASE WHEN code >= 1008 THEN 41 END) AS d
FROM tierlimit.error_code WHERE code BETWEEN 1001 AND 1011;
SELECT code, (d).http_status, (d).error, tierlimit.error_body(d) #>> '{error,code}' AS code_in_body,
	tierlimit.error_body(d) #>> '{error,message}' AS message_in_body FROM refusals ORDER BY code;
SELECT code, tierlimit.problem(d) FROM refusals ORDER BY code;
SELECT code, tierlimit.status(d) FROM refusals ORDER BY code;
SELECT code, tierlimit.headers(d) FROM refusals ORDER BY code;
-- the ones that check() gives itself
INSERT INTO tierlimit.api_key (name, tier, status) VALUES
  ('closed', 'Pro', 'disabled'), ('owing', 'Pro', 'payment_required'), ('overdue', 'Pro', 'payment_expired');
SELECT k, d.http_status, tierlimit.headers(d), tierlimit.error_body(d)
FROM unnest(ARRAY['nobody at all', NULL, 'owing', 'overdue', 'closed']) k, tierlimit.check(k) d;
-- a tier without limits
INSERT INTO tierlimit.tier VALUES ('boundless');
SELECT answer(d) FROM tierlimit.check('unlimited', 'boundless', 3) d;
-- a 429 that names no limit, and codes that no table has
SELECT tierlimit.headers(d), tierlimit.problem(d) FROM refusal(1011) d;
SELECT tierlimit.headers(d), tierlimit.error_body(d), tierlimit.problem(d) FROM refusal(999) d;
-- a limit with a code of its own, that nothing will ever leave; what the table says binds at once
INSERT INTO tierlimit.error_code VALUES (2002, 402, 'CREDITS_USED_UP', 'Buy more credits.', NULL);
INSERT INTO tierlimit.tier VALUES ('prepaid');
INSERT INTO tierlimit.tier_limit (tier, name, period, unit, max, error_code) VALUES
  ('prepaid', 'credits', '30 days', 'credits', 0, 2002);
SELECT tierlimit.headers(d), tierlimit.error_body(d), tierlimit.problem(d) FROM tierlimit.check('poor', 'prepaid') d;
BEGIN;
UPDATE tierlimit.error_code SET message = 'Sell your house.', http_status = 418 WHERE code = 2002;
SELECT tierlimit.status(d) ->> 'error_message' AS message, tierlimit.problem(d) FROM tierlimit.check('poor', 'prepaid') d;
ROLLBACK;
SELECT tierlimit.status(d) ->> 'error_message' AS message FROM tierlimit.check('poor', 'prepaid') d;

-- periods in seconds: nominal ones for months, parts rounded up
INSERT INTO tierlimit.tier SELECT 'period ' || p FROM unnest(ARRAY['1 second', '1.5 seconds', '90 minutes', '7 days', '366 days', '1 day 1 hour']) p;
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
SELECT name, 'l', replace(name, 'period ', '')::interval, 5 FROM tierlimit.tier WHERE name LIKE 'period %';
INSERT INTO tierlimit.tier SELECT 'every ' || p FROM unnest(ARRAY['1 minute', '1 hour', '1 day', '1 week', '1 month', '3 months', '1 year']) p;
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max)
SELECT name, 'l', 'calendar', replace(name, 'every ', '')::interval, 5 FROM tierlimit.tier WHERE name LIKE 'every %';
SET tierlimit.now = '2026-08-01 00:00:00+00';
SELECT t.name, tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy, tierlimit.headers(d) ->> 'RateLimit' AS rate_limit
FROM tierlimit.tier t, tierlimit.check('p ' || t.name, t.name) d
WHERE t.name LIKE 'period %' OR t.name LIKE 'every %' ORDER BY t.name COLLATE "C";

-- names are quoted as structured fields want them, and numbers stay in their range
INSERT INTO tierlimit.tier VALUES ('odd');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('odd', 'a "b" \c\, d;e=f', '1 day', 9223372036854775807);
SELECT h.* FROM tierlimit.check('odd one', 'odd') d, jsonb_each_text(tierlimit.headers(d)) h;
-- the limit, or its tier, has gone since the decision
CREATE TEMP TABLE decided AS SELECT d FROM tierlimit.peek('odd one', 'odd') d;
UPDATE tierlimit.tier_limit SET name = 'even' WHERE tier = 'odd';
SELECT tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy FROM decided;
DELETE FROM tierlimit.tier WHERE name = 'odd';
SELECT tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy FROM decided;

-- elapsed is on the same clock as the decision, and never negative
CREATE FUNCTION elapsed(at timestamptz) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tierlimit.now', at::text, true);
	RETURN (SELECT tierlimit.status(refusal(1001)) ->> 'elapsed');
END
$$;
SELECT at, elapsed(at) FROM unnest('{2026-08-03 23:59:00+00, 2026-08-04 00:00:00.5+00,
	2026-08-04 00:00:00.500999+00, 2026-08-04 00:00:00.501+00, 2026-08-04 00:01:00.5+00}'::timestamptz[]) at;
-- in UTC, wherever the session is
SET timezone = 'Asia/Kolkata';
SET tierlimit.now = '2026-08-04 05:30:00.0009+05:30';
SELECT tierlimit.status(d) ->> 'timestamp' AS timestamp FROM tierlimit.check('on the clock', 'boundless') d;
SET tierlimit.now = '1999-12-31 23:59:59.999999+00';
SELECT tierlimit.status(d) ->> 'timestamp' AS timestamp FROM tierlimit.peek('long ago', 'boundless') d;
SET tierlimit.now = '';
SET timezone = 'UTC';
SELECT (s ->> 'elapsed')::bigint BETWEEN 0 AND 60000 AS elapsed,
	(s ->> 'timestamp')::timestamptz - now() BETWEEN '-1 minute' AND '1 minute' AS timestamp
FROM tierlimit.check('on the clock', 'boundless') d, tierlimit.status(d) s;

-- no decision, no answer
SELECT tierlimit.headers(NULL), tierlimit.status(NULL), tierlimit.error_body(NULL), tierlimit.problem(NULL);
SELECT tierlimit.headers(d), tierlimit.status(d), tierlimit.error_body(d), tierlimit.problem(d)
FROM (SELECT jsonb_populate_record(NULL::tierlimit.decision, '{}') AS d) nothing;
-- nor does anything fail that lacks columns
SELECT tierlimit.headers(d), tierlimit.error_body(d), tierlimit.problem(d)
FROM (SELECT jsonb_populate_record(NULL::tierlimit.decision, '{"allowed": false, "limit": 5}') AS d) little;

-- a service needs no more than EXECUTE, in READ ONLY transactions and with any search_path
CREATE ROLE answering;
SELECT tierlimit.grant_service('answering');
CREATE SCHEMA trap;
CREATE TABLE trap.error_code (code integer, http_status integer, name text, message text);
CREATE FUNCTION trap.to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
GRANT USAGE ON SCHEMA trap TO answering;
\c -
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-08-05 00:00:00+00';
SET search_path = trap, pg_catalog;
SET ROLE answering;
BEGIN READ ONLY;
SELECT d.allowed, tierlimit.headers(d), tierlimit.status(d) FROM tierlimit.check('answered', 'Free') d;
SELECT tierlimit.status(d), tierlimit.error_body(d), tierlimit.problem(d) FROM tierlimit.check('owing') d;
COMMIT;
SELECT tierlimit.create_key('mine', 'Free');
SELECT tierlimit.rotate_key('owing');
RESET ROLE;
RESET search_path;
DROP SCHEMA trap CASCADE;
DROP OWNED BY answering;
DROP ROLE answering;
