# Without shared_preload_libraries, configuration can be prepared, and all that
# counts says what is missing; with it, the settings do what they say.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = use_node(PostgreSQL::Test::Cluster->new('main'));
$node->init;
$node->start;

#
# Not preloaded
#

sql('CREATE EXTENSION tierlimit');
pass('not preloaded: CREATE EXTENSION works');

my $decision = '(t,,,,0,,200,k,,,1,2026-01-01 00:00:00+00,,f)';
for my $call (
	"check('k', 'small')", "check_many('{k}', 'small')",
	"peek('k', 'small')",  "refund('k')",
	"reset('k')",          "usage('k', 'small')",
	"headers('$decision')", "status('$decision')",
	"_stat_counters()",    "stat_reset()")
{
	like(
		error_of("SELECT * FROM tierlimit.$call"),
		qr/ERROR:  55000: .*HINT:  .*shared_preload_libraries = 'tierlimit'/s,
		"not preloaded: $call says which line to add");
}

sql(<<'SQL');
LOAD 'tierlimit';
INSERT INTO tierlimit.tier VALUES ('small'), ('none'), ('gone');
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
	VALUES ('small', 'hour', '1 hour', 5), ('none', 'hour', '1 hour', 0);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('truncated', 'gone');
TRUNCATE tierlimit.api_key;
INSERT INTO tierlimit.api_key (name, tier) VALUES ('acme', 'gone');
SELECT tierlimit.create_key('deleted', 'gone');
UPDATE tierlimit.api_key SET tier = 'small', billing_timezone = 'Europe/Vienna' WHERE name = 'acme';
DELETE FROM tierlimit.api_key WHERE name = 'deleted';
UPDATE tierlimit.tier_limit SET max = 3 WHERE tier = 'small';
DELETE FROM tierlimit.tier WHERE name = 'gone';
INSERT INTO tierlimit.error_code (code, http_status, name, message)
	VALUES (2000, 429, 'SLOW_DOWN', 'Slow down.');
SQL
is( sql("SELECT name, tier FROM tierlimit.api_key"),
	'acme|small', 'not preloaded: configuration can be changed');
like(
	error_of("UPDATE tierlimit.api_key SET billing_timezone = 'Nowhere/Land'"),
	qr/ERROR:  22023: /,
	'not preloaded: a wrong time zone is refused');

#
# Preloaded
#

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'tierlimit'");
$node->restart;

is( sql("SELECT string_agg(error_code::text, ' ')
		 FROM tierlimit.check_many(array_fill('acme'::text, '{4}'))"),
	'0 0 0 1008',
	'preloaded: what was configured before is in force');

#
# Settings
#

for my $wrong (
	"tierlimit.memory = '1023kB'", 'tierlimit.window_slots = 15',
	'tierlimit.window_slots = 65537', "tierlimit.enabled = 'perhaps'",
	"tierlimit.now = 'soon'", "tierlimit.now = 'infinity'")
{
	like(error_of("ALTER SYSTEM SET $wrong"),
		qr/ERROR:  22023: /, "setting: $wrong is refused");
}
like(error_of('SET tierlimit.nonsense = 1'),
	qr/ERROR:  42602: /, 'setting: an unknown name is refused');
for my $setting ('memory', 'window_slots')
{
	like(error_of("SET tierlimit.$setting = 2048"),
		qr/ERROR:  55P02: /, "setting: $setting needs a restart");
}
like(error_of('SET tierlimit.enabled = off'),
	qr/ERROR:  55P02: /, 'setting: enabled is not changed by a session');
like(
	error_of("CREATE ROLE plain; SET ROLE plain; SET tierlimit.now = '2026-01-01'"),
	qr/ERROR:  42501: /,
	'setting: now is for superusers only');
is( sql("SET tierlimit.now = '2030-01-02 03:04:05+00'; SET timezone = 'UTC';
		 SELECT decided_at FROM tierlimit.check('later', 'small')"),
	'2030-01-02 03:04:05+00',
	'setting: now replaces the clock');
is( sql("SET tierlimit.now = '2030-01-02 03:04:05+00'; SET tierlimit.now = '';
		 SELECT decided_at BETWEEN statement_timestamp() AND clock_timestamp()
		 FROM tierlimit.check('today', 'small')"),
	't',
	'setting: an empty now is the server\'s clock');

my $session = $node->background_psql('postgres');

# Change tierlimit.enabled, and wait until the session has noticed.
sub enable
{
	my ($value) = @_;
	sql("ALTER SYSTEM SET tierlimit.enabled = $value");
	$node->reload;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if $session->query_safe('SHOW tierlimit.enabled') eq $value;
		select(undef, undef, undef, 0.1);
	}
	die "tierlimit.enabled is not $value";
}

my $used = "SELECT used FROM tierlimit.usage('acme')";
my $counted = 'SELECT checks, admitted, denied FROM tierlimit.stat';
my $before = sql($counted);

enable('off');
is( $session->query_safe(
		"SELECT string_agg(allowed || ' ' || error_code, ',') FROM (VALUES
		 ('acme', NULL), ('new', 'none'), ('unknown', NULL), (NULL, NULL)) v(key, tier),
		 tierlimit.check(v.key, v.tier)"),
	'true 0,true 0,false 1001,false 1002',
	'switched off: all who may call are admitted');
is($session->query_safe($used), '3', 'switched off: usage stays');
is($session->query_safe($counted), $before, 'switched off: nothing is counted');

enable('on');
is( $session->query_safe("SELECT error_code FROM tierlimit.check('acme')"),
	'1008', 'switched on again: limits are in force');
is($session->query_safe($used), '3', 'switched on again: usage is as before');

$session->quit;
$node->stop;
done_testing();
