# Changes of the configuration that arrive by replication, logical or physical,
# bind the next call where they are applied.  What the replicated log holds is
# counted there.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $preload = "shared_preload_libraries = 'tierlimit'";

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', $preload);
$primary->start;
$primary->safe_psql('postgres', <<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('small');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('small', 'hour', '1 hour', 100);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'small'), ('gone', 'small');
SQL

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->append_conf('postgresql.conf', $preload);
$subscriber->start;
$subscriber->safe_psql('postgres', <<'SQL');
CREATE EXTENSION tierlimit;
TRUNCATE tierlimit.error_code CASCADE;
SQL

# One session on each replica stays, with what it remembers.
my $on_standby = $standby->background_psql('postgres', on_error_stop => 0);
my $on_subscriber = $subscriber->background_psql('postgres', on_error_stop => 0);

my $asked = "'{acme,gone,new}'::text[]";
my %ask = (
	$on_standby => "SELECT string_agg(concat_ws(' ', p.error, p.\"limit\"), ', ')
		FROM unnest($asked) key, tierlimit.peek(key) p",
	$on_subscriber => "SELECT string_agg(concat_ws(' ', error, \"limit\"), ', ')
		FROM tierlimit.check_many($asked)");

# Wait until the replicas have all that was committed on the primary; what each
# is told there then, twice: the second call may find what the first remembered.
sub expect
{
	my ($expected, $test) = @_;
	$primary->wait_for_catchup($standby);
	$primary->wait_for_catchup('sub');
	for ([ $on_subscriber, 'subscriber' ], [ $on_standby, 'standby' ])
	{
		my ($session, $name) = @$_;
		is($session->query_safe($ask{$session}), $expected, "$name: $test") for 1 .. 2;
	}
}

is( $on_subscriber->query_safe($ask{$on_subscriber}),
	join(', ', ('ERROR_1001') x 3),
	'subscriber: before the subscription no key is known');

$primary->safe_psql('postgres', 'CREATE PUBLICATION pub FOR TABLE
	tierlimit.tier, tierlimit.tier_limit, tierlimit.error_code, tierlimit.api_key');
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION sub CONNECTION '" . $primary->connstr . " dbname=postgres' PUBLICATION pub");
$subscriber->wait_for_subscription_sync($primary, 'sub');
expect('100, 100, API_KEY_INVALID', 'what was copied at first');

for my $change (
	[ "key changed", "UPDATE tierlimit.api_key SET status = 'disabled' WHERE name = 'acme'",
		'API_KEY_DISABLED, 100, API_KEY_INVALID' ],
	[ "key changed back", "UPDATE tierlimit.api_key SET status = 'active' WHERE name = 'acme'",
		'100, 100, API_KEY_INVALID' ],
	[ "key inserted", "INSERT INTO tierlimit.api_key (name, tier) VALUES ('new', 'small')",
		'100, 100, 100' ],
	[ "key deleted", "DELETE FROM tierlimit.api_key WHERE name = 'gone'",
		'100, API_KEY_INVALID, 100' ],
	[ "limit changed", "UPDATE tierlimit.tier_limit SET max = 200",
		'200, API_KEY_INVALID, 200' ],
	[ "limit inserted", "INSERT INTO tierlimit.tier_limit (tier, name, period, max)
			VALUES ('small', 'day', '1 day', 50)",
		'50, API_KEY_INVALID, 50' ],
	[ "limit deleted", "DELETE FROM tierlimit.tier_limit WHERE name = 'day'",
		'200, API_KEY_INVALID, 200' ],
	[ "tier, limit and key inserted together", "BEGIN; INSERT INTO tierlimit.tier VALUES ('big');
			INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('big', 'hour', '1 hour', 300);
			UPDATE tierlimit.api_key SET tier = 'big' WHERE name = 'new'; COMMIT",
		'200, API_KEY_INVALID, 300' ],
	[ "tier renamed", "UPDATE tierlimit.tier SET name = 'bigger' WHERE name = 'big'",
		'200, API_KEY_INVALID, 300' ],
	[ "error code changed", "UPDATE tierlimit.error_code SET name = 'WHO' WHERE code = 1001",
		'200, WHO, 300' ],
	[ "limits truncated", "TRUNCATE tierlimit.tier_limit", ', WHO, ' ],
	[ "keys truncated", "TRUNCATE tierlimit.api_key", 'WHO, WHO, WHO' ])
{
	my ($test, $sql, $expected) = @$change;
	$primary->safe_psql('postgres', $sql);
	expect($expected, $test);
}

#
# What a standby answers, and when it is promoted
#

$primary->safe_psql('postgres', <<'SQL');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('small', 'hour', '1 hour', 2);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'small');
SELECT * FROM tierlimit.check('acme');
SELECT tierlimit.log_flush();
SQL
$primary->wait_for_catchup($standby);

for my $call ("check('acme')", "check_many('{acme}')", "refund('acme')", "reset('acme')")
{
	my ($status, $stdout, $stderr) = $standby->psql('postgres',
		"\\set VERBOSITY verbose\nSELECT * FROM tierlimit.$call");
	like($stderr, qr/ERROR:  25006: .*HINT:  .*peek/s, "standby: $call is refused");
}
is( $on_standby->query_safe("SELECT limit_name, \"limit\", used, remaining FROM tierlimit.usage('acme')"),
	'hour|2|1|1', 'standby: usage counts what was logged');
is( $on_standby->query_safe("SELECT allowed, remaining FROM tierlimit.peek('acme')"),
	't|0', 'standby: so does peek');

$primary->stop;
$standby->promote;
is( $on_standby->query_safe("SELECT string_agg(error_code::text, ' ')
		FROM tierlimit.check_many('{acme,acme,acme}')"),
	'0 1008 1008', 'promoted: check goes on counting, in a session that was there before');
$on_standby->query_safe('DELETE FROM tierlimit.api_key');
is( $standby->safe_psql('postgres', "SELECT error FROM tierlimit.check('acme')"),
	'WHO', 'promoted: changes of keys bind');

$_->quit for $on_standby, $on_subscriber;
$_->stop for $standby, $subscriber;
done_testing();
