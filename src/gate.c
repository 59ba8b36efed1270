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
 * Who calls without a key is counted as a key named by the address.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "address.h"
#include "gate.h"
#include "settings.h"
#include "utils/builtins.h"

/* Who calls with neither key nor address. */
#define NOBODY "anonymous"

/* The name that the caller's address is counted under. */
static text *
name_of_address(const inet *address)
{
	char		name[MAX_ADDRESS_NAME];
	inet_struct host = address_of_host(address);

	return cstring_to_text_with_len(name, address_name(&host, name));
}

/* The charge to an address; false if there are no limits for any. */
static bool
charge_address(const Question *question, Scope scope, Charge *charge)
{
	const Tier *tier = tiers_for_addresses();
	text	   *name;

	if (tier == NULL || question->address == NULL)
		return false;
	name = name_of_address(question->address);
	charge->subject = subject_name(scope, SUBJECT_ADDRESS, VARDATA(name),
								   VARSIZE(name) - VARHDRSZ);
	charge->tier = tier;
	charge->billing_anchor = DT_NOBEGIN;
	charge->timezone = "UTC";
	return true;
}

/* Charge the address, which may deny first, and the key. */
static Decision
charge_both(const Question *question, const Policy *policy)
{
	Charge		charges[MAX_CHARGES];
	int			count = 0;

	if (charge_address(question, policy->charge.subject.scope,
					   &charges[count]))
		count++;
	charges[count++] = policy->charge;
	return decide_by_charges(question, policy, charges, count);
}

/* Without a key: there has to be a tier for those. */
static void
policy_for_nobody(Question *question, Policy *policy)
{
	static const char tier_name[] = ANONYMOUS_TIER;
	const Tier *tier;

	tiers_refresh();
	tier = tiers_find(tier_name, strlen(tier_name));
	if (tier == NULL || !tiers_include(tier, question->endpoint))
	{
		memset(policy, 0, sizeof(Policy));
		policy->clock = clock_read();
		policy->tier = tier;
		policy->refusal = tier == NULL ? ERROR_KEY_MISSING : ERROR_KEY_REQUIRED;
		return;
	}
	question->key = question->address == NULL ? cstring_to_text(NOBODY)
		: name_of_address(question->address);
	policy_for_key(question->key, (const text *) DatumGetPointer(tier->name),
				   policy);
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

	if (!tierlimit_enabled)
		return decide_nothing(question);
	if (decide_is_missing(secret))
		policy_for_nobody(question, &policy);
	else
		policy_for_somebody(secret, question, &policy);
	if (policy.refusal != 0)
		return decide_to_refuse(question, &policy);
	return charge_both(question, &policy);
}
