-- The log that bench-reports reads: so many calls of so many keys in 40 days, up to the
-- last hour that is over; one in fifty was denied.
\set QUIET on
SET synchronous_commit = off;
INSERT INTO tierlimit.tier (name, price) VALUES ('basic', 9), ('pro', 49);
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, overage_price) VALUES
	('basic', 'hour', '1 hour', 'sliding', 'requests', 1000, true, NULL),
	('basic', 'month', '1 month', 'calendar', 'credits', 1500, false, 0.001),
	('pro', 'month', '1 month', 'calendar', 'credits', 1500, false, 0.0005);
INSERT INTO tierlimit.api_key (name, tier, created_at)
	SELECT 'customer:' || i, CASE i % 4 WHEN 0 THEN 'pro' ELSE 'basic' END, now() - interval '1 year'
	FROM generate_series(0, :keys - 1) i;
SELECT tierlimit.check('customer:0');
SELECT tierlimit.log_flush();
SELECT date_trunc('hour', now()) AS until \gset
SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - i) FROM generate_series(1, 41) i;
UPDATE tierlimit.log_state SET summed_until = :'until'::timestamptz - interval '40 days';
INSERT INTO tierlimit.request_log (at, key, tier, endpoint, error_code, requests, credits)
	SELECT :'until'::timestamptz - interval '40 days' + i * (interval '40 days' / :calls), 'customer:' || k, CASE k % 4 WHEN 0 THEN 'pro' ELSE 'basic' END,
		'/v1/quotes', CASE WHEN i % 50 = 0 THEN 1008 ELSE 0 END, 1, 1 + i % 3
	FROM generate_series(0, :calls - 1) i, LATERAL (SELECT i::bigint * 7919 % :keys AS k) x;
VACUUM ANALYZE tierlimit.request_log;
