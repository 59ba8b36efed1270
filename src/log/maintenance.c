/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *		Keeping the request log: its partitions and its sums.
 *
 * This is done by the worker that writes the log, between batches: so nothing
 * is added to the log meanwhile, and maintenance needs no lock against that.
 * Its SQL is in the install script.
 *
 * Partitions: one a day, made some days ahead, and dropped after
 * tierlimit.log_retention.  Both need a lock for a moment; if it can't be had
 * soon, it is tried again later.  Other old data are deleted in transactions
 * of their own, so that no lock lasts for longer.
 *
 * Sums: hours that are over are summed up, a step at a time that takes about
 * STEP_GOAL.  log_state says how far that has come, in the same transaction as
 * the sums themselves; a row that is written to the log later than that is
 * added by the transaction that writes it (writer.c).  So each row counts
 * exactly once, also where a session calls _sum_log() by hand: that waits for
 * rows that are being written, and the writer asks for the state after it has
 * written, each time.
 *
 * Bills: once a minute, those of billing periods that are over are written, in
 * the order of their ends, some in a transaction.  Where one ended inside of
 * an hour, the sums go as far first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/installation.h"
#include "base/progress.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "log/maintenance.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define MAINTENANCE_PAUSE USECS_PER_HOUR
#define RETRY_PAUSE USECS_PER_MINUTE

/* An hour is over when its last calls are surely written. */
#define CLOSING_TIME USECS_PER_MINUTE

#define STEP_GOAL (100 * 1000)
#define SHORTEST_STEP USECS_PER_MINUTE
#define LONGEST_STEP (366 * USECS_PER_DAY)

/*
 * What was done for an installation, and when it is due again; all zero: at
 * once.
 */
typedef struct Maintenance
{
	Oid			extension_id;	/* see InstallationId */
	TimestampTz partitions_due;
	TimestampTz drops_due;
	TimestampTz sums_due;
	TimestampTz bills_due;
	TimestampTz bills_end;		/* sums are wanted up to here for bills */
	int64		step;			/* length of the next step of the sums, in
								 * microseconds */
} Maintenance;

static Maintenance maintenance;

/* Whether nobody has called: see maintenance_set_visit(). */
static bool is_visit = false;

/*
 * Each of these statements does a piece of what is to be done; it returns
 * a row if there is more.
 */
static SpiStatement add_partitions = {
	"SELECT FROM tierlimit._add_log_partitions() AS more WHERE more", 0, {0},
	NULL
};

static SpiStatement drop_old_log = {
	"SELECT FROM tierlimit._drop_old_log($1, $2) AS more WHERE more",
	2, {INTERVALOID, INTERVALOID}, NULL
};

static SpiStatement keep_bills = {
	"SELECT FROM tierlimit._keep_bills() AS more WHERE more", 0, {0}, NULL
};

static SpiStatement last_period_end = {
	"SELECT pg_catalog.max(period_end) FROM tierlimit.bill_period"
	" WHERE period_end OPERATOR(pg_catalog.<=) $1", 1, {TIMESTAMPTZOID}, NULL
};

static SpiStatement sum_log = {
	"SELECT tierlimit._sum_log($1)", 1, {TIMESTAMPTZOID}, NULL
};

static SpiStatement read_state = {
	"SELECT summed_until FROM tierlimit.log_state", 0, {0}, NULL
};

/* This returns a row if calls were logged in this database, not elsewhere. */
static SpiStatement is_in_use = {
	"SELECT FROM tierlimit.bill_state", 0, {0}, NULL
};

/*
 * A log is summed up from the hour on in which its first row is written, and
 * who pays a price is looked for at the next opportunity.
 */
static SpiStatement make_state = {
	"WITH made AS (INSERT INTO tierlimit.log_state (summed_until) VALUES"
	"  (pg_catalog.date_trunc('hour', pg_catalog.now(), 'UTC')))"
	" INSERT INTO tierlimit.bill_state (opened_until)"
	" VALUES (pg_catalog.now() OPERATOR(pg_catalog.-) '1 hour'::interval) ON CONFLICT DO NOTHING", 0, {0}, NULL
};

