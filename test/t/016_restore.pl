# Dump and restore: tiers, keys, the log and its sums are carried, and the new
# database goes on counting.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('log_statement = none');

sql('CREATE DATABASE original');
sql(<<'SQL', 'original');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('day');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('day', 'day', '1 day', 100, 'requests'), ('day', 'week', '7 days', 1000, 'credits');
INSERT INTO tierlimit.error_code (code, http_status, name, message) VALUES (2000, 429, 'SLOW', 'Slow down.');
UPDATE tierlimit.error_code SET name = 'TOO_FAST', http_status = 420 WHERE code = 1008;
INSERT INTO tierlimit.tier_limit (tier, name, period, max, error_code) VALUES ('day', 'referring', '30 days', 10000, 1008);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('acme', 'day', NULL), ('member', 'day', 'team');
SELECT count(*) FROM tierlimit.check_many('{acme,acme,acme,member,member,nobody}', NULL, 3);
SELECT tierlimit.refund('acme', 3);
SELECT set_config('tierlimit.now', (now() - interval '20 days')::text, false);
SELECT count(*) FROM tierlimit.check_many(array_fill('old'::text, '{10}'), 'day');
RESET tierlimit.now;
SELECT pg_sleep(1.2);
SELECT tierlimit.log_flush();
SQL

# Bills of periods that were over, one of which is not written yet.
sql(<<'SQL', 'original');
SELECT set_config('tierlimit.now', (now() - interval '70 days')::text, false);
SELECT count(*) FROM tierlimit.check_many(array_fill('older'::text, '{10}'), 'day');
SELECT tierlimit.log_flush();
RESET tierlimit.now;
UPDATE tierlimit.bill_period SET touched_at = now() - interval '1 hour';
SELECT tierlimit._keep_bills();
SELECT set_config('tierlimit.now', (now() - interval '100 days')::text, false);
SELECT count(*) FROM tierlimit.check_many(array_fill('older'::text, '{10}'), 'day');
SELECT tierlimit.log_flush();
SQL
is(differences('original'), '', 'before: usage is the sum of the log');

# All that is to be carried.
my %tables = map { $_ => "SELECT * FROM tierlimit.$_ ORDER BY $_" }
  qw(tier tier_limit api_key error_code request_log usage_hourly usage_daily usage_monthly usage_by_code usage_minute log_state bill);
$tables{'the running bills'} = 'SELECT * FROM tierlimit.billing_report(now())';
$tables{'bills that are not written'} = "SELECT * FROM tierlimit.billing_report(now() - interval '100 days')";
my $partitions = q{SELECT inhrelid::regclass, pg_get_expr(relpartbound, c.oid), (SELECT count(*) FROM pg_index WHERE indrelid = c.oid)
	FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'tierlimit.request_log'::regclass ORDER BY 1};
my %before = map { $_ => sql($tables{$_}, 'original') } keys %tables;
my $before = sql($partitions, 'original');
isnt($before{$_}, '', "before: there is a row in $_") for grep { !/minute/ } sort keys %before;

# What a program has to complain about.
sub errors_of
{
	my ($stdout, $stderr);
	IPC::Run::run($_[0], '>', \$stdout, '2>', \$stderr) or $stderr .= "exit status $?";
	return $stderr;
}

my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump";
my @connection = ('-d', $node->connstr('original'));
my %restore = (
	'custom' => sub {
		my ($database) = @_;
		return errors_of([ 'pg_dump', '-Fc', '-f', "$dump.custom", @connection ])
		  . errors_of([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($database), "$dump.custom" ]);
	},
	'plain' => sub {
		my ($database) = @_;
		return errors_of([ 'pg_dump', '-f', "$dump.sql", @connection ])
		  . errors_of([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.sql", '-d', $node->connstr($database) ]);
	});

for my $kind (sort keys %restore)
{
	sql("CREATE DATABASE $kind");
	is($restore{$kind}->($kind), '', "$kind: restored without a message");
	is(sql($tables{$_}, $kind), $before{$_}, "$kind: $_ is carried") for sort keys %tables;
	is(sql($partitions, $kind), $before, "$kind: so are the partitions and their indexes");
	is( sql("SELECT string_agg(used::text, ' ') FROM unnest('{acme,member}'::text[]) key, tierlimit.usage(key)", $kind),
		'2 6 2 2 6 2', "$kind: what was counted is counted");
	is( sql("SELECT count(*) FROM tierlimit.check_many(array_fill('acme'::text, '{200}')) WHERE allowed", $kind),
		'98', "$kind: it goes on counting");
	is(differences($kind), '', "$kind: and logging");
	is( sql("SELECT count(*) FROM tierlimit.request_log WHERE at > now() - interval '1 hour'
			 AND tableoid = 'tierlimit.request_log_default'::regclass", $kind),
		'0', "$kind: into the partition of the day");
	is(sums_differ($kind), '', "$kind: sums are those of the log");

	# Later days get their partitions, and old ones go.
	sql("SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date + 10);
		SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date - 100);
		UPDATE tierlimit.log_state SET dropped_at = now() - interval '1 day'", $kind);
	is(sql("SELECT tierlimit._drop_old_log('62 days', '0') FROM generate_series(1, 3)", $kind),
		"t\nt\nf", "$kind: an old partition is dropped, and old rows");
	is(sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'tierlimit.request_log'::regclass", $kind),
		'5', "$kind: others are kept");
}

$node->stop;
done_testing();
