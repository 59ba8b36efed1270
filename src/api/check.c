/*-------------------------------------------------------------------------
 *
 * check.c
 *		The SQL functions that check, count and look at calls.
 *
 * Each function looks at its arguments, has decide.c decide, and returns rows.
 * What only says "no" to a caller of the API is a decision; what is wrong with
 * a call of these functions is an ERROR, and then nothing has been counted,
 * but for the calls that check_many() has decided before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/settings.h"
#include "catalog/pg_type.h"
#include "config/path.h"
#include "fmgr.h"
#include "funcapi.h"
#include "limit/address.h"
#include "limit/decide.h"
#include "limit/limiter.h"
#include "limit/policy.h"
#include "limit/rebuild.h"
#include "limit/refund.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(tierlimit_authorize_1_0);
PG_FUNCTION_INFO_V1(tierlimit_check_1_0);
PG_FUNCTION_INFO_V1(tierlimit_peek_1_0);
PG_FUNCTION_INFO_V1(tierlimit_check_many_1_0);
PG_FUNCTION_INFO_V1(tierlimit_refund_1_0);
PG_FUNCTION_INFO_V1(tierlimit_reset_1_0);
PG_FUNCTION_INFO_V1(tierlimit_usage_1_0);
PG_FUNCTION_INFO_V1(tierlimit_endpoint_pattern_1_0);

/* Raise an ERROR if the server is a standby. */
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

/* Return a text argument; NULL for NULL. */
static text *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n);
}

/* Return an amount, and raise an ERROR if it is negative. */
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

/* Return a cost argument; 1 if it is NULL. */
static int64
cost_argument(FunctionCallInfo fcinfo, int n)
{
	return require_amount(PG_ARGISNULL(n) ? 1 : PG_GETARG_INT64(n), "cost");
}

/* Set what a question says of its cost: nothing, if the argument is NULL. */
static void
set_cost(Question *question, FunctionCallInfo fcinfo, int n)
{
	question->has_cost = !PG_ARGISNULL(n);
	question->cost = cost_argument(fcinfo, n);
}

/*
 * Return a text that is kept in memory, and raise an ERROR if it is too long
 * for that.
 */
static text *
require_short(text *value, const char *argument)
{
	if (value != NULL && VARSIZE_ANY_EXHDR(value) > MAX_NAME_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", argument),
				 errdetail("It has %d bytes; a %s has at most %d.",
						   (int) VARSIZE_ANY_EXHDR(value), argument,
						   MAX_NAME_LENGTH)));
	return value;
}

/* Return an argument that is a key; NULL for NULL. */
static text *
key_argument(FunctionCallInfo fcinfo, int n)
{
	return require_short(text_argument(fcinfo, n), "key");
}

/* Return an argument that is a request_id; NULL if it is NULL or empty. */
static text *
request_id_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *id = require_short(text_argument(fcinfo, n), "request_id");

	/* An empty request_id is none. */
	return id == NULL || VARSIZE_ANY_EXHDR(id) == 0 ? NULL : id;
}

/*
 * Return an argument that is an endpoint, in the normal form of a path: so
 * that no caller chooses a price, or a list to be on, by how a path is spelt.
 */
static const text *
endpoint_argument(FunctionCallInfo fcinfo, int n)
{
	return path_normal(text_argument(fcinfo, n));
}

