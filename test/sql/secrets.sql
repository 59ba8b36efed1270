-- Registering keys, and their secrets. No secret is printed here.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
SET tierlimit.now = '2026-08-10 00:00:00+00';

CREATE FUNCTION sha256(secret text) RETURNS bytea LANGUAGE sql
RETURN pg_catalog.sha256(convert_to(secret, 'UTF8'));

-- the table gets all but the secret
SELECT tierlimit.create_key('globex', tier => 'pro', account => 'globex corp', description => 'first customer') AS secret \gset
SELECT name, tier, account, description, status, key_hash = sha256(:'secret') AS hashed,
	key_prefix = left(:'secret', length(key_prefix)) AS prefixed, length(key_prefix)
FROM tierlimit.api_key WHERE name = 'globex';
SELECT :'secret' ~ '^tl_[0-9a-f]{64}$' AS well_formed;
SELECT tierlimit.create_key('initech', 'free') AS other \gset
SELECT name, tier, account, description, key_hash = sha256(:'other') AS hashed
FROM tierlimit.api_key WHERE name = 'initech';
-- a registered key like any other
SELECT allowed, tier, "limit", remaining FROM tierlimit.check('globex');

-- a new secret, at once; nothing else changes
CREATE TEMP TABLE before AS SELECT * FROM tierlimit.api_key WHERE name = 'globex';
SELECT tierlimit.rotate_key('globex') AS rotated \gset
SELECT :'rotated' <> :'secret' AS new, k.key_hash = sha256(:'rotated') AS hashed,
	k.key_prefix = left(:'rotated', length(k.key_prefix)) AS prefixed,
	to_jsonb(k) - '{key_hash,key_prefix}'::text[] = to_jsonb(b) - '{key_hash,key_prefix}'::text[] AS rest_unchanged
FROM tierlimit.api_key k, before b WHERE k.name = 'globex';
SELECT count(*) AS old_hashes FROM tierlimit.api_key WHERE key_hash = sha256(:'secret');
SELECT allowed, remaining FROM tierlimit.check('globex');
-- ... or not at all
BEGIN;
SELECT tierlimit.rotate_key('globex') IS NOT NULL AS rotated;
ROLLBACK;
SELECT key_hash = sha256(:'rotated') AS hashed FROM tierlimit.api_key WHERE name = 'globex';
-- a key that has had no secret so far
INSERT INTO tierlimit.api_key (name, tier) VALUES ('secretless', 'free');
SELECT tierlimit.rotate_key('secretless') AS first \gset
SELECT key_hash = sha256(:'first') AS hashed FROM tierlimit.api_key WHERE name = 'secretless';

-- the secret is in no column of any table
CREATE FUNCTION tables_with(secret text) RETURNS SETOF regclass LANGUAGE plpgsql AS $$
DECLARE
	tab regclass;
	found boolean;
BEGIN
	FOR tab IN SELECT oid FROM pg_class WHERE relnamespace = 'tierlimit'::regnamespace AND relkind IN ('r', 'p') LOOP
		EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE strpos(t::text, $1) > 0)', tab)
			INTO found USING secret;
		IF found THEN
			RETURN NEXT tab;
		END IF;
	END LOOP;
END
$$;
SELECT tables_with('initech');
SELECT tables_with(:'rotated');
SELECT tables_with(substr(:'rotated', 4));
SELECT tables_with(substr(:'rotated', 12));

-- no two alike
SELECT count(DISTINCT secret) AS secrets, count(DISTINCT left(secret, 20)) AS beginnings,
	count(DISTINCT right(secret, 20)) AS ends, min(length(secret)), max(length(secret))
FROM (SELECT tierlimit.create_key('many ' || i, 'free') AS secret FROM generate_series(1, 1000) i) made;
SELECT count(DISTINCT key_hash) AS hashes FROM tierlimit.api_key WHERE name LIKE 'many %';
DELETE FROM tierlimit.api_key WHERE name LIKE 'many %';

-- misuse
CREATE FUNCTION error_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, message, nullif(hint, ''));
END
$$;
SELECT error_of(command) FROM unnest(ARRAY[
	$$ SELECT tierlimit.create_key(NULL, 'free') $$,
	$$ SELECT tierlimit.create_key('k', NULL) $$,
	$$ SELECT tierlimit.create_key('k', 'gold') $$,
	$$ SELECT tierlimit.create_key('k', repeat('t', 100)) $$,
	$$ SELECT tierlimit.create_key('globex', 'free') $$,
	$$ SELECT tierlimit.create_key('', 'free') $$,
	$$ SELECT tierlimit.create_key(repeat('k', 256), 'free') $$,
	$$ SELECT tierlimit.create_key('k', 'free', account => '') $$,
	$$ SELECT tierlimit.rotate_key('nobody') $$,
	$$ SELECT tierlimit.rotate_key(NULL) $$
	]) command;
BEGIN READ ONLY;
SELECT tierlimit.create_key('k', 'free');
ROLLBACK;
BEGIN READ ONLY;
SELECT tierlimit.rotate_key('globex');
ROLLBACK;
SELECT count(*) FROM tierlimit.api_key WHERE name = 'k';
SELECT key_hash = sha256(:'rotated') AS hashed FROM tierlimit.api_key WHERE name = 'globex';

-- they write as their caller, who needs the right to
CREATE ROLE keeper;
GRANT USAGE ON SCHEMA tierlimit TO keeper;
SET ROLE keeper;
SELECT tierlimit.create_key('kept', 'free');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tierlimit.create_key, tierlimit.rotate_key TO keeper;
SET ROLE keeper;
SELECT tierlimit.create_key('kept', 'free');
SELECT tierlimit.rotate_key('globex');
RESET ROLE;
GRANT INSERT ON tierlimit.api_key TO keeper;
GRANT SELECT (name), UPDATE (key_hash, key_prefix) ON tierlimit.api_key TO keeper;
SET ROLE keeper;
SELECT tierlimit.create_key('kept', 'free') IS NOT NULL AS created;
SELECT tierlimit.rotate_key('kept') IS NOT NULL AS rotated;
RESET ROLE;

-- objects of the same name in a schema in front change nothing
CREATE SCHEMA trap;
CREATE TABLE trap.api_key (LIKE tierlimit.api_key);
CREATE TABLE trap.tier (name text);
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (false);
CREATE FUNCTION trap.equal(pg_catalog.text, pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR trap.= (LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text, FUNCTION = trap.equal);
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
GRANT USAGE ON SCHEMA trap TO keeper;
GRANT ALL ON ALL TABLES IN SCHEMA trap TO keeper;
\c -
SET client_min_messages = warning;
SET search_path = trap, pg_catalog;
SET ROLE keeper;
SELECT tierlimit.create_key('caught', 'free') IS NOT NULL AS created;
SELECT tierlimit.rotate_key('caught') IS NOT NULL AS rotated;
RESET ROLE;
SELECT count(*) FROM trap.api_key;
RESET search_path;
SELECT name, tier, octet_length(key_hash) FROM tierlimit.api_key WHERE name = 'caught';

DROP SCHEMA trap CASCADE;
DROP OWNED BY keeper;
DROP ROLE keeper;
