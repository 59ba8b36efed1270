-- What the configuration tables refuse, and what they keep.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

-- numbers are whole
CREATE FUNCTION refused(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, message, CASE WHEN SQLSTATE <> '23514' THEN nullif(detail, '') END, nullif(hint, ''));
END
$$;
INSERT INTO tierlimit.tier VALUES ('whole');
SELECT max, refused(format($$INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('whole', 'l', '1 hour', %s)$$, max))
FROM unnest(ARRAY['1.7', '0.4', '-1', '-0.5', '9223372036854775808', '''NaN''', '''Infinity''', '1e-3', 'NULL', '7.000']) max;
SELECT max, refused(format($$UPDATE tierlimit.tier_limit SET max = %s WHERE tier = 'whole'$$, max))
FROM unnest(ARRAY['max * 1.5', 'max * 1.0', '9223372036854775807', '3']) max;
SELECT max FROM tierlimit.tier_limit WHERE tier = 'whole';
SELECT "limit" FROM tierlimit.usage('w', 'whole');
SELECT credits, refused(format($$INSERT INTO tierlimit.endpoint VALUES ('/whole', %s)$$, credits))
FROM unnest(ARRAY['0.4', '1.5', '-1', '2.0']) credits;
SELECT * FROM tierlimit.endpoint;
DELETE FROM tierlimit.endpoint;
-- ... also those of a function
SELECT refused($$SELECT tierlimit.check('w', 'whole', 1.7)$$) ~ '^42883' AS refused;

-- a tier has so many limits, in one statement or several
SELECT refused($$INSERT INTO tierlimit.tier_limit (tier, name, period, max) SELECT 'whole', 'n ' || i, i * interval '1 minute', 1 FROM generate_series(1, 31) i$$);
SELECT refused($$INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('whole', 'one more', '1 day', 1)$$);
INSERT INTO tierlimit.tier VALUES ('wholes');
SELECT refused($$INSERT INTO tierlimit.tier_limit (tier, name, period, max) SELECT 'wholes', 'n ' || i, i * interval '1 minute', 1 FROM generate_series(1, 33) i$$);
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('wholes', 'own', '1 day', 1);
SELECT refused($$UPDATE tierlimit.tier_limit SET tier = 'whole' WHERE tier = 'wholes'$$);
DELETE FROM tierlimit.tier WHERE name ~ '^whole';

-- a time zone has a name
INSERT INTO tierlimit.tier VALUES ('zoned');
SELECT zone, refused(format($$INSERT INTO tierlimit.api_key (name, tier, billing_timezone) VALUES (%L, 'zoned', %1$L)$$, zone))
FROM unnest(ARRAY['UTC', 'utc', 'Europe/Berlin', 'europe/berlin', 'Etc/GMT-3', '+03', '+99', '-167', 'CEST', 'EST5EDT,M3.2.0,M11.1.0', 'Europe/', '', 'Mars/Olympus']) zone;
SELECT name, billing_timezone FROM tierlimit.api_key WHERE tier = 'zoned' ORDER BY name;
SELECT refused($$UPDATE tierlimit.api_key SET billing_timezone = '+03' WHERE name = 'utc'$$);
DELETE FROM tierlimit.api_key WHERE tier = 'zoned';
DELETE FROM tierlimit.tier WHERE name = 'zoned';

-- our triggers are for our tables
CREATE TABLE stranger (name text, max numeric);
CREATE TRIGGER t BEFORE INSERT ON stranger FOR EACH ROW EXECUTE FUNCTION tierlimit._key_changed();
INSERT INTO stranger VALUES ('x', 1);
DROP TRIGGER t ON stranger;
CREATE TRIGGER t AFTER INSERT ON stranger FOR EACH ROW EXECUTE FUNCTION tierlimit._tiers_changed();
INSERT INTO stranger VALUES ('x', 1);
DROP TRIGGER t ON stranger;
CREATE TRIGGER t BEFORE TRUNCATE ON stranger FOR EACH STATEMENT EXECUTE FUNCTION tierlimit._key_changed();
TRUNCATE stranger;
DROP TABLE stranger;
CREATE TABLE api_key (name text);
CREATE TRIGGER t BEFORE INSERT ON api_key FOR EACH ROW EXECUTE FUNCTION tierlimit._key_changed();
INSERT INTO api_key VALUES ('x');
DROP TABLE api_key;
SELECT tierlimit._key_changed();

-- a built-in code that was changed is marked, so that pg_dump carries it
SELECT code, changed FROM tierlimit.error_code WHERE changed;
BEGIN;
UPDATE tierlimit.error_code SET message = 'Slow down.' WHERE code = 1008;
INSERT INTO tierlimit.error_code VALUES (2003, 429, 'OWN', 'Own.');
UPDATE tierlimit.error_code SET message = 'My own.' WHERE code = 2003;
SELECT code, message, changed FROM tierlimit.error_code WHERE code IN (1007, 1008, 2003) ORDER BY code;
-- what a dump then does to the rows that CREATE EXTENSION has made
INSERT INTO tierlimit.error_code VALUES (1007, 418, 'TEAPOT', 'Short and stout.', NULL, true), (2002, 429, 'MORE', 'More.', NULL, true);
SELECT code, http_status, name, message, changed FROM tierlimit.error_code WHERE code IN (1007, 2002) ORDER BY code;
SAVEPOINT s;
INSERT INTO tierlimit.error_code VALUES (1007, 418, 'TEAPOT', 'Short and stout.', NULL);
ROLLBACK;
