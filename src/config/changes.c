/*-------------------------------------------------------------------------
 *
 * changes.c
 *		The triggers by which the configuration tables tell of changes, and
 *		check what SQL alone can't.
 *
 * Triggers that tell of changes fire ALWAYS, so that they also do for changes
 * that logical replication applies.  All of them work where the library is not
 * preloaded, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "config/apikey.h"
#include "config/calendar.h"
#include "config/path.h"
#include "config/tiers.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "store/clock.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(tierlimit_tiers_changed_1_0);
PG_FUNCTION_INFO_V1(tierlimit_key_changed_1_0);
PG_FUNCTION_INFO_V1(tierlimit_key_deleted_1_0);

/*
 * Return the data of the trigger that a function is called for.  The functions
 * are for the extension's own tables, and some for one of them only (NULL:
 * any): other tables have not the columns that they look at.  Raises an ERROR
 * for these.
 */
static TriggerData *
trigger_data(FunctionCallInfo fcinfo, const char *table)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	relation;
	char	   *schema;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as a trigger")));
	relation = data->tg_relation;
	schema = get_namespace_name(RelationGetNamespace(relation));
	if (schema == NULL || strcmp(schema, "tierlimit") != 0 ||
		(table != NULL && strcmp(RelationGetRelationName(relation), table) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("trigger function \"%s\" cannot be used on table \"%s\"",
						get_func_name(fcinfo->flinfo->fn_oid),
						RelationGetRelationName(relation)),
				 errdetail("It is for the configuration tables of the extension \"tierlimit\" only.")));
	return data;
}

/* Return whether a trigger is on a table of this name. */
static bool
is_on(const TriggerData *data, const char *table)
{
	return strcmp(RelationGetRelationName(data->tg_relation), table) == 0;
}

/*
 * Return whether the change is replicated: what was accepted where it comes
 * from is not checked again.
 */
static bool
is_replicated(void)
{
	return SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
}

/* Return whether there is a row that is new, or has new values. */
static bool
has_new_row(const TriggerData *data)
{
	return TRIGGER_FIRED_FOR_ROW(data->tg_event) &&
		!TRIGGER_FIRED_BY_DELETE(data->tg_event);
}

/* Return the row that is new, or has new values. */
static HeapTuple
new_row(const TriggerData *data)
{
	return TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple
		: data->tg_trigtuple;
}

/* Return what a trigger returns: before a row, the row; after it, nothing. */
static Datum
trigger_result(const TriggerData *data)
{
	if (!TRIGGER_FIRED_BEFORE(data->tg_event))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		return PointerGetDatum(data->tg_newtuple);
	return PointerGetDatum(data->tg_trigtuple);
}

/* Return a text column of a row of the trigger's table; NULL for NULL. */
static text *
column_of(const TriggerData *data, HeapTuple row, const char *column)
{
	TupleDesc	desc = data->tg_relation->rd_att;
	bool		isnull;
	Datum		value = heap_getattr(row, SPI_fnumber(desc, column), desc,
									 &isnull);

	return isnull ? NULL : DatumGetTextPP(value);
}

/*
 * Return the row with a whole number in a column, which is a numeric: a column
 * that is a bigint would have a fraction rounded before it could be refused.
 * Raises an ERROR if the number has a fraction.
 */
static HeapTuple
require_whole(const TriggerData *data, HeapTuple row, const char *column)
{
	TupleDesc	desc = data->tg_relation->rd_att;
	int			number = SPI_fnumber(desc, column);
	bool		isnull;
	Datum		value = heap_getattr(row, number, desc, &isnull);
	Datum		whole;

	if (isnull)
		return row;
	whole = DirectFunctionCall1(int8_numeric,
								DirectFunctionCall1(numeric_int8, value));
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, value, whole)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a whole number", column),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, value)))));
	return heap_modify_tuple_by_cols(row, desc, 1, &number, &whole, &isnull);
}

/*
 * Raise an ERROR if the pattern in a row can match nothing: it would leave
 * out, or price, nothing.
 */
static void
require_pattern(const TriggerData *data, HeapTuple row)
{
	text	   *column = column_of(data, row, "endpoint");
	char	   *pattern = column == NULL ? NULL : text_to_cstring(column);

	if (pattern != NULL && !path_pattern_is_normal(pattern))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pattern \"%s\" matches no endpoint", pattern),
				 errdetail("Paths are matched in their normal form, without query, and without empty and dot segments.")));
}

/*
 * Check a row before these tables get it, and return it as they are to have
 * it.
 */
