# What is on its way to the log goes with its database, and with the extension;
# the log writer is in nobody's way for long.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time usleep);

my $node = start_node('log_statement = none');

my $install = <<'SQL';
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('tight'), ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('tight', 'day', '1 day', 100000), ('wide', 'day', '1 day', 1000000);
SQL
sql('CREATE EXTENSION tierlimit');

sub make_database
{
	my ($database) = @_;
	sql("CREATE DATABASE $database");
	sql($install, $database);
	return;
}

#
# Under load
#

make_database('forced');
my @callers = start_callers('forced', 4, 'SET tierlimit.durability = async', 'forced');
wait_until('SELECT admitted > 1000 FROM tierlimit.stat');
my $since = time;
is(error_of('DROP DATABASE forced WITH (FORCE)'), '', 'under load: a database is dropped');
cmp_ok(time - $since, '<', 10, 'under load: in bounded time');
finish_callers(@callers);
wait_until('SELECT log_pending = 0 FROM tierlimit.stat');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tierlimit log writer'"), '0',
	'under load: neither what was to be written nor its log writer stays');

#
# After the load, which the log writer outlives for some seconds
#

make_database('source');
for my $statement ('CREATE DATABASE copy TEMPLATE source', 'ALTER DATABASE source RENAME TO renamed', 'DROP DATABASE renamed')
{
	my $database = $statement =~ /DROP/ ? 'renamed' : 'source';

	@callers = start_callers($statement =~ s/ .*//r, 2, 'SET tierlimit.durability = async', $database);
	my $admitted = sql('SELECT admitted FROM tierlimit.stat');
	wait_until("SELECT admitted > $admitted + 300 FROM tierlimit.stat");
	end_sessions();
	finish_callers(@callers);
	is(error_of($statement), '', "$statement: it only has to wait for a few seconds");
	is(sql('SELECT log_pending FROM tierlimit.stat'), '0', "$statement: all is written by then");
}
my $logged = sql('SELECT sum(requests) FROM tierlimit.request_log', 'copy');
cmp_ok($logged, '>', 300, 'copied database: has the log');
is(differences('copy'), '', 'copied database: usage is the sum of the log');
is(sql("SELECT allowed FROM tierlimit.check('key', 'wide')", 'copy'), 't', 'copied database: goes on counting');
is(differences('copy'), '', 'copied database: and logging');

#
# However seldom it has to write
#

make_database('quiet');
sql("ALTER SYSTEM SET tierlimit.flush_interval = '1min'");
sql('SELECT pg_reload_conf()');
sql("SELECT allowed FROM tierlimit.check('key', 'wide')", 'quiet');
sql('SELECT tierlimit.log_flush()', 'quiet');
is(error_of('DROP DATABASE quiet'), '', 'after a flush: a database can be dropped');
sql('ALTER SYSTEM RESET tierlimit.flush_interval');
sql('SELECT pg_reload_conf()');

#
# DROP EXTENSION
#

my $none = 'SELECT count(*) FROM tierlimit.request_log';

make_database('again');
sql(<<"SQL", 'again');
SELECT tierlimit.check('old', 'wide');
SELECT tierlimit.check('old', 'wide');
DROP EXTENSION tierlimit;
$install
SELECT tierlimit.log_flush();
SQL
is(sql($none, 'again'), '0', 'rows are queued: none of them is in the log of the next one');

sql(<<"SQL", 'again');
SELECT tierlimit.check('warm', 'wide');
SELECT tierlimit.log_flush();
BEGIN;
SELECT tierlimit.check('old', 'wide');
DROP EXTENSION tierlimit;
-- the log writer waits for it
SELECT pg_sleep(1);
$install
COMMIT;
SELECT tierlimit.log_flush();
SQL
is(sql($none, 'again'), '0', 'rows are being written: none of them is in the log of the next one');

sql(<<"SQL", 'again');
SELECT tierlimit.check('nobody');
SELECT pg_sleep(0.5);
DROP EXTENSION tierlimit;
$install
SELECT pg_sleep(2);
SELECT tierlimit.check('new', 'wide');
SELECT tierlimit.log_flush();
SQL
is(sql('SELECT string_agg(key, \',\') FROM tierlimit.request_log', 'again'),
	'new', 'denied rows are held back: none of them is in the log of the next one');
is(sql('SELECT log_pending FROM tierlimit.stat'), '0', 'nothing is pending');

sql(<<"SQL", 'again');
SELECT tierlimit.check('new', 'wide');
BEGIN;
SELECT tierlimit.check('new', 'wide');
DROP EXTENSION tierlimit;
SELECT pg_sleep(1);
ROLLBACK;
SELECT tierlimit.log_flush();
SQL
# (a partition may just be made)
wait_until('SELECT sum(requests) = 3 FROM tierlimit.request_log WHERE key = \'new\'', 't', 'again');
is(sql("SELECT used FROM tierlimit.usage('new', 'wide')", 'again'), '3', 'rolled back drop: nothing is lost');

$node->stop;
done_testing();
