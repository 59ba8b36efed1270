-- The gate in front of PostgREST.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
SET tierlimit.now = '2026-09-20 12:00:00+00';

INSERT INTO tierlimit.tier VALUES ('rest');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('rest', 'minute', '1 minute', 3);
SELECT tierlimit.create_key('rester', 'rest') AS secret \gset
CREATE ROLE web_anon;
SELECT tierlimit.grant_postgrest('web_anon');

-- What PostgREST does for a request: a transaction, as the one who sent it, with
-- settings that end with it.
CREATE FUNCTION headers(VARIADIC pairs text[]) RETURNS text LANGUAGE sql
RETURN jsonb_object(pairs);
CREATE FUNCTION request(headers text, path text DEFAULT '/items') RETURNS text LANGUAGE sql AS $$
	SELECT set_config('role', 'web_anon', true), set_config('request.method', 'GET', true),
		set_config('request.path', path, true), set_config('request.headers', headers, true);
	SELECT 'request'
$$;
-- ... and the one that is refused, of which it sends on what it finds in the error
CREATE FUNCTION answer_to(headers text, path text DEFAULT '/items') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	message jsonb; detail jsonb;
BEGIN
	PERFORM request(headers, path);
	PERFORM tierlimit.pre_request();
	RETURN jsonb_build_object('remaining', current_setting('response.headers')::jsonb #> '{-1,X-RateLimit-Remaining}');
EXCEPTION WHEN SQLSTATE 'PGRST' THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN detail || (message - 'details');
END
$$;
-- the decision that the request log has of the last request
CREATE FUNCTION logged() RETURNS TABLE (key text, endpoint text, ip inet, request_id text, error_code integer)
LANGUAGE sql AS $$
	SELECT tierlimit.log_flush();
	SELECT key, endpoint, ip, request_id, error_code FROM tierlimit.request_log
	WHERE at = current_setting('tierlimit.now')::timestamptz
$$;

-- an admission, in the transaction of a GET
BEGIN READ ONLY;
SELECT request(headers('x-api-key', :'secret'));
SELECT set_config('response.headers', '[{"Cache-Control": "public"}]', true);
SELECT tierlimit.pre_request();
SELECT jsonb_array_elements(current_setting('response.headers')::jsonb) AS header;
COMMIT;
-- without headers of others, and in that of a POST
BEGIN;
SELECT request(headers('x-api-key', :'secret'));
SELECT tierlimit.pre_request();
SELECT current_setting('response.headers') AS headers;
COMMIT;
SELECT current_setting('response.headers') AS headers_of_the_next;

-- a refusal
BEGIN READ ONLY;
SELECT request(headers('x-api-key', :'secret'));
SELECT tierlimit.pre_request();
ROLLBACK;
BEGIN READ ONLY;
SELECT request(headers('x-api-key', :'secret'));
SELECT tierlimit.pre_request();
ROLLBACK;

-- each kind of refusal: its status, headers and body
SET tierlimit.now = '2026-09-20 12:01:00+00';
SELECT answer_to(headers('x-api-key', 'tl_0'));
SELECT answer_to(headers('accept', '*/*'));
UPDATE tierlimit.api_key SET status = 'disabled' WHERE name = 'rester';
SELECT answer_to(headers('x-api-key', :'secret'));
UPDATE tierlimit.api_key SET status = 'payment_required' WHERE name = 'rester';
SELECT answer_to(headers('x-api-key', :'secret'));
UPDATE tierlimit.api_key SET status = 'active' WHERE name = 'rester';
INSERT INTO tierlimit.error_code (code, http_status, name, message) VALUES (2901, 420, 'CALM', 'Enhance your "calm".');
UPDATE tierlimit.tier_limit SET error_code = 2901, max = 0 WHERE tier = 'rest';
SELECT answer_to(headers('x-api-key', :'secret'));
UPDATE tierlimit.tier_limit SET error_code = NULL, max = 3 WHERE tier = 'rest';
DELETE FROM tierlimit.error_code WHERE code = 2901;

-- where the key is; bearer tokens of others are not ours
SET tierlimit.now = '2026-09-20 12:02:00+00';
SELECT answer_to(headers('authorization', 'Bearer ' || :'secret'));
SELECT answer_to(headers('authorization', 'Bearer tl_0', 'x-api-key', :'secret'));
SELECT answer_to(headers('authorization', 'Basic ' || :'secret', 'x-api-key', '')) -> 'code' AS code;
SELECT answer_to(headers('authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln')) -> 'code' AS code;
SET tierlimit.now = '2026-09-20 12:03:00+00';
SET tierlimit.api_key_header = 'X-Token';
SELECT answer_to(headers('x-token', :'secret'));
SELECT answer_to(headers('x-api-key', :'secret')) -> 'code' AS code;
SET tierlimit.api_key_header = 'Authorization';
SELECT answer_to(headers('authorization', 'bearer ' || :'secret'));
SELECT answer_to(headers('authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln')) -> 'code' AS code;
SELECT answer_to(headers('x-api-key', :'secret')) -> 'code' AS code;
RESET tierlimit.api_key_header;

-- outside of PostgREST there is nothing to read
SELECT answer_to('') -> 'code' AS code;
SELECT answer_to('[]') -> 'code' AS code;
\c -
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-09-20 12:04:00+00';
SELECT tierlimit.pre_request();
SELECT * FROM logged();

-- whom the proxy had the call from, and what was called
SET tierlimit.now = '2026-09-20 12:05:00+00';
SELECT answer_to(headers('x-api-key', :'secret', 'x-forwarded-for', '198.51.100.1, 192.0.2.7', 'x-request-id', 'one'), '/rpc/%73earch');
SELECT * FROM logged();
-- what the proxy repeats is charged once
SELECT answer_to(headers('x-api-key', :'secret', 'x-request-id', 'one'), '/rpc/search');
SELECT answer_to(headers('x-api-key', :'secret', 'x-request-id', repeat('x', 256)));
SELECT answer_to(headers('x-api-key', :'secret', 'x-request-id', ''));
-- without a proxy, it is the caller who says so
SET tierlimit.trusted_proxies = 0;
SET tierlimit.now = '2026-09-20 12:06:00+00';
SELECT answer_to(headers('x-api-key', :'secret', 'x-forwarded-for', '192.0.2.7', 'x-request-id', 'two'));
SELECT * FROM logged();
SELECT answer_to(headers('x-api-key', :'secret', 'x-request-id', 'two'));
RESET tierlimit.trusted_proxies;

SELECT header, proxies, tierlimit._forwarded_for(header, proxies)
FROM unnest(ARRAY['192.0.2.1,2001:db8::2, 192.0.2.3 ']) header, generate_series(0, 4) proxies;
SELECT header, tierlimit._forwarded_for(header, 1) FROM unnest(ARRAY['192.0.2.7:4711', '[2001:db8::7]:4711',
	'[2001:db8::7]', '::ffff:192.0.2.7', '', ',', '192.0.2.7,', 'unknown', '_hidden', '999.0.2.7', '192.0.2',
	'10', '192.0.2.0/24', 'fe80::1%eth0', '192.0.2.7 OR 1=1', '[', '[]', ':', '1:2:3']) header;
-- tiers that include some endpoints only, however they are spelt
SET tierlimit.now = '2026-09-20 12:07:00+00';
INSERT INTO tierlimit.tier_endpoint VALUES ('rest', '/items');
SELECT answer_to(headers('x-api-key', :'secret'), '/%69tems');
SELECT answer_to(headers('x-api-key', :'secret'), '/others');
DELETE FROM tierlimit.tier_endpoint;

-- calls without a key are counted by address
INSERT INTO tierlimit.tier VALUES ('anonymous');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('anonymous', 'minute', '1 minute', 1);
SELECT address, answer_to(headers('x-forwarded-for', address)) -> 'code' AS code
FROM (VALUES ('192.0.2.1'), ('192.0.2.1'), ('192.0.2.2'), ('192.0.2.3, 192.0.2.2')) v (address);
DELETE FROM tierlimit.tier WHERE name = 'anonymous';

-- no limit, no headers
DELETE FROM tierlimit.tier_limit WHERE tier = 'rest';
BEGIN READ ONLY;
SELECT request(headers('x-api-key', :'secret'));
SELECT tierlimit.pre_request();
SELECT current_setting('response.headers', true) AS headers;
COMMIT;
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('rest', 'minute', '1 minute', 3);

-- the role has a right to nothing else
SET ROLE web_anon;
SELECT allowed FROM tierlimit.check('k', 'rest');
SELECT tierlimit._raise_refusal(NULL);
SELECT tierlimit._forwarded_for('', 1);
SELECT * FROM tierlimit.error_code;
SET tierlimit.api_key_header = 'x-my-own';
SET tierlimit.trusted_proxies = 0;
RESET ROLE;
CREATE ROLE stranger;
SET ROLE stranger;
SELECT tierlimit.pre_request();
RESET ROLE;
DROP ROLE stranger;

-- objects of the same name in a schema in front change nothing
CREATE SCHEMA trap;
CREATE TABLE trap.error_code (code integer, resolution text);
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN trap.jsonb AS pg_catalog.jsonb CHECK (false);
CREATE FUNCTION trap.current_setting(pg_catalog.text, boolean) RETURNS pg_catalog.text LANGUAGE sql RETURN 'trapped';
CREATE FUNCTION trap.set_config(pg_catalog.text, pg_catalog.text, boolean) RETURNS pg_catalog.text LANGUAGE sql RETURN 'trapped';
CREATE FUNCTION trap.lower(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql RETURN 'trapped';
CREATE FUNCTION trap.field(pg_catalog.jsonb, pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql RETURN 'trapped';
CREATE OPERATOR trap.->> (LEFTARG = pg_catalog.jsonb, RIGHTARG = pg_catalog.text, FUNCTION = trap.field);
GRANT USAGE ON SCHEMA trap TO web_anon;
SET tierlimit.now = '2026-09-20 12:08:00+00';
SELECT headers('x-api-key', :'secret') AS headers \gset
BEGIN READ ONLY;
SELECT request(:'headers');
SET LOCAL search_path = trap, pg_catalog, public;
SELECT tierlimit.pre_request();
SELECT pg_catalog.current_setting('response.headers') AS headers;
ROLLBACK;
-- what was charged stays
SELECT limit_name, used FROM tierlimit.usage('rester');
DROP SCHEMA trap CASCADE;

DROP FUNCTION logged, answer_to, request, headers;
DROP OWNED BY web_anon;
DROP ROLE web_anon;
DELETE FROM tierlimit.api_key WHERE name = 'rester';
DELETE FROM tierlimit.tier WHERE name = 'rest';
