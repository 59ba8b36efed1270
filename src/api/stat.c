/*-------------------------------------------------------------------------
 *
 * stat.c
 *		The figures that the views tierlimit.stat and stat_progress show.
 *
 * Both are the server's, of all its databases together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "base/progress.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "log/log.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_stat_counters_1_0);
PG_FUNCTION_INFO_V1(tierlimit_stat_reset_1_0);
PG_FUNCTION_INFO_V1(tierlimit_log_flush_1_0);
PG_FUNCTION_INFO_V1(tierlimit_progress_1_0);
PG_FUNCTION_INFO_V1(tierlimit_stat_progress_1_0);

/*
 * Raise an ERROR if the caller may not read a view.  Every user may call the
 * view's function, since views call theirs as the user that reads them; it is
 * the view that not every user may read.
 */
static void
require_view(const char *name)
{
	Oid			schema = get_namespace_oid("tierlimit", false);
	Oid			view = get_relname_relid(name, schema);

	if (!OidIsValid(view) ||
		pg_class_aclcheck(view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, name);
}

/* The SQL function _stat_counters(). */
Datum
tierlimit_stat_counters_1_0(PG_FUNCTION_ARGS)
{
	StoreTotals totals;
	QueueTotals log;
	int64		pending;
	Interval	lag = {0};
	TupleDesc	desc;

	require_view("stat");
	store_require();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	log = queue_totals();		/* this comes first, so that pending is not
								 * negative */
	totals = store_totals();
	pending = totals.stats.logged - log.decisions_written;
	if (pending > 0)
		lag.time = Max(GetCurrentTimestamp() - log.written_until, 0);
	{
		Datum		values[] = {
			Int64GetDatum(totals.stats.admitted + totals.stats.denied),
			Int64GetDatum(totals.stats.admitted),
			Int64GetDatum(totals.stats.denied),
			Int64GetDatum(totals.stats.refunds),
			Int64GetDatum(totals.stats.keys),
			Int64GetDatum(totals.memory_used),
			Int64GetDatum(totals.memory_total),
			Int64GetDatum(pending),
			Int64GetDatum(log.rows_written),
			IntervalPGetDatum(&lag),
			Int64GetDatum(totals.stats.evictions),
			Int64GetDatum(totals.stats.rebuilds),
			TimestampTzGetDatum(totals.since)
		};
		bool		nulls[lengthof(values)] = {0};

		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
														  values, nulls)));
	}
}

/* The SQL function stat_reset(). */
Datum
tierlimit_stat_reset_1_0(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	store_require();
	store_reset_stats();
	queue_reset_stats();
	PG_RETURN_VOID();
}

/* The SQL function log_flush(). */
Datum
tierlimit_log_flush_1_0(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	store_require();
	if (!RecoveryInProgress())
		log_flush();
	PG_RETURN_VOID();
}

/*
 * Copy an argument that names what is reported, as much of it as there is room
 * for; NULL is an empty one.
 */
static void
copy_report_name(char name[NAMEDATALEN], FunctionCallInfo fcinfo, int n)
{
	const text *value = PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n);
	int			length = value == NULL ? 0 : VARSIZE_ANY_EXHDR(value);

	if (length > 0)
		length = pg_mbcliplen(VARDATA_ANY(value), length, NAMEDATALEN - 1);
	if (length > 0)
		memcpy(name, VARDATA_ANY(value), length);
	name[length] = '\0';
}

/* The SQL function _progress(command, phase, done, total). */
Datum
tierlimit_progress_1_0(PG_FUNCTION_ARGS)
{
	char		command[NAMEDATALEN];
	char		phase[NAMEDATALEN];

	store_require();
	copy_report_name(command, fcinfo, 0);
	copy_report_name(phase, fcinfo, 1);
	if (command[0] == '\0')
		progress_end();
	else
	{
		if (!progress_is_of(command))
			progress_begin(command);
		progress_phase(phase, PG_ARGISNULL(3) ? PROGRESS_UNKNOWN : PG_GETARG_INT64(3));
		progress_update(PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2));
	}
	PG_RETURN_VOID();
}

/* Put what a process reports into the result. */
static void
put_report(ReturnSetInfo *result, const ProgressReport *report)
{
	Datum		values[] = {
		Int32GetDatum(report->pid),
		ObjectIdGetDatum(report->database),
		CStringGetTextDatum(report->command),
		CStringGetTextDatum(report->phase),
		Int64GetDatum(report->done),
		Int64GetDatum(report->total),
		TimestampTzGetDatum(report->started_at)
	};
	bool		nulls[lengthof(values)] = {0};

	nulls[3] = report->phase[0] == '\0';
	nulls[5] = report->total == PROGRESS_UNKNOWN;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The SQL function _stat_progress(). */
Datum
tierlimit_stat_progress_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	require_view("stat_progress");
	store_require();
	InitMaterializedSRF(fcinfo, 0);
	for (int slot = 0; slot < progress_slots(); slot++)
	{
		ProgressReport report;

		if (progress_read(slot, &report))
			put_report(result, &report);
	}
	return (Datum) 0;
}
