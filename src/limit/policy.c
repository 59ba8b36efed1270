/*-------------------------------------------------------------------------
 *
 * policy.c
 *		Who is counted for a key, and under which tier.
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
 * How often a key and the tiers are read until they agree.  The second time
 * will do unless tiers change faster than we read.
 */
#define MAX_ATTEMPTS 10

/* The name of all who have neither key nor address. */
#define NOBODY "nobody"

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
 * Look up the key, the tier (the one that the caller names, or else the key's)
 * and that of addresses, all as they were at one moment: again, if tiers changed
 * meanwhile.  A transaction that renames tiers, or inserts one with its keys, may
 * have committed but not yet told us so: then what we know of tiers is too old.
 * (First the caller's tier: meanwhile the key is fetched from memory.)
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

/* Look up what the subject of the charge stands for, with the tier. */
static void
begin_policy(Policy *policy, const text *tier)
{
	policy->clock = clock_read();
	store_prefetch_subject(policy->charge.subject.hash);
	look_up(tier, policy);
}

/* Put down whether the key may call, and who is charged. */
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

/* It has no row of api_key, hence its defaults. */
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

static Charge
charge_by_address(SubjectKind kind, const inet *address, const Tier *tier)
{
	inet_struct host = address_of_host(address);
	char	   *name = palloc(MAX_ADDRESS_NAME);

	return policy_charge_unregistered(kind, name, address_name(&host, name),
									  tier);
}

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
		policy->charge = charge_by_address(SUBJECT_ANONYMOUS, address, tier);
}

Charge
policy_charge_address(const inet *address, const Tier *tier)
{
	return charge_by_address(SUBJECT_ADDRESS, address, tier);
}