/*
 * Begin anew for an extension that was created again: it has nothing of the
 * old one's.
 */
static void
know_installation(void)
{
	Oid			extension_id = installation()->id.extension_id;

	if (maintenance.extension_id != extension_id)
	{
		memset(&maintenance, 0, sizeof(Maintenance));
		maintenance.extension_id = extension_id;
		maintenance.step = USECS_PER_HOUR;
	}
}

/*
 * Read up to where decisions are summed up.  Returns false if there is no
 * state yet.
 */
static bool
read_summed_until(TimestampTz *summed_until)
{
	SpiReading	reading;
	bool		found;

	spi_begin(&reading);
	spi_run(&reading, &read_state, NULL);
	found = SPI_processed > 0;
	if (found)
		*summed_until = DatumGetTimestampTz(spi_value(0, 1, (Datum) 0));
	spi_end(&reading);
	return found;
}

/*
 * Return the time up to which decisions are summed up by hours.  Once this
 * transaction has written to the log, no other session can move it on until
 * the transaction's end.
 */
TimestampTz
maintenance_summed_until(void)
{
	TimestampTz summed_until;

	if (read_summed_until(&summed_until))
		return summed_until;
	spi_write(&make_state, NULL);
	CommandCounterIncrement();
	if (!read_summed_until(&summed_until))
		elog(ERROR, "tierlimit.log_state is empty");
	return summed_until;
}

/* Return the end of the last hour that is over. */
static TimestampTz
closed_until(TimestampTz now)
{
	now -= CLOSING_TIME;
	return now - now % USECS_PER_HOUR;
}

/* Make the partitions that are missing, and note when to look again. */
static void
keep_up_partitions(TimestampTz now)
{
	maintenance.partitions_due = now + RETRY_PAUSE;
	if (spi_write(&add_partitions, NULL) > 0)
		maintenance.partitions_due = now;
	else
		maintenance.partitions_due = now + MAINTENANCE_PAUSE;
}

/* Have the partitions made, if this process has made none yet. */
void
maintenance_prepare(void)
{
	know_installation();
	if (maintenance.partitions_due == 0)
		keep_up_partitions(GetCurrentTimestamp());
}

#define SUMS "sums"

/*
 * Report how far the sums are, if there is more to do than one step, in
 * minutes of the log.
 */
static void
report_sums(TimestampTz from, TimestampTz until, TimestampTz goal)
{
	static TimestampTz began_at;

	if (!progress_is_of(SUMS))
	{
		if (until >= goal)
			return;
		began_at = from;
		progress_begin(SUMS);
	}
	if (until >= goal)
	{
		progress_end();
		return;
	}
	progress_phase("summing up the log",
				   (goal - began_at) / USECS_PER_MINUTE);
	progress_update((until - began_at) / USECS_PER_MINUTE);
}

/*
 * Sum up one step more, and choose the length of the next one so that it takes
 * about STEP_GOAL.
 */
static void
sum_up(TimestampTz now)
{
	TimestampTz from = maintenance_summed_until();
	TimestampTz goal = Max(closed_until(now), maintenance.bills_end);
	TimestampTz until = goal;
	Datum		arg;
	int64		took;

	maintenance.sums_due = now + RETRY_PAUSE;
	if (from < until)
	{
		until = Min(from + maintenance.step, goal);
		until -= until % USECS_PER_MINUTE;	/* sums are of whole minutes */
		arg = TimestampTzGetDatum(until);
		spi_write(&sum_log, &arg);
		report_sums(from, until, goal);
		took = GetCurrentTimestamp() - now;
		if (took < STEP_GOAL / 2)
			maintenance.step = Min(maintenance.step * 2, LONGEST_STEP);
		else if (took > STEP_GOAL * 2)
			maintenance.step = Max(maintenance.step / 2, SHORTEST_STEP);
	}
	maintenance.sums_due = until < goal ? 0
		: closed_until(now) + USECS_PER_HOUR + CLOSING_TIME;
}

