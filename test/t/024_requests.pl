# A request_id charges once: whoever has forgotten it, and however often it comes
# at a time; and once again only when the call was given back.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;

my $node = start_node("log_statement = none\ntierlimit.memory = 2MB", allows_streaming => 1, name => 'primary');

sql(<<'SQL');
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES ('wide', 'day', '1 day', 1000000);
SQL

# once(KEY, ID): a call that may be repeated.
sub once
{
	my ($key, $id, $database) = @_;
	return sql("SELECT allowed, repeated FROM tierlimit.check('$key', 'wide', 1, '/x', '$id')", $database);
}

sub used
{
	my ($key, $database) = @_;
	return sql("SELECT used FROM tierlimit.usage('$key', 'wide')", $database);
}

#
# An empty one is none, and it belongs to one call
#

is(once('empty', '') . once('empty', ''), 't|ft|f', 'an empty id is none');
is(once('same', 'a'), 't|f', 'a call');
is(once('same', 'a'), 't|t', 'is answered again');
like(error_of("SELECT tierlimit.check('same', 'wide', 2, '/x', 'a')"), qr/ERROR:  22023: .*DETAIL: .*cost/s, 'with another cost it is another call');
like(error_of("SELECT tierlimit.check('same', 'wide', 1, '/y', 'a')"), qr/ERROR:  22023: .*DETAIL: .*endpoint/s, 'with another endpoint, too');
is(used('same'), '1', 'nothing is charged for these');

#
# An answer in memory is that of a call that is counted: whatever has become of its key
# since, and whether or not who was given something back is in memory
#

sql(<<'SQL');
INSERT INTO tierlimit.tier VALUES ('anonymous'), ('open');
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('leaves', 'wide', 'acme'), ('stays', 'wide', 'acme'),
	('enters', 'wide', NULL), ('goes', 'wide', NULL);
SQL
my $leave = "UPDATE tierlimit.api_key SET account = NULL WHERE name = 'leaves'";
for my $case (
	[ 'leaves', "SELECT tierlimit.refund('leaves'); $leave" ],
	[ 'leaves', "SELECT tierlimit.reset('stays'); $leave" ],
	[ 'leaves', "$leave; SELECT tierlimit.reset('stays')" ],
	[ 'enters', "SELECT tierlimit.refund('enters'); UPDATE tierlimit.api_key SET account = 'acme' WHERE name = 'enters'" ],
	[ 'goes', "DELETE FROM tierlimit.api_key WHERE name = 'goes'" ])
{
	my ($key, $what) = @$case;
	my $id = "id of $what" =~ s/'//gr;

	sql("UPDATE tierlimit.api_key SET account = 'acme' WHERE name = 'leaves'");
	is(once($key, $id), 't|f', "$what: a call");
	sql($what);
	is(once($key, $id), 't|f', "$what: charged again");
	is(once($key, $id), 't|t', "$what: once");
}

# So many keys that, when others need the memory, some go whose answers stay.
my $each = "FROM generate_series(1, 300) i, tierlimit.check('short ' || i, 'wide', request_id => '%s')";
my $evict = "SELECT count(*) FROM generate_series(1, 6000) i, tierlimit.check('evicts %s ' || i, 'wide')";
my $back = "SELECT sum(tierlimit.refund('short ' || i)) FROM generate_series(1, 300) i";
my $delete = "DELETE FROM tierlimit.api_key WHERE name LIKE 'short %'";
for my $case ([ 'refund, eviction', $back, $evict ], [ 'eviction, deletion', $evict, $delete ])
{
	my ($test, @do) = @$case;

	sql("INSERT INTO tierlimit.api_key (name, tier) SELECT 'short ' || i, 'wide' FROM generate_series(1, 300) i");
	sql("SELECT count(*) " . sprintf $each, $test);
	sql($_ =~ s/%s/$test/r) for @do;
	is(sql("SELECT count(*) FILTER (WHERE repeated), count(*) " . sprintf $each, $test), '0|300', "$test: charged again");
	sql($delete);
}
for my $case ([ '192.0.2.7', "authorize(NULL, ip => '192.0.2.7'" ], [ 'unlimited', "check('unlimited', 'open'" ])
{
	my ($name, $call) = @$case;
	my $once = "SELECT allowed, repeated FROM tierlimit.$call, request_id => 'no limits')";

	is(sql($once), 't|f', "$name, which no limit counts: a call");
	sql("SELECT tierlimit.refund('$name')");
	is(sql($once), 't|f', "$name, which no limit counts: charged again");
	is(sql($once), 't|t', "$name, which no limit counts: once");
}
sql("DELETE FROM tierlimit.api_key; DELETE FROM tierlimit.tier WHERE name = 'anonymous'");

#
# Nobody remembers the answer: memory is full of others
#

is(once('many', "id 1"), 't|f', 'full: a call');
sql("SELECT count(*) FROM generate_series(1, 30000) i, tierlimit.check('many ' || i % 100, 'wide', 1, '/x', 'id ' || i)");
is(once('many', "id 1"), 't|t', 'full: is known by the log');
is(once('many', "id 2"), 't|f', 'full: another one is new');
is(sql("SELECT count(*) FROM generate_series(1, 30000) i, tierlimit.check('many ' || i % 100, 'wide', 1, '/x', 'id ' || i) d WHERE repeated"),
	'30000', 'full: all are known');
like(error_of("SELECT tierlimit.check('many 7', 'wide', 5, '/x', 'id 7')"), qr/22023/, 'full: another cost is noticed');
cmp_ok(sql('SELECT memory_used FROM tierlimit.stat'), '<=', 2 * 1024 * 1024, 'full: memory is bounded');

