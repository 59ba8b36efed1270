/*-------------------------------------------------------------------------
 *
 * floor.c
 *		What a call of any function like tierlimit.check() or authorize() costs.
 *
 * The same arguments and the same row, in which nothing was decided: the least
 * that a limiter in this server could cost.  For the benchmarks only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(floor_check);
PG_FUNCTION_INFO_V1(floor_authorize);

/* A row of the type that the function returns, as of an admission. */
static Datum
floor_row(FunctionCallInfo fcinfo, Datum key, Datum tier, Datum cost)
{
	static TupleDesc desc = NULL;
	static Datum name;
	Datum		values[13] = {0};
	bool		nulls[13] = {0};

	if (desc == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		get_call_result_type(fcinfo, NULL, &desc);
		desc = BlessTupleDesc(CreateTupleDescCopy(desc));
		name = CStringGetTextDatum("minute");
		MemoryContextSwitchTo(old);
	}

	values[0] = BoolGetDatum(true);
	values[1] = Int64GetDatum(120);
	values[2] = Int64GetDatum(119);
	nulls[3] = true;
	values[4] = Int32GetDatum(0);
	nulls[5] = true;
	values[6] = Int32GetDatum(200);
	values[7] = key;
	values[8] = tier;
	values[9] = name;
	values[10] = cost;
	values[11] = values[12] = TimestampTzGetDatum(0);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* check(key, tier, cost, endpoint, request_id) */
Datum
floor_check(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(floor_row(fcinfo, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1),
							  PG_GETARG_DATUM(2)));
}

/* authorize(api_key, endpoint, ip, cost, request_id) */
Datum
floor_authorize(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(floor_row(fcinfo, PG_GETARG_DATUM(1), PG_GETARG_DATUM(1),
							  Int64GetDatum(1)));
}
