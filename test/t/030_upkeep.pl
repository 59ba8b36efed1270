# The upkeep of the request log goes on whatever is published, or called by hand,
# and stands in nobody's way for long.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time usleep);

my $node = start_node(q{
log_statement = none
wal_level = logical
timezone = 'UTC'
});

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('wide'), ('none');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('wide', 'hour', '1 hour', 1000000), ('none', 'hour', '1 hour', 0);
CREATE PUBLICATION everything FOR ALL TABLES;
SQL

# The log writer does what is due when it starts.
sub restart_writer
{
	my $pid = worker_pid();

	sql("SELECT pg_terminate_backend($pid)") if $pid;
	wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer'");
	sql("SELECT tierlimit.check('starts it', 'wide'); SELECT tierlimit.log_flush()");
	return;
}

#
# A publication of all tables
#

is( sql("SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c
		 WHERE relnamespace = 'tierlimit'::regnamespace AND relkind IN ('r', 'p')
			AND NOT (relreplident = 'f' OR relreplident = 'd'
				AND EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary))"),
	'', 'published: each table has a replica identity');
sql("SELECT tierlimit.check('now', 'wide'), tierlimit.log_flush()");
is( sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'tierlimit'::regnamespace AND relreplident <> 'f'
		 AND relname ~ '^request_log' AND relkind IN ('r', 'p')"),
	'0', 'published: so have the partitions that were made since');

# A late row, and one of a key that has had a refund, in hours that are summed up.
my $late = "SET tierlimit.now = '2026-05-01 12:00:00+00'";
sql("$late; SELECT count(*) FROM tierlimit.check_many(array_fill('late'::text, '{20}'), 'wide'); SELECT tierlimit.log_flush()") for 1, 2;
sql("$late; SELECT tierlimit.refund('late', 3, 3), tierlimit.log_flush()");
is(sql("SELECT requests FROM tierlimit.usage_hourly WHERE key = 'late'"), '37', 'published: late rows are added to sums');
is(sums_differ(), '', 'published: sums are those of the log');

# Sums of hours that are over, and retention.
sql(<<'SQL');
UPDATE tierlimit.log_state SET summed_until = summed_until - interval '100 days', dropped_at = now() - interval '1 day';
SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - 90);
INSERT INTO tierlimit.request_log (at, key, tier, error_code, requests, credits)
	SELECT now() - interval '80 days' + i * interval '1 millisecond', 'old', 'wide', 0, 1, 1 FROM generate_series(1, 25000) i;
INSERT INTO tierlimit.usage_minute
	SELECT 'old ' || i, false, now() - interval '99 days', now(), 1, 1 FROM generate_series(1, 25000) i;
SQL
restart_writer();
wait_until("SELECT dropped_at > now() - interval '1 hour' FROM tierlimit.log_state");
is(sql("SELECT summed_until > now() - interval '2 hours' FROM tierlimit.log_state"), 't', 'published: hours are summed up');
is(sql("SELECT sum(requests) FROM tierlimit.usage_hourly WHERE key = 'old'"), '25000', 'published: with their rows');
is( sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'tierlimit.request_log'::regclass"),
	'4', 'published: old partitions are dropped');
is(sql("SELECT count(*) FROM tierlimit.request_log WHERE key = 'old'"), '0', 'published: so are rows without one');
is(sql("SELECT count(*) FROM tierlimit.usage_minute WHERE subject ~ '^old'"), '0', 'published: so are sums of minutes');
is(sql("SELECT tierlimit.log_flush(); SELECT log_pending FROM tierlimit.stat"), "\n0", 'published: all is written');

# A reader that stays holds a drop up, and nobody else.
sql("SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - 90);
	UPDATE tierlimit.log_state SET dropped_at = now() - interval '1 day'");
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM tierlimit.request_log');
restart_writer();
my $since = time;
is(sql("SELECT count(*) FROM (SELECT generate_series(1, 200) i) n, tierlimit.check('new ' || i, 'wide') WHERE allowed"),
	'200', 'a reader stays: new keys are read');
cmp_ok(time - $since, '<', 2, 'a reader stays: soon');
$reader->query_safe('COMMIT');

#
# What is called by hand
#

# (sums of what is dropped have no rows to be compared with)
sql("DELETE FROM tierlimit.usage_hourly WHERE key IN ('old', 'late'); DELETE FROM tierlimit.usage_daily WHERE key IN ('old', 'late'); DELETE FROM tierlimit.usage_monthly WHERE key IN ('old', 'late'); TRUNCATE tierlimit.usage_by_code; SELECT tierlimit.log_flush()");
my $writer = worker_pid();
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('by hand'::text, '{30}'), 'wide');
	SELECT tierlimit.log_flush();
	SELECT tierlimit._sum_log(now() - interval '1 minute');
	SELECT tierlimit._sum_log(now() + interval '5 minutes')");