/* Raise an ERROR if there is no key, for functions that can't do without. */
static void
require_key(const text *key)
{
	if (decide_is_missing(key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key must not be null or empty")));
}

/* The SQL function _endpoint_pattern(endpoint). */
Datum
tierlimit_endpoint_pattern_1_0(PG_FUNCTION_ARGS)
{
	text	   *pattern = tiers_pattern(path_normal(PG_GETARG_TEXT_PP(0)));

	if (pattern == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(pattern);
}

/* The SQL function authorize(api_key, endpoint, ip, cost, request_id). */
Datum
tierlimit_authorize_1_0(PG_FUNCTION_ARGS)
{
	Question	question = {0};
	text	   *secret;
	Decision	decision;

	store_require();
	require_primary("authorize");
	secret = text_argument(fcinfo, 0);
	question.endpoint = endpoint_argument(fcinfo, 1);
	question.address = PG_ARGISNULL(2) ? NULL : PG_GETARG_INET_PP(2);
	set_cost(&question, fcinfo, 3);
	question.request_id = request_id_argument(fcinfo, 4);
	decision = decide_at_gate(secret, &question);
	limiter_wait_durable();
	return decision_row(&decision);
}

/* The SQL function check(key, tier, cost, endpoint, request_id). */
Datum
tierlimit_check_1_0(PG_FUNCTION_ARGS)
{
	Question	question = {0};
	Decision	decision;

	store_require();
	require_primary("check");
	question.key = key_argument(fcinfo, 0);
	question.tier = text_argument(fcinfo, 1);
	set_cost(&question, fcinfo, 2);
	question.endpoint = endpoint_argument(fcinfo, 3);
	question.request_id = request_id_argument(fcinfo, 4);
	decision = decide(&question);
	limiter_wait_durable();
	return decision_row(&decision);
}

/* The SQL function peek(key, tier, cost). */
Datum
tierlimit_peek_1_0(PG_FUNCTION_ARGS)
{
	Question	question = {0};
	Decision	decision;

	store_require();
	question.key = key_argument(fcinfo, 0);
	question.tier = text_argument(fcinfo, 1);
	set_cost(&question, fcinfo, 2);
	decision = decide_beforehand(&question);
	return decision_row(&decision);
}

/* How far check_many() has come with an array of calls. */
typedef struct Progress
{
	int			decided;
	int			admitted;
} Progress;

/* Decide one call of an array, and put its row into the result. */
static void
put_decision(ReturnSetInfo *result, const Question *question,
			 volatile Progress *progress)
{
	Decision	decision = decide(question);
	Datum		values[DECISION_COLUMNS];
	bool		nulls[DECISION_COLUMNS];

	progress->decided++;
	progress->admitted += decision.allowed;
	decision_columns(&decision, values, nulls);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Raise the current ERROR again, with what was counted of the array before it,
 * since it undoes nothing of that.
 */
static void
raise_with_progress(MemoryContext context, Progress progress, int count)
{
	ErrorData  *error;
	char	   *counted;

	if (progress.admitted == 0)
		PG_RE_THROW();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	counted = psprintf("The first %d of the array's %d calls were decided before: %d were admitted, and stay counted.",
					   progress.decided, count, progress.admitted);
	error->detail = error->detail == NULL ? counted
		: psprintf("%s %s", error->detail, counted);
	ReThrowError(error);
}

/* The SQL function check_many(keys, tier, cost). */
Datum
tierlimit_check_many_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Question	question = {0};
	MemoryContext context = CurrentMemoryContext;
	Datum	   *keys;
	bool	   *missing;
	int			count;
	volatile Progress progress = {0};

	store_require();
	require_primary("check_many");
	question.tier = text_argument(fcinfo, 1);
	set_cost(&question, fcinfo, 2);
	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;

	deconstruct_array_builtin(PG_GETARG_ARRAYTYPE_P(0), TEXTOID,
							  &keys, &missing, &count);
	for (int i = 0; i < count; i++)
	{
		keys[i] = missing[i] ? (Datum) 0 : keys[i];
		require_short((text *) DatumGetPointer(keys[i]), "key");
	}
	PG_TRY();
	{
		for (int i = 0; i < count; i++)
		{
			question.key = (text *) DatumGetPointer(keys[i]);
			put_decision(result, &question, &progress);
		}
	}
	PG_CATCH();
	{
		raise_with_progress(context, progress, count);
	}
	PG_END_TRY();
	limiter_wait_durable();
	return (Datum) 0;
}

/*
 * Return whether a text is an address, and no key that was ever called has
 * that name.
 */
static bool
names_address(const text *key, const Policy *policy)
{
	char		name[MAX_ADDRESS_NAME];

	return !policy->record.registered && address_parse(key, name) > 0 &&
		rebuild_tier(&policy->charge.subject) == NULL;
}

/* Return the address, or the first one of the network, that a text names. */
static inet *
address_inet(const text *value)
{
	char	   *name = palloc(MAX_ADDRESS_NAME);

	(void) address_parse(value, name);
	return DatumGetInetPP(DirectFunctionCall1(inet_in, CStringGetDatum(name)));
}

/*
 * Return the charge by which something is given back to an address.  A call
 * that is named is that of the caller without a key.  Units are given back to
 * any caller from there, as the limits of addresses say; where there are none,
 * as those of callers without a key do, who are given back the same units.
 */
static Charge
charge_for_change(const inet *address, bool names_call)
{
	static const char anonymous[] = ANONYMOUS_TIER;
	const Tier *tier = names_call ? NULL : tiers_for_addresses();

	if (tier == NULL)
		tier = tiers_find(anonymous, strlen(anonymous));
	return policy_charge_address(names_call ? SUBJECT_ANONYMOUS : SUBJECT_ADDRESS,
								 address, tier);
}

/*
 * Find out which subject's windows a key has, to change them, and return the
 * row to be logged.  A key that is not registered has the windows of the tier
 * that it was last called under; or else, if that tier is gone, what is in
 * memory.  The request_id is that of the call to be given back; NULL: none is
 * named.
 */
static LogRow
policy_for_change(const text *key, const text *request_id, Policy *policy)
{
	static const Tier no_limits = {0};
	Question	question = {.key = key, .has_cost = true, .request_id = request_id};
	LogRow		row;

	policy_for_key(key, NULL, policy);
	if (names_address(key, policy))
	{
		question.key = NULL;
		question.address = address_inet(key);
		policy->charge = charge_for_change(question.address,
										   request_id != NULL);
	}
	else if (policy->tier == NULL)
	{
		text	   *tier = rebuild_tier(&policy->charge.subject);

		if (tier != NULL &&
			tiers_find(VARDATA(tier), VARSIZE(tier) - VARHDRSZ) != NULL)
			policy_for_key(key, tier, policy);
	}
	policy->refusal = 0;
	row = decide_log_row(&question, policy);
	if (policy->charge.tier == NULL)
		policy->charge.tier = &no_limits;
	return row;
}

/* The SQL function refund(key, cost, requests, request_id). */
Datum
tierlimit_refund_1_0(PG_FUNCTION_ARGS)
{
	text	   *key;
	text	   *request_id;
	int64		cost;
	int64		requests;
	int64		credits;
	Policy		policy;
	LogRow		row;

	store_require();
	require_primary("refund");
	key = key_argument(fcinfo, 0);
	require_key(key);
	cost = cost_argument(fcinfo, 1);
	requests = require_amount(PG_ARGISNULL(2) ? 1 : PG_GETARG_INT32(2),
							  "requests");
	request_id = request_id_argument(fcinfo, 3);
	row = policy_for_change(key, request_id, &policy);
	credits = request_id != NULL
		? refund_call(&policy.charge, policy.clock, &row)
		: refund_newest(&policy.charge, policy.clock, cost, requests, &row);
	limiter_wait_durable();
	PG_RETURN_INT64(credits);
}

/* The SQL function reset(key). */
Datum
tierlimit_reset_1_0(PG_FUNCTION_ARGS)
{
	text	   *key;
	Policy		policy;
	LogRow		row;

	store_require();
	require_primary("reset");
	key = key_argument(fcinfo, 0);
	require_key(key);
	row = policy_for_change(key, NULL, &policy);
	refund_all(&policy.charge, policy.clock, &row);
	limiter_wait_durable();
	PG_RETURN_VOID();
}

/* Put the row of usage() for one limit into the result. */
static void
put_usage(ReturnSetInfo *result, const TierLimit *limit, LimitUse use)
{
	Datum		values[] = {
		limit->name,
		CStringGetTextDatum(tiers_unit_names[limit->unit]),
		CStringGetTextDatum(tiers_kind_names[limit->kind]),
		IntervalPGetDatum(&limit->period),
		Int64GetDatum(limit->max),
		Int64GetDatum(use.used),
		Int64GetDatum(Max(limit->max - use.used, 0)),
		TimestampTzGetDatum(use.resets_at)
	};
	bool		nulls[lengthof(values)] = {0};

	nulls[lengthof(values) - 1] = !IS_VALID_TIMESTAMP(use.resets_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Return whether a tier has this name, or none was asked for. */
static bool
is_named(const text *value, const char *name)
{
	return value == NULL || (VARSIZE_ANY_EXHDR(value) == strlen(name) &&
							 memcmp(VARDATA_ANY(value), name, strlen(name)) == 0);
}

/*
 * Set the charge of an address, as a kind of subject, under a tier, if that
 * tier exists and is asked for.  Returns the number of charges that were set.
 */
static int
add_address_charge(Charge *charge, SubjectKind kind, const char *name,
				   const char *tier_name, const text *asked)
{
	const Tier *tier = tiers_find(tier_name, strlen(tier_name));

	if (tier == NULL || !is_named(asked, tier_name))
		return 0;
	*charge = policy_charge_unregistered(kind, name, strlen(name), tier);
	return 1;
}

/*
 * Set the charges whose windows a key has; or, where no key has that name,
 * those of an address: as one that calls come from, and as a caller without a
 * key.  Returns how many charges there are.
 */
static int
charges_for_usage(const text *key, const text *tier, Policy *policy,
				  Charge charges[MAX_CHARGES])
{
	char	   *name = palloc(MAX_ADDRESS_NAME);
	int			count = 0;

	policy_for_key(key, tier, policy);
	if (!policy->record.registered && address_parse(key, name) > 0 &&
		rebuild_tier(&policy->charge.subject) == NULL)
	{
		count += add_address_charge(&charges[count], SUBJECT_ADDRESS, name,
									ADDRESS_TIER, tier);
		count += add_address_charge(&charges[count], SUBJECT_ANONYMOUS, name,
									ANONYMOUS_TIER, tier);
	}
	if (count == 0 && policy->tier != NULL)
		charges[count++] = policy->charge;
	return count;
}

/* The SQL function usage(key, tier). */
Datum
tierlimit_usage_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *key;
	Charge		charges[MAX_CHARGES];
	LimitUse	uses[MAX_CHARGES][MAX_LIMITS];
	int			next[MAX_CHARGES] = {0};
	int			count;
	Policy		policy;

	store_require();
	key = key_argument(fcinfo, 0);
	require_key(key);
	InitMaterializedSRF(fcinfo, 0);
	/* A key that is not registered has no limits of its own. */
	count = charges_for_usage(key, text_argument(fcinfo, 1), &policy, charges);
	for (int i = 0; i < count; i++)
		limiter_usage(&charges[i], policy.clock, uses[i]);

	/* Put the limits of all charges into the result, the shortest first. */
	for (;;)
	{
		const TierLimit *shortest = NULL;
		int			which = 0;

		for (int i = 0; i < count; i++)
		{
			const TierLimit *limit = &charges[i].tier->limits[next[i]];

			if (next[i] == charges[i].tier->nlimits ||
				(shortest != NULL && limit->period_us >= shortest->period_us))
				continue;
			shortest = limit;
			which = i;
		}
		if (shortest == NULL)
			return (Datum) 0;
		put_usage(result, shortest, uses[which][next[which]++]);
	}
}
