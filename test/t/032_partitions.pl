# However many partitions the log has, a call reads those that its windows span:
# it takes the same locks, and about the same memory.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $count = $ENV{TIERLIMIT_PARTITIONS} // 300;
my $node = start_node("log_statement = none\nmax_locks_per_transaction = 256");

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('day'), ('ip');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('day', 'day', '1 day', 1000), ('ip', 'minute', '1 minute', 1000);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('member', 'day', 'team');
SELECT tierlimit.create_key('secret', 'day') AS secret \gset
CREATE TABLE secret AS SELECT :'secret' AS secret;
SELECT tierlimit.check('past', 'day');
SELECT tierlimit.log_flush();
SQL

my %calls = (
	'a new key' => "SELECT allowed FROM tierlimit.check(:'name', 'day')",
	'a key of an account' => "SELECT allowed FROM tierlimit.check('member')",
	'a key with a past' => "SELECT allowed FROM tierlimit.peek('past', 'day')",
	'an id' => "SELECT allowed FROM tierlimit.check(:'name', 'day', 1, NULL, 'id')",
	'an address' => "SELECT allowed FROM secret, tierlimit.authorize(secret, ip => '192.0.2.7')",
	'usage' => "SELECT used FROM tierlimit.usage(:'name', 'day')",
	'a refund' => "SELECT tierlimit.refund(:'name')",
	'verify' => "SELECT count(*) FROM tierlimit.verify('past')");

# What a session's first call has locked while it reads, and keeps in memory:
# relations and kB.  It waits for the default partition, which is the last that is
# locked.
sub costs
{
	my %costs;

	$node->restart;
	for my $call (sort keys %calls)
	{
		my $locker = $node->background_psql('postgres');
		my $ours = "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'caller' AND relation IS NOT NULL";

		sql('SELECT tierlimit.log_flush()');
		$locker->query_safe('BEGIN; LOCK TABLE tierlimit.request_log_default');
		my $caller = call_in_background("$call $count " . keys(%costs) . time,
			"SET application_name = 'caller';\n\\set name '$call $count'\n$calls{$call} \\g /dev/null\n"
			. "BEGIN;\n$calls{$call} \\g /dev/null\n"
			. "SELECT count(*) $ours AND l.relation::regclass::text ~ 'request_log';\n"
			. "COMMIT; SELECT sum(used_bytes) / 1024 FROM pg_backend_memory_contexts");
		wait_until("SELECT count(*) = 1 $ours AND NOT granted");
		my $locks = sql("SELECT count(DISTINCT relation) $ours AND a.pid IN (SELECT pid FROM pg_locks WHERE NOT granted)");
		$locker->query_safe('COMMIT');
		$locker->quit;
		$caller->{psql}->finish;
		my ($kept, $memory) = split /\n/, slurp_file($caller->{out});
		is($kept, '0', "$call: no lock on the log outlasts it");
		$costs{$call} = [ $locks, $memory ];
	}
	return %costs;
}

# What the log writer locks to write: it waits behind its INSERT.
sub writer_locks
{
	my $locker = $node->background_psql('postgres');

	sql("SELECT tierlimit.check('past', 'day'), tierlimit.log_flush()");
	$locker->query_safe('BEGIN; LOCK TABLE tierlimit.log_state IN ACCESS EXCLUSIVE MODE');
	sql("SELECT tierlimit.check('past', 'day')");
	my $waits = "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE backend_type = 'tierlimit log writer' AND relation IS NOT NULL";
	wait_until("SELECT count(*) = 1 $waits AND NOT granted");
	my $locks = sql("SELECT count(DISTINCT relation) $waits");
	$locker->query_safe('COMMIT');
	$locker->quit;
	return $locks;
}

# (the log writer makes those of the next days; the windows of a day span yesterday's)
wait_until("SELECT count(*) = 4 FROM pg_inherits WHERE inhparent = 'tierlimit.request_log'::regclass");
sql("SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - i) FROM generate_series(1, 2) i");
my %few = costs();
my $few_writer = writer_locks();

sql("DO \$\$ BEGIN FOR i IN 3 .. $count LOOP PERFORM tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - i); END LOOP; END \$\$");

my %many = costs();
my $many_writer = writer_locks();

for my $call (sort keys %calls)
{
	note("$call: locks $few{$call}[0], $many{$call}[0]; kB $few{$call}[1], $many{$call}[1]");

	# (midnight may bring another day and its indexes)
	cmp_ok($many{$call}[0], '<=', $few{$call}[0] + 7, "$call: locks do not grow with the partitions");
	cmp_ok($many{$call}[1], '<=', $few{$call}[1] * 1.25 + 300 + 3 * $count, "$call: memory hardly does");
}
note("log writer: locks $few_writer, $many_writer");
cmp_ok($many_writer, '<=', $few_writer + 7, 'log writer: locks do not grow with the partitions');

#
# A year of calls, by rows and by sums of minutes
#

sql(<<'SQL');
INSERT INTO tierlimit.tier VALUES ('year');
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
	SELECT 'year', days || ' days', make_interval(days => days), 100000 FROM unnest('{5,40,150,300,366}'::int[]) days;
CREATE TABLE past AS
	SELECT date_trunc('minute', now()) - d * interval '1 day' + interval '10 hours' + i * interval '7 seconds' AS at, key
	FROM generate_series(2, 360, 7) d, generate_series(1, 1 + d % 13) i, unnest('{long past,crew}'::text[]) key;
INSERT INTO tierlimit.request_log (at, key, account, tier, error_code, requests, credits)
	SELECT at, nullif(key, 'crew'), CASE WHEN key = 'crew' THEN key END, 'year', 0, 1, 1 FROM past;
UPDATE tierlimit.log_state SET summed_until = now() - interval '366 days';
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('one of them', 'year', 'crew');
SQL
sql("SELECT tierlimit._sum_log(now() - interval '3 days')");
cmp_ok(sql('SELECT count(*) FROM tierlimit.usage_minute'), '>', 30, 'a year: there are sums of minutes');
my $truth = q{SELECT string_agg(n::text, ' ') FROM (SELECT count(*) FILTER (WHERE at > now() - make_interval(days => days)) AS n
	FROM past, unnest('{5,40,150,300,366}'::int[]) days WHERE key = 'long past' GROUP BY days ORDER BY days) x};
my $used = "SELECT string_agg(used::text, ' ') FROM tierlimit.usage('%s', 'year')";
for my $slots (1024, 16)
{
	$node->append_conf('postgresql.conf', "tierlimit.window_slots = $slots");
	$node->restart;
	for my $key ('long past', 'one of them')
	{
		my ($all) = sql($truth) =~ /(\d+)$/;
		if ($slots == 1024)
		{
			is(sql(sprintf($used, $key)), sql($truth), "a year: what $key has used, row by row");
		}
		else
		{
			like(sql(sprintf($used, $key)), qr/ $all$/, "a year: what $key has used, by sums");
		}
	}
}

#
# What the log knows of a key of long ago
#

sql(<<'SQL');
SET tierlimit.now = '2026-02-03 04:05:06+00';
SELECT tierlimit.check('long ago', 'day'), tierlimit.log_flush();
SQL
$node->restart;
is(sql("SET tierlimit.now = '2026-02-03 04:05:07+00'; SELECT tierlimit.refund('long ago')"),
	'1', 'long ago: the tier of an unregistered key is found');

$node->stop;
done_testing();
