/*-------------------------------------------------------------------------
 *
 * functions.c
 *		What SQL calls to check, count and look at calls.
 *
 * Each function looks at its arguments, asks policy.c what applies to the
 * key, has limiter.c decide, and returns rows.  What only says "no" to a
 * caller of the API is a decision; what is wrong with a call of ours is an
 * ERROR, and then nothing has been counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "decision.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "policy.h"
#include "settings.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

typedef Verdict (*Judge) (const Charge *charges, int count, Clock clock,
						  int64 cost);

PG_FUNCTION_INFO_V1(tierlimit_check);
PG_FUNCTION_INFO_V1(tierlimit_peek);
PG_FUNCTION_INFO_V1(tierlimit_check_many);
PG_FUNCTION_INFO_V1(tierlimit_refund);
PG_FUNCTION_INFO_V1(tierlimit_reset);
PG_FUNCTION_INFO_V1(tierlimit_usage);

static void
require_primary(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute tierlimit.%s() during recovery",
						function),
				 errhint("Call it on the primary; tierlimit.peek() and tierlimit.usage() work on a standby.")));
}

/* A text argument, NULL if it is NULL. */
static text *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n);
}

/* An amount, not negative. */
static int64
require_amount(int64 amount, const char *argument)
{
	if (amount < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", argument),
				 errdetail("It is %lld.", (long long) amount)));
	return amount;
}

/* A cost argument; 1 if it is NULL. */
static int64
cost_argument(FunctionCallInfo fcinfo, int n)
{
	return require_amount(PG_ARGISNULL(n) ? 1 : PG_GETARG_INT64(n), "cost");
}

static void
require_short_key(const text *key)
{
	if (key != NULL && VARSIZE_ANY_EXHDR(key) > MAX_NAME_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key is too long"),
				 errdetail("It has %d bytes; a key has at most %d.",
						   (int) VARSIZE_ANY_EXHDR(key), MAX_NAME_LENGTH)));
}

static bool
is_missing(const text *key)
{
	return key == NULL || VARSIZE_ANY_EXHDR(key) == 0;
}

