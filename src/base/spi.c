/*-------------------------------------------------------------------------
 *
 * spi.c
 *		Reading tables by SQL, and writing those of the log.
 *
 * The configuration and the log are read by SQL, in the way that a foreign key
 * reads the table it refers to: as their owner, so that callers need no right
 * on them, and in the latest snapshot, since a change binds all sessions from
 * its commit on, also those whose transaction has an older snapshot.
 *
 * The log has many partitions, a year's and more, of which a query wants those
 * of some days.  A plan that leaves that to its execution has all of them in
 * it: their locks, their memory, and the time to plan for them.  So the days
 * are constants of the query's text, and there is a plan for each range that
 * was lately used; most calls of a day, of keys of a tier, want the same
 * range.
 *
 * What reads all of the log scans it: rows go to their receiver one by one, and
 * the plan is made for the purpose.
 *
 * A session that waits for a lock on these tables waits for as long as for the
 * log's writer, unless a shorter lock_timeout is in force.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "base/installation.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/*
 * A plan for a query of some days of the log; query NULL: the place is free.
 */
typedef struct DaysPlan
{
	const SpiStatement *query;
	LogDays		days;
	SPIPlanPtr	plan;
	uint64		used;			/* days_plans_used when it was last used */
} DaysPlan;

#define MAX_DAYS_PLANS 64

static DaysPlan days_plans[MAX_DAYS_PLANS];
static uint64 days_plans_used = 0;

/* The days that timestamps have. */
#define FIRST_DAY (DATETIME_MIN_JULIAN - POSTGRES_EPOCH_JDATE)
#define LAST_DAY (TIMESTAMP_END_JULIAN - POSTGRES_EPOCH_JDATE)

/*
 * Become the owner of the tables, in such a way that nothing that a user made
 * run with a query can leave anything behind, such as a trigger for the end of
 * the transaction.
 */
static void
become_owner(Oid *role, int *security)
{
	GetUserIdAndSecContext(role, security);
	SetUserIdAndSecContext(installation()->owner,
						   *security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION |
						   SECURITY_NOFORCE_RLS);
}

/* Prepare a statement until spi_end(), to be planned in this way. */
static SPIPlanPtr
prepare_once(const char *text, const SpiStatement *statement, int options)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(text, statement->nargs,
										  unconstify(SpiStatement *, statement)->types,
										  options);

	if (plan == NULL)
		elog(ERROR, "could not prepare statement: %s", text);
	return plan;
}

/*
 * Prepare a statement for good: the same plan will do, whatever the arguments.
 */
static SPIPlanPtr
prepare(const char *text, const SpiStatement *statement)
{
	SPIPlanPtr	plan = prepare_once(text, statement, CURSOR_OPT_GENERIC_PLAN);

	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare statement: %s", text);
	return plan;
}

/* Return the plan of a statement, which is prepared at first use. */
static SPIPlanPtr
plan_of(SpiStatement *statement)
{
	if (statement->plan == NULL)
		statement->plan = prepare(statement->text, statement);
	return statement->plan;
}

/*
 * Append a condition with a time, in a form that the planner finds to be a
 * constant, whatever the session's settings.
 */
static void
append_time(StringInfo text, const char *operator, int32 day, int64 time_of_day)
{
	appendStringInfo(text,
					 " AND at OPERATOR(pg_catalog.%s) pg_catalog.timezone('UTC',"
					 " '2000-01-01'::timestamp OPERATOR(pg_catalog.+) '%d days %lld us'::interval)",
					 operator, day, (long long) time_of_day);
}

/* Return the text of a query with the condition for some days. */
static char *
text_for_days(const SpiStatement *query, LogDays days)
{
	StringInfoData condition;

	initStringInfo(&condition);
	appendStringInfoString(&condition, "true");
	/* There is nothing before the first time, nor after the last one. */
	if (days.first > FIRST_DAY)
		append_time(&condition, ">=", days.first, 0);
	if (days.end < LAST_DAY)
		append_time(&condition, "<", days.end, 0);
	return psprintf(query->text, condition.data);
}

/* Return the text of a query with the condition for the span of a scan. */
static char *
text_for_scan(const LogScan *scan)
{
	StringInfoData condition;

	initStringInfo(&condition);
	appendStringInfoString(&condition, "true");
	if (!TIMESTAMP_IS_NOBEGIN(scan->first))
		append_time(&condition, ">=", spi_day(scan->first),
					scan->first - spi_day(scan->first) * USECS_PER_DAY);
	if (!TIMESTAMP_IS_NOEND(scan->end))
		append_time(&condition, "<", spi_day(scan->end),
					scan->end - spi_day(scan->end) * USECS_PER_DAY);
	return psprintf(scan->query->text, condition.data);
}

