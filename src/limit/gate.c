/*-------------------------------------------------------------------------
 *
 * gate.c
 *		The gate in front of an API: who may call, with a secret or without.
 *
 * The order of its questions: is there a key, or may one call without; is it
 * valid, and in good standing; does its tier include the endpoint; is there
 * room for its address, and for itself?  Key and address are charged together
 * or not at all.
 *
 * Who calls without a key is counted by the address, as a kind of subject of
 * its own, which has no name that a key could meet; all who have no address
 * either are one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "limit/gate.h"
#include "utils/builtins.h"

/* Charge the address, which may deny first, and the key. */
static Decision
charge_both(const Question *question, const Policy *policy)
{
	const Tier *tier = tiers_for_addresses();
	Charge		charges[MAX_CHARGES];
	int			count = 0;

	if (tier != NULL && question->address != NULL)
		charges[count++] = policy_charge_address(question->address, tier);
	charges[count++] = policy->charge;
	return decide_by_charges(question, policy, charges, count);
}

/* Without a key: there has to be a tier for those. */
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

Decision
gate_decide(const text *secret, Question *question)
{
	Policy		policy;

	if (decide_is_missing(secret))
		policy_for_nobody(question, &policy);
	else
		policy_for_somebody(secret, question, &policy);
	if (!tierlimit_enabled)
		return decide_unlimited(question, &policy);
	if (policy.refusal != 0)
		return decide_to_refuse(question, &policy);
	return charge_both(question, &policy);
}
