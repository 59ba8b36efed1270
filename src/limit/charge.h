/*-------------------------------------------------------------------------
 *
 * charge.h
 *		The subjects that a call is charged to, and what its limits say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_CHARGE_H
#define TIERLIMIT_CHARGE_H

#include "config/tiers.h"
#include "store/subject.h"

/* A call is charged to one subject, or to two at once. */
#define MAX_CHARGES 2

/* A subject that a call is charged to, and the tier whose limits apply. */
typedef struct Charge
{
	SubjectName subject;
	const Tier *tier;
	TimestampTz billing_anchor; /* of calendar limits; see calendar.h */
	const char *timezone;
} Charge;

/* What all limits of a call say together. */
typedef struct Verdict
{
	bool		allowed;
	int32		shadow_code;	/* of a limit that isn't enforced, or 0 */
	TimestampTz asked_at;		/* what the clock said */
	TimestampTz decided_at;
	const TierLimit *limit;		/* the governing one; NULL: no limit applies */
	int64		remaining;		/* in it, after the call if allowed */
	TimestampTz free_at;		/* denied: when the call would be admitted;
								 * WINDOW_NEVER: never */
	TimestampTz resets_at;		/* DT_NOEND: nothing is counted */
} Verdict;

/* What a limit holds now. */
typedef struct LimitUse
{
	int64		used;
	TimestampTz resets_at;		/* DT_NOEND: nothing is counted */
} LimitUse;

#endif							/* TIERLIMIT_CHARGE_H */
