-- Reports of usage: steps, zones, edges, and sums against rows.
SET timezone = 'UTC';
SET datestyle = 'ISO';
INSERT INTO tierlimit.tier VALUES ('report'), ('report more');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('report', 'hour', '1 hour', 3), ('report more', 'hour', '1 hour', 1000);
INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 2);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('report a', 'report', NULL), ('report b', 'report more', 'report team');

CREATE FUNCTION pg_temp.calls(at timestamptz, key text, tier text, n integer, endpoint text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tierlimit.now', at::text, false);
	RETURN (SELECT count(*) FILTER (WHERE allowed) FROM generate_series(1, n) i, tierlimit.check(left(key, 99 + i), tier, NULL, endpoint));
END
$$;
-- around the change to summer time in Berlin, at 01:00 UTC
SELECT pg_temp.calls('2026-03-28 22:59:59.999999+00', 'report a', NULL, 2, '/v1/quotes');
SELECT pg_temp.calls('2026-03-28 23:00:00+00', 'report a', NULL, 2, '/v2/quotes');
SELECT pg_temp.calls('2026-03-29 00:30:00+00', 'report b', NULL, 5);
SELECT pg_temp.calls('2026-03-29 01:30:00+00', 'report u', 'report', 4);
SELECT pg_temp.calls('2026-03-29 21:59:59+00', 'report b', NULL, 1);
SELECT pg_temp.calls('2026-03-29 22:00:00+00', 'report b', NULL, 1);
SELECT tierlimit.refund('report b', 2, 1);
SELECT error_code FROM tierlimit.check('report nobody');

SELECT * FROM tierlimit.usage_report('2026-03-28', '2026-03-31');
SELECT bucket, key, requests, denied FROM tierlimit.usage_report('2026-03-28', '2026-03-31', timezone => 'Europe/Berlin');
SELECT bucket, key, requests, credits FROM tierlimit.usage_report('2026-03-28', '2026-03-31', '1 hour', 'report b', 'Europe/Berlin');
SELECT bucket, sum(requests) FROM tierlimit.usage_report('2026-03-28', '2026-03-31', '6 hours', timezone => 'Europe/Berlin') GROUP BY 1 ORDER BY 1;
SELECT bucket, sum(requests) FROM tierlimit.usage_report('2026-03-28', '2026-03-31', '1 month', timezone => 'Asia/Kolkata') GROUP BY 1 ORDER BY 1;
SELECT bucket, sum(requests) FROM tierlimit.usage_report('2026-03-01', '2026-05-01', '7 days') GROUP BY 1 ORDER BY 1;
-- a range cuts a step, whose label stays
SELECT bucket, key, requests FROM tierlimit.usage_report('2026-03-28 22:59:59.999999', '2026-03-29 00:30', '1 day');
SELECT bucket, key, requests FROM tierlimit.usage_report('2026-03-28 23:00', '2026-03-29 00:30:00.000001', '15 minutes');
SELECT count(*) FROM tierlimit.usage_report('2026-03-29', '2026-03-29');
SELECT sum(requests), sum(denied) FROM tierlimit.usage_report('-infinity', '2026-03-31') WHERE key ~ '^report';

-- an hour that comes twice is two, a day of 25 hours is one
SELECT pg_temp.calls(timestamptz '2026-10-24 22:30+00' + h * interval '1 hour', 'report b', NULL, h) FROM generate_series(1, 4) h;
SELECT bucket, bucket AT TIME ZONE 'Europe/Berlin' AS wall, requests FROM tierlimit.usage_report('2026-10-24', '2026-10-27', '1 hour', 'report b', 'Europe/Berlin');
SELECT bucket, requests FROM tierlimit.usage_report('2026-10-24', '2026-10-27', '3 hours', 'report b', 'Europe/Berlin');
SELECT bucket, requests FROM tierlimit.usage_report('2026-10-24', '2026-10-27', '1 day', 'report b', 'Europe/Berlin');

-- whatever serves a range, sums or rows, it is the same
CREATE TEMP TABLE spans AS
	SELECT "from"::timestamptz, "to"::timestamptz, step::interval, zone
	FROM (VALUES ('2026-03-28 00:00', '2026-03-29 22:00'), ('2026-03-28 22:59:59.999999', '2026-03-29 21:59:59'),
			('2026-03-29 00:30', '2026-04-03 00:00'), ('2026-10-24 11:11', '2026-10-25 01:30'), ('2026-10-24 22:30', '2026-10-27')) range ("from", "to"),
		unnest(ARRAY['30 minutes', '1 hour', '90 minutes', '5 hours', '1 day', '7 days', '1 month', '1 year']) step,
		unnest(ARRAY['UTC', 'Europe/Berlin', 'Asia/Kathmandu', 'Australia/Lord_Howe', 'America/Havana']) zone;
SELECT count(*) AS reports, count(DISTINCT step) AS steps FROM spans;
SELECT s.*, r.* FROM spans s, LATERAL (
	SELECT 'sums', x.* FROM (SELECT * FROM tierlimit.usage_report("from", "to", step, NULL, zone)
		EXCEPT ALL SELECT tierlimit._bucket(at, step, zone), tierlimit._summed_key(key, tier, error_code), account, tier, tierlimit._endpoint_pattern(endpoint),
			coalesce(sum(requests) FILTER (WHERE error_code = 0), 0), coalesce(sum(credits) FILTER (WHERE error_code = 0), 0), coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0)
			FROM tierlimit.request_log WHERE at >= "from" AND at < "to" GROUP BY 1, 2, 3, 4, 5) x) r LIMIT 5;
