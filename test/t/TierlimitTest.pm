# What the tests in this folder share.
#
#	use FindBin;
#	use lib $FindBin::Bin;
#	use TierlimitTest;

package TierlimitTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_node use_node sql error_of wait_until kill_process worker_pid
  call_in_background start_callers finish_callers end_sessions
  differences sums_differ);

# The server that sql() and error_of() talk to: the one started last, or used.
my $node;

# start_node(CONF, INIT...): a new server with tierlimit, further lines of
# configuration and arguments of init().  Its name is "main", if none is given.
sub start_node
{
	my ($conf, %init) = @_;
	my $name = delete $init{name} // 'main';

	$node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%init);
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'tierlimit'\n" . ($conf // ''));
	$node->start;
	return $node;
}

sub use_node
{
	($node) = @_;
	return $node;
}

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# What the server says, with the SQLSTATE, when it refuses a statement.
sub error_of
{
	my ($sql, $database) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql($database // 'postgres', "\\set VERBOSITY verbose\n$sql");
	return $stderr;
}

# Wait until a query answers with what is expected, "t" if nothing is said.  The
# query is not written to psql, which may have ended before it reads: so it does
# while a server starts that was killed.
sub wait_until
{
	my ($sql, $expected, $database) = @_;
	my ($stdout, $stderr) = ('', '');

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		IPC::Run::run([ 'psql', '-XqAt', '-d', $node->connstr($database // 'postgres'), '-c', $sql ],
			'<', \undef, '>', \$stdout, '2>', \$stderr);
		chomp $stdout;
		return if $stdout eq ($expected // 't') && $stderr eq '';
		usleep(100_000);
	}
	die "in vain: $sql\n$stdout\n$stderr";
}

sub kill_process
{
	my ($signal, $pid) = @_;
	PostgreSQL::Test::Utils::system_log('pg_ctl', 'kill', $signal, $pid) == 0
	  or die "no process $pid";
	return;
}

# The log writer of a database, '' if there is none.
sub worker_pid
{
	my ($database) = @_;
	$database //= 'postgres';
	return sql("SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'tierlimit log writer' AND datname = '$database'");
}

# Start psql with a script; returns it with what it writes: finish() it, then
# look at the files.
sub call_in_background
{
	my ($name, $sql, $database) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name";

	# (tests share the folder, and may have used the name)
	unlink "$file.sql";
	PostgreSQL::Test::Utils::append_to_file("$file.sql", $sql);
	my $psql = IPC::Run::start(
		[ 'psql', '-XqAt', '-d', $node->connstr($database // 'postgres'), '-f', "$file.sql" ],
		'<', \undef, '>', "$file.out", '2>', "$file.err");
	return { psql => $psql, out => "$file.out", err => "$file.err" };
}

# start_callers(NAME, COUNT, SETTINGS, DATABASE): so many sessions that call
# one by one, each call with a request_id of its own; which of them were
# admitted, and when, is known when they have ended: see finish_callers().
# Sessions call ten keys in turn, and every other time the key 'tight'.
sub start_callers
{
	my ($name, $count, $settings, $database) = @_;
	my @callers;

	for my $i (1 .. $count)
	{
		my $script = "$settings;\n";
		for my $n (1 .. 8000)
		{
			my $id = "$name-$i-$n";
			my ($key, $tier) = $n % 2 ? ('tight', 'tight') : ("key $i$n" =~ s/^(key ..).*(.)$/$1$2/r, 'wide');
			$script .= "SELECT '$id', extract(epoch FROM decided_at) FROM tierlimit.check("
			  . "'$key', '$tier', 1, NULL, '$id') WHERE allowed;\n";
		}
		push @callers, call_in_background("$name-$i", $script, $database);
	}
	return @callers;
}

# End all sessions but our own.
sub end_sessions
{
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
	wait_until("SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
	return;
}

# Wait until sessions have ended; returns what was admitted: id => time.
sub finish_callers
{
	my %admitted;

	for my $caller (@_)
	{
		$caller->{psql}->finish;
		for my $line (split /\n/, slurp_file($caller->{out}))
		{
			my ($id, $time) = split /\|/, $line;
			$admitted{$id} = $time if defined $time;
		}
	}
	return %admitted;
}

# How usage() and the log of a database differ: one line for each limit of each
# key or account, '' if nowhere.  Only for limits that count nothing older
# than what was given back.
sub differences
{
	my ($database) = @_;

	sql('SELECT tierlimit.log_flush()', $database);
	return sql('SELECT * FROM tierlimit.verify() WHERE difference <> 0', $database)
	  if sql("SELECT to_regprocedure('tierlimit.verify(text)') IS NOT NULL", $database) eq 't';
	return sql(<<'SQL', $database);
SELECT s.key, s.account, u.limit_name, u.used AS counted, l.logged
FROM (SELECT DISTINCT ON (account, CASE WHEN account IS NULL THEN key END) key, account, tier
		FROM tierlimit.request_log WHERE error_code = 0 AND tier IS NOT NULL
		ORDER BY account, CASE WHEN account IS NULL THEN key END, at DESC) s,
	tierlimit.usage(s.key, s.tier) u, LATERAL (
		SELECT coalesce(sum(CASE u.unit WHEN 'credits' THEN credits ELSE requests END), 0) AS logged
		FROM tierlimit.request_log r
		WHERE error_code = 0 AND at > clock_timestamp() - u.period
			AND (r.account = s.account OR r.account IS NULL AND s.account IS NULL AND r.key = s.key)) l
WHERE u.kind = 'sliding' AND u.used <> l.logged
SQL
}

# How the sums and the rows of the log that they are of differ, '' if they don't:
# those by hours, days and months, and those by answers.
sub sums_differ
{
	my ($database) = @_;
	my $columns = q{
		tierlimit._summed_key(key, tier, error_code) AS key, account, tier, tierlimit._endpoint_pattern(endpoint) AS endpoint,
		coalesce(sum(requests) FILTER (WHERE error_code = 0), 0)::numeric AS requests,
		coalesce(sum(credits) FILTER (WHERE error_code = 0), 0) AS credits,
		coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0)::numeric AS denied
	FROM tierlimit.request_log, tierlimit.log_state WHERE at < summed_until GROUP BY 1, 2, 3, 4, 5};
	my $compared = q{(l.requests, l.credits, l.denied) = (u.requests, u.credits, u.denied)
		AND (l.key, l.account, l.tier, l.endpoint) IS NOT DISTINCT FROM (u.key, u.account, u.tier, u.endpoint)};
	my @differ = map { sql($_, $database) }
		"SELECT * FROM (SELECT date_trunc('hour', at, 'UTC') AS hour, $columns) l
			FULL JOIN tierlimit.usage_hourly u ON l.hour = u.hour AND $compared WHERE l.hour IS NULL OR u.hour IS NULL",
		"SELECT * FROM (SELECT date_trunc('day', at, 'UTC') AS day, $columns) l
			FULL JOIN tierlimit.usage_daily u ON l.day = u.day AND $compared WHERE l.day IS NULL OR u.day IS NULL",
		q{SELECT * FROM (SELECT CASE WHEN at < '4712-01-01 00:00+00 BC' THEN '-infinity' ELSE date_trunc('month', at, 'UTC') END AS month, tierlimit._summed_key(key, tier, error_code) AS key, account, tier,
					coalesce(sum(requests) FILTER (WHERE error_code = 0), 0)::numeric AS requests,
					coalesce(sum(credits) FILTER (WHERE error_code = 0), 0) AS credits,
					coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0)::numeric AS denied
				FROM tierlimit.request_log, tierlimit.log_state WHERE at < summed_until GROUP BY 1, 2, 3, 4) l
			FULL JOIN tierlimit.usage_monthly u ON (l.month, l.requests, l.credits, l.denied) = (u.month, u.requests, u.credits, u.denied)
				AND (l.key, l.account, l.tier) IS NOT DISTINCT FROM (u.key, u.account, u.tier) WHERE l.month IS NULL OR u.month IS NULL},
		q{SELECT * FROM (SELECT date_trunc('hour', at, 'UTC') AS hour, tier, error_code, sum(requests)::numeric AS requests, sum(credits) AS credits
				FROM tierlimit.request_log, tierlimit.log_state WHERE at < summed_until GROUP BY 1, 2, 3) l
			FULL JOIN tierlimit.usage_by_code u ON (l.hour, l.error_code, l.requests, l.credits) = (u.hour, u.error_code, u.requests, u.credits)
				AND l.tier IS NOT DISTINCT FROM u.tier WHERE l.hour IS NULL OR u.hour IS NULL};
	return join "\n", grep { $_ ne '' } @differ;
}

1;
