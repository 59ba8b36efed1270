/*-------------------------------------------------------------------------
 *
 * statistics.c
 *		What the view tierlimit.stat shows.
 *
 * The counters are the server's, of all its databases together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "store.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(tierlimit_stat_counters);
PG_FUNCTION_INFO_V1(tierlimit_stat_reset);

/* stat_counters() */
Datum
tierlimit_stat_counters(PG_FUNCTION_ARGS)
{
	StoreTotals totals;
	TupleDesc	desc;

	store_require();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	totals = store_totals();
	{
		Datum		values[] = {
			Int64GetDatum(totals.stats.admitted + totals.stats.denied),
			Int64GetDatum(totals.stats.admitted),
			Int64GetDatum(totals.stats.denied),
			Int64GetDatum(totals.stats.refunds),
			Int64GetDatum(totals.stats.keys),
			Int64GetDatum(totals.memory_used),
			Int64GetDatum(totals.memory_total),
			Int64GetDatum(totals.stats.evictions),
			TimestampTzGetDatum(totals.since)
		};
		bool		nulls[lengthof(values)] = {0};

		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
														  values, nulls)));
	}
}

/* stat_reset() */
Datum
tierlimit_stat_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	store_require();
	store_reset_stats();
	PG_RETURN_VOID();
}