/* For functions that are told, not asked: there must be a key. */
static void
require_key(const text *key)
{
	if (is_missing(key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key must not be null or empty")));
	require_short_key(key);
}

static Datum
tier_name(const Tier *tier)
{
	return tier == NULL ? (Datum) 0 : tier->name;
}

/* Decide a call of one key; its arguments have been looked at. */
static Decision
decide(Judge judge, const text *key, const text *tier, int64 cost)
{
	Datum		key_name = PointerGetDatum(key);
	Policy		policy;
	Verdict		verdict;

	if (!tierlimit_enabled)
		return decision_without_limit(0, key_name, PointerGetDatum(tier), cost,
									  clock_read().now);
	if (is_missing(key))
	{
		if (judge == limiter_charge)
			limiter_refused(0);
		tiers_refresh();
		return decision_without_limit(ERROR_KEY_MISSING, key_name, (Datum) 0,
									  cost, clock_read().now);
	}

	policy_for_key(key, tier, &policy);
	if (policy.refusal != 0)
	{
		if (judge == limiter_charge)
			limiter_refused(policy.charge.subject.hash);
		return decision_without_limit(policy.refusal, key_name,
									  tier_name(policy.tier), cost,
									  policy.clock.now);
	}
	verdict = judge(&policy.charge, 1, policy.clock, cost);
	return decision_by_limits(&verdict, key_name, tier_name(policy.tier), cost,
							  policy.record.registered
							  ? policy.record.expires_at : DT_NOEND);
}

/* The arguments that check and peek share: key, tier, cost. */
static Datum
decide_arguments(FunctionCallInfo fcinfo, Judge judge)
{
	text	   *key = text_argument(fcinfo, 0);
	Decision	decision;

	require_short_key(key);
	decision = decide(judge, key, text_argument(fcinfo, 1),
					  cost_argument(fcinfo, 2));
	return decision_row(&decision);
}

/* check(key, tier, cost, endpoint, request_id) */
Datum
tierlimit_check(PG_FUNCTION_ARGS)
{
	store_require();
	require_primary("check");
	return decide_arguments(fcinfo, limiter_charge);
}

/* peek(key, tier, cost) */
Datum
tierlimit_peek(PG_FUNCTION_ARGS)
{
	store_require();
	return decide_arguments(fcinfo, limiter_peek);
}

/* check_many(keys, tier, cost) */
Datum
tierlimit_check_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *tier = text_argument(fcinfo, 1);
	int64		cost = cost_argument(fcinfo, 2);
	Datum	   *keys;
	bool	   *missing;
	int			count;

	store_require();
	require_primary("check_many");
	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;

	deconstruct_array_builtin(PG_GETARG_ARRAYTYPE_P(0), TEXTOID,
							  &keys, &missing, &count);
	for (int i = 0; i < count; i++)
	{
		keys[i] = missing[i] ? (Datum) 0 : keys[i];
		require_short_key((text *) DatumGetPointer(keys[i]));
	}
	for (int i = 0; i < count; i++)
	{
		Datum		values[DECISION_COLUMNS];
		bool		nulls[DECISION_COLUMNS];
		Decision	decision = decide(limiter_charge,
									  (text *) DatumGetPointer(keys[i]),
									  tier, cost);

		decision_columns(&decision, values, nulls);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		CHECK_FOR_INTERRUPTS();
	}
	return (Datum) 0;
}

/* refund(key, cost, requests) */
Datum
tierlimit_refund(PG_FUNCTION_ARGS)
{
	text	   *key = text_argument(fcinfo, 0);
	int64		cost = cost_argument(fcinfo, 1);
	int64		requests = require_amount(PG_ARGISNULL(2) ? 1 : PG_GETARG_INT32(2),
										  "requests");
	Policy		policy;

	store_require();
	require_primary("refund");
	require_key(key);
	policy_for_key(key, NULL, &policy);
	PG_RETURN_INT64(limiter_refund(&policy.charge.subject, policy.clock, cost,
								   requests));
}

/* reset(key) */
Datum
tierlimit_reset(PG_FUNCTION_ARGS)
{
	text	   *key = text_argument(fcinfo, 0);
	Policy		policy;

	store_require();
	require_primary("reset");
	require_key(key);
	policy_for_key(key, NULL, &policy);
	limiter_reset(&policy.charge.subject);
	PG_RETURN_VOID();
}

/* The columns of usage(): one row a limit. */
static void
put_usage(ReturnSetInfo *result, const TierLimit *limit, LimitUse use)
{
	bool		calendar = limit->kind == WINDOW_CALENDAR;
	Datum		values[] = {
		limit->name,
		CStringGetTextDatum(limit->unit == UNIT_CREDITS ? "credits" : "requests"),
		CStringGetTextDatum(calendar ? "calendar" : "sliding"),
		IntervalPGetDatum(&limit->period),
		Int64GetDatum(limit->max),
		Int64GetDatum(use.used),
		Int64GetDatum(Max(limit->max - use.used, 0)),
		TimestampTzGetDatum(use.resets_at)
	};
	bool		nulls[lengthof(values)] = {0};

	nulls[lengthof(values) - 1] = use.resets_at == DT_NOEND;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* usage(key, tier) */
Datum
tierlimit_usage(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *key = text_argument(fcinfo, 0);
	LimitUse	uses[MAX_LIMITS];
	Policy		policy;

	store_require();
	require_key(key);
	InitMaterializedSRF(fcinfo, 0);
	policy_for_key(key, text_argument(fcinfo, 1), &policy);
	if (policy.tier == NULL)
		return (Datum) 0;		/* not registered: there are no limits */

	limiter_usage(&policy.charge, policy.clock, uses);
	for (int i = 0; i < policy.tier->nlimits; i++)
		put_usage(result, &policy.tier->limits[i], uses[i]);
	return (Datum) 0;
}
