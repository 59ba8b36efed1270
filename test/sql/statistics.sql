-- The view of counters.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-09-02 00:00:00+00';

SELECT tierlimit.stat_reset();
SELECT checks, admitted, denied, refunds, evictions FROM tierlimit.stat;
SELECT count(*) FILTER (WHERE allowed) FROM tierlimit.check_many(array_fill('s'::text, ARRAY[40]), 'free');
SELECT allowed FROM tierlimit.check('not registered');
SELECT allowed FROM tierlimit.check(NULL);
SELECT allowed FROM tierlimit.peek('s', 'free');
SELECT tierlimit.refund('s');
SELECT checks, admitted, denied, refunds, evictions, stats_reset > '2026-01-01' AS reset FROM tierlimit.stat;
SELECT * FROM tierlimit.memory WHERE subject = 'nobody of that name';
SELECT subject, kind, windows, blocks > windows AS blocks, clock, log_position > 0 AS logged, claimed
	FROM tierlimit.memory WHERE subject = 's';
SELECT count(*) FROM tierlimit.memory WHERE kind = 'secret' AND subject IS NOT NULL;
SELECT keys > 0 AS keys, memory_used BETWEEN 1 AND memory_total AS memory_used,
	memory_total = pg_size_bytes(current_setting('tierlimit.memory')) AS memory_total
FROM tierlimit.stat;

-- the view of long work: what a session reports goes with what it began in
CREATE VIEW pg_temp.progress AS SELECT command, phase, rows_done, rows_total FROM tierlimit.stat_progress WHERE pid = pg_backend_pid();
SELECT * FROM pg_temp.progress;
SELECT tierlimit._progress('one', 'first', 1, 10);
SELECT datname = current_database() AS here, command, phase, rows_done, rows_total, started_at <= clock_timestamp() AS started
	FROM tierlimit.stat_progress WHERE pid = pg_backend_pid();
SELECT tierlimit._progress('one', 'first', 11, 10);
SELECT * FROM pg_temp.progress;
SELECT tierlimit._progress('one', 'second');
SELECT * FROM pg_temp.progress;
-- a savepoint that came later takes nothing away, and one that came before does
BEGIN;
SAVEPOINT a;
ROLLBACK TO a;
SELECT * FROM pg_temp.progress;
SELECT tierlimit._progress(NULL);
SELECT tierlimit._progress('two');
SAVEPOINT b;
SELECT * FROM pg_temp.progress;
ROLLBACK TO b;
SELECT * FROM pg_temp.progress;
ROLLBACK TO a;
SELECT * FROM pg_temp.progress;
SAVEPOINT c;
SELECT tierlimit._progress('three');
RELEASE c;
SELECT * FROM pg_temp.progress;
ROLLBACK TO a;
SELECT * FROM pg_temp.progress;
SELECT tierlimit._progress('four');
COMMIT;
SELECT * FROM pg_temp.progress;
SELECT 1 / 0;
SELECT * FROM pg_temp.progress;
SELECT tierlimit._progress(repeat('ä', 40));
SELECT * FROM pg_temp.progress;
SELECT tierlimit._progress('');
SELECT * FROM pg_temp.progress;