/*
 * Return the plan for a query of some days, which may replace the one that was
 * used longest ago.
 */
static SPIPlanPtr
plan_for_days(SpiStatement *query, LogDays days)
{
	DaysPlan   *found = &days_plans[0];

	for (int i = 0; i < MAX_DAYS_PLANS; i++)
	{
		DaysPlan   *one = &days_plans[i];

		if (one->query == query && one->days.first == days.first &&
			one->days.end == days.end)
		{
			found = one;
			break;
		}
		if (one->used < found->used)
			found = one;
	}
	if (found->query != query || found->days.first != days.first ||
		found->days.end != days.end)
	{
		SPIPlanPtr	plan = prepare(text_for_days(query, days), query);

		if (found->plan != NULL)
			SPI_freeplan(found->plan);
		found->query = query;
		found->days = days;
		found->plan = plan;
	}
	found->used = ++days_plans_used;
	return found->plan;
}

/* Return the day of a time. */
int32
spi_day(TimestampTz at)
{
	int64		day = at / USECS_PER_DAY - (at % USECS_PER_DAY < 0);

	return (int32) day;
}

/*
 * Begin a series of queries, until spi_end().  They see the newest committed
 * state and this transaction's own changes, whatever its isolation level.  The
 * current memory context is SPI's until then; rows are in SPI_tuptable.  No
 * lock may be held.  After an ERROR, the abort of the (sub)transaction does
 * what spi_end() would have done.
 */
void
spi_begin(SpiReading *reading)
{
	SPI_connect();
	become_owner(&reading->caller, &reading->caller_security);
	PushActiveSnapshot(GetLatestSnapshot());
	reading->snapshot = GetActiveSnapshot();
}

/* Run a plan of a SELECT, in the snapshot of the series. */
static void
run_plan(SpiReading *reading, SPIPlanPtr plan, Datum *args)
{
	if (SPI_execute_snapshot(plan, args, NULL, reading->snapshot,
							 InvalidSnapshot, false, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run a query");
}

/*
 * Run a scan in the snapshot of the series.  Its rows go to the receiver one by
 * one, and are kept nowhere.  Its plan, which is made for the arguments, will
 * hardly be used again.
 */
static void
run_scan(const LogScan *scan, Datum *args)
{
	char	   *text = text_for_scan(scan);
	SPIPlanPtr	plan = prepare_once(text, scan->query, CURSOR_OPT_CUSTOM_PLAN);
	ParamListInfo params = makeParamList(scan->query->nargs);
	SPIExecuteOptions options = {
		.params = params,
		.read_only = true,		/* in the active snapshot, the series' */
		.dest = scan->receiver
	};

	for (int i = 0; i < scan->query->nargs; i++)
	{
		params->params[i].value = args[i];
		params->params[i].isnull = args[i] == (Datum) 0;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = scan->query->types[i];
	}
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not run a query");
	SPI_freeplan(plan);
	pfree(params);
	pfree(text);
}

/*
 * Read some days of the log, or scan it, and release the locks that this took
 * rather than keep them until the end of the caller's transaction, which may be
 * far away: the maintenance of the log waits for these locks, and there are not
 * so many to be had.
 */
static void
run_and_unlock(SpiReading *reading, SpiStatement *query, const LogDays *days,
			   const LogScan *scan, Datum *args)
{
	ResourceOwner callers = CurrentResourceOwner;
	ResourceOwner ours = ResourceOwnerCreate(callers, "tierlimit query");

	CurrentResourceOwner = ours;
	if (scan != NULL)
		run_scan(scan, args);
	else
		run_plan(reading, plan_for_days(query, *days), args);
	CurrentResourceOwner = callers;
	ResourceOwnerRelease(ours, RESOURCE_RELEASE_BEFORE_LOCKS, false, false);
	ResourceOwnerRelease(ours, RESOURCE_RELEASE_LOCKS, false, false);
	ResourceOwnerRelease(ours, RESOURCE_RELEASE_AFTER_LOCKS, false, false);
	ResourceOwnerDelete(ours);
}

/* Raise an ERROR in place of that of a lock_timeout, where that is ours. */
static void
report_impatience(const char *what, MemoryContext context)
{
	if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
		return;
	MemoryContextSwitchTo(context);
	FlushErrorState();
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not read %s", what),
			 errdetail("Another session has held a lock on it for %d seconds.",
					   (int) (CALL_PATIENCE / USECS_PER_SEC)),
			 errhint("See in pg_locks who holds it.")));
}

