# Bills and reports under changes of configuration, failures and wrong times.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TierlimitTest;

my $node = start_node(<<'CONF', allows_streaming => 'logical');
timezone = 'UTC'
tierlimit.log_retention = '36500d'
restart_after_crash = on
CONF

# new_database(NAME): one with tiers, whose sums go no further than to the start of 2026 by
# themselves: what follows is summed up when it is written, late.
sub new_database
{
	my ($name) = @_;

	sql("CREATE DATABASE $name");
	sql(<<'SQL', $name);
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier (name, price) VALUES ('free', NULL), ('pro', 30);
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, overage_price) VALUES
	('free', 'minute', '1 minute', 'sliding', 'requests', 1000000, true, NULL),
	('pro', 'month', '1 month', 'calendar', 'credits', 100, false, 2);
CREATE FUNCTION calls(at timestamptz, key text, tier text, cost bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('tierlimit.now', at::text, false);
	PERFORM FROM tierlimit.check(key, tier, cost);
	RESET tierlimit.now;
END
$$;
-- the log writer may be keeping bills itself
CREATE PROCEDURE keep_bills() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tierlimit.log_flush();
	LOOP
		BEGIN
			PERFORM tierlimit._sum_log(date_trunc('hour', now()));
			UPDATE tierlimit.bill_period SET touched_at = '-infinity';
			EXIT WHEN NOT tierlimit._keep_bills();
		EXCEPTION WHEN lock_not_available THEN
			NULL;
		END;
	END LOOP;
END
$$;
CREATE VIEW bills AS SELECT subject, keys, tier, unit, used, included, overage, unit_price, amount FROM tierlimit.bill;
SQL
	return;
}

#
# A report is as of one moment, also while the sums go on.
#

new_database('moving');
sql(<<'SQL', 'moving');
INSERT INTO tierlimit.log_state (summed_until) VALUES ('2026-03-01');
-- whoever has the log summed up, comes as far as this allows
CREATE SCHEMA cap;
CREATE TABLE cap.cap AS SELECT timestamptz '2026-03-01' AS at;
CREATE FUNCTION cap.date_trunc(text, timestamptz, text) RETURNS timestamptz LANGUAGE sql STABLE
	RETURN pg_catalog.date_trunc($1, least($2, (SELECT at FROM cap.cap)), $3);
ALTER FUNCTION tierlimit._sum_log(timestamptz) SET search_path = cap, pg_catalog, pg_temp;
ALTER FUNCTION tierlimit._sum_log(timestamptz) SET lock_timeout = '10s';
SELECT calls(timestamptz '2026-03-01' + i * interval '1 minute', 'k' || i % 7, 'free', 3) FROM generate_series(0, 1439) i;
SELECT tierlimit.log_flush();
SQL
my $mover = call_in_background('mover', join('', map {
	"UPDATE cap.cap SET at = timestamptz '2026-03-01' + $_ * interval '5 minutes'; SELECT tierlimit._sum_log(now());\n" } 1 .. 289), 'moving');
my %said;
$said{$_}++ for split /\n/, sql(<<'SQL' x 20, 'moving');
SELECT sum(requests), sum(credits) FROM tierlimit.usage_report('2026-03-01', '2026-03-02', '1 day');
SELECT sum(requests), sum(credits) FROM tierlimit.usage_report('2026-03-01', '2026-03-02', '30 minutes');
SELECT sum(used) FILTER (WHERE unit = 'requests'), sum(used) FILTER (WHERE unit = 'credits') FROM tierlimit.billing_report('2026-03-01');
SQL
$mover->{psql}->finish;
is(join(' ', sort keys %said), '1440|4320', 'all reports say the same while the sums go on')
  or diag explain \%said;

#
# Whoever pays a price pays it for periods in which they did.
#

new_database('priced');
sql(<<'SQL', 'priced');
SELECT calls(now(), 'first', 'free', 1);
INSERT INTO tierlimit.api_key (name, tier, created_at) VALUES ('was pro', 'pro', now() - interval '3 years'), ('was free', 'free', now() - interval '3 years');
CALL keep_bills();
SQL
is(sql(q{SELECT subject, count(*) FROM generate_series(1, 8) i, tierlimit.billing_report(date_trunc('month', now()) - i * interval '1 month') GROUP BY 1}, 'priced'),
	'', 'nobody has a bill of the time before');

