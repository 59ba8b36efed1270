-- Time to rebuild a key with 50,000 calls in its day, by the size of the log.
SET jit = off;
\pset footer off

CREATE FUNCTION bench.rebuild(key text, rounds integer DEFAULT 9) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz;
	took float8[];
BEGIN
	PERFORM tierlimit.peek(key, 'pro');
	FOR i IN 1 .. rounds LOOP
		started := clock_timestamp();
		PERFORM tierlimit.peek(key, 'pro');
		took := took || extract(epoch FROM clock_timestamp() - started)::float8 * 1000;
	END LOOP;
	RETURN (SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY t)::numeric, 2) FROM unnest(took) t);
END
$$;

-- (yesterday's rows are summed up as the worker does it, when it is not there)
CREATE FUNCTION bench.fill_log(key text, calls integer, others integer) RETURNS void
LANGUAGE sql AS $$
	SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - 1);
	INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT now() - interval '1 day' * (1 - i::float8 / calls), key, 'pro', 0, 1, 1 FROM generate_series(1, calls) i;
	INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT now() - interval '1 day' * (1 - i::float8 / others), 'other:' || i % 10000, 'pro', 0, 1, 1 FROM generate_series(1, others) i;
	INSERT INTO tierlimit.usage_minute
	SELECT l.key, false, date_trunc('minute', at), max(at), count(*), count(*) FROM tierlimit.request_log l
	WHERE l.key = $1 AND at < date_trunc('hour', now()) GROUP BY 1, 3 HAVING count(*) > 4;
$$;
CREATE TABLE bench.rebuilt (log_rows bigint, calls integer, ms numeric);
