# However many sessions call at a time, what is admitted is exactly what fits.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('log_statement = none');

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('busy'), ('small'), ('team'), ('credits');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('busy', 'hour', '1 hour', 1500, 'requests'), ('busy', 'day', '1 day', 5000, 'requests'),
	('small', 'hour', '1 hour', 40, 'requests'), ('small', 'day', '1 day', 50, 'requests'),
	('team', 'hour', '1 hour', 300, 'requests'),
	('credits', 'hour', '1 hour', 1000, 'credits'), ('credits', 'day', '1 day', 1500, 'requests');
INSERT INTO tierlimit.api_key (name, tier, account)
	SELECT 'member ' || i, 'team', 'family' FROM generate_series(1, 10) i;
CREATE TABLE admitted (key text);
SQL

# Run a statement 32 sessions at a time, as often in each; returns the increase
# of the counters: "admitted denied".
sub stampede
{
	my ($name, $times, $statement) = @_;
	my $counters = 'SELECT admitted, denied FROM tierlimit.stat';
	my ($admitted, $denied) = split(/\|/, sql($counters));

	sql('TRUNCATE admitted');
	$node->pgbench(
		"-n -c 32 -j 2 -t $times", 0,
		[qr{actually processed: \d+/\d+}], [qr{^$}],
		"$name: pgbench runs", { ($name =~ s/ /_/gr) . '.sql' => $statement });

	my ($admitted_now, $denied_now) = split(/\|/, sql($counters));
	return ($admitted_now - $admitted) . ' ' . ($denied_now - $denied);
}

my $rows = 'SELECT count(*) FROM admitted';

is( stampede('one key', 50,
		"INSERT INTO admitted SELECT key FROM tierlimit.check('one', 'busy') WHERE allowed"),
	'1500 100',
	'one key: each call is either admitted or denied');
is(sql($rows), '1500', 'one key: as many calls are admitted as fit');
is(sql("SELECT used FROM tierlimit.usage('one', 'busy')"),
	"1500\n1500", 'one key: usage is what was admitted, in both windows');

is( stampede('hundred keys', 2, <<'SQL'),
INSERT INTO admitted
	SELECT c.key
	FROM (SELECT i FROM generate_series(1, 100) i ORDER BY random()) n,
		tierlimit.check('hundred ' || i, 'small') c
	WHERE c.allowed;
SQL
	'4000 2400',
	'hundred keys: each call is either admitted or denied');
is( sql('SELECT count, count(*)
		 FROM (SELECT count(*) FROM admitted GROUP BY key) a GROUP BY count'),
	'40|100',
	'hundred keys: as many calls are admitted of each as fit');
is( sql("SELECT DISTINCT used
		 FROM generate_series(1, 100) i, tierlimit.usage('hundred ' || i, 'small')"),
	'40',
	'hundred keys: usage is what was admitted, in both windows');

is( stampede('one account', 20, <<'SQL'),
\set member random(1, 10)
INSERT INTO admitted SELECT key FROM tierlimit.check('member ' || :member) WHERE allowed;
SQL
	'300 340',
	'one account: each call is either admitted or denied');
is(sql($rows), '300', 'one account: its keys together get what fits');
is(sql("SELECT DISTINCT used
		FROM generate_series(1, 10) i, tierlimit.usage('member ' || i)"),
	'300', 'one account: each key shows the usage of all');

is( stampede('credits', 5,
		"INSERT INTO admitted SELECT key FROM tierlimit.check('rich', 'credits', 7) WHERE allowed"),
	'142 18',
	'credits: each call is either admitted or denied');
is(sql("SELECT used FROM tierlimit.usage('rich', 'credits')"),
	"994\n142", 'credits: calls and credits are those admitted');

#
# Sessions that call while the tiers change
#

sql(<<'SQL');
INSERT INTO tierlimit.tier VALUES ('red');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('red', 'hour', '1 hour', 100000);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('red or black', 'red');
SQL
$node->pgbench(
	'-n -c 8 -j 2 -t 400', 0,
	[qr{actually processed: 3200/3200}], [qr{^$}],
	'tier renamed again and again: each call finds it',
	{
		'call.sql@9' => "SELECT 1 / allowed::int FROM tierlimit.check('red or black');",
		'rename.sql@1' => q{
			UPDATE tierlimit.tier SET name = CASE name WHEN 'red' THEN 'black' ELSE 'red' END
			WHERE name IN ('red', 'black') AND pg_try_advisory_xact_lock(1);}
	});

$node->stop;
done_testing();
