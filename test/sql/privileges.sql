-- Who may do what.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
CREATE ROLE service;
CREATE ROLE stranger;
SELECT tierlimit.grant_service('service');
SELECT tierlimit.grant_service('nobody of that name');

SET ROLE stranger;
SELECT allowed FROM tierlimit.check('k', 'free');
RESET ROLE;
-- the schema alone is not enough
GRANT USAGE ON SCHEMA tierlimit TO stranger;
SET ROLE stranger;
SELECT allowed FROM tierlimit.check('k', 'free');
SELECT * FROM tierlimit.usage('k', 'free');
SELECT * FROM tierlimit.stat;
RESET ROLE;

-- a service calls, but reads and changes nothing else
SET ROLE service;
SELECT allowed FROM tierlimit.check('served', 'free');
SELECT allowed FROM tierlimit.peek('served', 'free');
SELECT allowed FROM tierlimit.check_many(ARRAY['served'], 'free');
SELECT tierlimit.refund('served');
SELECT limit_name, used FROM tierlimit.usage('served', 'free');
SELECT tierlimit.reset('served');
SELECT * FROM tierlimit.api_key;
SELECT * FROM tierlimit.tier;
UPDATE tierlimit.tier_limit SET max = 1000000;
SELECT * FROM tierlimit.stat;
SELECT tierlimit.stat_reset();
SELECT tierlimit.grant_service('stranger');
SET tierlimit.now = '2026-01-01 00:00:00+00';
RESET ROLE;

-- objects of the same name in a schema in front change nothing
CREATE SCHEMA trap;
CREATE TABLE trap.api_key (name text, tier text);
CREATE TABLE trap.tier (name text);
CREATE FUNCTION trap.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.equal);
CREATE FUNCTION trap.count("any") RETURNS bigint LANGUAGE internal AS 'int8inc';
GRANT USAGE ON SCHEMA trap TO service;
SET search_path = trap, pg_catalog, public;
\c -
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-09-01 00:00:00+00';
SET search_path = trap, pg_catalog, public;
UPDATE tierlimit.tier_limit SET max = max;
INSERT INTO tierlimit.api_key (name, tier) VALUES ('trapped', 'free');
SET ROLE service;
SELECT allowed, tier, "limit" FROM tierlimit.check('trapped');
RESET ROLE;
RESET search_path;
DROP SCHEMA trap CASCADE;

DROP OWNED BY service, stranger, reader;
DROP ROLE service, stranger, reader;
