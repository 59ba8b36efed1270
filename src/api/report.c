/*-------------------------------------------------------------------------
 *
 * report.c
 *		What reports and bills need of the code that decides.
 *
 * Reports are made in SQL, by the install script, from sums and from the
 * request log.  Here is what they have in common with decisions: calendars,
 * the clock, and what the windows in memory count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "config/calendar.h"
#include "config/tiers.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/clock.h"
#include "store/subject.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_now_1_0);
PG_FUNCTION_INFO_V1(tierlimit_calendar_period_1_0);
PG_FUNCTION_INFO_V1(tierlimit_bucket_1_0);
PG_FUNCTION_INFO_V1(tierlimit_counted_1_0);

/* The SQL function _now(): the clock that calls are decided by. */
Datum
tierlimit_now_1_0(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_TIMESTAMPTZ(clock_read().now);
}

/* Return a time argument, and raise an ERROR if it is infinite. */
static TimestampTz
finite_argument(FunctionCallInfo fcinfo, int n)
{
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(n);

	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an infinite time is in no period")));
	return at;
}

/*
 * The SQL function _calendar_period(length, anchor, timezone, at).  A time zone
 * that the server no longer has is UTC here: the bills of one key must not keep
 * the log writer from its work for all.
 */
Datum
tierlimit_calendar_period_1_0(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	const char *timezone;
	Span		span;
	Datum		values[2];
	bool		nulls[2] = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	timezone = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (!calendar_has_timezone(timezone))
		timezone = "UTC";
	span = calendar_span(PG_GETARG_INTERVAL_P(0),
						 PG_ARGISNULL(1) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(1),
						 timezone,
						 finite_argument(fcinfo, 3));
	values[0] = TimestampTzGetDatum(span.start);
	values[1] = TimestampTzGetDatum(span.end);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* Return whether an interval has exactly one of its fields, and that > 0. */
static bool
is_step(const Interval *step)
{
	return step->month >= 0 && step->day >= 0 && step->time >= 0 &&
		(step->month > 0) + (step->day > 0) + (step->time > 0) == 1;
}

/* The SQL function _bucket(at, step, timezone). */
Datum
tierlimit_bucket_1_0(PG_FUNCTION_ARGS)
{
	const Interval *step = PG_GETARG_INTERVAL_P(1);

	if (!is_step(step))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("step must be a number of months, of days or of hours, minutes and seconds"),
				 errdetail("It is \"%s\".",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(step)))),
				 errhint("For example '1 month', '7 days' or '15 minutes'.")));
	PG_RETURN_TIMESTAMPTZ(calendar_bucket(step,
										  text_to_cstring(PG_GETARG_TEXT_PP(2)),
										  finite_argument(fcinfo, 0)));
}

/* What a window in memory counts. */
typedef struct CountedRow
{
	bool		is_account;
	WindowId	id;
	int64		used;
	int			length;
	char		name[MAX_NAME_LENGTH];
} CountedRow;

/*
 * Copy what windows of a key or an account count now, up to room of them.
 * Returns how many there are.  The lock of its partition is held.
 */
static int
copy_windows(CountedRow *rows, int room, const Subject *subject, TimestampTz now)
{
	int			count = 0;

	for (SubjectWindow *w = subject_window_at(subject->windows); w != NULL;
		 w = subject_window_at(w->next))
	{
		Moment		moment = {.now = Max(now, subject->clock)};
		CountedRow *row = &rows[count];

		/* A period that is over counts nothing. */
		if (window_empty_at(&w->window) <= moment.now)
			continue;
		/* What there is no room for is counted, so that there can be. */
		if (count++ >= room)
			continue;
		if (w->window.kind == WINDOW_CALENDAR)
			moment.current = w->window.calendar.span;
		row->is_account = subject->kind == SUBJECT_ACCOUNT;
		row->id = subject_window_id(w);
		row->used = window_used(&w->window, store->blocks, moment);
		row->length = subject->name_length;
		subject_get_name(subject, row->name);
	}
	return count;
}

/*
 * Copy what the windows of a partition's keys and accounts count, up to room
 * of them.  Returns how many there are.
 */
static int
copy_partition(uint64 partition, InstallationId here, TimestampTz now,
			   CountedRow *rows, int room)
{
	int			count = 0;

	partition_lock(&partition, 1, LW_SHARED);
	for (uint64 i = partition; i < store->nbuckets; i += NUM_PARTITIONS)
		for (BlockNo at = *store_bucket(i); at != NO_BLOCK; at = subject_at(at)->next)
		{
			const Subject *subject = subject_at(at);

			if ((subject->kind == SUBJECT_KEY || subject->kind == SUBJECT_ACCOUNT) &&
				installation_is(subject->installation, here))
				count += copy_windows(rows + Min(count, room), Max(room - count, 0),
									  subject, now);
		}
	partition_unlock(&partition, 1);
	return count;
}

/* Put the row of a window into the result. */
static void
put_row(ReturnSetInfo *result, const CountedRow *row)
{
	Interval	period = {.time = row->id.period};
	Datum		values[] = {
		PointerGetDatum(cstring_to_text_with_len(row->name, row->length)),
		BoolGetDatum(row->is_account),
		IntervalPGetDatum(&period),
		CStringGetTextDatum(tiers_kind_names[row->id.kind]),
		CStringGetTextDatum(tiers_unit_names[row->id.unit]),
		Int64GetDatum(row->used)
	};
	bool		nulls[lengthof(values)] = {0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * The SQL function _counted(): what the windows in memory count, of the keys
 * and accounts of this database.  Each partition is as it was at a moment.
 */
Datum
tierlimit_counted_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = clock_read().now;
	InstallationId here;
	CountedRow *rows = NULL;
	int			room = 0;

	store_require();
	here = installation()->id;
	InitMaterializedSRF(fcinfo, 0);
	for (uint64 partition = 0; partition < NUM_PARTITIONS; partition++)
	{
		int			count = copy_partition(partition, here, now, rows, room);

		/* Some more may come until it is looked at again; they are left out. */
		if (count > room)
		{
			if (rows != NULL)
				pfree(rows);
			room = count + count / 8;
			rows = MemoryContextAllocHuge(CurrentMemoryContext,
										  (Size) room * sizeof(CountedRow));
			count = Min(copy_partition(partition, here, now, rows, room), room);
		}
		for (int i = 0; i < count; i++)
			put_row(result, &rows[i]);
		CHECK_FOR_INTERRUPTS();
	}
	return (Datum) 0;
}
