# A change of the configuration binds its own transaction at once, every other
# session's next call from the commit on, and nobody if it is rolled back.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node;

# answer(): what a call of a key is told, in short.
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION tierlimit;
CREATE FUNCTION answer(key text, tier text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT concat_ws(' ', c.error, c.tier, c."limit") FROM tierlimit.check(key, tier) c);
EXCEPTION WHEN undefined_object THEN
	RETURN SQLERRM;
END $$;
INSERT INTO tierlimit.tier VALUES ('small'), ('big');
INSERT INTO tierlimit.tier_limit (tier, name, period, max)
	VALUES ('small', 'hour', '1 hour', 1000), ('big', 'hour', '1 hour', 2000);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('other', 'small', 'used up');
SELECT count(*) FROM tierlimit.check_many(array_fill('other'::text, '{1000}'));
SQL

my $writer = $node->background_psql('postgres', on_error_stop => 0);
my $other = $node->background_psql('postgres', on_error_stop => 0);
my $old = $node->background_psql('postgres', on_error_stop => 0);

# Make a change in all ways that a transaction can end. Calls are answered
# 'before' until it binds the caller, and 'after' from then on. Each is asked
# for twice: the first call may read what the next one finds in memory.
sub changes
{
	my ($what, $ask, $before, $change, $after) = @_;
	my $expect = sub {
		my ($moment, $own, $others) = @_;
		my $got = join(', ',
			map { $_->query_safe("SELECT $ask"), $_->query_safe("SELECT $ask") }
			  $writer, $other, $old);
		is($got, join(', ', ($own) x 2, ($others) x 4), "$what: $moment");
	};

	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
	$expect->('before', $before, $before);

	$writer->query_safe('BEGIN');
	$writer->query_safe($change);
	$expect->('uncommitted', $after, $before);
	$writer->query_safe('ROLLBACK');
	$expect->('rolled back', $before, $before);

	$writer->query_safe('BEGIN; SAVEPOINT s');
	$writer->query_safe($change);
	$expect->('in a savepoint', $after, $before);
	$writer->query_safe('ROLLBACK TO s');
	$expect->('rolled back to the savepoint', $before, $before);
	$writer->query_safe('COMMIT');
	$expect->('committed without the savepoint', $before, $before);

	$writer->query_safe('BEGIN; SAVEPOINT s');
	$writer->query_safe($change);
	$writer->query_safe('RELEASE s');
	$expect->('savepoint released', $after, $before);
	$writer->query_safe('COMMIT');
	$expect->('committed', $after, $after);
	$old->query_safe('COMMIT');
	$expect->('in later transactions', $after, $after);
}

my $key = "UPDATE tierlimit.api_key";
my $limit = "UPDATE tierlimit.tier_limit SET";
my $bare = 'small 1000';
my $full = 'API_KEY_PLAN_MINUTE_RATE_LIMIT_REACHED';

#
# Keys
#

changes('key inserted', "answer('k')", 'API_KEY_INVALID',
	"INSERT INTO tierlimit.api_key (name, tier) VALUES ('k', 'small')", $bare);
changes("key's tier changed", "answer('k')", $bare,
	"$key SET tier = 'big' WHERE name = 'k'", 'big 2000');
changes('key disabled', "answer('k')", 'big 2000',
	"$key SET status = 'disabled' WHERE name = 'k'", 'API_KEY_DISABLED big');
changes('key enabled and put into an account', "answer('k')", 'API_KEY_DISABLED big',
	"$key SET status = 'active', tier = 'small', account = 'used up' WHERE name = 'k'",
	"$full small 1000");
changes('key replaced by another', "answer('k') || '/' || answer('l')",
	"$full small 1000/API_KEY_INVALID",
	"DELETE FROM tierlimit.api_key WHERE name = 'k';
	 INSERT INTO tierlimit.api_key (name, tier) VALUES ('l', 'small')",
	"API_KEY_INVALID/$bare");
changes('key expired', "answer('l')", $bare,
	"$key SET expires_at = now() WHERE name = 'l'", 'API_KEY_PLAN_PAYMENT_EXPIRED small');
