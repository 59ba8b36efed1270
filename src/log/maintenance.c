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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/installation.h"
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
	int64		step;			/* length of the next step of the sums, in
								 * microseconds */
} Maintenance;

static Maintenance maintenance;

/*
 * Each of these two statements does a piece of what is to be done; it returns
 * a row if there is more.
 */
static SpiStatement add_partitions = {
	"SELECT FROM tierlimit._add_log_partitions() AS more WHERE more", 0, {0},
	NULL
};

static SpiStatement drop_old_log = {
	"SELECT FROM tierlimit._drop_old_log($1) AS more WHERE more",
	1, {INTERVALOID}, NULL
};

static SpiStatement sum_log = {
	"SELECT tierlimit._sum_log($1)", 1, {TIMESTAMPTZOID}, NULL
};

static SpiStatement read_state = {
	"SELECT summed_until FROM tierlimit.log_state", 0, {0}, NULL
};

/* A log is summed up from the hour on in which its first row is written. */
static SpiStatement make_state = {
	"INSERT INTO tierlimit.log_state (summed_until) VALUES"
	" (pg_catalog.date_trunc('hour', pg_catalog.now(), 'UTC'))", 0, {0}, NULL
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

/*
 * Sum up one step more, and choose the length of the next one so that it takes
 * about STEP_GOAL.
 */
static void
sum_up(TimestampTz now)
{
	TimestampTz from = maintenance_summed_until();
	TimestampTz until = closed_until(now);
	Datum		arg;
	int64		took;

	maintenance.sums_due = now + RETRY_PAUSE;
	if (from < until)
	{
		until = Min(from + maintenance.step, until);
		until -= until % USECS_PER_MINUTE;	/* sums are of whole minutes */
		arg = TimestampTzGetDatum(until);
		spi_write(&sum_log, &arg);
		took = GetCurrentTimestamp() - now;
		if (took < STEP_GOAL / 2)
			maintenance.step = Min(maintenance.step * 2, LONGEST_STEP);
		else if (took > STEP_GOAL * 2)
			maintenance.step = Max(maintenance.step / 2, SHORTEST_STEP);
	}
	maintenance.sums_due = until < closed_until(now) ? 0
		: closed_until(now) + USECS_PER_HOUR + CLOSING_TIME;
}

/*
 * Drop what is older than tierlimit.log_retention, and note when to look
 * again.
 */
static void
drop_old(TimestampTz now)
{
	Interval	retention = {0};
	Datum		arg = IntervalPGetDatum(&retention);

	maintenance.drops_due = now + RETRY_PAUSE;
	retention.time = tierlimit_log_retention * USECS_PER_MINUTE;
	if (spi_write(&drop_old_log, &arg) > 0)
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
					  Min(maintenance.sums_due, maintenance.drops_due));
}

/*
 * Do one of the things that are due: the caller has each of them done in a
 * transaction of its own.  Drops are last.
 */
void
maintenance_run(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (installation_if_any() == NULL)
	{
		maintenance.partitions_due = maintenance.sums_due = maintenance.drops_due =
			now + RETRY_PAUSE;
		return;
	}
	know_installation();
	if (now >= maintenance.partitions_due)
		keep_up_partitions(now);
	else if (now >= maintenance.sums_due)
		sum_up(now);
	else if (now >= maintenance.drops_due)
		drop_old(now);
}
