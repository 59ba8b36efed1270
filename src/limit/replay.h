/*-------------------------------------------------------------------------
 *
 * replay.h
 *		Deciding the calls of the request log once more, by another tier.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_REPLAY_H
#define TIERLIMIT_REPLAY_H

#include "config/tiers.h"
#include "utils/palloc.h"

/* What became of a key's calls; or, without a name, of those without a key. */
typedef struct ReplayedKey
{
	const char *name;			/* no terminator; NULL: no key */
	int			length;
	int64		admitted;
	int64		denied;
	TimestampTz first_denied_at;	/* if any was */
} ReplayedKey;

/* Keys in the order of their names' bytes, callers without one last. */
typedef struct ReplayedKeys
{
	int64		count;
	ReplayedKey **keys;
	MemoryContext context;		/* of all this */
} ReplayedKeys;

extern ReplayedKeys replay_log(const Tier *tier, TimestampTz first,
							   TimestampTz end, const text *key);
extern void replay_done(ReplayedKeys *result);

#endif							/* TIERLIMIT_REPLAY_H */