changes('key changed behind the back of the trigger', "answer('l')",
	'API_KEY_PLAN_PAYMENT_EXPIRED small',
	"ALTER TABLE tierlimit.api_key DISABLE TRIGGER changed;
	 $key SET expires_at = NULL WHERE name = 'l';
	 ALTER TABLE tierlimit.api_key ENABLE ALWAYS TRIGGER changed", $bare);
changes('key deleted', "answer('l')", $bare,
	"DELETE FROM tierlimit.api_key WHERE name = 'l'", 'API_KEY_INVALID');

# TRUNCATE keeps all others waiting until it is decided.
is($other->query_safe("SELECT answer('other')"),
	"$full small 1000", 'keys truncated: before');
is($writer->query_safe("BEGIN; TRUNCATE tierlimit.api_key; SELECT answer('other')"),
	'API_KEY_INVALID', 'keys truncated: uncommitted');
$writer->query_safe('ROLLBACK');
is($other->query_safe("SELECT answer('other')"),
	"$full small 1000", 'keys truncated: rolled back');
$writer->query_safe('TRUNCATE tierlimit.api_key');
is($other->query_safe("SELECT answer('other')"),
	'API_KEY_INVALID', 'keys truncated: committed');

#
# Tiers, limits and error codes
#

changes('tier inserted', "answer('k', 'new')", 'tier "new" does not exist',
	"INSERT INTO tierlimit.tier VALUES ('new')", 'new');
changes('limit inserted', "answer('k', 'new')", 'new',
	"INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('new', 'day', '1 day', 1000)",
	'new 1000');
changes("limit's max changed", "answer('k', 'new')", 'new 1000',
	"$limit max = 0 WHERE tier = 'new'", 'API_KEY_PLAN_DAILY_RATE_LIMIT_REACHED new 0');
changes('limit given an error code', "answer('k', 'new')",
	'API_KEY_PLAN_DAILY_RATE_LIMIT_REACHED new 0',
	"INSERT INTO tierlimit.error_code VALUES (2000, 429, 'SLOW', '', '');
	 $limit error_code = 2000 WHERE tier = 'new'", 'SLOW new 0');
changes('error code changed', "answer('k', 'new')", 'SLOW new 0',
	"UPDATE tierlimit.error_code SET code = 2001, name = 'SLOWER' WHERE code = 2000", 'SLOWER new 0');
changes('limit made a shadow', "answer('k', 'new')", 'SLOWER new 0',
	"$limit enforce = false WHERE tier = 'new'", 'new 0');
changes('limit deleted', "answer('k', 'new')", 'new 0',
	"DELETE FROM tierlimit.tier_limit WHERE tier = 'new'", 'new');
changes('tier inserted together with a key of it', "answer('m')", 'API_KEY_INVALID',
	"INSERT INTO tierlimit.tier VALUES ('newer');
	 INSERT INTO tierlimit.api_key (name, tier) VALUES ('m', 'newer')", 'newer');
changes('tier renamed', "answer('m') || '/' || answer('k', 'newer')", 'newer/newer',
	"UPDATE tierlimit.tier SET name = 'newest' WHERE name = 'newer'",
	'newest/tier "newer" does not exist');
changes('tier deleted', "answer('k', 'new')", 'new',
	"DELETE FROM tierlimit.tier WHERE name = 'new'", 'tier "new" does not exist');
changes('error code deleted', "answer('nobody')", 'API_KEY_INVALID',
	'DELETE FROM tierlimit.error_code WHERE code = 1001', 'ERROR_1001');

#
# In memory
#

# Whether a session's call reads the table api_key.
sub reads
{
	my ($session) = @_;
	return $session->query_safe(q{
		BEGIN;
		SELECT FROM tierlimit.check('m');
		SELECT EXISTS (SELECT FROM pg_locks
			WHERE pid = pg_backend_pid() AND relation = 'tierlimit.api_key'::regclass);
		COMMIT}) =~ /t$/;
}

$writer->query_safe("$key SET tier = 'small' WHERE name = 'm'");
ok(reads($other), 'a change: the first call after it reads the row of its key');
ok(!reads($writer), 'a change: the next one finds it in memory, also in another session');
$writer->query_safe("BEGIN; SAVEPOINT s; $key SET tier = 'big' WHERE name = 'm'; ROLLBACK TO s; COMMIT");
ok(reads($other), 'a change rolled back: the first call after it reads the row of its key');
ok(!reads($old), 'a change rolled back: the next one finds it in memory');

$_->quit for $writer, $other, $old;
$node->stop;
done_testing();
