-- When to try again where a call has two subjects, an address and a key.
INSERT INTO tierlimit.tier VALUES ('ip'), ('per minute'), ('never');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('ip', 'burst', '10 seconds', 1), ('per minute', 'minute', '1 minute', 1), ('never', 'none', '1 minute', 0);
CREATE TEMP TABLE secret AS
	SELECT name, tierlimit.create_key(name, tier) AS secret
	FROM (VALUES ('retry', 'per minute'), ('never', 'never')) AS k (name, tier);

CREATE FUNCTION pg_temp.call(name text, seconds integer) RETURNS TABLE (allowed boolean, error_code integer,
	limit_name text, "limit" bigint, remaining bigint, retry_after integer) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tierlimit.now', (timestamptz '2026-03-01 12:00:00+00' + seconds * interval '1 second')::text, false);
	RETURN QUERY SELECT d.allowed, d.error_code, d.limit_name, d."limit", d.remaining, d.retry_after
		FROM secret s, tierlimit.authorize(s.secret, ip => '192.0.2.33') d WHERE s.name = call.name;
END
$$;

SELECT * FROM pg_temp.call('retry', 0);
-- both are full: the address denies, and the key does for longer
SELECT * FROM pg_temp.call('retry', 0);
SELECT * FROM pg_temp.call('retry', 10);
SELECT * FROM pg_temp.call('retry', 59);
SELECT * FROM pg_temp.call('retry', 60);
-- the address denies for now, the key for ever
SELECT * FROM pg_temp.call('never', 61);
SELECT * FROM pg_temp.call('never', 71);

RESET tierlimit.now;
DELETE FROM tierlimit.tier WHERE name = 'ip';
DELETE FROM tierlimit.api_key WHERE name IN ('retry', 'never');
DELETE FROM tierlimit.tier WHERE name IN ('per minute', 'never');