# The log writer has not looked since the month before last: new keys, and keys on a new tier.
sql(<<'SQL', 'priced');
UPDATE tierlimit.bill_state SET opened_until = date_trunc('month', now()) - interval '40 days';
UPDATE tierlimit.api_key SET tier = 'pro' WHERE name = 'was free';
INSERT INTO tierlimit.api_key (name, tier, created_at) VALUES ('new', 'pro', date_trunc('month', now())),
	('last month', 'pro', date_trunc('month', now()) - interval '5 minutes'), ('imported', 'pro', '2020-01-01'), ('to come', 'pro', now() + interval '3 months');
CALL keep_bills();
SQL
is(sql(q{SELECT subject, unit, amount FROM bills ORDER BY 1, 2}, 'priced'),
	"last month|credits|0\nlast month|period|30\nlast month|requests|0", 'a month that ended before costs who was registered in it');
is(sql(q{SELECT subject, amount FROM tierlimit.billing_report() WHERE unit = 'period' ORDER BY 1}, 'priced'),
	join("\n", map { "$_|30" } 'imported', 'last month', 'new', 'was free', 'was pro'), 'and this month all of them');

# What an unregistered key used, and comes late, is no reason for the price of its later registration.
sql(q{SELECT calls(now() - interval '200 days', 'new', 'free', 5); CALL keep_bills()}, 'priced');
is(sql(q{SELECT unit, used, amount FROM bills WHERE subject = 'new' ORDER BY 1}, 'priced'),
	"credits|5|0\nrequests|1|0", 'nor does a month before its registration cost a key');

#
# What is changed after the end of a period does not change its bill.
#

new_database('changed');
sql(<<'SQL', 'changed');
INSERT INTO tierlimit.api_key (name, tier, created_at) SELECT 'k' || i, 'pro', now() - interval '300 days' FROM generate_series(1, 5) i;
INSERT INTO tierlimit.api_key (name, tier, account, created_at) SELECT 'm' || i, 'pro', 'k1', now() - interval '300 days' FROM generate_series(1, 3) i;
SELECT tierlimit.log_flush();
SELECT calls(now() - interval '100 days', 'k' || i, NULL, 150) FROM generate_series(1, 5) i;
SELECT calls(now() - interval '100 days', 'm' || i, NULL, 70) FROM generate_series(1, 3) i;
SELECT tierlimit.log_flush();
-- long enough ago for a late call to note itself again, too short for bills to be written
UPDATE tierlimit.bill_period SET touched_at = now() - interval '5 seconds';
SQL
is(sql('SELECT count(*) FROM tierlimit.bill_period WHERE NOT frozen AND period_end < now()', 'changed'), 6, 'there are periods whose bills are not written');

# Two sessions at once; a call that comes late meanwhile is written to the log.
my $one = $node->background_psql('changed', on_error_die => 1);
$one->query_safe('BEGIN; UPDATE tierlimit.tier SET price = 1000');
my $other = call_in_background('other', "UPDATE tierlimit.tier_limit SET max = 1 WHERE tier = 'pro'", 'changed');
wait_until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'", 't', 'changed');
my $begun = time;
sql(q{SELECT calls(now() - interval '100 days', 'k2', NULL, 7); SELECT tierlimit.log_flush()}, 'changed');
cmp_ok(time - $begun, '<', 1.9, 'a late call is logged while a session has not committed its change');
$one->query_safe('COMMIT');
$other->{psql}->finish;
$one->quit;
sql(<<'SQL', 'changed');
UPDATE tierlimit.api_key SET account = 'others', tier = 'free' WHERE name = 'k3';
DELETE FROM tierlimit.api_key WHERE name = 'k4';
UPDATE tierlimit.tier SET name = 'professional' WHERE name = 'pro';
TRUNCATE tierlimit.api_key;
CALL keep_bills();
SQL
is(sql(q{SELECT string_agg(DISTINCT tier, ','), count(*), sum(keys), string_agg(DISTINCT included::text, ','), string_agg(DISTINCT unit_price::text, ',') FROM bills WHERE unit = 'credits'}, 'changed'),
	'pro|6|8|100|2', 'bills have what was in force');
