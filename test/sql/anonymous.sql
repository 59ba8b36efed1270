-- Callers without a key, and addresses: subjects of their own.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-07-10 12:00:00+00';

INSERT INTO tierlimit.tier VALUES ('anonymous'), ('an keyed');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('anonymous', 'minute', '1 minute', 2), ('an keyed', 'burst', '1 second', 100);
-- no key meets them, whatever its name and state
INSERT INTO tierlimit.api_key (name, tier, status, key_hash) VALUES
	('anonymous', 'an keyed', 'disabled', NULL), ('nobody at all', 'an keyed', 'disabled', NULL), ('nobody', 'an keyed', 'disabled', NULL),
	('203.0.113.7', 'an keyed', 'active', sha256('tl_an')), ('203.0.113.8', 'an keyed', 'disabled', NULL);
CREATE FUNCTION anonymous(ip inet, request_id text DEFAULT NULL)
RETURNS TABLE (code integer, key text, tier text, lim text, rest bigint) LANGUAGE sql AS $$
	SELECT error_code, key, tier, limit_name, remaining FROM tierlimit.authorize(NULL, '/an', ip, NULL, request_id)
$$;
SELECT * FROM anonymous(NULL);
SELECT * FROM anonymous('203.0.113.7');
SELECT * FROM anonymous('203.0.113.8');
SELECT error_code, key, remaining FROM tierlimit.authorize('tl_an', '/an', '203.0.113.7');
SELECT allowed, remaining FROM tierlimit.check('203.0.113.7');
SELECT used FROM tierlimit.usage('203.0.113.7');
-- those without an address share one subject
SELECT * FROM anonymous(NULL);
SELECT * FROM anonymous(NULL);
SELECT * FROM anonymous('203.0.113.9');
-- the same id of another caller is another request
SET tierlimit.now = '2026-07-10 12:10:00+00';
SELECT code, rest FROM anonymous('203.0.113.10', 'same');
SELECT code, rest FROM anonymous('203.0.113.10', 'same');
SELECT code, rest FROM anonymous('203.0.113.11', 'same');
SELECT code, rest FROM anonymous(NULL, 'same');
SELECT code, rest FROM anonymous(NULL, 'same');
SELECT tierlimit.log_flush();
SELECT at, key, tier, ip, error_code, requests, request_id FROM tierlimit.request_log WHERE endpoint = '/an'
ORDER BY at, ip, key NULLS FIRST, error_code;
SELECT * FROM tierlimit.verify() WHERE difference <> 0 AND key <> 'max';

-- an address is asked for by its name, as a caller and as an address
INSERT INTO tierlimit.tier VALUES ('ip');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('ip', 'burst', '1 hour', 4), ('ip', 'second', '1 second', 100);
SELECT error_code FROM tierlimit.authorize('tl_an', '/an', '203.0.113.10');
SELECT limit_name, period, used, remaining FROM tierlimit.usage('203.0.113.10');
SELECT limit_name, used FROM tierlimit.usage('203.0.113.10', 'ip');
SELECT limit_name, used FROM tierlimit.usage('203.0.113.10', 'anonymous');
SELECT limit_name, used FROM tierlimit.usage('::ffff:203.0.113.10');
SELECT count(*) FROM tierlimit.usage('203.0.113.0/24');
SELECT count(*) FROM tierlimit.usage('203.0.113');
-- where a key has that name, registered or not, it is the key's
SELECT limit_name, used FROM tierlimit.usage('203.0.113.7');
SELECT allowed FROM tierlimit.check('203.0.113.12', 'an keyed');
SELECT limit_name, used FROM tierlimit.usage('203.0.113.12', 'an keyed');
SELECT count(*) FROM tierlimit.usage('203.0.113.12');

-- headers are about the limit that governed: another tier may have one of its name
SELECT name, max, period FROM tierlimit.tier_limit WHERE name = 'burst' AND tier IN ('ip', 'an keyed') ORDER BY tier;
SET tierlimit.now = '2026-07-11 12:00:00+00';
SELECT d.error_code, d.tier, d.limit_name, d.limit, tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy,
	tierlimit.problem(d) -> 'violated-policies' AS problem
FROM generate_series(1, 5) i, tierlimit.authorize(left('tl_an', 4 + i), '/an', '198.51.100.77') d;
SELECT tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy FROM tierlimit.authorize('tl_an', '/an') d;
-- ... and as much room
UPDATE tierlimit.tier_limit SET max = 4 WHERE tier = 'an keyed';
SET tierlimit.now = '2026-07-11 12:00:01+00';
SELECT d.error_code, tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy
FROM tierlimit.authorize('tl_an', '/an', '198.51.100.77') d;
SELECT d.error_code, d.remaining, tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy
FROM generate_series(1, 2) i, tierlimit.authorize(left('tl_an', 4 + i), '/an', '198.51.100.78') d;
SET tierlimit.now = '2026-07-11 12:00:03+00';
SELECT d.error_code, d.remaining, tierlimit.headers(d) ->> 'RateLimit-Policy' AS policy
FROM tierlimit.authorize('tl_an', '/an', '198.51.100.78') d;

UPDATE tierlimit.tier_limit SET max = 1000 WHERE tier = 'an keyed';
-- IPv6 addresses count by a prefix; those that stand for IPv4 ones as these
SET tierlimit.now = '2026-07-12 12:00:00+00';
SELECT ip, rest FROM (VALUES
	(1, inet '64:ff9b::198.51.100.79'), (2, '::ffff:198.51.100.79'), (3, '198.51.100.79'),
	(4, '64:ff9b::198.51.100.80'), (5, '64:ff9b:1::198.51.100.79'), (6, '::198.51.100.79'),
	(7, '2001:db8:7::1'), (8, '2001:db8:7:0:ffff::1'), (9, '2001:db8:7:1::1')) v (no, ip),
	LATERAL (SELECT remaining AS rest FROM tierlimit.authorize('tl_an', '/an', ip) ORDER BY no) d ORDER BY no;
SELECT tierlimit.log_flush();
SELECT ip, count(*) FROM tierlimit.request_log WHERE at = '2026-07-12 12:00:00+00' GROUP BY ip ORDER BY ip;
ALTER SYSTEM SET tierlimit.ipv6_prefix = 48;
SELECT pg_reload_conf();
\c -
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-07-12 12:00:00+00';
SELECT remaining FROM tierlimit.authorize('tl_an', '/an', '2001:db8:7:2::1');
SELECT limit_name, used FROM tierlimit.usage('2001:db8:7:ffff::1', 'ip');
SELECT limit_name, used FROM tierlimit.usage('2001:db8:7::/48', 'ip');
SELECT limit_name, used FROM tierlimit.usage('2001:db8:7::/64', 'ip');
ALTER SYSTEM SET tierlimit.ipv6_prefix = 31;
ALTER SYSTEM RESET tierlimit.ipv6_prefix;
SELECT pg_reload_conf();
\c -
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-07-12 12:00:00+00';
SELECT * FROM tierlimit.verify() WHERE difference <> 0 AND key <> 'max';
DELETE FROM tierlimit.api_key WHERE tier = 'an keyed';
DELETE FROM tierlimit.tier WHERE name IN ('ip', 'anonymous', 'an keyed');
