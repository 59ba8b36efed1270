/*-------------------------------------------------------------------------
 *
 * triggers.c
 *		The triggers by which the configuration tables tell of changes, and
 *		check what SQL alone can't.
 *
 * Those that tell fire ALWAYS, so that also changes applied by logical
 * replication do.  All work where the library is not preloaded, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
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

static TriggerData *
trigger_data(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as a trigger")));
	return (TriggerData *) fcinfo->context;
}

/* What a trigger returns: before a row, the row; after it, nothing. */
static Datum
trigger_result(const TriggerData *data)
{
	if (!TRIGGER_FIRED_BEFORE(data->tg_event))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		return PointerGetDatum(data->tg_newtuple);
	return PointerGetDatum(data->tg_trigtuple);
}

/*
 * Before and after each row of the tables that tiers.c reads, and after
 * TRUNCATE of them.
 */
Datum
tierlimit_tiers_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo);

	CacheInvalidateRelcache(data->tg_relation);
	return trigger_result(data);
}

/* After each statement on tier_limit that may add limits to a tier. */
Datum
tierlimit_limits_changed(PG_FUNCTION_ARGS)
{
	(void) trigger_data(fcinfo);
	tiers_require_few_limits();
	return PointerGetDatum(NULL);
}

/* A text column of a row of the trigger's table; NULL for NULL. */
static text *
column_of(const TriggerData *data, HeapTuple row, const char *column)
{
	TupleDesc	desc = data->tg_relation->rd_att;
	bool		isnull;
	Datum		value = heap_getattr(row, SPI_fnumber(desc, column), desc,
									 &isnull);

	return isnull ? NULL : DatumGetTextPP(value);
}

/* Tell the registry that what is known by this column's value changes. */
static void
change_record(const TriggerData *data, HeapTuple row, const char *column,
			  SubjectKind kind)
{
	text	   *name = column_of(data, row, column);
	SubjectName subject;

	/* Before a row is checked it can have a name that no key has. */
	if (name == NULL || VARSIZE_ANY_EXHDR(name) == 0 ||
		VARSIZE_ANY_EXHDR(name) > MAX_NAME_LENGTH)
		return;
	subject = subject_name(installation()->scope, kind, VARDATA_ANY(name),
						   VARSIZE_ANY_EXHDR(name));
	registry_change(&subject);
}

static void
change_key(const TriggerData *data, HeapTuple row)
{
	change_record(data, row, "name", SUBJECT_KEY);
	change_record(data, row, "key_hash", SUBJECT_SECRET);
}

/* Tell the registry what happens to a row. */
static void
change_keys(const TriggerData *data)
{
	if (store == NULL)
		return;					/* nothing is remembered */

	change_key(data, data->tg_trigtuple);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		change_key(data, data->tg_newtuple);
}

/* That a time zone exists is nothing that a CHECK could ask the server. */
static void
require_timezone(const TriggerData *data, HeapTuple row)
{
	text	   *column = column_of(data, row, "billing_timezone");
	char	   *name = column == NULL ? NULL : text_to_cstring(column);

	if (name != NULL && !calendar_knows_timezone(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("See the view pg_timezone_names.")));
}

/* Before and after each row of api_key; see registry.c. */
Datum
tierlimit_key_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo);

	if (TRIGGER_FIRED_BEFORE(data->tg_event) &&
		!TRIGGER_FIRED_BY_DELETE(data->tg_event))
		require_timezone(data, (HeapTuple) DatumGetPointer(trigger_result(data)));
	change_keys(data);
	return trigger_result(data);
}