is(sql(q{SELECT string_agg(DISTINCT unit_price::text, ','), sum(amount) FROM bills WHERE unit = 'period'}, 'changed'), '30|180', 'and the price');
is(sql(q{SELECT sum(used) FROM bills WHERE unit = 'credits'}, 'changed'), 5 * 150 + 3 * 70 + 7, 'and all calls');

#
# So it does where the configuration is replicated.
#

new_database('published');
sql('CREATE PUBLICATION configuration FOR TABLE tierlimit.tier, tierlimit.tier_limit, tierlimit.api_key', 'published');
new_database('subscribed');
my $connection = $node->connstr('published') =~ s/'/''/gr;
sql("SELECT pg_create_logical_replication_slot('configuration', 'pgoutput')", 'published');
sql("CREATE SUBSCRIPTION configuration CONNECTION '$connection' PUBLICATION configuration WITH (copy_data = false, create_slot = false)", 'subscribed');
for my $how ('UPDATE', 'TRUNCATE')
{
	my $key = lc $how;

	sql("INSERT INTO tierlimit.api_key (name, tier, created_at) VALUES ('$key', 'pro', '2026-01-01')", 'published');
	wait_until("SELECT EXISTS (SELECT FROM tierlimit.api_key WHERE name = '$key')", 't', 'subscribed');
	sql("SELECT calls(now() - interval '100 days', '$key', NULL, 150); SELECT tierlimit.log_flush()", 'subscribed');
	sql($how eq 'UPDATE' ? "UPDATE tierlimit.api_key SET tier = 'free'" : 'TRUNCATE tierlimit.api_key', 'published');
	wait_until("SELECT NOT EXISTS (SELECT FROM tierlimit.api_key WHERE name = '$key' AND tier = 'pro')", 't', 'subscribed');
	sql('CALL keep_bills()', 'subscribed');
	is(sql("SELECT keys, tier, included, overage, amount FROM bills WHERE subject = '$key' AND unit = 'credits'", 'subscribed'),
		'1|pro|100|50|100', "a replicated $how changes no bill of a period that is over");
}
sql('DROP SUBSCRIPTION configuration', 'subscribed');

#
# A dump that is taken before the end of a period, and restored after it.
#

new_database('original');
sql(<<'SQL', 'original');
INSERT INTO tierlimit.api_key (name, tier, created_at) VALUES ('silent', 'pro', now() - interval '300 days'), ('caller', 'pro', now() - interval '300 days');
SELECT calls(now() - interval '100 days', 'carried', 'free', 5);
CALL keep_bills();
SELECT calls(now() - interval '100 days', 'carried', 'free', 6);
SELECT tierlimit.log_flush();
SELECT calls(now() - interval '71 days', 'caller', 'pro', 120);
SELECT tierlimit.log_flush();
SQL
# As if all this had been some months ago, when a period was running; the log writer would
# sum up what was since.
wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer' AND datname = 'original'", 0);
sql("UPDATE tierlimit.log_state SET summed_until = now() - interval '70 days'", 'original');
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump";
$node->command_ok([ 'pg_dump', '-Fd', '-f', $dump, $node->connstr('original') ], 'dump');
# (Of jobs that load tables at once none knows which tables refer to which.)
for my $jobs (1, 4)
{
	my $name = "restored_$jobs";

	sql("CREATE DATABASE $name");
	$node->command_ok([ 'pg_restore', @$_, '--exit-on-error', '-d', $node->connstr($name), $dump ], "restore by @$_")
	  for $jobs == 1 ? ['-j', 1] : (['-s'], ['-a', '--disable-triggers', '-j', $jobs]);
	sql('CALL keep_bills(); CALL keep_bills(); CALL keep_bills(); CALL keep_bills()', $name);
	is(sql(q{SELECT unit, used FROM tierlimit.billing_report() WHERE subject = 'carried' ORDER BY 1}, $name), "credits|6\nrequests|1",
		'it is on the running bill');
	is(sql(q{SELECT subject, count(*) >= 2, min(amount), max(amount) FROM bills WHERE unit = 'period' GROUP BY 1 ORDER BY 1}, $name),
		"caller|t|30|30\nsilent|t|30|30", 'who pays a price pays it since the dump was taken');
	is(sql(q{SELECT used, included, amount FROM bills WHERE subject = 'caller' AND unit = 'credits' AND used > 0}, $name), '120|100|40', 'and for what was called then');
	is(sums_differ($name), '', 'sums are those of the log');
}

