-- Costs in a loop inside the server, in microseconds per call.
SET jit = off;
SET max_parallel_workers_per_gather = 0;
\set ECHO none
\pset footer off

\echo '\nIn a loop in the server, microseconds a call (medians of 7 rounds in turn):'
SELECT 'check / floor, two windows' AS what, r.*, '<= 2' AS target
FROM bench.ratio('tierlimit.check', 'roomy', 100, 'bench.floor', 'roomy', 100, 200000) r
UNION ALL
SELECT 'denial / admission', r.*, '<= 1.3'
FROM bench.ratio('tierlimit.check', 'free', 100, 'tierlimit.check', 'roomy', 100, 200000) r
UNION ALL
SELECT '1,000,000 keys / 100 keys', r.*, '<= 1.3'
FROM bench.ratio('tierlimit.check', 'roomy', 1000000, 'tierlimit.check', 'roomy', 100, 200000) r
UNION ALL
SELECT 'max 500,000 / max 30', r.*, '<= 1.3'
FROM bench.ratio('tierlimit.check', 'max 500000', 1000, 'tierlimit.check', 'max 30', 1000, 200000) r;

\echo 'Shared memory of a key with 120 calls in its minute, bytes:'
SELECT tier, bench.bytes_per_key(tier, 120, 200) AS bytes, '<= 2048' AS target
FROM unnest(ARRAY['pro', 'enterprise']) tier;
