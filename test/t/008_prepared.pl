# A change that is prepared is not in force before COMMIT PREPARED, and is in
# force then, whatever happens in between: calls, and restarts that forget which
# keys it has changed.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node('max_prepared_transactions = 5');

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('small'), ('big'), ('doomed');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('small', 'hour', '1 hour', 1000), ('big', 'hour', '1 hour', 2000),
	('doomed', 'hour', '1 hour', 3000);
SQL

# What calls of the three keys that a prepared transaction changes are told, by
# "limit": asked for twice, since the first may read what the second remembers.
my $answers = q{SELECT string_agg(coalesce("limit"::text, error), ' ') FROM tierlimit.check_many(
	'{changed,inserted,deleted,changed,inserted,deleted}')};
my $before = join(' ', ('1000', 'API_KEY_INVALID', '3000') x 2);
my $after = join(' ', ('2000', '5000', 'API_KEY_INVALID') x 2);

my $change = q{
BEGIN;
UPDATE tierlimit.api_key SET tier = 'big' WHERE name = 'changed';
DELETE FROM tierlimit.api_key WHERE name = 'deleted';
DELETE FROM tierlimit.tier WHERE name = 'doomed';
INSERT INTO tierlimit.tier VALUES ('new');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('new', 'hour', '1 hour', 5000);
INSERT INTO tierlimit.api_key (name, tier) VALUES ('inserted', 'new');
};

# One session remembers things from before, another is new each time.
my $session;

sub expect
{
	my ($expected, $test) = @_;
	$session //= $node->background_psql('postgres', on_error_stop => 0);
	is($session->query_safe($answers), $expected, $test);
	is(sql($answers), $expected, "$test, in a new session");
}

sub restart
{
	my ($mode) = @_;
	$session->quit;
	undef $session;
	$node->stop($mode);
	$node->start;
}

my %between = (
	'nothing' => sub { },
	'calls' => sub { expect($before, 'prepared, calls, in force before') },
	'a restart' => sub { restart('fast') },
	'a crash and calls' => sub {
		restart('immediate');
		expect($before, 'prepared, a crash, in force after it');
		sql("INSERT INTO tierlimit.api_key (name, tier) VALUES ('unrelated', 'small')");
		expect($before, 'prepared, a crash and a change of another key, in force after it');
		sql("DELETE FROM tierlimit.api_key WHERE name = 'unrelated'");
	},
	'calls, a restart and calls' => sub {
		expect($before, 'prepared, calls, a restart, in force before it');
		restart('fast');
		expect($before, 'prepared, calls, a restart, in force after it');
	});

for my $end ('COMMIT PREPARED', 'ROLLBACK PREPARED')
{
	for my $between (sort keys %between)
	{
		my $test = "prepared, $between, $end";

		sql(<<'SQL');
DELETE FROM tierlimit.api_key;
INSERT INTO tierlimit.tier VALUES ('doomed') ON CONFLICT DO NOTHING;
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
	VALUES ('doomed', 'hour', '1 hour', 3000) ON CONFLICT DO NOTHING;
DELETE FROM tierlimit.tier WHERE name = 'new';
INSERT INTO tierlimit.api_key (name, tier) VALUES ('changed', 'small'), ('deleted', 'doomed');
SQL
		expect($before, "$test: before");
		is($session->query_safe("$change$answers"), $after, "$test: its own transaction");
		$session->query_safe("PREPARE TRANSACTION 'change'");
		$between{$between}->();
		sql("$end 'change'");
		expect($end =~ /^COMMIT/ ? $after : $before, "$test: after");
	}
}

# When it is over, keys are remembered again: a call reads no table.
is( sql("SELECT count(*) FROM tierlimit.check('changed');
		 BEGIN;
		 SELECT error_code FROM tierlimit.check('changed');
		 SELECT count(*) FROM pg_locks
		 WHERE pid = pg_backend_pid() AND relation = 'tierlimit.api_key'::regclass;
		 COMMIT"),
	"1\n0\n0",
	'no transaction is prepared any more: keys are remembered again');

$session->quit;
$node->stop;
done_testing();
