-- The gate in front of an API: keys, plans, addresses, endpoints, codes.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

INSERT INTO tierlimit.tier VALUES ('gate'), ('gate quotes'), ('gate wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, max, unit) VALUES
	('gate', 'minute', '1 minute', 'sliding', 3, 'requests'),
	('gate', 'day', '1 day', 'sliding', 5, 'requests'),
	('gate', 'month', '1 month', 'calendar', 20, 'credits'),
	('gate quotes', 'minute', '1 minute', 'sliding', 100, 'requests'),
	('gate wide', 'minute', '1 minute', 'sliding', 1000, 'requests');
INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 2), ('/v1/quotes/*', 3), ('/v1/quotes/latest', 5), ('/v1/free', 0);
INSERT INTO tierlimit.tier_endpoint VALUES ('gate quotes', '/v1/quotes/*'), ('gate quotes', '/status');

-- secrets that are the same in each run
CREATE FUNCTION secret_of(name text) RETURNS text LANGUAGE sql RETURN 'tl_' || encode(sha256(name::bytea), 'hex');
INSERT INTO tierlimit.api_key (name, tier, key_hash, status, expires_at)
SELECT k.name, tier, sha256(secret_of(k.name)::bytea), status, expires_at
FROM (VALUES
	('g active', 'gate', 'active', NULL::timestamptz),
	('g day', 'gate', 'active', NULL),
	('g month', 'gate', 'active', NULL),
	('g quotes', 'gate quotes', 'active', NULL),
	('g wide', 'gate wide', 'active', NULL),
	('g unpaid', 'gate', 'payment_required', NULL),
	('g lapsed', 'gate', 'payment_expired', NULL),
	('g expired', 'gate', 'active', '2026-07-01 12:00:00+00'),
	('g disabled', 'gate', 'disabled', NULL)) AS k (name, tier, status, expires_at);

CREATE FUNCTION gate(name text, endpoint text DEFAULT NULL, ip inet DEFAULT NULL, cost bigint DEFAULT NULL)
RETURNS TABLE (http integer, code integer, error text, key text, tier text, lim text, rest bigint, wait integer, cost bigint)
LANGUAGE sql AS $$
	SELECT http_status, error_code, error, key, tier, limit_name, remaining, retry_after, cost
	FROM tierlimit.authorize(secret_of(name), endpoint, ip, cost)
$$;

-- each row of the table of refusals, in its order
SET tierlimit.now = '2026-07-01 12:00:00+00';
CREATE TABLE gate_case (no serial, name text, endpoint text, ip inet, cost bigint);
INSERT INTO gate_case (name, endpoint, ip, cost) VALUES
	(NULL, '/v1/quotes/1', '192.0.2.1', NULL),
	('unknown', '/v1/quotes/1', '192.0.2.1', NULL),
	('g disabled', '/v1/quotes/1', '192.0.2.1', NULL),
	('g unpaid', '/v1/quotes/1', '192.0.2.1', NULL),
	('g lapsed', '/v1/quotes/1', '192.0.2.1', NULL),
	('g expired', '/v1/quotes/1', '192.0.2.1', NULL),
	('g quotes', '/v1/orders', '192.0.2.1', NULL),
	('g quotes', NULL, '192.0.2.1', NULL),
	('g quotes', '/v1/quotes/1', '192.0.2.1', NULL),
	('g active', '/v1/quotes/1', '192.0.2.1', NULL),
	('g active', '/v1/quotes/latest', '192.0.2.1', NULL),
	('g active', '/v1/free', NULL, NULL),
	('g active', '/v1/free', NULL, NULL),
	('g month', '/v2', '192.0.2.1', 20),
	('g month', '/v2', '192.0.2.1', NULL);
SELECT c.no, c.name, c.endpoint, g.* FROM gate_case c, gate(c.name, c.endpoint, c.ip, c.cost) g ORDER BY c.no;
SELECT error_code, error FROM tierlimit.authorize('');
SELECT http, code, error, lim FROM generate_series(1, 7) i,
	LATERAL (SELECT set_config('tierlimit.now', '2026-07-01 13:0' || i || ':00+00', false)) s, gate(left('g day', i + 5)) g;

-- without a key, where there is a tier for that
BEGIN;
INSERT INTO tierlimit.tier VALUES ('anonymous');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('anonymous', 'minute', '1 minute', 2);
INSERT INTO tierlimit.tier_endpoint VALUES ('anonymous', '/public/*');
SELECT error_code, error, http_status FROM tierlimit.authorize(NULL, '/v1/quotes/1', '192.0.2.9');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize(NULL, '/public/a', '192.0.2.9');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize('', '/public/b', '::ffff:192.0.2.9');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize(NULL, '/public/a', '192.0.2.9/24');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize(NULL, '/public/a', '2001:db8::1');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize(NULL, '/public/a', '2001:db8:0:0:ffff::2');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize(NULL, '/public/a', '2001:db8:0:1::1');
SELECT error_code, key, tier, remaining FROM tierlimit.authorize(NULL, '/public/a');
SELECT limit_name, used FROM tierlimit.usage('2001:db8::/64', 'anonymous');
ROLLBACK;