#
# Many at a time
#

my @callers = map { call_in_background("at once $_", join '', map { "SELECT d.* FROM tierlimit.check('at once', 'wide', 1, '/x', 'at once $_') d;\n" } 1 .. 500) } 1 .. 4;
$_->{psql}->finish for @callers;
is(used('at once'), '500', 'at once: each is charged once');

#
# After a restart, a promotion, in a copy of the database
#

$node->restart;
is(once('same', 'a'), 't|t', 'after a restart: it is known');
is(once('same', 'b'), 't|f', 'after a restart: another one is new');

# So is one that was admitted by a clock that was ahead, while its row is brought to now,
# since another call found it to be later.
sql("SET tierlimit.now = '" . sql("SELECT now() + interval '1 hour'") . "'; SELECT tierlimit.check('ahead', 'wide', request_id => 'a')");
$node->restart;
# (from now on the log need not be written further than to here)
once('another', 'before it');
is(sql("SELECT allowed FROM tierlimit.check('ahead', 'wide'); SELECT allowed, repeated FROM tierlimit.check('ahead', 'wide', request_id => 'a')"),
	"t\nt|t", 'after a restart: a call is known that was later than now');
is(used('ahead'), '2', 'after a restart: it is charged once');

# A call of before is not known any more as soon as it is given back, although that is
# not written yet: whoever it is that counts it, and whatever its key has become since.
sql("INSERT INTO tierlimit.tier VALUES ('anonymous');
	INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('alone', 'wide', NULL), ('of account', 'wide', 'acme'), ('leaves', 'wide', 'acme')");
my %callers = (
	'alone' => [ 'alone', "check('alone'" ], 'of account' => [ 'of account', "check('of account'" ],
	'leaves' => [ 'leaves', "check('leaves'" ], 'anonymous' => [ '192.0.2.3', "authorize(NULL, ip => '192.0.2.3'" ]);
for my $caller (sort keys %callers)
{
	my ($name, $call) = @{ $callers{$caller} };
	my $moves = $caller eq 'leaves' ? "UPDATE tierlimit.api_key SET account = NULL WHERE name = 'leaves';" : '';

	for my $back ("refund('$name', request_id => 'named')", "refund('$name')", "reset('$name')")
	{
		my $id = $back =~ /named/ ? 'named' : $back =~ /refund/ ? 'unnamed' : 'reset';
		my $once = "SELECT allowed, repeated FROM tierlimit.$call, request_id => '$id')";

		sql("UPDATE tierlimit.api_key SET account = 'acme' WHERE name = 'leaves'");
		is(sql($once), 't|f', "$back: a call");
		$node->restart;
		once('another', "after $caller $id");
		is(sql("SELECT tierlimit.$back; $moves $once") =~ s/^\d*\n//r, 't|f', "$back after a restart: known at once");
		is(sql($once), 't|t', "$back after a restart: it is charged once");
	}
}
sql('SELECT tierlimit.log_flush()');
wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer'");
sql('CREATE DATABASE copy TEMPLATE postgres');
is(once('same', 'b', 'copy'), 't|t', 'in a copy: it is known');
is(once('same', 'c', 'copy'), 't|f', 'in a copy: another one is new');
is(once('same', 'c'), 't|f', 'in a copy: which the source does not know');

# The standby has been up for longer than an id is known.
$node->append_conf('postgresql.conf', "tierlimit.request_memory = '3s'");
$node->reload;
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'hot_standby = on');
$standby->start;
sleep 4;
is(once('promoted', 'a'), 't|f', 'before a promotion: a call');
sql('SELECT tierlimit.log_flush()');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
$node->stop('immediate');
$standby->append_conf('postgresql.conf', "tierlimit.request_memory = '1min'");
$standby->promote;
use_node($standby);
$standby->reload;
is(once('promoted', 'a'), 't|t', 'after a promotion: it is known');
is(once('promoted', 'b'), 't|f', 'after a promotion: another one is new');
is(once('promoted', 'b'), 't|t', 'after a promotion: and known from then on');
is(differences(), '', 'after a promotion: usage is the sum of the log');

# What was given back before is of another call with that id.
$standby->append_conf('postgresql.conf', "tierlimit.request_memory = '6s'");
$standby->reload;
is(once('again', 'a'), 't|f', 'given back: a call');
sleep 3;
is(sql("SELECT tierlimit.refund('again', request_id => 'a')"), '1', 'given back: it is');
is(once('again', 'a'), 't|f', 'given back: it is charged again');
sleep 4;
sql("SELECT tierlimit.check('again', 'wide'), tierlimit.refund('again')");
is(once('again', 'a'), 't|t', 'given back: and known, also when the first one is forgotten');
is(used('again'), '1', 'given back: one is counted');

# When the setting grows, what was forgotten is asked for in the log.
$standby->append_conf('postgresql.conf', "tierlimit.request_memory = '1s'");
$standby->reload;
is(once('setting', 'a'), 't|f', 'short memory: a call');
sleep 2;
is(once('setting', 'other'), 't|f', 'short memory: another one');
is(once('setting', 'a'), 't|f', 'short memory: it is forgotten');
$standby->append_conf('postgresql.conf', "tierlimit.request_memory = '1h'");
$standby->reload;
is(once('setting', 'a'), 't|t', 'long memory: it is known');
is(once('setting', 'other'), 't|t', 'long memory: the other one, too');

$standby->stop;
done_testing();
