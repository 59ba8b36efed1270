-- The HTML page of the reports.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
\set VERBOSITY terse

-- what is wrong with a page: an element that is not closed where it should be, or
-- something that could be markup
CREATE FUNCTION flaw(page text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tag text[];
	open text[] := '{}';
BEGIN
	IF page ~ '&(?!#\d+;)' OR page !~ '^<!DOCTYPE html>\n' OR page ~ '[^\t\n -~]' THEN
		RETURN 'characters';
	END IF;
	FOR tag IN SELECT regexp_matches(substr(page, 16), '<([^>]*)(>|$)', 'g') LOOP
		IF tag[1] !~ '^/?[a-zA-Z0-9]+( [a-zA-Z0-9-]+="[^"<>]*")*/?$' THEN
			RETURN tag[1];
		ELSIF tag[1] ~ '^/' THEN
			IF open[cardinality(open)] IS DISTINCT FROM substr(tag[1], 2) THEN
				RETURN format('%s in %s', tag[1], open);
			END IF;
			open := trim_array(open, 1);
		ELSIF tag[1] !~ '/$' THEN
			open := open || substring(tag[1] FROM '^\w+');
		END IF;
	END LOOP;
	RETURN nullif(array_to_string(open, ' '), '');
END
$$;
CREATE FUNCTION section(page text, id text) RETURNS text LANGUAGE sql
	RETURN substring(page FROM format('<section id="%s".*?</section>', id));
-- rows of a table, cells apart by bars
CREATE FUNCTION rows_of(html text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT btrim(regexp_replace(regexp_replace(line, '</t[dh]>', ' | ', 'g'), '<[^>]*>', '', 'g'), ' |')
	FROM string_to_table(replace(html, '</tr>', E'\n'), E'\n') line WHERE line ~ '<tr>';
$$;

INSERT INTO tierlimit.tier (name, price) VALUES ('page <b>"&''', 5), ('page', NULL);
INSERT INTO tierlimit.tier_limit (tier, name, kind, period, max, overage_price, enforce) VALUES
	('page <b>"&''', 'a "month"', 'calendar', '1 month', 3, 0.3335, false),
	('page', 'minute', 'sliding', '1 minute', 2, NULL, true);
INSERT INTO tierlimit.api_key (name, tier, account, created_at) VALUES
	('<script>alert(1)</script>', 'page <b>"&''', NULL, '2026-08-01'), ('"onload=', 'page <b>"&''', '</title>', '2026-08-01'),
	(']]>', 'page', NULL, '2026-08-01'), (U&'\202E' || E'evil\nline\x01', 'page', NULL, '2026-08-01'),
	(repeat(U&'\00e9', 127) || '&', 'page', NULL, '2026-08-01');

SET tierlimit.now = '2026-09-07 10:15:00+00';
SELECT count((tierlimit.check('<script>alert(1)</script>')).allowed) FROM generate_series(1, 4);
SELECT count((tierlimit.check('"onload=', NULL, 7)).allowed) FROM generate_series(1, 3);
SELECT (tierlimit.check(']]>')).allowed FROM generate_series(1, 3);
SET tierlimit.now = '2026-09-08 23:30:00+00';
SELECT count((tierlimit.check('<script>alert(1)</script>')).allowed) FROM generate_series(1, 2);
SELECT allowed FROM tierlimit.check(U&'\202E' || E'evil\nline\x01');
SELECT allowed FROM tierlimit.check(repeat(U&'\00e9', 127) || '&');
SELECT allowed, error FROM tierlimit.authorize('tl_<nobody>', '/v1/<b>');
-- more is given back than used on a day
SET tierlimit.now = '2026-09-09 06:00:00+00';
SELECT tierlimit.refund('<script>alert(1)</script>', 2, 2);

CREATE TABLE page AS SELECT tierlimit.report_page('2026-09-07', '2026-09-10') AS page;
SELECT flaw(page), length(page) < 50000 AS small FROM page;
SELECT r[1] AS element, r[2] AS text FROM page, regexp_matches(replace(replace(page, section(page, 'near'), ''), section(page, 'bills'), ''), '<(title|h1|h2|dt|dd|p)(?: [^>]*)?>([^<]*)<', 'g') r;
\t on
\a
SELECT section(page, 'calls') FROM page;
SELECT rows_of(section(page, 'denials')) FROM page;
SELECT section(page, 'busiest') FROM page;
SELECT rows_of(section(page, 'reasons')) FROM page;
SELECT line FROM page, rows_of(section(page, 'bills')) line WHERE line ~ '^(&#60;(script|/title).*[1-9].$|page)';
\t off
\a
-- what the page says of all is what the report says
SELECT sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied FROM tierlimit.usage_report('2026-09-07', '2026-09-10');

-- who is near a limit, which is now
SET tierlimit.now = '2026-09-09 07:00:00+00';
SELECT (tierlimit.check(']]>')).allowed FROM generate_series(1, 2);
SELECT line FROM rows_of(section(tierlimit.report_page('2026-09-01', '2026-09-02'), 'near')) line WHERE line ~ '(script|\])';
SET tierlimit.now = '2026-09-09 07:01:00+00';
SELECT line FROM rows_of(section(tierlimit.report_page('2026-09-01', '2026-09-02'), 'near')) line WHERE line ~ '(script|\])';

-- a time without calls
SELECT flaw(tierlimit.report_page('1999-01-01', '1999-02-01'));
SELECT r[1] FROM regexp_matches(regexp_replace(tierlimit.report_page('1999-01-01', '1999-02-01'), '<section id="near".*?</section>', ''), '<p class="none">(.*?)</p>', 'g') r;
SELECT flaw(tierlimit.report_page('2026-09-07', '2026-09-07'));

-- steps are those of the session's zone, and cut as the range is
SET timezone = 'America/New_York';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SELECT rows_of(section(tierlimit.report_page('2026-09-07 00:00+00', '2026-09-10 00:00+00'), 'calls'));
SELECT substring(tierlimit.report_page('2026-09-07 00:00+00', '2026-09-10 00:00+00') FROM '<p>From .*?</p>');
SELECT rows_of(section(tierlimit.report_page('2026-09-07 10:00+00', '2026-09-07 12:00+00', '30 minutes'), 'calls'));
SET timezone = 'Asia/Kathmandu';
SELECT rows_of(section(tierlimit.report_page('2026-09-08 18:15+00', '2026-09-10 18:15+00'), 'calls'));
SELECT rows_of(section(tierlimit.report_page('2026-09-08 18:15+00', '2026-09-10 18:15+00', '1 month'), 'calls'));
SELECT regexp_matches(tierlimit.report_page('2026-09-08 18:15+00', '2026-09-10 18:15+00', '3 months'), '<desc.*?</desc>', 'g');
RESET timezone;
RESET DateStyle;
RESET IntervalStyle;

-- many tiers are shown as six
INSERT INTO tierlimit.tier SELECT 'page ' || n FROM generate_series(1, 8) n;
INSERT INTO tierlimit.tier_limit (tier, name, period, max) SELECT 'page ' || n, 'minute', '1 minute', 100 FROM generate_series(1, 8) n;
SET timezone = 'UTC';
SET tierlimit.now = '2026-09-11 12:00:00+00';
SELECT count((tierlimit.check('tiers', 'page ' || n)).allowed) FROM generate_series(1, 8) n, generate_series(1, n);
SELECT r[1] FROM regexp_matches(section(tierlimit.report_page('2026-09-11', '2026-09-12'), 'calls'), '<li>.*?</svg> (.*?)</li>', 'g') r;
SELECT rows_of(section(tierlimit.report_page('2026-09-11', '2026-09-12'), 'busiest'));

-- any range, and no more steps than there is room for
SELECT flaw(tierlimit.report_page('-infinity', 'infinity', '1000 years')), flaw(tierlimit.report_page('-infinity', '2026-09-10', '1000 years')),
	flaw(tierlimit.report_page('-infinity', '-infinity')), flaw(tierlimit.report_page('infinity', 'infinity'));
SELECT flaw(tierlimit.report_page('2026-09-01', '2026-09-01 06:40', '1 minute'));
SELECT tierlimit.report_page('2026-09-01', '2026-09-01 06:41', '1 minute');
\set VERBOSITY default
SELECT tierlimit.report_page('2026-09-01', '2026-10-01', '1 second');
\set VERBOSITY terse
SELECT tierlimit.report_page(NULL);
SELECT tierlimit.report_page('2026-09-01', NULL);
SELECT tierlimit.report_page('2026-09-02', '2026-09-01');
SELECT tierlimit.report_page('2026-09-01', '2026-09-02', NULL);
SELECT tierlimit.report_page('2026-09-01', '2026-09-02', '0');
SELECT tierlimit.report_page('2026-09-01', '2026-09-02', '1 day 1 hour');

-- axes: lines at round numbers, at most five
SELECT n, tierlimit._page_tick(n), tierlimit._page_short_number(tierlimit._page_tick(n))
FROM unnest(ARRAY[1, 5, 6, 10, 11, 25, 26, 99, 12345, 7e6, 4e9, 9e12, 9223372036854775807]) n;
SELECT tierlimit._page_number(n, 2) FROM unnest(ARRAY[0, -1, 999, 1000, -1234567.891, 9223372036854775807.005]) n;
SELECT s, tierlimit._page_step_name(s::interval) FROM unnest(ARRAY['1 day', '7 days', '1 month', '1 year', '15 minutes', '90 minutes', '1 second']) s;
-- characters that nobody can see, or that move others
SELECT tierlimit._html(U&'a\0001\007f\0085\2028\202e\feff<\00e9\+01f511');
SELECT tierlimit._html('') = '' AS empty, tierlimit._html(NULL) IS NULL AS none;

-- who may read reports may make a page, and nobody else
CREATE ROLE finance;
SELECT tierlimit.grant_reporting('finance');
SET ROLE finance;
SELECT length(tierlimit.report_page('2026-09-07', '2026-09-10')) > 10000 AS page;
SELECT tierlimit._page('2026-09-07', '2026-09-10', '1 day');
SELECT * FROM tierlimit._counted();
RESET ROLE;
CREATE ROLE clerk;
GRANT USAGE ON SCHEMA tierlimit TO clerk;
SET ROLE clerk;
SELECT tierlimit.report_page('2026-09-07', '2026-09-10');
RESET ROLE;

REVOKE ALL ON ALL TABLES IN SCHEMA tierlimit FROM finance;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tierlimit FROM finance;
REVOKE ALL ON TYPE tierlimit.verification FROM finance;
REVOKE ALL ON SCHEMA tierlimit FROM finance, clerk;
DROP ROLE finance, clerk;
DROP FUNCTION flaw, rows_of, section;
DROP TABLE page;
DELETE FROM tierlimit.api_key WHERE tier ~ '^page';
DELETE FROM tierlimit.tier WHERE name ~ '^page';
