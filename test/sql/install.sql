-- The extension as it is installed.
-- not into a schema that somebody else has made
\set SHOW_CONTEXT never
CREATE ROLE squatter;
CREATE SCHEMA tierlimit AUTHORIZATION squatter;
CREATE EXTENSION tierlimit;
DROP SCHEMA tierlimit;
DROP ROLE squatter;
-- one that was left by the extension will do
CREATE EXTENSION tierlimit;
DROP EXTENSION tierlimit;
CREATE EXTENSION tierlimit;

-- C functions bear the version that they are of
SELECT oid::regprocedure AS without_version FROM pg_proc
WHERE pronamespace = 'tierlimit'::regnamespace AND probin IS NOT NULL AND prosrc !~ '^tierlimit_[a-z_]+_[0-9]+_[0-9]+$';

-- every object says what it is for, but those that come with another: arrays,
-- and the row types of tables (which are members from 17 on)
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tierlimit')
  AND deptype = 'e'
  AND obj_description(objid, classid::regclass::name) IS NULL
  AND pg_describe_object(classid, objid, 0) NOT LIKE '%[]'
  AND NOT EXISTS (SELECT FROM pg_class c
    WHERE classid = 'pg_type'::regclass AND c.reltype = objid AND c.relkind <> 'c')
ORDER BY 1;

-- nothing is granted to PUBLIC, but the function of a view, which asks for the view
SELECT p.oid::regprocedure AS granted_to_public
FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'tierlimit'::regnamespace AND a.grantee = 0;
SELECT c.oid::regclass AS granted_to_public
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'tierlimit'::regnamespace AND a.grantee = 0;
SELECT n.nspname AS granted_to_public
FROM pg_namespace n, aclexplode(n.nspacl) a
WHERE n.nspname = 'tierlimit' AND a.grantee = 0;

-- the codes of the interface
SELECT code, http_status, name, message FROM tierlimit.error_code ORDER BY code;

-- settings
SELECT name, setting, unit, context FROM pg_settings
WHERE name LIKE 'tierlimit.%' ORDER BY name;
SET tierlimit.now = 'half past nine';
SET tierlimit.now = 'infinity';
SET tierlimit.nonsense = 1;

-- The tiers that most tests use.
INSERT INTO tierlimit.tier VALUES ('free'), ('pro'), ('enterprise');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('free',       'minute', '1 minute', 30),  ('free',       'day', '1 day',   1000),
  ('pro',        'minute', '1 minute', 120), ('pro',        'day', '1 day',  50000),
  ('enterprise', 'minute', '1 minute', 600), ('enterprise', 'day', '1 day', 500000);

-- calls(): check n times, a step apart; a row for each stretch of equal answers
CREATE FUNCTION calls(key text, tier text, n integer, since timestamptz,
	step interval DEFAULT '0', cost bigint DEFAULT 1)
RETURNS TABLE (calls bigint, allowed boolean, error_code integer, limit_name text,
	first_remaining bigint, last_remaining bigint, first_retry integer, last_retry integer)
LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE IF EXISTS pg_temp.answer;
	CREATE TEMP TABLE answer (no integer, d tierlimit.decision);
	FOR i IN 0 .. n - 1 LOOP
		PERFORM set_config('tierlimit.now', (since + i * step)::text, false);
		INSERT INTO answer SELECT i, d FROM tierlimit.check(key, tier, cost) d;
	END LOOP;
	RETURN QUERY
		SELECT count(*), (array_agg(d))[1].allowed, (array_agg(d))[1].error_code,
			(array_agg(d))[1].limit_name,
			(array_agg((d).remaining ORDER BY no))[1], (array_agg((d).remaining ORDER BY no DESC))[1],
			(array_agg((d).retry_after ORDER BY no))[1], (array_agg((d).retry_after ORDER BY no DESC))[1]
		FROM (SELECT no, d, no - row_number() OVER
				(PARTITION BY (d).allowed, (d).error_code, (d).limit_name ORDER BY no) AS stretch
			  FROM answer) s
		GROUP BY stretch, (d).allowed, (d).error_code, (d).limit_name
		ORDER BY min(no);
END
$$;
SET client_min_messages = warning;