#
# Nothing that is wrong with one key keeps the log from being written, and bills from being
# kept.
#

new_database('odd');
sql(<<'SQL', 'odd');
ALTER TABLE tierlimit.api_key DISABLE TRIGGER ALL;
INSERT INTO tierlimit.api_key (name, tier, billing_timezone) VALUES ('lost zone', 'free', 'Middle/Earth');
INSERT INTO tierlimit.api_key (name, tier, billing_anchor) VALUES ('early', 'pro', '4713-01-02 BC'), ('late', 'pro', '294276-12-30');
ALTER TABLE tierlimit.api_key ENABLE TRIGGER ALL;
INSERT INTO tierlimit.api_key (name, tier, account) VALUES (repeat('x', 255), 'pro', repeat('x', 255)), ('twin', 'free', NULL), ('other', 'pro', 'twin');
SELECT calls(now(), 'any', 'free', 1);
SELECT tierlimit.log_flush();
SELECT calls(now() - interval '100 days', 'any', 'free', 1);
SELECT calls(now() - interval '100 days', 'lost zone', NULL, 5);
SELECT calls(now() - interval '100 days', key, NULL, 9223372036854775000) FROM unnest(ARRAY['early', 'late', repeat('x', 255), 'twin', 'other', 'early', 'twin', 'other']) key;
SELECT tierlimit.log_flush();
SQL
is(sql(q{SELECT count(*) FROM tierlimit.request_log WHERE at < now() - interval '1 day'}, 'odd'), 10, 'rows that come late are in the log');
sql(<<'SQL', 'odd');
INSERT INTO tierlimit.request_log (at, key, account, error_code, requests, credits) VALUES
	('-infinity', 'any', NULL, 0, 1, 1), ('infinity', 'any', NULL, 0, 1, 1), ('4713-01-01 BC', 'any', NULL, 0, 1, 1),
	(now() - interval '1 second', NULL, NULL, 0, 1, 1), (now() - interval '1 second', NULL, 'nobody', 0, 1, 1), (now() - interval '1 second', 'huge', NULL, 0, 2147483647, 9223372036854775807),
	(now() - interval '1 second', 'huge', NULL, 0, 2147483647, 9223372036854775807), (now() - interval '1 second', 'small', NULL, 0, -2147483648, -9223372036854775808),
	(now() - interval '1 second', 'small', NULL, 1008, -2147483648, -9223372036854775808), (now() - interval '1 second', '', '', 0, 1, 1);
SELECT tierlimit._sum_log(now() + interval '1 minute');
CALL keep_bills();
SELECT count(*) FROM tierlimit.billing_report();
SELECT count(*) FROM tierlimit.usage_report('-infinity', 'infinity');
SQL
is(sql(q{SELECT subject, is_account, used, overage FROM tierlimit.bill WHERE unit = 'credits' AND used > 0 ORDER BY subject COLLATE "C", is_account}, 'odd') =~ s/x{255}/x*/gr,
	join("\n", 'any|f|1|0', 'early|f|9223372036854775807|9223372036854775707', 'late|f|9223372036854775000|9223372036854774900', 'lost zone|f|5|0',
		'twin|f|9223372036854775807|0', 'twin|t|9223372036854775807|9223372036854775707', 'x*|t|9223372036854775000|9223372036854774900'),
	'and all are on bills');
is(sql(q{SELECT subject, unit, used FROM tierlimit.billing_report() WHERE subject ~ 'huge|small' ORDER BY 1, 2}, 'odd'),
	"huge|credits|9223372036854775807\nhuge|requests|4294967294\nsmall|credits|-9223372036854775808\nsmall|requests|-2147483648", 'sums that are too large stay there');

#
# A failure loses nothing and doubles nothing.
#

