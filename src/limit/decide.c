/*-------------------------------------------------------------------------
 *
 * decide.c
 *		The way from a question to a decision.
 *
 * policy.c says what applies to the key, limiter.c decides, counts and logs.
 *
 * The gate in front of an API asks in this order: is there a key, or are calls
 * without one admitted; is the key valid, and in good standing; does its tier
 * include the endpoint; is there room for its address, and for the key itself?
 * Key and address are charged together or not at all.  A caller without a key
 * is counted by the address, as a kind of subject of its own, so that no key
 * can have the same name; all callers that have no address either are one
 * subject.
 *
 * A retry of a call that was admitted before gets its first answer again: from
 * memory (retry.c), or by the log.
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

/* Return whether no key was given: it is NULL or empty. */
bool
decide_is_missing(const text *key)
{
	return key == NULL || VARSIZE_ANY_EXHDR(key) == 0;
}

/* Return the name of a tier as text, or (Datum) 0 if there is none. */
static Datum
tier_name(const Tier *tier)
{
	return tier == NULL ? (Datum) 0 : tier->name;
}

/*
 * Return what the call costs: what the caller says, or the endpoint's price.
 */
static int64
cost_of(const Question *question)
{
	return question->has_cost ? question->cost
		: tiers_price(question->endpoint);
}

/*
 * Return what the log says of a call before any limit is asked: who asks, at
 * what time, for which endpoint, at what cost, and the policy's refusal.  Its
 * texts are those of the question and of the policy.  May read tables; raises
 * an ERROR if the installation is not committed yet.  No lock may be held.
 */
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

/* Find out what applies to the caller, who may have no key. */
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

/* Return the decision that needs no limit: a refusal, or an admission. */
static Decision
refusal(const Question *question, const Policy *policy, int64 cost)
{
	return decision_without_limit(policy->refusal,
								  PointerGetDatum(question->key),
								  tier_name(policy->tier), cost,
								  policy->clock.now);
}

/* Refuse a call: log it, and return the refusal. */
static Decision
to_refuse(const Question *question, const Policy *policy)
{
	LogRow		row = decide_log_row(question, policy);

	limiter_refuse(policy->charge.subject.hash, &row);
	return refusal(question, policy, row.credits);
}

/* Return the decision that a verdict on the caller's charges stands for. */
static Decision
decision_of(const Question *question, const Policy *policy,
			const Verdict *verdict, int64 cost)
{
	return decision_by_limits(verdict, PointerGetDatum(question->key),
							  tier_name(policy->tier), cost,
							  policy->record.registered
							  ? policy->record.expires_at : DT_NOEND);
}

/* Return what was answered when the call was admitted, for a retry of it. */
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
 * Return the decision on a retry that only the log knows.  It is what its
 * limits, as they are today, say of the call after those that were decided
 * before it.
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

/* Charge a call, or find out what was answered when it was admitted before. */
static Decision
by_charges(const Question *question, const Policy *policy,
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

/* Return the decision on a call while tierlimit.enabled is off. */
static Decision
unlimited(const Question *question, const Policy *policy)
{
	return refusal(question, policy, cost_of(question));
}

/*
 * Return the decision on a call that names a key while tierlimit.enabled is
 * off.  The tier that the caller names need not exist, and the key need not be
 * registered.
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
	decision = unlimited(question, &policy);
	if (question->tier != NULL && policy.refusal != ERROR_KEY_MISSING)
		decision.tier = PointerGetDatum(question->tier);
	return decision;
}

/*
 * Decide a call, count and log it.  While tierlimit.enabled is off, the call
 * is decided without a limit, and neither counted nor logged.  May read
 * tables, wait for the log and raise an ERROR, with nothing counted; no lock
 * may be held.
 */
Decision
decide(const Question *question)
{
	Policy		policy;

	if (!tierlimit_enabled)
		return decide_key_unlimited(question);
	policy_for(question, &policy);
	if (policy.refusal != 0)
		return to_refuse(question, &policy);
	return by_charges(question, &policy, &policy.charge, 1);
}

/*
 * Return the decision that decide() would take now; nothing is counted or
 * logged.  May read tables, wait for the log and raise an ERROR; no lock may
 * be held.
 */
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

/* Charge the address, which may deny first, and the key. */
static Decision
charge_both(const Question *question, const Policy *policy)
{
	const Tier *tier = tiers_for_addresses();
	Charge		charges[MAX_CHARGES];
	int			count = 0;

	if (tier != NULL && question->address != NULL)
		charges[count++] = policy_charge_address(SUBJECT_ADDRESS,
												 question->address, tier);
	charges[count++] = policy->charge;
	return by_charges(question, policy, charges, count);
}

/*
 * Find out what applies to a caller without a key.  Such calls need a tier of
 * their own.
 */
static void
policy_for_nobody(const Question *question, Policy *policy)
{
	static const char tier_name[] = ANONYMOUS_TIER;
	const Tier *tier;

	tiers_refresh();
	tier = tiers_find(tier_name, strlen(tier_name));
	policy_for_anonymous(question->address, tier, policy);
	if (tier != NULL && !tiers_include(tier, question->endpoint))
		policy->refusal = ERROR_KEY_REQUIRED;
}

/*
 * Find out what applies to the secret's key, and put the key into the
 * question.
 */
static void
policy_for_somebody(const text *secret, Question *question, Policy *policy)
{
	policy_for_secret(secret, policy);
	if (policy->record.registered)
		question->key = cstring_to_text(policy->record.name);
	if (policy->refusal == 0 &&
		!tiers_include(policy->tier, question->endpoint))
		policy->refusal = ERROR_NOT_AUTHORIZED;
}

/*
 * Decide a call at the gate, count and log it.  The caller shows a secret, or
 * none (NULL or empty); the key that the secret belongs to is put into the
 * question.  May read tables, wait for the log and raise an ERROR, with
 * nothing counted; no lock may be held.
 */
Decision
decide_at_gate(const text *secret, Question *question)
{
	Policy		policy;

	if (decide_is_missing(secret))
		policy_for_nobody(question, &policy);
	else
		policy_for_somebody(secret, question, &policy);
	if (!tierlimit_enabled)
		return unlimited(question, &policy);
	if (policy.refusal != 0)
		return to_refuse(question, &policy);
	return charge_both(question, &policy);
}
