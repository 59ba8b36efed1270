/*-------------------------------------------------------------------------
 *
 * triggers.c
 *		The triggers by which the configuration tables tell of changes, and
 *		the checks of their columns that SQL alone can't express.
 *
 * The triggers fire ALWAYS, so that also changes applied by logical
 * replication tell.  They work, doing nothing, where the library is not
 * preloaded: nothing is remembered there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "calendar.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "registry.h"
#include "tiers.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(tierlimit_tiers_changed);
PG_FUNCTION_INFO_V1(tierlimit_limits_changed);
PG_FUNCTION_INFO_V1(tierlimit_key_changed);
PG_FUNCTION_INFO_V1(tierlimit_is_timezone);

static TriggerData *
trigger_data(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as a trigger")));
	return (TriggerData *) fcinfo->context;
}

/*
 * After each row of tier, tier_limit and error_code, and after TRUNCATE; see
 * tiers.c.
 */
Datum
tierlimit_tiers_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcache(trigger_data(fcinfo)->tg_relation);
	return PointerGetDatum(NULL);
}

/* After each statement on tier_limit that may add limits to a tier. */
Datum
tierlimit_limits_changed(PG_FUNCTION_ARGS)
{
	(void) trigger_data(fcinfo);
	tiers_require_few_limits();
	return PointerGetDatum(NULL);
}

static void
change_key(TriggerData *data, HeapTuple row)
{
	TupleDesc	desc = data->tg_relation->rd_att;
	bool		isnull;
	Datum		name = heap_getattr(row, SPI_fnumber(desc, "name"), desc,
									&isnull);
	text	   *key = isnull ? NULL : DatumGetTextPP(name);
	SubjectName subject;

	if (key == NULL)
		return;
	subject = subject_name(installation()->scope, SUBJECT_KEY,
						   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	registry_change(&subject);
}

/* After each row of api_key, and after TRUNCATE; see registry.c. */
Datum
tierlimit_key_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo);

	if (store == NULL)
		return PointerGetDatum(NULL);

	if (TRIGGER_FIRED_FOR_STATEMENT(data->tg_event))
		registry_change_all();
	else
	{
		change_key(data, data->tg_trigtuple);
		if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
			change_key(data, data->tg_newtuple);
	}
	return PointerGetDatum(NULL);
}

/* is_timezone(name) */
Datum
tierlimit_is_timezone(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(calendar_knows_timezone(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
