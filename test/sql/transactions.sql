-- Charges are outside of transactions, configuration is inside.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-08-01 00:00:00+00';

-- a charge stays when the transaction is rolled back, or fails
BEGIN;
SELECT remaining FROM tierlimit.check('k', 'free');
ROLLBACK;
BEGIN;
SELECT remaining FROM tierlimit.check('k', 'free');
SAVEPOINT s;
SELECT remaining FROM tierlimit.check('k', 'free');
ROLLBACK TO s;
SELECT remaining FROM tierlimit.check('k', 'free');
SELECT 1 / 0;
ROLLBACK;
SELECT 1 / (remaining - 25) FROM tierlimit.check('k', 'free');
SELECT remaining FROM tierlimit.check('k', 'free');

-- it works in read-only transactions of any level
BEGIN READ ONLY;
SELECT remaining FROM tierlimit.check('k', 'free');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT remaining FROM tierlimit.check('k', 'free');
SELECT tierlimit.refund('k');
COMMIT;

-- an uncommitted change binds its own session, until it is rolled back
INSERT INTO tierlimit.api_key (name, tier) VALUES ('tx', 'free');
SELECT tier, "limit" FROM tierlimit.peek('tx');
BEGIN;
UPDATE tierlimit.api_key SET tier = 'pro' WHERE name = 'tx';
SELECT tier, "limit" FROM tierlimit.peek('tx');
SAVEPOINT s;
UPDATE tierlimit.tier_limit SET max = 121 WHERE tier = 'pro' AND name = 'minute';
DELETE FROM tierlimit.api_key WHERE name = 'tx';
SELECT error_code FROM tierlimit.peek('tx');
SELECT tier, "limit" FROM tierlimit.peek('tx', 'pro');
ROLLBACK TO s;
SELECT tier, "limit" FROM tierlimit.peek('tx');
ROLLBACK;
SELECT tier, "limit" FROM tierlimit.peek('tx');
BEGIN;
TRUNCATE tierlimit.api_key;
SELECT error_code FROM tierlimit.peek('tx');
ROLLBACK;
SELECT tier, "limit" FROM tierlimit.peek('tx');

-- what a statement sees of its own change in the middle is nobody's truth
INSERT INTO tierlimit.api_key (name, tier) VALUES ('ghost', 'pro')
	RETURNING (SELECT allowed FROM tierlimit.peek('ghost')), 1 / (SELECT 0 FROM tierlimit.peek('ghost'));
SELECT error_code FROM tierlimit.peek('ghost');
WITH w AS (INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('free', 'ghost', '1 hour', 0) RETURNING 1)
	SELECT 1 / (SELECT 0 FROM tierlimit.peek('tx')) FROM w;
SELECT count(*) FROM tierlimit.usage('tx');

-- a table definition that changes rows
BEGIN;
ALTER TABLE tierlimit.api_key DISABLE TRIGGER ALL;
UPDATE tierlimit.api_key SET tier = 'pro' WHERE name = 'tx';
ALTER TABLE tierlimit.api_key ENABLE ALWAYS TRIGGER changed;
SELECT tier, "limit" FROM tierlimit.peek('tx');
ROLLBACK;
SELECT tier, "limit" FROM tierlimit.peek('tx');

-- as a replica applies it
SET session_replication_role = replica;
UPDATE tierlimit.api_key SET tier = 'pro' WHERE name = 'tx';
SELECT tier, "limit" FROM tierlimit.peek('tx');
UPDATE tierlimit.tier_limit SET max = 122 WHERE tier = 'pro' AND name = 'minute';
SELECT tier, "limit" FROM tierlimit.peek('tx');
UPDATE tierlimit.tier_limit SET max = 120 WHERE tier = 'pro' AND name = 'minute';
RESET session_replication_role;

-- a renamed tier takes its keys along
UPDATE tierlimit.tier SET name = 'professional' WHERE name = 'pro';
SELECT tier, "limit" FROM tierlimit.peek('tx');
UPDATE tierlimit.tier SET name = 'pro' WHERE name = 'professional';
SELECT tier, "limit" FROM tierlimit.peek('tx');

-- in functions, triggers and row-level security
CREATE TABLE note (id integer, body text);
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT allowed FROM tierlimit.check('notes', 'tied')) THEN
		RAISE EXCEPTION 'too many notes';
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER gate BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION gate();
INSERT INTO note VALUES (1, 'a'), (2, 'b'), (3, 'c');
\set SHOW_CONTEXT never
INSERT INTO note VALUES (4, 'd');
\set SHOW_CONTEXT errors
CREATE ROLE reader;
GRANT SELECT ON note TO reader;
SELECT tierlimit.grant_service('reader');
ALTER TABLE note ENABLE ROW LEVEL SECURITY;
CREATE POLICY metered ON note USING ((SELECT allowed FROM tierlimit.check('reads of ' || current_user, 'tied')));
SET ROLE reader;
SELECT count(*) FROM note;
SELECT count(*) FROM note;
SELECT count(*) FROM note;
SELECT count(*) FROM note;
RESET ROLE;
DROP TABLE note;

-- switched off, nothing is counted, nor needs to be configured
ALTER SYSTEM SET tierlimit.enabled = off;
SELECT pg_reload_conf();
\c -
SET timezone = 'UTC';
SET tierlimit.now = '2026-08-02 00:00:00+00';
SELECT * FROM tierlimit.check('k', 'no such tier');
SELECT count(*) FILTER (WHERE allowed) FROM tierlimit.check_many(array_fill('k'::text, ARRAY[100]), 'free');
SELECT limit_name, used FROM tierlimit.usage('k', 'free');
-- but who a caller is, and whether they may call, is asked
INSERT INTO tierlimit.api_key (name, tier, status, key_hash)
SELECT 'off ' || s, 'free', s, sha256(('off ' || s)::bytea) FROM unnest('{active,disabled,payment_required,payment_expired}'::text[]) s;
INSERT INTO tierlimit.tier_endpoint VALUES ('free', '/off');
SELECT name, d.allowed, d.error_code, d.key, d.tier, d.limit_name FROM (SELECT 'off ' || s AS name
	FROM unnest('{active,disabled,payment_required,payment_expired,unknown}'::text[]) s) n, tierlimit.authorize(name, '/off') d;
SELECT error_code FROM tierlimit.authorize('off active', '/on');
SELECT error_code FROM tierlimit.authorize(NULL, '/off');
SELECT key, allowed, error_code, tier FROM tierlimit.check_many(ARRAY['off active', 'off disabled', 'unknown', NULL]);
SELECT key, allowed, error_code, tier FROM tierlimit.check_many(ARRAY['off active', 'off disabled', 'unknown', NULL], 'pro');
SELECT allowed, error_code FROM tierlimit.peek('off disabled');
SELECT tierlimit.log_flush();
SELECT count(*) FROM tierlimit.request_log WHERE key ~ '^off ';
DELETE FROM tierlimit.tier_endpoint;
DELETE FROM tierlimit.api_key WHERE name ~ '^off ';
ALTER SYSTEM RESET tierlimit.enabled;
SELECT pg_reload_conf();
\c -
