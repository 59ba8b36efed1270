/*-------------------------------------------------------------------------
 *
 * evaluate.h
 *		What limits say of a call.
 *
 * All of these need all windows of the call to be there.  Windows in shared
 * memory have to be locked at least SHARED.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_EVALUATE_H
#define TIERLIMIT_EVALUATE_H

#include "limit/call.h"

extern int64 evaluate_used(const CallSubject *part, int i, TimestampTz now);
extern TimestampTz evaluate_resets_at(const CallSubject *part, int i,
									  TimestampTz now, int64 used);
extern bool evaluate_is_exact(const TierLimit *limit);
extern bool evaluate_is_blurred(const CallSubject *part, int i);
extern Verdict evaluate(const Call *call);

#endif							/* TIERLIMIT_EVALUATE_H */
