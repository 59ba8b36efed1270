/*-------------------------------------------------------------------------
 *
 * simulate.c
 *		The SQL function simulate: what another tier would have done.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/progress.h"
#include "fmgr.h"
#include "funcapi.h"
#include "limit/replay.h"
#include "log/log.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_simulate_1_0);

/* Raise an ERROR if an argument is NULL that must not be. */
static void
require_argument(FunctionCallInfo fcinfo, int n, const char *argument)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be null", argument)));
}

/* Put what became of a key's calls into the result. */
static void
put_key(ReturnSetInfo *result, const ReplayedKey *key)
{
	Datum		name = (Datum) 0;
	bool		nulls[5] = {0};

	nulls[0] = key->name == NULL;
	nulls[4] = key->denied == 0;
	if (key->name != NULL)
		name = PointerGetDatum(cstring_to_text_with_len(key->name, key->length));
	{
		Datum		values[lengthof(nulls)] = {
			name,
			Int64GetDatum(key->admitted + key->denied),
			Int64GetDatum(key->admitted),
			Int64GetDatum(key->denied),
			TimestampTzGetDatum(key->first_denied_at)
		};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	if (key->name != NULL)
		pfree(DatumGetPointer(name));
}

/*
 * The SQL function simulate(tier, from, to, key).  What was decided before it
 * was called is in the log when it is read; a standby has what it was sent.
 */
Datum
tierlimit_simulate_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const text *tier_name;
	const Tier *tier;
	ReplayedKeys replayed;

	store_require();
	require_argument(fcinfo, 0, "tier");
	require_argument(fcinfo, 1, "\"from\"");
	require_argument(fcinfo, 2, "\"to\"");
	InitMaterializedSRF(fcinfo, 0);
	progress_begin("simulate");
	progress_phase("waiting for the log", PROGRESS_UNKNOWN);
	if (!RecoveryInProgress())
		log_flush();
	tiers_refresh();
	tier_name = PG_GETARG_TEXT_PP(0);
	tier = tiers_require(VARDATA_ANY(tier_name), VARSIZE_ANY_EXHDR(tier_name));
	replayed = replay_log(tier, PG_GETARG_TIMESTAMPTZ(1), PG_GETARG_TIMESTAMPTZ(2),
						  PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3));
	progress_phase("returning keys", replayed.count);
	for (int64 i = 0; i < replayed.count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		put_key(result, replayed.keys[i]);
	}
	replay_done(&replayed);
	progress_end();
	return (Datum) 0;
}
