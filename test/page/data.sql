-- June 2026 of an API, for the tests of pages: keys of four tiers, which call more by day
-- than by night and less at weekends, and one afternoon with trouble.  With the variable
-- hostile also tiers and keys that are named to break a page.
SET client_min_messages = warning;
SET timezone = 'UTC';

CREATE TEMP TABLE caller (name text, tier text, account text, weight integer);
INSERT INTO tierlimit.tier (name, price) VALUES ('free', NULL), ('basic', 9.90), ('pro', 49), ('business', 249);
INSERT INTO caller SELECT 'shop ' || n, (ARRAY['free', 'free', 'free', 'free', 'basic', 'basic', 'basic', 'pro', 'pro', 'business'])[1 + n % 10],
	CASE WHEN n % 10 >= 8 THEN 'Company ' || n / 10 END, (ARRAY[1, 2, 1, 3, 6, 4, 5, 9, 11, 17])[1 + n % 10] + n % 7
	FROM generate_series(1, 60) n;
\if :hostile
INSERT INTO tierlimit.tier (name, price) VALUES ('<b>"x"</b> & ''y''', 0.005),
	('a tier whose name is as long as one can be, of sixty-three byte', NULL), ('seven', 7);
INSERT INTO caller SELECT name, (ARRAY['<b>"x"</b> & ''y''', 'a tier whose name is as long as one can be, of sixty-three byte', 'seven'])[1 + n % 3],
	CASE WHEN n % 3 = 0 AND octet_length(name) < 250 THEN '<i>' || name END, 40 - n
	FROM unnest(ARRAY['<script>alert(1)</script>', '"onload="alert(1)', '''><img src=x onerror=alert(1)>', '</title></style></svg><h1>', ']]>',
		'<!--', '&amp;&#60;', U&'\202E' || 'gnp.exe' || U&'\2066', E'two\nlines\tand\x01\x1b[31m', repeat(U&'\6f22', 85),
		'a' || repeat(U&'\0301', 120), U&'\0634\0645\0627\0631\0647', U&'\+01F511\200D', repeat('W', 255),
		'%s%1$s', 'javascript:alert(1)']) WITH ORDINALITY AS h (name, n);
\endif
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, max, overage_price, enforce)
	SELECT name, 'minute', interval '1 minute', 'sliding', 40, NULL, true FROM tierlimit.tier
	UNION ALL SELECT name, 'month', '1 month', 'calendar', 4000, 0.0025, false FROM tierlimit.tier WHERE price > 0;
INSERT INTO tierlimit.api_key (name, tier, account, created_at) SELECT name, tier, account, '2026-01-01' FROM caller;

SELECT tierlimit._add_log_partition(day::date) FROM generate_series(date '2026-06-01', '2026-06-30', '1 day') day \g /dev/null
INSERT INTO tierlimit.log_state (summed_until) VALUES ('2026-06-01') ON CONFLICT ((true)) DO UPDATE SET summed_until = '2026-06-01';
INSERT INTO tierlimit.request_log (at, key, account, tier, endpoint, error_code, requests, credits)
	SELECT at, name, account, tier, '/v1/quotes', 0, calls, 2 * calls
	FROM caller, generate_series(timestamptz '2026-06-01', '2026-06-24 08:00', '1 hour') at,
		LATERAL (SELECT weight * CASE WHEN extract(isodow FROM at) > 5 THEN 1 ELSE 2 END
			* CASE WHEN extract(hour FROM at) BETWEEN 8 AND 18 THEN 3 ELSE 1 END
			* (16 + extract(day FROM at)::integer * weight % 7) / 72 AS calls) c
	WHERE calls > 0
	UNION ALL
	SELECT at, name, account, tier, '/v1/quotes', CASE WHEN weight % 4 = 0 THEN 1010 ELSE 1008 END, denied, denied
	FROM caller, generate_series(timestamptz '2026-06-01 14:00', '2026-06-23 14:00', '1 day') at,
		LATERAL (SELECT (weight + extract(day FROM at)::integer) % 9 * CASE extract(day FROM at) WHEN 17 THEN 25 ELSE 3 END AS denied) d
	WHERE denied > 0
	UNION ALL
	SELECT at, '<nobody knows me>', NULL, NULL, '/v1/</script>', 1001, 60, 60
	FROM generate_series(timestamptz '2026-06-02', '2026-06-24', '1 day') at;
SELECT count(tierlimit._sum_log(hour)) FROM generate_series(timestamptz '2026-06-02', '2026-06-24 08:00', '8 hours') hour \g /dev/null

-- who is near a limit
SET tierlimit.now = '2026-06-24 09:30:00+00';
SELECT tierlimit.check(name) FROM caller, generate_series(1, 25 + weight % 14) \g /dev/null
