-- What the benchmarks need: tiers with room, and the floor.
CREATE EXTENSION tierlimit;
CREATE SCHEMA bench;
CREATE FUNCTION bench.floor(key text, tier text DEFAULT NULL, cost bigint DEFAULT 1,
		endpoint text DEFAULT NULL, request_id text DEFAULT NULL)
	RETURNS tierlimit.decision AS :'floor', 'floor_check' LANGUAGE C VOLATILE;

CREATE FUNCTION bench.floor_authorize(api_key text, endpoint text DEFAULT NULL, ip inet DEFAULT NULL,
		cost bigint DEFAULT NULL, request_id text DEFAULT NULL)
	RETURNS tierlimit.decision AS :'floor', 'floor_authorize' LANGUAGE C VOLATILE;

INSERT INTO tierlimit.tier VALUES ('free'), ('pro'), ('enterprise'), ('roomy');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('free',       'minute', '1 minute', 30),  ('free',       'day', '1 day',   1000),
  ('pro',        'minute', '1 minute', 120), ('pro',        'day', '1 day',  50000),
  ('enterprise', 'minute', '1 minute', 600), ('enterprise', 'day', '1 day', 500000),
  ('roomy', 'minute', '1 minute', 1000000000), ('roomy', 'day', '1 day', 1000000000);
-- Two windows of the smallest and the largest max.
INSERT INTO tierlimit.tier VALUES ('max 30'), ('max 500000');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('max 30',     'second', '1 second', 30),     ('max 30',     'minute', '1 minute', 30),
  ('max 500000', 'second', '1 second', 500000), ('max 500000', 'minute', '1 minute', 500000);

-- cost(): microseconds of CPU and waiting for one call in a loop in the
-- server, of n calls by a function over so many keys.
CREATE FUNCTION bench.cost(function text, tier text, keys integer, n integer) RETURNS float8
LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz;
BEGIN
	PERFORM tierlimit.log_flush();
	started := clock_timestamp();
	EXECUTE format('SELECT count(*) FROM generate_series(1, $1) i, LATERAL %s($3 || '':'' || (hashint4(i + $4) & 2147483647) %% $2, $3) d
		WHERE d.http_status > 0', function) USING n, keys, tier, (random() * 1e9)::integer;
	RETURN extract(epoch FROM clock_timestamp() - started) * 1e6 / n;
END
$$;

-- ratio(): of two costs, the median of rounds measured in turn.
CREATE FUNCTION bench.ratio(function_a text, tier_a text, keys_a integer,
	function_b text, tier_b text, keys_b integer, n integer, rounds integer DEFAULT 7,
	OUT cost_a numeric, OUT cost_b numeric, OUT ratio numeric)
LANGUAGE plpgsql AS $$
DECLARE
	a float8[]; b float8[]; r float8[]; x float8; y float8;
BEGIN
	-- all keys are in memory, with a history
	PERFORM bench.cost('tierlimit.check', tier_a, keys_a, 2 * least(keys_a, 100000)),
		bench.cost('tierlimit.check', tier_b, keys_b, 2 * least(keys_b, 100000));
	PERFORM bench.cost(function_a, tier_a, keys_a, n), bench.cost(function_b, tier_b, keys_b, n);
	FOR i IN 1 .. rounds LOOP
		x := bench.cost(function_a, tier_a, keys_a, n);
		y := bench.cost(function_b, tier_b, keys_b, n);
		a := a || x; b := b || y; r := r || x / y;
	END LOOP;
	SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY u)::numeric, 3) INTO cost_a FROM unnest(a) u;
	SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY u)::numeric, 3) INTO cost_b FROM unnest(b) u;
	SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY u)::numeric, 2) INTO ratio FROM unnest(r) u;
END
$$;

-- bytes_per_key(): of shared memory, of keys with n calls at random in a minute.
CREATE FUNCTION bench.bytes_per_key(tier text, n integer, keys integer) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
	before bigint := memory_used FROM tierlimit.stat;
	call record;
BEGIN
	FOR call IN SELECT k, '2030-01-01 00:00:00+00'::timestamptz + random() * interval '1 minute' AS at
			FROM generate_series(1, keys) k, generate_series(1, n) ORDER BY 2 LOOP
		PERFORM set_config('tierlimit.now', call.at::text, false);
		PERFORM tierlimit.check(format('bytes of %s %s', tier, call.k), tier);
	END LOOP;
	PERFORM set_config('tierlimit.now', '', false);
	RETURN (SELECT round((s.memory_used - before)::numeric / bytes_per_key.keys) FROM tierlimit.stat s);
END
$$;

-- What a limiter is that has only tables: a row for each call, a lock for each
-- key, and the two windows of 'roomy', as exact as ours.
CREATE TABLE bench.subject (key text PRIMARY KEY);
CREATE TABLE bench.call (key text, at timestamptz);
CREATE INDEX ON bench.call (key, at);
INSERT INTO bench.subject SELECT 'roomy:' || i FROM generate_series(1, 100000) i;
CREATE FUNCTION bench.table_check(key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	used record;
BEGIN
	PERFORM FROM bench.subject s WHERE s.key = $1 FOR UPDATE;
	SELECT count(*) FILTER (WHERE c.at > now() - interval '1 minute') AS minute, count(*) AS day INTO used
		FROM bench.call c WHERE c.key = $1 AND c.at > now() - interval '1 day';
	IF used.minute >= 1000000000 OR used.day >= 1000000000 THEN
		RETURN false;
	END IF;
	INSERT INTO bench.call VALUES ($1, now());
	RETURN true;
END
$$;

-- Keys with secrets, endpoints and limits of addresses for authorize().
INSERT INTO tierlimit.endpoint SELECT '/v' || i || '/*', i FROM generate_series(1, 20) i;
INSERT INTO tierlimit.tier_endpoint SELECT 'roomy', '/v' || i || '/*' FROM generate_series(1, 20) i;
INSERT INTO tierlimit.tier VALUES ('ip');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('ip', 'address', '1 minute', 1000000000);

-- All keys that pgbench calls are in memory, with a history.
SELECT count(*) AS calls FROM generate_series(1, 2000002) i, tierlimit.check('roomy:' || i % 1000001, 'roomy') d;
INSERT INTO tierlimit.api_key (name, tier, key_hash)
SELECT 'shop:' || i, 'roomy', sha256(('secret ' || i)::bytea) FROM generate_series(1, 100000) i;
SELECT count(*) AS calls FROM generate_series(1, 200000) i, tierlimit.check('shop:' || 1 + i % 100000) d;
SELECT count(*) AS calls FROM generate_series(1, 200000) i,
	tierlimit.authorize('secret ' || 1 + i % 100000, '/v7/quotes', ('10.0.' || i % 256 || '.' || i % 199)::inet) d;