static HeapTuple
check_row(const TriggerData *data, HeapTuple row)
{
	if ((is_on(data, "endpoint") || is_on(data, "tier_endpoint")) &&
		!is_replicated())
		require_pattern(data, row);
	if (is_on(data, "tier_limit"))
		return require_whole(data, row, "max");
	if (is_on(data, "endpoint"))
		return require_whole(data, row, "credits");
	return row;
}

/*
 * Tell of a change of the tables that tiers.c reads: a trigger before and
 * after each row of them, and after TRUNCATE.
 */
Datum
tierlimit_tiers_changed_1_0(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, NULL);

	CacheInvalidateRelcache(data->tg_relation);
	if (!has_new_row(data))
		return trigger_result(data);
	if (TRIGGER_FIRED_BEFORE(data->tg_event))
		return PointerGetDatum(check_row(data, new_row(data)));
	if (is_on(data, "tier_limit") && !is_replicated())
		tiers_require_few_limits(column_of(data, new_row(data), "tier"));
	return PointerGetDatum(NULL);
}

/*
 * Tell apikey.c, by one of its functions, of the record that is known by this
 * column's value.
 */
static void
tell_of_record(const TriggerData *data, HeapTuple row, const char *column,
			   SubjectKind kind, void (*tell) (const SubjectName *))
{
	text	   *name = column_of(data, row, column);
	SubjectName subject;

	/* A row that is not checked yet can have a name that no key has. */
	if (name == NULL || VARSIZE_ANY_EXHDR(name) == 0 ||
		VARSIZE_ANY_EXHDR(name) > MAX_NAME_LENGTH)
		return;
	subject = subject_name(installation()->id, kind, VARDATA_ANY(name),
						   VARSIZE_ANY_EXHDR(name));
	tell(&subject);
}

/* Tell apikey.c of a change of a row, by its name and by its secret. */
static void
change_key(const TriggerData *data, HeapTuple row)
{
	tell_of_record(data, row, "name", SUBJECT_KEY,
				   TRIGGER_FIRED_BY_DELETE(data->tg_event)
				   ? apikey_delete : apikey_change);
	tell_of_record(data, row, "key_hash", SUBJECT_SECRET, apikey_change);
}

/*
 * Tell apikey.c what happens to a row: of an update, to both of its versions.
 */
static void
change_keys(const TriggerData *data)
{
	if (store == NULL)
		return;					/* nothing is remembered */

	change_key(data, data->tg_trigtuple);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		change_key(data, data->tg_newtuple);
}

/* Return whether a text column gets another value. */
static bool
is_changed(const TriggerData *data, const char *column)
{
	text	   *before;
	text	   *after = column_of(data, new_row(data), column);

	if (!TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		return true;
	before = column_of(data, data->tg_trigtuple, column);
	if (before == NULL || after == NULL)
		return before != after;
	return strcmp(text_to_cstring(before), text_to_cstring(after)) != 0;
}

/*
 * Raise an ERROR if a row gets a time zone that does not exist, for which a
 * CHECK could not ask the server.  Only names of zones will do: of what else
 * the server accepts, '+03' is three hours west, and '+99' is nowhere.
 */
static void
require_timezone(const TriggerData *data)
{
	text	   *column = column_of(data, new_row(data), "billing_timezone");

	if (column != NULL && is_changed(data, "billing_timezone") &&
		!calendar_knows_timezone(text_to_cstring(column)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized",
						text_to_cstring(column)),
				 errhint("Use a name of the view pg_timezone_names.")));
}

/*
 * Raise an ERROR if a key gets another name, since windows, log and sums know
 * it by its name.
 */
static void
require_name(const TriggerData *data)
{
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event) && is_changed(data, "name"))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot rename key \"%s\"",
						text_to_cstring(column_of(data, data->tg_trigtuple,
												  "name"))),
				 errdetail("What it has used is logged and counted under its name."),
				 errhint("Register a new key. Keys with the same account share what is counted.")));
}

/*
 * Tell of a change of api_key: a trigger before and after each row; see
 * apikey.c.
 */
Datum
tierlimit_key_changed_1_0(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "api_key");

	if (TRIGGER_FIRED_BEFORE(data->tg_event) && has_new_row(data) &&
		!is_replicated())
	{
		require_name(data);
		require_timezone(data);
	}
	change_keys(data);
	return trigger_result(data);
}

/*
 * A key that is deleted and made anew starts afresh: a row of the log, written
 * by the transaction that deletes it, says that all before is forgotten, as
 * the row of a reset does.  It gives nothing back, since what was used has to
 * be paid.
 *
 * While that transaction runs the key goes on: so the row is written as late
 * as can be, when the transaction commits.
 */