-- addresses: charged with the key, or neither of them
INSERT INTO tierlimit.tier VALUES ('ip');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('ip', 'address', '1 minute', 4);
SET tierlimit.now = '2026-07-02 12:00:00+00';
SELECT http, code, error, key, tier, lim, rest, wait FROM generate_series(1, 5) i, gate(left('g wide', i + 6), '/v1/x', '198.51.100.7');
SELECT used FROM tierlimit.usage('g wide');
SELECT code, lim, rest FROM gate('g wide', '/v1/x', '198.51.100.8');
SELECT used FROM tierlimit.usage('g wide');
SELECT code, lim, rest FROM generate_series(1, 4) i, gate(left('g active', i + 8), '/v1/x', '198.51.100.9');
SELECT code, lim, rest FROM gate('g wide', '/v1/x', '198.51.100.9');
SELECT code, rest FROM gate('g wide', '/v1/x', '2001:db8:5::1');
SELECT code, rest FROM gate('g wide', '/v1/x', '2001:db8:5::2');
SELECT code, rest FROM gate('g wide', '/v1/x', '2001:db8:5:1::1');
SELECT code, rest FROM gate('g wide', '/v1/x', NULL);
SELECT h.* FROM tierlimit.authorize(secret_of('g wide'), '/v1/x', '198.51.100.7') d, jsonb_each_text(tierlimit.headers(d)) h;
UPDATE tierlimit.tier_limit SET error_code = 1008 WHERE tier = 'ip';
SELECT code FROM gate('g wide', '/v1/x', '198.51.100.7');
UPDATE tierlimit.tier_limit SET error_code = NULL WHERE tier = 'ip';

-- a rotated secret is another one from COMMIT on
BEGIN;
UPDATE tierlimit.api_key SET key_hash = sha256(secret_of('g new')::bytea) WHERE name = 'g wide';
SELECT code, key FROM gate('g new');
SELECT code, key FROM gate('g wide');
ROLLBACK;
SELECT code, key FROM gate('g new');
SELECT code, key FROM gate('g wide');
UPDATE tierlimit.api_key SET key_hash = sha256(secret_of('g new')::bytea) WHERE name = 'g wide';
SELECT code, key FROM gate('g new');
SELECT code, key FROM gate('g wide');
DELETE FROM tierlimit.api_key WHERE name = 'g wide';
SELECT code, key FROM gate('g new');

-- the log knows key and address, and no secret
SELECT tierlimit.log_flush();
SELECT key, tier, endpoint, ip, error_code, sum(requests) AS requests, sum(credits) AS credits FROM tierlimit.request_log
WHERE at >= '2026-07-01' AND at < '2026-07-03' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5;
SELECT count(*) FROM tierlimit.request_log l WHERE l::text ~ 'tl_';

-- a request that is repeated is not charged again
SET tierlimit.now = '2026-07-03 12:00:00+00';
SELECT allowed, remaining, decided_at FROM tierlimit.authorize(secret_of('g active'), '/v1/x', '198.51.100.20', NULL, 'req-1');
SET tierlimit.now = '2026-07-03 12:00:01+00';
SELECT allowed, remaining, decided_at FROM tierlimit.authorize(secret_of('g active'), '/v1/x', '198.51.100.20', NULL, 'req-2');
SELECT allowed, remaining, decided_at FROM tierlimit.authorize(secret_of('g active'), '/v1/x', '198.51.100.20', NULL, 'req-1');
SELECT allowed, remaining, decided_at, repeated FROM tierlimit.check('g active', NULL, 1, '/v1/x', 'req-1');
SELECT allowed, remaining, decided_at FROM tierlimit.check('g active', NULL, 1, NULL, 'req-1');
SELECT allowed, remaining, decided_at, cost FROM tierlimit.check('g other', 'gate', 7, NULL, 'req-1');
SELECT allowed, remaining, decided_at, cost FROM tierlimit.check('g other', 'gate', 8, NULL, 'req-1');
SELECT limit_name, used FROM tierlimit.usage('g active');
-- a denial is not remembered: who waits is admitted
SELECT allowed, retry_after FROM generate_series(1, 2) i, tierlimit.check(left('g other', i + 7), 'gate', 1, NULL, 'o-' || i);
SELECT allowed, retry_after FROM tierlimit.check('g other', 'gate', 1, NULL, 'denied');
SET tierlimit.now = '2026-07-03 12:01:01+00';
SELECT allowed, retry_after FROM tierlimit.check('g other', 'gate', 1, NULL, 'denied');
-- for ten minutes
SET tierlimit.now = '2026-07-03 12:10:00+00';
SELECT decided_at, remaining FROM tierlimit.check('g other', 'gate', 7, NULL, 'req-1');
SET tierlimit.now = '2026-07-03 12:09:59.999999+00';
SELECT decided_at, repeated FROM tierlimit.check('g other', 'gate', 7, NULL, 'req-1');
SELECT tierlimit.log_flush();
SELECT key, request_id, count(*) FROM tierlimit.request_log WHERE request_id ~ '^(req|o-|denied)' AND error_code = 0 GROUP BY 1, 2 ORDER BY 1, 2;
DELETE FROM tierlimit.tier WHERE name = 'ip';
