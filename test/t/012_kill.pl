# Crashes: what was admitted in sessions with tierlimit.durability = sync is in
# the log, once; of others, no more is lost than what is younger than
# flush_interval and the round that was being written.
#
# TIERLIMIT_CRASH_ROUNDS says how often each kind of crash happens.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::Bin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TierlimitTest;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{TIERLIMIT_CRASH_ROUNDS} // 3;

# Milliseconds: the setting, and what we grant a round of writing.
my $flush_interval = 100;
my $patience = 900;

my $node = start_node(<<CONF);
tierlimit.flush_interval = $flush_interval
restart_after_crash = on
log_statement = none
CONF

my $past = sql("SELECT date_trunc('hour', now()) - interval '10 days'");
my $max = 300 * $rounds;
sql(<<SQL);
CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('tight'), ('wide');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit) VALUES
	('tight', 'day', '1 day', $max, 'requests'),
	('wide', 'hour', '1 hour', 100000000, 'requests'), ('wide', 'day', '1 day', 100000000, 'credits');
SQL

# Kill the postmaster; its server can start again when all its processes have
# noticed.
sub kill_postmaster
{
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

	$node->kill9;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		usleep(100_000);
		return if !kill(0, $pid) && $node->start(fail_ok => 1);
	}
	die 'the server does not start';
}

my %crash = (
	'immediate stop' => sub {
		$node->stop('immediate');
		$node->start;
	},
	'killed session' => sub {
		kill_process('KILL', sql("SELECT max(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"));
	},
	'killed log writer' => sub { kill_process('KILL', worker_pid()) },
	'killed postmaster' => \&kill_postmaster);

# What the sessions were told, over all rounds: id => time.  Lost: those that
# did not wait for the disk, and are not in the log.
my (%admitted, %lost);

for my $round (1 .. $rounds)
{
	for my $kind (sort keys %crash)
	{
		my $test = "$kind $round";
		my $name = $test =~ s/ /_/gr;

		# Some wait for the disk, or none: then nobody else hurries the writer.
		# Another one calls at a time whose hours are summed up already.
		my @callers = start_callers("async_$name", 2, 'SET tierlimit.durability = async');
		push @callers, start_callers("sync_$name", 2, 'SET tierlimit.durability = sync')
		  if $round % 2;
		push @callers, start_callers("past_$name", 1, "SET tierlimit.now = '$past'");

		my $admitted = sql('SELECT admitted FROM tierlimit.stat');
		wait_until("SELECT admitted > $admitted + 500 FROM tierlimit.stat");
		usleep(rand(300_000));
		my $crashed = time;
		$crash{$kind}->();
		my %now = finish_callers(@callers);
		wait_until('SELECT true');

		my %logged;
		$logged{$_}++ for split /\n/,
		  sql('SELECT request_id FROM tierlimit.request_log WHERE error_code = 0');
		my @missing = grep { !$logged{$_} && !$lost{$_} } keys %admitted, keys %now;
		is(scalar(grep { /^sync/ } @missing), 0, "$test: of what waited for the disk, nothing is lost");
		is(scalar(grep { /^async/ && $now{$_} < $crashed - ($flush_interval + $patience) / 1000 } @missing),
			0, "$test: no call is lost that was over for long");
		is(scalar(grep { !exists $now{$_} } @missing), 0, "$test: nor one from before");
		is(scalar(grep { $_ > 1 } values %logged), 0, "$test: none is logged twice");
		is(differences(), '', "$test: usage is the sum of the log");
		is(sums_differ(), '', "$test: hours that are summed up are the log's");

		%admitted = (%admitted, %now);
		$lost{$_} = 1 for @missing;
		note "$test: ", scalar(keys %now), ' admitted, ', scalar(@missing), ' lost';
	}
}

# The key 'tight' was called by every other call.
my $tight = grep { /^a?sync.*-(\d+)$/ && $1 % 2 } keys %admitted;
my $lost = grep { /^async.*-(\d+)$/ && $1 % 2 } keys %lost;
cmp_ok($tight, '<=', $max + $lost, "a full key: more than $max were not admitted, beyond the $lost that were lost");
cmp_ok($tight, '>=', $max / 2, 'a full key: many were');

$node->stop;
done_testing();