/*
 * Return the first whole minute after the ends of all billing periods that are
 * over; DT_NOBEGIN if none is.
 */
static TimestampTz
bills_wanted_until(TimestampTz now)
{
	TimestampTz over = now - CLOSING_TIME;
	TimestampTz end;
	SpiReading	reading;
	Datum		arg;

	over -= over % USECS_PER_MINUTE;
	arg = TimestampTzGetDatum(over);
	spi_begin(&reading);
	spi_run(&reading, &last_period_end, &arg);
	end = DatumGetTimestampTz(spi_value(0, 1, TimestampTzGetDatum(DT_NOBEGIN)));
	spi_end(&reading);
	if (end != DT_NOBEGIN && end % USECS_PER_MINUTE != 0)
		end += USECS_PER_MINUTE - end % USECS_PER_MINUTE;
	return end;
}

/*
 * Write some bills, and note when to look again.  Sums that they need are made
 * first.
 */
static void
keep_up_bills(TimestampTz now)
{
	maintenance.bills_due = now + RETRY_PAUSE;
	if (spi_write(&keep_bills, NULL) > 0)
		maintenance.bills_due = now;
	maintenance.bills_end = bills_wanted_until(now);
	if (maintenance.bills_end != DT_NOBEGIN &&
		maintenance.bills_end > maintenance_summed_until())
	{
		maintenance.sums_due = 0;
		maintenance.bills_due = now;
	}
}

/*
 * Drop what is older than tierlimit.log_retention or
 * tierlimit.usage_retention, and note when to look again.
 */
static void
drop_old(TimestampTz now)
{
	Interval	retention = {0};
	Interval	usage_retention = {0};
	Datum		args[] = {
		IntervalPGetDatum(&retention), IntervalPGetDatum(&usage_retention)
	};

	maintenance.drops_due = now + RETRY_PAUSE;
	retention.time = tierlimit_log_retention * USECS_PER_MINUTE;
	usage_retention.time = tierlimit_usage_retention * USECS_PER_MINUTE;
	if (spi_write(&drop_old_log, args) > 0)
		maintenance.drops_due = now;
	else
		maintenance.drops_due = now + MAINTENANCE_PAUSE;
}

/* Return whether there is anything to do now. */
bool
maintenance_is_due(void)
{
	TimestampTz now = GetCurrentTimestamp();

	return now >= Min(maintenance.partitions_due,
					  Min(maintenance.sums_due,
						  Min(maintenance.bills_due, maintenance.drops_due)));
}

/*
 * Say whether this process only visits the database, where nobody has called.
 * Then it leaves a database alone that is not in use, which may be one that is
 * being restored: whose tables are there, and whose rows are not all.
 */
void
maintenance_set_visit(bool visit)
{
	is_visit = visit;
}

/* Return whether there is something to be kept up. */
static bool
is_to_be_kept(void)
{
	SpiReading	reading;
	bool		in_use;

	if (installation_if_any() == NULL)
		return false;
	if (!is_visit)
		return true;
	spi_begin(&reading);
	spi_run(&reading, &is_in_use, NULL);
	in_use = SPI_processed > 0;
	spi_end(&reading);
	return in_use;
}

/*
 * Do one of the things that are due: the caller has each of them done in a
 * transaction of its own.  Drops are last.
 */
void
maintenance_run(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!is_to_be_kept())
	{
		maintenance.partitions_due = maintenance.sums_due =
			maintenance.bills_due = maintenance.drops_due = now + RETRY_PAUSE;
		return;
	}
	know_installation();
	if (now >= maintenance.partitions_due)
		keep_up_partitions(now);
	else if (now >= maintenance.sums_due)
		sum_up(now);
	else if (now >= maintenance.bills_due)
		keep_up_bills(now);
	else if (now >= maintenance.drops_due)
		drop_old(now);
}
