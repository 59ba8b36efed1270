/*-------------------------------------------------------------------------
 *
 * decide.c
 *		From a question to a decision.
 *
 * policy.c says what applies to the key, limiter.c decides, counts and logs.
 * A request that was admitted before gets its first answer again: from memory
 * (retry.c), or by the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "limit/address.h"
#include "limit/decide.h"
#include "limit/limiter.h"
#include "limit/retry.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

bool
decide_is_missing(const text *key)
{
	return key == NULL || VARSIZE_ANY_EXHDR(key) == 0;
}

static Datum
tier_name(const Tier *tier)
{
	return tier == NULL ? (Datum) 0 : tier->name;
}

/* What the call costs: what the caller says, or the endpoint's price. */
static int64
cost_of(const Question *question)
{
	return question->has_cost ? question->cost
		: tiers_price(question->endpoint);
}

LogRow
decide_log_row(const Question *question, const Policy *policy)
{
	const text *tier = (const text *) DatumGetPointer(tier_name(policy->tier));
	LogRow		row = {
		.at = policy->clock.now,
		.credits = cost_of(question),
		.extension_id = installation()->id.extension_id,
		.error_code = policy->refusal
	};

	installation_require_committed();
	row.texts[LOG_KEY] = logrow_text(question->key);
	row.texts[LOG_TIER] = logrow_text(tier);
	row.texts[LOG_ENDPOINT] = logrow_endpoint(question->endpoint);
	row.texts[LOG_REQUEST_ID] = logrow_text(question->request_id);
	if (policy->charge.subject.kind == SUBJECT_ACCOUNT)
	{
		row.texts[LOG_ACCOUNT].bytes = policy->charge.subject.name;
		row.texts[LOG_ACCOUNT].length = policy->charge.subject.length;
	}
	if (question->address != NULL)
	{
		row.has_address = true;
		row.address = address_of_host(question->address);
	}
	return row;
}

/* Find out what applies to the one who asks. */
static void
policy_for(const Question *question, Policy *policy)
{
	if (!decide_is_missing(question->key))
	{
		policy_for_key(question->key, question->tier, policy);
		return;
	}
	memset(policy, 0, sizeof(Policy));
	tiers_refresh();
	policy->refusal = ERROR_KEY_MISSING;
	policy->clock = clock_read();
}

/* The answer to who is refused, or not, before any limit is asked. */
static Decision
refusal(const Question *question, const Policy *policy, int64 cost)
{
	return decision_without_limit(policy->refusal,
								  PointerGetDatum(question->key),
								  tier_name(policy->tier), cost,
								  policy->clock.now);
}

Decision
decide_to_refuse(const Question *question, const Policy *policy)
{
	LogRow		row = decide_log_row(question, policy);

	limiter_refuse(policy->charge.subject.hash, &row);
	return refusal(question, policy, row.credits);
}

static Decision
decision_of(const Question *question, const Policy *policy,
			const Verdict *verdict, int64 cost)
{
	return decision_by_limits(verdict, PointerGetDatum(question->key),
							  tier_name(policy->tier), cost,
							  policy->record.registered
							  ? policy->record.expires_at : DT_NOEND);
}

/* What was answered when the request was admitted. */
static Decision
decision_again(const Question *question, const Admission *admission)
{
	const char *limit_name = admission->names + admission->tier_length;
	text	   *tier = cstring_to_text_with_len(admission->names,
												admission->tier_length);
	TierLimit  *limit = palloc0(sizeof(TierLimit));
	Decision	decision;
	Verdict		verdict = {
		.allowed = true,
		.decided_at = admission->decided_at,
		.resets_at = admission->resets_at,
		.remaining = admission->remaining,
		.limit = admission->has_limit ? limit : NULL
	};

	limit->max = admission->max;
	limit->name = PointerGetDatum(cstring_to_text_with_len(limit_name,
														   admission->limit_length));
	decision = decision_by_limits(&verdict, PointerGetDatum(question->key),
								  PointerGetDatum(tier), admission->cost,
								  DT_NOEND);
	decision.repeated = true;
	return decision;
}

/*
 * The same by the log: what its limits, as they are today, said of the call
 * after those before it.
 */
static Decision
decision_by_log(const Question *question, const Charge *charges, int count,
				const LoggedRetry *logged)
{
	Charge		then[MAX_CHARGES];
	const Tier *tier = NULL;
	Verdict		verdict;
	Decision	decision;

	memcpy(then, charges, count * sizeof(Charge));
	if (logged->tier != NULL)
		tier = tiers_find(VARDATA(logged->tier),
						  VARSIZE(logged->tier) - VARHDRSZ);
	if (tier != NULL)
		then[count - 1].tier = tier;
	verdict = limiter_recall(then, count, logged->at, logged->cost);
	verdict.allowed = true;
	decision = decision_by_limits(&verdict, PointerGetDatum(question->key),
								  then[count - 1].tier->name, logged->cost,
								  DT_NOEND);
	decision.repeated = true;
	return decision;
}

Decision
decide_by_charges(const Question *question, const Policy *policy,
				  const Charge *charges, int count)
{
	LogRow		row = decide_log_row(question, policy);
	int64		cost = row.credits;
	Retry		retry;
	LoggedRetry logged;
	Verdict		verdict;

	if (question->request_id == NULL)
	{
		verdict = limiter_charge(charges, count, policy->clock, cost, &row,
								 NULL);
		return decision_of(question, policy, &verdict, cost);
	}

	retry_init(&retry, &policy->charge.subject, &row,
			   question->has_cost);
	for (;;)
	{
		verdict = limiter_charge(charges, count, policy->clock, cost, &row,
								 &retry);
		if (retry.state != RETRY_UNCERTAIN)
			break;
		if (retry_read(&retry, policy->clock.now, &logged))
		{
			retry_require_same(&retry);
			return decision_by_log(question, charges, count, &logged);
		}
	}
	if (retry.state == RETRY_NEW)
		return decision_of(question, policy, &verdict, cost);
	retry_require_same(&retry);
	return decision_again(question, &retry.admission);
}

Decision
decide_unlimited(const Question *question, const Policy *policy)
{
	return refusal(question, policy, cost_of(question));
}

/*
 * The same for who names a key.  The tier that the caller names need not exist,
 * and a key need not be registered for it.
 */
static Decision
decide_key_unlimited(const Question *question)
{
	Question	own = *question;
	Decision	decision;
	Policy		policy;

	own.tier = NULL;
	policy_for(&own, &policy);
	if (policy.refusal == ERROR_KEY_INVALID && question->tier != NULL)
		policy.refusal = 0;
	decision = decide_unlimited(question, &policy);
	if (question->tier != NULL && policy.refusal != ERROR_KEY_MISSING)
		decision.tier = PointerGetDatum(question->tier);
	return decision;
}

Decision
decide(const Question *question)
{
	Policy		policy;

	if (!tierlimit_enabled)
		return decide_key_unlimited(question);
	policy_for(question, &policy);
	if (policy.refusal != 0)
		return decide_to_refuse(question, &policy);
	return decide_by_charges(question, &policy, &policy.charge, 1);
}

Decision
decide_beforehand(const Question *question)
{
	Policy		policy;
	Verdict		verdict;
	int64		cost;

	if (!tierlimit_enabled)
		return decide_key_unlimited(question);
	policy_for(question, &policy);
	cost = cost_of(question);
	if (policy.refusal != 0)
		return refusal(question, &policy, cost);
	verdict = limiter_peek(&policy.charge, 1, policy.clock, cost);
	return decision_of(question, &policy, &verdict, cost);
}
