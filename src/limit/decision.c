/*-------------------------------------------------------------------------
 *
 * decision.c
 *		The row that every check returns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/elapsed.h"
#include "limit/decision.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#define HTTP_OK 200

/*
 * Return a decision for which no limit was asked: a refusal with the error
 * code, or an admission if that is 0.
 */
Decision
decision_without_limit(int32 error_code, Datum key, Datum tier, int64 cost,
					   TimestampTz now)
{
	Decision	decision = {
		.allowed = error_code == 0,
		.error_code = error_code,
		.key = key,
		.tier = tier,
		.resets_at = DT_NOEND,
		.cost = cost,
		.decided_at = now
	};

	return decision;
}

/*
 * Return after how many whole seconds, rounded up and at least 1, the client
 * can try again with success; 0 if it would never succeed, or not before its
 * key expires, or time ends.
 */
static int32
retry_after(const Verdict *verdict, TimestampTz expires_at)
{
	int64		seconds;

	if (verdict->free_at == WINDOW_NEVER ||
		!IS_VALID_TIMESTAMP(verdict->free_at))
		return 0;
	seconds = Max(seconds_rounded_up(verdict->free_at - verdict->asked_at), 1);
	if (seconds > PG_INT32_MAX ||
		verdict->asked_at + seconds * USECS_PER_SEC >= expires_at)
		return 0;
	return (int32) seconds;
}

/*
 * Return the decision that a verdict stands for.  Calls of the key are refused
 * from expires_at on, so no retry_after leads there.
 */
Decision
decision_by_limits(const Verdict *verdict, Datum key, Datum tier, int64 cost,
				   TimestampTz expires_at)
{
	Decision	decision = decision_without_limit(0, key, tier, cost,
												  verdict->decided_at);

	decision.limit = verdict->limit;
	if (verdict->limit == NULL)
		return decision;

	decision.remaining = verdict->remaining;
	decision.resets_at = verdict->resets_at;
	if (!verdict->allowed)
	{
		decision.allowed = false;
		decision.error_code = verdict->limit->error_code;
		decision.retry_after = retry_after(verdict, expires_at);
	}
	return decision;
}

/*
 * Fill in the columns of tierlimit.decision, DECISION_COLUMNS of each.  The
 * error codes have to be read (tiers_refresh()).
 */
void
decision_columns(const Decision *decision, Datum *values, bool *nulls)
{
	const TierLimit *limit = decision->limit;
	ErrorCode	error = {.http_status = HTTP_OK};

	if (!decision->allowed)
		error = tiers_error_code(decision->error_code);

	values[DECISION_ALLOWED] = BoolGetDatum(decision->allowed);
	values[DECISION_LIMIT] = Int64GetDatum(limit ? limit->max : 0);
	values[DECISION_REMAINING] = Int64GetDatum(decision->remaining);
	values[DECISION_RETRY_AFTER] = Int32GetDatum(decision->retry_after);
	values[DECISION_ERROR_CODE] = Int32GetDatum(decision->error_code);
	values[DECISION_ERROR] = error.name;
	values[DECISION_HTTP_STATUS] = Int32GetDatum(error.http_status);
	values[DECISION_KEY] = decision->key;
	values[DECISION_TIER] = decision->tier;
	values[DECISION_LIMIT_NAME] = limit ? limit->name : (Datum) 0;
	values[DECISION_COST] = Int64GetDatum(decision->cost);
	values[DECISION_DECIDED_AT] = TimestampTzGetDatum(decision->decided_at);
	values[DECISION_RESET_AT] = TimestampTzGetDatum(decision->resets_at);
	values[DECISION_REPEATED] = BoolGetDatum(decision->repeated);

	memset(nulls, false, DECISION_COLUMNS * sizeof(bool));
	nulls[DECISION_LIMIT] = limit == NULL;
	nulls[DECISION_REMAINING] = limit == NULL;
	nulls[DECISION_LIMIT_NAME] = limit == NULL;
	nulls[DECISION_RETRY_AFTER] = decision->retry_after == 0;
	nulls[DECISION_ERROR] = decision->allowed;
	nulls[DECISION_KEY] = decision->key == (Datum) 0;
	nulls[DECISION_TIER] = decision->tier == (Datum) 0;
	nulls[DECISION_RESET_AT] = !IS_VALID_TIMESTAMP(decision->resets_at);
}

/*
 * The row type tierlimit.decision.  The entry of the type cache stays for the
 * life of the session, and loses what is in it when the type changes; what is
 * returned is valid until invalidations are accepted again.
 */
static TupleDesc
decision_type(void)
{
	static TypeCacheEntry *entry = NULL;
	Oid			type = installation()->decision;

	if (entry == NULL || entry->type_id != type || entry->tupDesc == NULL)
		entry = lookup_type_cache(type, TYPECACHE_TUPDESC);
	if (entry->tupDesc == NULL || entry->tupDesc->natts != DECISION_COLUMNS)
		elog(ERROR, "type tierlimit.decision does not have %d columns",
			 DECISION_COLUMNS);
	return entry->tupDesc;
}

/*
 * Return the decision as a row of type tierlimit.decision, in the current
 * memory context.
 */
Datum
decision_row(const Decision *decision)
{
	TupleDesc	desc = decision_type();
	Datum		values[DECISION_COLUMNS];
	bool		nulls[DECISION_COLUMNS];

	decision_columns(decision, values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * Fill in the columns of a row of type tierlimit.decision, DECISION_COLUMNS of
 * each; they point into the row.
 */
void
decision_deform(HeapTupleHeader row, Datum *values, bool *nulls)
{
	HeapTupleData tuple = {
		.t_len = HeapTupleHeaderGetDatumLength(row),
		.t_data = row
	};

	heap_deform_tuple(&tuple, decision_type(), values, nulls);
}
