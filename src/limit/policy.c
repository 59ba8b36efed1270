/*-------------------------------------------------------------------------
 *
 * policy.c
 *		The subject that is counted for a key, and its tier.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "limit/address.h"
#include "limit/policy.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/*
 * So often a key and the tiers are read, until they agree.  The second time
 * will do unless tiers change faster than they are read.
 */
#define MAX_ATTEMPTS 10

/* The name of all callers that have neither key nor address. */
#define NOBODY "nobody"

/*
 * Return why a registered key may not call at this time: an error code, or 0.
 */
static int32
refusal_of(const ApiKeyRow *record, TimestampTz now)
{
	switch (record->status)
	{
		case KEY_DISABLED:
			return ERROR_KEY_DISABLED;
		case KEY_PAYMENT_REQUIRED:
			return ERROR_PAYMENT_REQUIRED;
		case KEY_PAYMENT_EXPIRED:
			return ERROR_PAYMENT_EXPIRED;
		case KEY_ACTIVE:
			break;
	}
	return now >= record->expires_at ? ERROR_PAYMENT_EXPIRED : 0;
}

/*
 * Look up the key, its tier (the one that the caller names, or else the key's)
 * and the tier of addresses, all as they were at one moment.  If tiers change
 * meanwhile, all is looked up again.
 *
 * A transaction that renames tiers, or inserts one with its keys, may have
 * committed without its invalidation having reached this session: then what
 * the session knows of tiers is too old.  The caller's tier is looked up
 * first: meanwhile the processor fetches the key from memory.
 */
static void
look_up(const text *tier, Policy *policy)
{
	ApiKeyRow  *record = &policy->record;

	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		uint64		version = tiers_version();

		policy->tier = NULL;
		if (tier != NULL)
			policy->tier = tiers_require(VARDATA_ANY(tier),
										 VARSIZE_ANY_EXHDR(tier));
		apikey_look_up(&policy->charge.subject, record);
		if (tier == NULL && record->registered)
		{
			policy->tier = tiers_find(record->tier, strlen(record->tier));
			if (policy->tier == NULL)
				tiers_forget();
		}
		tiers_look_for_addresses();
		tiers_refresh();
		if (tiers_version() == version)
			return;
		CHECK_FOR_INTERRUPTS();
	}
	if (policy->tier == NULL && record->registered)
		(void) tiers_require(record->tier, strlen(record->tier));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("tiers change faster than they can be read"),
			 errhint("Try again.")));
}

/*
 * Read the clock, and look up the row of the charge's subject, and the tier.
 */
static void
begin_policy(Policy *policy, const text *tier)
{
	policy->clock = clock_read();
	store_prefetch_subject(policy->charge.subject.hash);
	look_up(tier, policy);
}

/* Set the refusal, and the charge, by what was looked up. */
static void
finish_policy(Policy *policy)
{
	const ApiKeyRow *record = &policy->record;
	Charge	   *charge = &policy->charge;

	policy->refusal = policy->tier == NULL ? ERROR_KEY_INVALID : 0;
	if (record->registered)
	{
		policy->refusal = refusal_of(record, policy->clock.now);
		if (record->account[0] != '\0')
			charge->subject = subject_name(charge->subject.installation,
										   SUBJECT_ACCOUNT, record->account,
										   strlen(record->account));
	}
	charge->tier = policy->tier;
	charge->billing_anchor = record->billing_anchor;
	charge->timezone = record->timezone;
}

/*
 * Find out what applies to a key (1 to MAX_NAME_LENGTH bytes) now; tier is the
 * one that the caller names, NULL for the key's own.  May read tables; raises
 * an ERROR if the caller's tier does not exist.  No lock may be held.
 */
void
policy_for_key(const text *key, const text *tier, Policy *policy)
{
	tiers_refresh();
	policy->charge.subject = subject_name(installation()->id, SUBJECT_KEY,
										  VARDATA_ANY(key),
										  VARSIZE_ANY_EXHDR(key));
	begin_policy(policy, tier);
	finish_policy(policy);
}

/*
 * Find out what applies now to the key that a secret belongs to; if there is
 * none, the policy is a refusal.  May read tables and raise an ERROR; no lock
 * may be held.
 */
void
policy_for_secret(const text *secret, Policy *policy)
{
	Charge	   *charge = &policy->charge;
	uint8		hash[KEY_HASH_LENGTH];

	tiers_refresh();
	apikey_hash_secret(secret, hash);
	charge->subject = subject_name(installation()->id, SUBJECT_SECRET,
								   (const char *) hash, sizeof(hash));
	begin_policy(policy, NULL);
	if (policy->record.registered)
		charge->subject = subject_name(charge->subject.installation, SUBJECT_KEY,
									   policy->record.name,
									   strlen(policy->record.name));
	finish_policy(policy);
}

/*
 * Return the charge to a subject that can't be registered, by its name, whose
 * bytes stay the caller's.  There is no row of api_key for it, hence it has
 * the defaults of that table.
 */
Charge
policy_charge_unregistered(SubjectKind kind, const char *name, int length,
						   const Tier *tier)
{
	Charge		charge = {
		.subject = subject_name(installation()->id, kind, name, length),
		.tier = tier,
		.billing_anchor = DT_NOBEGIN,
		.timezone = "UTC"
	};

	return charge;
}

/*
 * Return the charge to the subject of this kind, SUBJECT_ADDRESS or
 * SUBJECT_ANONYMOUS, that has the address's name, under a tier.  The name is
 * allocated in the current memory context.
 */
Charge
policy_charge_address(SubjectKind kind, const inet *address, const Tier *tier)
{
	inet_struct host = address_of_host(address);
	char	   *name = palloc(MAX_ADDRESS_NAME);

	return policy_charge_unregistered(kind, name, address_name(&host, name),
									  tier);
}

/*
 * Find out what applies to a caller without a key, from this address (NULL:
 * none).  The tier is the one for such calls; if it is NULL they are refused.
 * Raises an ERROR if the clock can't be read; no lock may be held.
 */
void
policy_for_anonymous(const inet *address, const Tier *tier, Policy *policy)
{
	memset(policy, 0, sizeof(Policy));
	policy->clock = clock_read();
	policy->tier = tier;
	if (tier == NULL)
		policy->refusal = ERROR_KEY_MISSING;
	else if (address == NULL)
		policy->charge = policy_charge_unregistered(SUBJECT_NOBODY, NOBODY,
													strlen(NOBODY), tier);
	else
		policy->charge = policy_charge_address(SUBJECT_ANONYMOUS, address, tier);
}
