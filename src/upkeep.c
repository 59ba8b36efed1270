/*-------------------------------------------------------------------------
 *
 * upkeep.c
 *		Keeping the request log: its partitions and its sums.
 *
 * This is done by the worker that writes the log, between batches: so nothing
 * is added to the log meanwhile, and what it does needs no lock against that.
 * The SQL of it is in the install script.
 *
 * Partitions: one a day, made UPKEEP_DAYS ahead, and dropped after
 * tierlimit.log_retention.  Both need a lock on the log for a moment; if it
 * can't be had soon, it is tried again later.
 *
 * Sums: hours that are over are summed up, a step at a time that takes about
 * STEP_GOAL.  log_state says how far that has come, in the same transaction as
 * the sums themselves; what is written to the log later than that is added by
 * the transaction that writes it (writer.c).  So each row counts exactly once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "query.h"
#include "settings.h"
#include "upkeep.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define UPKEEP_PAUSE USECS_PER_HOUR
#define RETRY_PAUSE USECS_PER_MINUTE

/* An hour is over for us when its last calls are surely written. */
#define CLOSING_TIME USECS_PER_MINUTE

#define STEP_GOAL (100 * 1000)
#define SHORTEST_STEP USECS_PER_MINUTE
#define LONGEST_STEP (366 * USECS_PER_DAY)

static TimestampTz summed_until = 0;	/* 0: not known */
static TimestampTz partitions_due = 0;
static TimestampTz sums_due = 0;
static int64 step = USECS_PER_HOUR;

static Statement keep_partitions = {
	"SELECT tierlimit.keep_log_partitions($1)", 1, {INTERVALOID}, NULL
};

static Statement sum_log = {
	"SELECT tierlimit.sum_log($1)", 1, {TIMESTAMPTZOID}, NULL
};

static Statement read_state = {
	"SELECT summed_until FROM tierlimit.log_state", 0, {0}, NULL
};

TimestampTz
upkeep_summed_until(void)
{
	if (summed_until == 0)
	{
		Reading		reading;

		query_begin(&reading);
		query_run(&reading, &read_state, NULL);
		summed_until = DT_NOBEGIN;
		if (SPI_processed > 0)
			summed_until = DatumGetTimestampTz(query_value(0, 1, (Datum) 0));
		query_end(&reading);
	}
	return summed_until;
}

void
upkeep_forget(void)
{
	summed_until = 0;
}

/* The end of the last hour that is over. */
static TimestampTz
closed_until(TimestampTz now)
{
	now -= CLOSING_TIME;
	return now - now % USECS_PER_HOUR;
}

bool
upkeep_is_due(void)
{
	TimestampTz now = GetCurrentTimestamp();

	return now >= partitions_due || now >= sums_due;
}

static void
keep_up_partitions(TimestampTz now)
{
	Interval	retention = {0};
	Datum		arg = IntervalPGetDatum(&retention);

	partitions_due = now + RETRY_PAUSE;
	retention.time = tierlimit_log_retention * USECS_PER_MINUTE;
	query_write(&keep_partitions, &arg, NULL);
	partitions_due = now + UPKEEP_PAUSE;
	upkeep_forget();
}

/* Sum up a step more, so long that it takes about as long as we want. */
static void
sum_up(TimestampTz now)
{
	TimestampTz from = upkeep_summed_until();
	TimestampTz until = closed_until(now);
	Datum		arg;
	int64		took;

	sums_due = now + RETRY_PAUSE;
	if (from < until)
	{
		until = Min(from + step, until);
		until -= until % USECS_PER_MINUTE;	/* sums of minutes are of whole ones */
		arg = TimestampTzGetDatum(until);
		query_write(&sum_log, &arg, NULL);
		took = GetCurrentTimestamp() - now;
		if (took < STEP_GOAL / 2)
			step = Min(step * 2, LONGEST_STEP);
		else if (took > STEP_GOAL * 2)
			step = Max(step / 2, SHORTEST_STEP);
		upkeep_forget();
	}
	sums_due = until < closed_until(now) ? 0
		: closed_until(now) + USECS_PER_HOUR + CLOSING_TIME;
}

void
upkeep_run(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now >= partitions_due)
		keep_up_partitions(now);
	else if (now >= sums_due)
		sum_up(now);
}
