-- Paths have one spelling, whichever way a caller writes them.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-09-25 12:00:00+00';
INSERT INTO tierlimit.tier VALUES ('path'), ('path list');
INSERT INTO tierlimit.tier_endpoint VALUES ('path list', '/public/*'), ('path list', 'public'), ('path list', 'GET /public/*');
INSERT INTO tierlimit.endpoint VALUES ('/public/*', 2), ('/items:all', 5), ('/café%2a', 7), ('/half%2', 11);
INSERT INTO tierlimit.api_key (name, tier, key_hash) VALUES ('path', 'path', sha256('tl_path')), ('path list', 'path list', sha256('tl_path list'));

-- what the log has of an endpoint, what it costs, and whether a list of '/public/*' includes it
CREATE FUNCTION path(endpoint text) RETURNS TABLE (logged text, cost bigint, listed boolean) LANGUAGE plpgsql AS $$
BEGIN
	SELECT d.cost INTO cost FROM tierlimit.authorize('tl_path', endpoint, NULL, NULL, 'path ' || endpoint) d;
	SELECT d.error_code = 0 INTO listed FROM tierlimit.authorize('tl_path list', endpoint) d;
	PERFORM tierlimit.log_flush();
	SELECT l.endpoint INTO logged FROM tierlimit.request_log l WHERE request_id = 'path ' || path.endpoint;
	RETURN NEXT;
END
$$;
SELECT given, p.* FROM unnest(ARRAY[
	-- dot segments, plain and encoded
	'/public/x', '/public/../admin/users', '/public/%2e%2e/admin', '/public/.%2E/admin', '/public/./x?y=1', '/./public/x',
	'/public/..', '/public/.', '/public', '/../../public/x', '/..', '/public/...', '/public/..x', '/admin/../public/x',
	-- empty segments
	'//public//x', '/public//../x', '///', '/', '/public/', '/public/x/', '/public/x//',
	-- characters that need no encoding, and those that do
	'/%70ublic/x', '/public/%7e%41%2d', '/items%3aall', '/items:all', '/caf%c3%a9*', '/café%2A', '/public/ü ^', '/public/%c3%bc%20%5e',
	-- a slash and a backslash stay encoded: lists and prices are asked for both readings
	'/public%2fx', '/public/a%2Fb', '/public/..%2Fadmin', '/public/..%5cadmin', '/public/..\admin', '/admin/..%2fpublic/x', '/x%2f..%2Fitems:all', 'GET /public/..%2F',
	-- others, too
	'/%252e%252e/x', '/public/%3Fx%23%00',
	-- what encodes nothing
	'/public/%', '/public/%4', '/public/%zz', '/public/100%25', '/half%2',
	-- query and fragment
	'/public/x?a=/../b', '/public/x#/../b', '/public?/x', '/?', '/public/x?',
	-- a method in front
	'GET /public/x', 'GET /public/../admin', 'GET //public/x?y', 'GET/public/../x', 'GET public/../x',
	-- what is no path
	'', 'public', 'public/../x', 'a%41?b', 'https://example.com//x', '?', '*'
	]) WITH ORDINALITY AS g (given, no), path(given) p ORDER BY no;
-- check() is asked for prices, too
SELECT allowed FROM tierlimit.check('path checked', 'path', NULL, '/items%3Aall?', 'path check');
SELECT tierlimit.log_flush();
SELECT endpoint FROM tierlimit.request_log WHERE request_id = 'path check';

-- what is in normal form stays, and looks like it
CREATE TABLE spelt AS SELECT i, '/' || (SELECT string_agg((ARRAY['/','/','.','..','%2e','%2F','%5c','a','b','%61','%','%25','?','#','\','ü',' ',':','%3a','*'])
	[1 + (hashint8(i * 100 + j) & 65535) % 20], '') FROM generate_series(1, 1 + i % 9) j) AS path FROM generate_series(1, 1000) i;
SELECT count(*) FROM spelt, LATERAL tierlimit.check('spelt ' || i, 'path', 1, path);
SELECT tierlimit.log_flush();
SELECT count(*) FROM tierlimit.request_log l, LATERAL tierlimit.check('again ' || l.key, 'path', 1, l.endpoint) WHERE l.key ~ '^spelt';
SELECT tierlimit.log_flush();
SELECT count(*), count(*) FILTER (WHERE a.endpoint <> l.endpoint) AS changed,
	count(*) FILTER (WHERE l.endpoint ~ '//|/[.][.]?(/|$)|[?#\\ ü]|%(?![0-9A-F]{2})' OR l.endpoint !~ '^/') AS odd
FROM tierlimit.request_log l JOIN tierlimit.request_log a ON a.key = 'again ' || l.key;
DROP TABLE spelt;

-- patterns are named as they were written
SELECT e, tierlimit._endpoint_pattern(e) FROM unnest(ARRAY['/public/x', '/%70ublic/', '/public', '/café*', '/caf%C3%A9*', '/items%3Aall', NULL]) e;
-- one that no endpoint could match is refused
CREATE FUNCTION accepted(pattern text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO tierlimit.tier_endpoint VALUES ('path list', pattern);
	INSERT INTO tierlimit.endpoint VALUES (pattern, 1);
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT p, accepted(p) FROM unnest(ARRAY['*', '', '/', '/*', '/a', '/a*', '/a/', '/a/*', '/.*', '/a/..*', '/%61*', '/ü', 'name', 'a//b', 'GET /a/*',
	'/a//b', '/a//*', '//*', '/a/../b', '/a/./*', '/a/.', '/a/%2e%2e', '/a?b', '/a?*', '/a#*', 'GET //a']) p;
DELETE FROM tierlimit.endpoint;
DELETE FROM tierlimit.api_key WHERE name ~ '^path';
DELETE FROM tierlimit.tier WHERE name ~ '^path';