SELECT s.* FROM spans s WHERE (SELECT (sum(requests), sum(credits), sum(denied))::text FROM tierlimit.usage_report("from", "to", step, NULL, zone))
	IS DISTINCT FROM (SELECT (sum(requests) FILTER (WHERE error_code = 0), sum(credits) FILTER (WHERE error_code = 0), coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0))::text
		FROM tierlimit.request_log WHERE at >= "from" AND at < "to");

-- and however a session writes times
SET datestyle = 'SQL, DMY';
SET timezone = 'Asia/Kolkata';
SELECT sum(requests) = (SELECT sum(requests) FROM tierlimit.request_log WHERE error_code = 0 AND at >= '2026-03-28 22:59:59.999999+00' AND at < '2026-03-29 01:30:00.000001+00') AS same
FROM tierlimit.usage_report('2026-03-28 22:59:59.999999+00', '2026-03-29 01:30:00.000001+00');
SET datestyle = 'ISO';
SET timezone = 'UTC';

-- misuse
SELECT * FROM tierlimit.usage_report(NULL);
SELECT * FROM tierlimit.usage_report('2026-03-29', '2026-03-28');
SELECT * FROM tierlimit.usage_report('2026-03-28', '2026-03-29', '0');
SELECT * FROM tierlimit.usage_report('2026-03-28', '2026-03-29', '-1 day');
SELECT * FROM tierlimit.usage_report('2026-03-28', '2026-03-29', '1 month 1 day');
SELECT * FROM tierlimit.usage_report('2026-03-28', '2026-03-29', timezone => 'Middle/Earth');

-- a chart, by the session's zone and clock
SET tierlimit.now = '2026-10-25 03:10+00';
SET timezone = 'Europe/Berlin';
SELECT * FROM tierlimit.usage_chart('report b', steps => 7);
SELECT * FROM tierlimit.usage_chart('report b', '1 day', 3);
SELECT * FROM tierlimit.usage_chart('report nobody', '1 day', 2);
SELECT * FROM tierlimit.usage_chart('report b', '1 day', 0);
SET timezone = 'UTC';

-- where the log is gone, a range is rounded to whole hours
SET tierlimit.now = '';
BEGIN;
DELETE FROM tierlimit.request_log WHERE at < '2026-06-01';
UPDATE tierlimit.log_state SET kept_since = '2026-06-01';
SELECT bucket, key, requests FROM tierlimit.usage_report('2026-03-28 22:59:59.999999', '2026-03-29 00:30', '1 day') WHERE key ~ '^report';
SELECT bucket, key, requests FROM tierlimit.usage_report('2026-03-28 22:00', '2026-03-29 00:30', '1 day') WHERE key ~ '^report';
SELECT sum(requests), sum(denied) FROM tierlimit.usage_report('2026-03-28', '2026-03-31', '20 minutes', timezone => 'Asia/Kolkata') WHERE key ~ '^report';
ROLLBACK;

DELETE FROM tierlimit.endpoint;
DELETE FROM tierlimit.api_key WHERE name ~ '^report';
DELETE FROM tierlimit.tier WHERE name ~ '^report';