/*
 * Run a query, of these days of the log or (NULL) of other tables; or a scan of
 * the log.
 *
 * Where the caller's lock_timeout is longer than a call may wait, ours is in
 * force meanwhile.  And a scan is to begin at the beginning of a table, not
 * where another session's scan of it happens to be, since rows are in about
 * the order of their times.  Nothing looks at either parameter but the wait for
 * a lock and the start of a scan, so it is enough to set their variables.  An
 * ERROR leaves both as they were.
 */
static void
run(SpiReading *reading, SpiStatement *query, const LogDays *days,
	const LogScan *scan, Datum *args)
{
	const int	patience = (int) (CALL_PATIENCE / 1000);
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const int	timeout = LockTimeout;
	const bool	synchronize = synchronize_seqscans;
	const bool	is_ours = timeout == 0 || timeout > patience;
	const bool	of_log = days != NULL || scan != NULL;

	if (is_ours)
		LockTimeout = patience;
	if (scan != NULL)
		synchronize_seqscans = false;
	PG_TRY();
	{
		if (of_log)
			run_and_unlock(reading, query, days, scan, args);
		else
			run_plan(reading, plan_of(query), args);
	}
	PG_CATCH();
	{
		LockTimeout = timeout;
		synchronize_seqscans = synchronize;
		CurrentResourceOwner = owner;
		if (is_ours)
			report_impatience(of_log ? "the request log"
							  : "the configuration of tierlimit", context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	LockTimeout = timeout;
	synchronize_seqscans = synchronize;
}

/*
 * Run a query of the configuration, between spi_begin() and spi_end().  Raises
 * an ERROR if it fails, or waits for a lock for CALL_PATIENCE.
 */
void
spi_run(SpiReading *reading, SpiStatement *query, Datum *args)
{
	run(reading, query, NULL, NULL, args);
}

/*
 * Run a query of these days of the log, between spi_begin() and spi_end().
 * Raises an ERROR if it fails, or waits for a lock for CALL_PATIENCE.
 */
void
spi_run_log(SpiReading *reading, SpiStatement *query, LogDays days, Datum *args)
{
	run(reading, query, &days, NULL, args);
}

/*
 * Scan the log, between spi_begin() and spi_end().  The receiver gets the rows
 * one by one, and ends the scan by returning false; what it calls may raise an
 * ERROR, but not run queries.  An argument that is 0 is NULL.  Raises an ERROR
 * if the query fails, or waits for a lock for CALL_PATIENCE.
 */
void
spi_scan_log(SpiReading *reading, const LogScan *scan, Datum *args)
{
	run(reading, NULL, NULL, scan, args);
}

/*
 * Run a statement that changes tables, as their owner, in the running
 * transaction.  Returns the number of rows; raises an ERROR if it fails.  No
 * lock may be held.
 */
uint64
spi_write(SpiStatement *statement, Datum *args)
{
	Oid			caller;
	int			caller_security;
	uint64		rows;

	SPI_connect();
	become_owner(&caller, &caller_security);
	if (SPI_execute_plan(plan_of(statement), args, NULL, false, 0) < 0)
		elog(ERROR, "could not run statement: %s", statement->text);
	rows = SPI_processed;
	SetUserIdAndSecContext(caller, caller_security);
	SPI_finish();
	return rows;
}

/* End a series of queries. */
void
spi_end(SpiReading *reading)
{
	PopActiveSnapshot();
	SetUserIdAndSecContext(reading->caller, reading->caller_security);
	SPI_finish();
}

/*
 * Return column number column (from 1) of a row (from 0) of SPI_tuptable;
 * fallback for NULL.
 */
Datum
spi_value(int row, int column, Datum fallback)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? fallback : value;
}

/*
 * Return a column of a row of SPI_tuptable as a string in the current memory
 * context; NULL for NULL.
 */
char *
spi_string(int row, int column)
{
	Datum		value = spi_value(row, column, (Datum) 0);

	return value == (Datum) 0 ? NULL : TextDatumGetCString(value);
}

/*
 * Return a column of a row of SPI_tuptable as a text in the memory context
 * that spi_begin() was called in; NULL for NULL.
 */
text *
spi_text(int row, int column)
{
	char	   *value = spi_string(row, column);
	text	   *copy;
	int			length;

	if (value == NULL)
		return NULL;
	length = strlen(value);
	copy = SPI_palloc(length + VARHDRSZ);
	SET_VARSIZE(copy, length + VARHDRSZ);
	memcpy(VARDATA(copy), value, length);
	return copy;
}
