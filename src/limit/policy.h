/*-------------------------------------------------------------------------
 *
 * policy.h
 *		Who is counted for a key, and under which tier.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_POLICY_H
#define TIERLIMIT_POLICY_H

#include "config/apikey.h"
#include "limit/charge.h"
#include "utils/inet.h"

/*
 * What applies to a key.  Parts point to each other, so it must not be copied;
 * it is valid until tiers_refresh() is called again.
 */
typedef struct Policy
{
	int32		refusal;		/* an error code, or 0 */
	const Tier *tier;			/* NULL: not known, refused before */
	Clock		clock;			/* when this applies */
	ApiKeyRow	record;
	Charge		charge;			/* if not refused; its subject: if tier set */
} Policy;

/*
 * Find out what applies to a key (1 to MAX_NAME_LENGTH bytes) now; tier is the
 * one that the caller names, NULL for the key's own.  Raises an ERROR if the
 * caller's tier does not exist.  No lock may be held.
 */
extern void policy_for_key(const text *key, const text *tier, Policy *policy);

/* Find out what applies to the key of a secret; refused if there is none. */
extern void policy_for_secret(const text *secret, Policy *policy);

/*
 * What applies to who calls without a key, from this address (NULL: none); the
 * tier is NULL if there is none for such calls, which are then refused.
 */
extern void policy_for_anonymous(const inet *address, const Tier *tier,
								 Policy *policy);

/* The charge of a call to its address, under the tier of addresses. */
extern Charge policy_charge_address(const inet *address, const Tier *tier);

/* The charge to a subject that can't be registered, by its name. */
extern Charge policy_charge_unregistered(SubjectKind kind, const char *name,
										 int length, const Tier *tier);

#endif							/* TIERLIMIT_POLICY_H */
