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
SELECT d.allowed, d.error, tierlimit.error_body(d) FROM tierlimit.authorize('tl_nobody''s', '/v1', '192.0.2.1') d;
SELECT tierlimit.reset('served');
SELECT * FROM tierlimit.verify('served');
SELECT tierlimit.log_flush();
SELECT tierlimit._sum_log(now());
SELECT tierlimit._drop_old_log('1 day', '0');
SELECT * FROM tierlimit.request_log;
SELECT * FROM tierlimit.request_log_default;
SELECT * FROM tierlimit.usage_hourly;
SELECT * FROM tierlimit.usage_minute;
INSERT INTO tierlimit.endpoint VALUES ('/v1', 0);
INSERT INTO tierlimit.request_log VALUES (now(), 'served', NULL, 'free', NULL, NULL, 0, -100, -100, NULL, NULL);
SELECT tierlimit.create_key('mine', 'free');
SELECT tierlimit.rotate_key('acme');
SELECT * FROM tierlimit.api_key;
SELECT * FROM tierlimit.tier;
UPDATE tierlimit.tier_limit SET max = 1000000;
SELECT * FROM tierlimit.stat;
SELECT tierlimit.stat_reset();
SELECT tierlimit.grant_service('stranger');
SET tierlimit.now = '2026-01-01 00:00:00+00';
RESET ROLE;

-- the statistics, to whoever may read them
SET ROLE service;
SELECT * FROM tierlimit._stat_counters();
SELECT * FROM tierlimit.stat_progress;
SELECT * FROM tierlimit._stat_progress();
SELECT tierlimit._progress('mine');
RESET ROLE;
CREATE ROLE watcher;
GRANT USAGE ON SCHEMA tierlimit TO watcher;
GRANT SELECT ON tierlimit.stat TO watcher;
SET ROLE watcher;
SELECT checks > 0 AS checks FROM tierlimit.stat;
SELECT checks > 0 AS checks FROM tierlimit._stat_counters();
SELECT tierlimit.stat_reset();
RESET ROLE;
DROP OWNED BY watcher;
SELECT tierlimit.grant_monitoring('watcher');
SET ROLE watcher;
SELECT checks > 0 AS checks FROM tierlimit.stat;
SELECT count(*) FROM tierlimit.stat_progress;
SELECT allowed FROM tierlimit.check('served', 'free');
RESET ROLE;
DROP OWNED BY watcher;
DROP ROLE watcher;

-- objects of the same name in a schema in front change nothing
CREATE SCHEMA trap;
CREATE TABLE trap.api_key (name text, tier text);
CREATE TABLE trap.tier (name text);
CREATE FUNCTION trap.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.equal);
CREATE FUNCTION trap.count("any") RETURNS bigint LANGUAGE internal AS 'int8inc';
CREATE FUNCTION trap.before(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR trap.> (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.before);
CREATE OPERATOR trap.>= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.before);
CREATE FUNCTION trap.min(timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION trap.host(pg_catalog.inet) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE DOMAIN trap.inet AS text CHECK (value = 'trapped');
CREATE TABLE trap.request_log (at timestamptz, key text);
CREATE TABLE trap.log_state (summed_until timestamptz);
GRANT USAGE ON SCHEMA trap TO service;
SET search_path = trap, pg_catalog, public;
\c -
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-09-01 00:00:00+00';
SET search_path = trap, pg_catalog, public;
UPDATE tierlimit.tier_limit SET max = max;
INSERT INTO tierlimit.api_key (name, tier, key_hash) VALUES ('trapped', 'free', sha256('trapped secret'));
INSERT INTO tierlimit.tier VALUES ('ip');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('ip', 'address', '1 minute', 4);
SET ROLE service;
SELECT allowed, tier, "limit" FROM tierlimit.check('trapped');
SELECT allowed, tier, "limit" FROM tierlimit.check('trapped', 'pro');
SELECT used FROM tierlimit.usage('trapped', 'metered');
SELECT tierlimit.refund('trapped');
SELECT error FROM tierlimit.authorize('nobody''s', '/v1', '192.0.2.1');
SELECT allowed, tier FROM tierlimit.authorize('trapped secret', '/v1', '192.0.2.1', NULL, 'again') i;
SELECT allowed, tier FROM tierlimit.authorize('trapped secret', '/v1', '192.0.2.1', NULL, 'again') i;
RESET ROLE;
SELECT tierlimit.log_flush();
SELECT difference FROM tierlimit.verify('trapped') WHERE difference <> 0;
SELECT tierlimit.reset('trapped');
RESET search_path;
DELETE FROM tierlimit.tier WHERE name = 'ip';
DROP SCHEMA trap CASCADE;

DROP OWNED BY service, stranger, reader;
DROP ROLE service, stranger, reader;