new_database('failing');
sql(<<'SQL', 'failing');
SELECT calls(now(), 'first', 'free', 1);
CALL keep_bills();
SELECT calls(now() - interval '100 days', 'k' || i, 'free', 3) FROM generate_series(1, 300) i;
SELECT tierlimit.log_flush();
UPDATE tierlimit.bill_period SET touched_at = '-infinity';
-- whoever keeps bills stays in the middle of it
CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
CREATE TRIGGER hang AFTER INSERT ON tierlimit.bill FOR EACH STATEMENT EXECUTE FUNCTION hang();
SQL
# (The log writer may be before a session at it.)
my $keeper = call_in_background('keeper', <<'SQL', 'failing');
DO $$
DECLARE
	again boolean := true;
BEGIN
	WHILE again LOOP
		BEGIN
			again := tierlimit._keep_bills();
		EXCEPTION WHEN lock_not_available THEN
			NULL;
		END;
	END LOOP;
END
$$;
SQL
my $hanging = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
wait_until("SELECT count(*) FROM ($hanging) p", 1, 'failing');
sql("SELECT calls(now() - interval '100 days', 'k1', 'free', 4)", 'failing');
until (slurp_file($keeper->{err}) =~ /canceling statement due to user request/)
{
	sql("SELECT pg_cancel_backend(pid) FROM ($hanging) p", 'failing');
	usleep(100_000);
}
$keeper->{psql}->finish;
sql("SELECT tierlimit.log_flush(); UPDATE tierlimit.bill_period SET touched_at = '-infinity'", 'failing');

# A new log writer begins with that.
kill_process('TERM', worker_pid('failing')) if worker_pid('failing');
wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer' AND datname = 'failing'", 0, 'failing');
sql("SELECT calls(now() - interval '100 days', 'k2', 'free', 5)", 'failing');
wait_until("SELECT count(*) FROM ($hanging AND backend_type = 'tierlimit log writer') p", 1, 'failing');
my $hung = sql($hanging, 'failing');
kill_process('KILL', $hung);
wait_until("SELECT count(*) FROM pg_stat_activity WHERE pid = $hung", 0, 'failing');
sql('DROP TRIGGER hang ON tierlimit.bill; CALL keep_bills()', 'failing');
is(sql(q{SELECT count(*), sum(used) FROM bills WHERE unit = 'credits'}, 'failing'),
	sql(q{SELECT count(DISTINCT key), sum(credits) FROM tierlimit.request_log WHERE key <> 'first'}, 'failing'), 'after a cancel and a SIGKILL all is on bills, once');

#
# Who may do what.
#

new_database('roles');
sql(<<'SQL', 'roles');
CREATE ROLE reporter LOGIN;
CREATE ROLE registrar LOGIN;
SELECT tierlimit.grant_reporting('reporter');
GRANT USAGE ON SCHEMA tierlimit TO registrar;
GRANT SELECT (name), INSERT, UPDATE, DELETE ON tierlimit.api_key TO registrar;
SELECT calls(now(), 'first', 'free', 1);
CALL keep_bills();
SELECT calls(now() - interval '100 days', 'k1', 'pro', 300);
SELECT tierlimit.log_flush();
SET ROLE registrar;
INSERT INTO tierlimit.api_key (name, tier) VALUES ('k1', 'free');
UPDATE tierlimit.api_key SET tier = 'pro' WHERE name = 'k1';
RESET ROLE;
SELECT calls(now() - interval '300 days', 'k1', 'pro', 7);
SELECT tierlimit.log_flush();
SET ROLE registrar;
DELETE FROM tierlimit.api_key WHERE name = 'k1';
RESET ROLE;
CALL keep_bills();
SQL
is(sql(q{SELECT keys, tier, used, amount FROM bills WHERE unit = 'credits' ORDER BY used}, 'roles'), "1|pro|7|0\n0|pro|300|400", 'a role that may change keys only');
is(sql(<<'SQL', 'roles'), "2\n2|301\n1\n300", 'a role that may report only, in a transaction that is READ ONLY');
SET ROLE reporter;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT count(*) FROM tierlimit.billing_report(now() - interval '100 days');
SELECT count(DISTINCT key), sum(credits) FROM tierlimit.usage_report(now() - interval '200 days', 'infinity', '1 month');
SELECT count(*) FROM tierlimit.usage_chart('k1', steps => 1);
SELECT sum(credits) FROM tierlimit.usage_hourly WHERE hour > now() - interval '200 days' AND key = 'k1';
COMMIT;
SQL

#
# A standby answers.
#

