/*-------------------------------------------------------------------------
 *
 * policy.h
 *		The subject that is counted for a key, and its tier.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_POLICY_H
#define TIERLIMIT_POLICY_H

#include "config/apikey.h"
#include "limit/charge.h"
#include "utils/inet.h"

/*
 * What applies to a key.  Its parts point to each other, so it must not be
 * copied; it is valid until tiers_refresh() is called again.
 */
typedef struct Policy
{
	int32		refusal;		/* an error code, or 0 */
	const Tier *tier;			/* NULL: not known, refused before */
	Clock		clock;			/* when this applies */
	ApiKeyRow	record;
	Charge		charge;			/* if not refused; its subject: if tier set */
} Policy;

extern void policy_for_key(const text *key, const text *tier, Policy *policy);
extern void policy_for_secret(const text *secret, Policy *policy);
extern void policy_for_anonymous(const inet *address, const Tier *tier,
								 Policy *policy);
extern Charge policy_charge_address(SubjectKind kind, const inet *address,
									const Tier *tier);
extern Charge policy_charge_unregistered(SubjectKind kind, const char *name,
										 int length, const Tier *tier);

#endif							/* TIERLIMIT_POLICY_H */