static SpiStatement forget_statement = {
	"INSERT INTO tierlimit.request_log"
	" (at, key, tier, error_code, requests, credits, shadow_code)"
	" VALUES ($1, $2, $3, 0, 0, 0, 0)", 3, {TIMESTAMPTZOID, TEXTOID, TEXTOID}, NULL
};

/*
 * That row has to be read itself, rather than a sum of its minute, should
 * there be one already.
 */
static SpiStatement unsum_statement = {
	"DELETE FROM tierlimit.usage_minute"
	" WHERE subject OPERATOR(pg_catalog.=) $2 AND NOT is_account"
	" AND minute OPERATOR(pg_catalog.=) pg_catalog.date_trunc('minute', $1)",
	2, {TIMESTAMPTZOID, TEXTOID}, NULL
};

static SpiStatement names_query = {
	"SELECT name, tier FROM tierlimit.api_key", 0, {0}, NULL
};

static SpiStatement later_query = {
	"SELECT pg_catalog.max(at) FROM tierlimit.request_log"
	" WHERE key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) $1 AND account IS NULL"
	" AND error_code OPERATOR(pg_catalog.=) 0 AND at OPERATOR(pg_catalog.>) $2"
	" AND at OPERATOR(pg_catalog.<) $3 AND " WITHIN_DAYS,
	3, {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}, NULL
};

/*
 * Return when the newest row of a key is, of those between two times; the
 * first of these times if there is none.
 */
static TimestampTz
newest_row(const text *key, TimestampTz since, TimestampTz until)
{
	LogDays		days = {spi_day(since), ALL_DAYS_AFTER};
	Datum		args[] = {
		PointerGetDatum(key), TimestampTzGetDatum(since),
		TimestampTzGetDatum(until)
	};
	SpiReading	reading;
	TimestampTz newest;

	spi_begin(&reading);
	spi_run_log(&reading, &later_query, days, args);
	newest = DatumGetTimestampTz(spi_value(0, 1, TimestampTzGetDatum(since)));
	spi_end(&reading);
	return newest;
}

/*
 * Return a time after all that is counted for a key, also by a clock that was
 * wrong; it is of the clock that the key has decided by last.
 */
static TimestampTz
time_to_forget(const text *key)
{
	Clock		clock = clock_read();
	SubjectName name;
	const Subject *subject;

	if (store == NULL)
		return newest_row(key, clock.now, DT_NOEND);
	name = subject_name(installation()->id, SUBJECT_KEY, VARDATA_ANY(key),
						VARSIZE_ANY_EXHDR(key));

	/* Memory knows of decisions that are not written yet. */
	partition_lock(&name.hash, 1, LW_SHARED);
	subject = subject_find(&name);
	if (subject != NULL && subject->clock != PG_INT64_MIN)
	{
		clock.now = subject->clock_source == clock.source
			? Max(clock.now, subject->clock) : subject->clock;
		clock.source = (ClockSource) subject->clock_source;
	}
	partition_unlock(&name.hash, 1);

	/* The log knows of those that memory does not have any more. */
	return newest_row(key, clock.now, clock.source == CLOCK_SERVER ? DT_NOEND
					  : clock.now + CLOCK_TOLERANCE);
}

/* Write the row that says that all before is forgotten for a key. */
static void
forget_key(text *key, text *tier)
{
	Datum		args[] = {
		TimestampTzGetDatum(time_to_forget(key)), PointerGetDatum(key),
		PointerGetDatum(tier)
	};

	spi_write(&forget_statement, args);
	spi_write(&unsum_statement, args);
}

/* Write such a row for each key, and tell apikey.c that all are deleted. */
static void
forget_all_keys(void)
{
	SpiReading	reading;
	int			count;

	spi_begin(&reading);
	spi_run(&reading, &names_query, NULL);
	count = (int) SPI_processed;
	for (int i = 0; i < count; i++)
		forget_key(spi_text(i, 1), spi_text(i, 2));
	spi_end(&reading);
	if (store != NULL)
		apikey_delete_all();
}

/*
 * Have deleted keys start afresh: a trigger when a transaction commits that
 * has deleted rows of api_key, and before TRUNCATE.
 */
Datum
tierlimit_key_deleted_1_0(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "api_key");

	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		forget_all_keys();
	else
		forget_key(column_of(data, data->tg_trigtuple, "name"),
				   column_of(data, data->tg_trigtuple, "tier"));
	return PointerGetDatum(NULL);
}