my $until = sql('SELECT summed_until FROM tierlimit.log_state');
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('by hand'::text, '{30}'), 'wide');
	SELECT tierlimit.log_flush()");
is(worker_pid(), $writer, '_sum_log: the log writer is the same');
is(sql("SELECT sum(requests) FROM tierlimit.usage_hourly WHERE key = 'by hand'"), '60', '_sum_log: its rows are added to the sums');
is(sums_differ(), '', '_sum_log: sums are those of the log');
sql("SELECT tierlimit._sum_log('2026-01-01'), tierlimit._sum_log(NULL)");
is(sql('SELECT summed_until FROM tierlimit.log_state'), $until, '_sum_log: does not go back');
like(error_of("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT tierlimit._sum_log(now() + interval '1 hour')"),
	qr/25001.*READ COMMITTED/, '_sum_log: refuses a snapshot that is too old');

# While the log writer has rows that are not committed.
$reader->query_safe("BEGIN; LOCK TABLE tierlimit.log_state IN ACCESS EXCLUSIVE MODE");
sql("SELECT count(*) FROM tierlimit.check_many(array_fill('at a time'::text, '{30}'), 'wide')");
wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer' AND wait_event_type = 'Lock'");
like(error_of("SELECT tierlimit._sum_log(now() + interval '9 minutes')"), qr/55P03/, '_sum_log: waits for what is being written');
$reader->query_safe('COMMIT');
sql("SELECT tierlimit.log_flush(); SELECT tierlimit._sum_log(now() + interval '9 minutes')");
is(sums_differ(), '', '_sum_log: and sums it up then');

like(error_of("SELECT tierlimit._sum_late_rows('{2026-01-01}', '{k}', '{NULL}', '{t}', '{NULL}', '{0}', '{1}', '{1}', now())"),
	qr/55000.*log writer alone/, '_sum_late_rows: refuses');

# A superuser's partition is the owner's, who can drop it.
sql("CREATE ROLE somebody SUPERUSER; SET ROLE somebody; SELECT tierlimit._add_log_partition('2025-01-01')");
is(sql("SELECT relowner = (SELECT relowner FROM pg_class WHERE oid = 'tierlimit.request_log'::regclass)
	FROM pg_class WHERE relname = 'request_log_20250101'"), 't', '_add_log_partition: the owner is that of the log');

#
# An INSERT that fails
#

sql("SELECT tierlimit.log_flush()");
sql("ALTER TABLE tierlimit.request_log ADD CONSTRAINT refuse CHECK (key <> 'refused')");
sql("SELECT allowed FROM tierlimit.check('refused', 'none')");
like(error_of('SELECT tierlimit.log_flush()'), qr/23514: .*could not write to the request log.*refuse/s,
	'refused: log_flush() says what prevents it');
sleep(4);
is(sql('SELECT log_pending FROM tierlimit.stat'), '1', 'refused: it waits');
like(error_of('SELECT tierlimit.log_flush()'), qr/23514/, 'refused: log_flush() says so for as long as it lasts');
sql('ALTER TABLE tierlimit.request_log DROP CONSTRAINT refuse; SELECT tierlimit.log_flush()');
is(sql("SELECT requests FROM tierlimit.request_log WHERE key = 'refused'"), '1', 'refused: then it is written');
is(sql('SELECT log_pending FROM tierlimit.stat'), '0', 'refused: and nothing is pending');

#
# Timeouts of the server
#

my @timeouts = grep { sql("SELECT count(*) FROM pg_settings WHERE name = '$_'") }
  qw(statement_timeout transaction_timeout idle_in_transaction_session_timeout idle_session_timeout);
my $offset = -s $node->logfile;

$reader->quit;
# Those of postgresql.conf would end our own sessions before they are ready.
sql(join '; ', map { "ALTER DATABASE postgres SET $_ = '1ms'" } @timeouts);
{
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_=0" } @timeouts;

	$node->restart;
	is( sql("SET tierlimit.durability = sync; SELECT count(*)
			 FROM (SELECT generate_series(1, 2000) i) n, tierlimit.check('timeouts ' || i % 7, 'wide') WHERE allowed"),
		'2000', 'timeouts: calls are admitted');
	is(sql("SELECT sum(requests) FROM tierlimit.request_log WHERE key ~ '^timeouts'"), '2000', 'timeouts: and written');
	unlike(slurp_file($node->logfile, $offset), qr/FATAL: .*timeout|statement timeout/, 'timeouts: nobody is ended');
}

$node->stop;
done_testing();