my $standby = PostgreSQL::Test::Cluster->new('standby');
$node->backup('backup');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
my $question = q{SELECT subject, keys, tier, unit, used, amount FROM generate_series(0, 12) i, tierlimit.billing_report(now() - i * interval '1 month');
	SELECT sum(requests), sum(credits) FROM tierlimit.usage_report('2020-01-01', 'infinity', '1 month')};
my $answer = sql($question, 'roles');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('roles', $question), $answer, 'a standby reports the same');
$standby->stop;

#
# Databases are visited, and can be dropped and copied meanwhile.
#

sql("CREATE DATABASE visited_$_ " . ($_ > 2 ? 'TEMPLATE failing' : '')) for 1 .. 5;
sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'visited_2'");
sql("SELECT calls(now() - interval '100 days', 'k', 'free', 1); SELECT tierlimit.log_flush()", 'visited_3');
# (one that is being restored lacks this table's row, which is not dumped, and rows of the log)
sql("DELETE FROM tierlimit.bill_state; UPDATE tierlimit.log_state SET summed_until = '2026-01-01'", 'visited_5');
$node->append_conf('postgresql.conf', 'max_worker_processes = 10');
$node->restart;
my $log_end = -s $node->logfile;
wait_until("SELECT count(*) FROM tierlimit.bill WHERE subject = 'k'", 2, 'visited_3');
$begun = time;
sql('CREATE DATABASE copied TEMPLATE visited_3');
sql('DROP DATABASE visited_4');
cmp_ok(time - $begun, '<', 10, 'a database is copied, and one dropped');
usleep(2_000_000);
is(sql('SELECT summed_until FROM tierlimit.log_state', 'visited_5'), '2026-01-01 00:00:00+00', 'what is being restored is left alone');
unlike(slurp_file($node->logfile, $log_end), qr/FATAL|ERROR|WARNING/, "visits do not fill the server's log");
sql("UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'visited_2'");

# A publication of all tables stops nothing, nor does the extension's end.
sql(<<'SQL', 'copied');
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT calls(now() - interval '200 days', 'new', 'pro', 1);
CALL keep_bills();
DROP VIEW bills;
DROP EXTENSION tierlimit;
CREATE EXTENSION tierlimit;
SELECT calls(now() - interval '200 days', 'new', NULL, 1);
CALL keep_bills();
SQL
is(sql('SELECT count(*) FROM tierlimit.bill', 'copied'), 0, 'an extension that is made anew has no bills');

#
# A calendar that is changed in mid-period
#

new_database('calendars');
sql(<<'SQL', 'calendars');
INSERT INTO tierlimit.tier (name, price) VALUES ('monthly', 49), ('weekly', 7);
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce) VALUES
	('monthly', 'month', '1 month', 'calendar', 'credits', 1000, false), ('weekly', 'week', '1 week', 'calendar', 'credits', 1000, false);
INSERT INTO tierlimit.api_key (name, tier, created_at) VALUES ('changer', 'monthly', now() - interval '1 year');
SELECT count(*) FROM tierlimit.check_many(array_fill('changer'::text, '{5}'));
SELECT tierlimit.log_flush();
CALL keep_bills();
UPDATE tierlimit.api_key SET tier = 'weekly', billing_anchor = now() - interval '1 year 10 days' WHERE name = 'changer';
SQL
my $of_changer = q{SELECT count(*) FILTER (WHERE unit = 'period'), sum(used) FILTER (WHERE unit = 'requests') FROM (
	SELECT unit, used FROM tierlimit.bill WHERE subject = 'changer'
	UNION ALL SELECT unit, used FROM tierlimit.billing_report() WHERE subject = 'changer') x};
is(sql($of_changer, 'calendars'), '1|5', 'a changed calendar: one price, as reported at once');
sql("UPDATE tierlimit.bill_state SET opened_until = now() - interval '1 hour'; CALL keep_bills()", 'calendars');
is(sql($of_changer, 'calendars'), '1|5', 'a changed calendar: and as the log writer has it');
is( sql("SELECT count(*) FROM tierlimit.bill WHERE subject = 'changer' AND unit = 'period'", 'calendars'),
	'0', 'a changed calendar: a part of a period has no price');

$node->stop;
done_testing();
