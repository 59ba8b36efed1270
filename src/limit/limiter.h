/*-------------------------------------------------------------------------
 *
 * limiter.h
 *		Deciding and counting calls.
 *
 * Nothing here looks configuration up: the arguments say which subjects are
 * counted under which tiers.  No lock may be held on entry.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LIMITER_H
#define TIERLIMIT_LIMITER_H

#include "limit/charge.h"
#include "limit/retry.h"
#include "log/logrow.h"

extern Verdict limiter_charge(const Charge *charges, int count, Clock clock,
							  int64 cost, LogRow *row, Retry *retry);
extern Verdict limiter_recall(const Charge *charges, int count,
							  TimestampTz at, int64 cost);
extern Verdict limiter_peek(const Charge *charges, int count, Clock clock,
							int64 cost);
extern void limiter_refuse(uint64 hash, LogRow *row);
extern void limiter_note_durable(uint64 position);
extern void limiter_wait_durable(void);
extern void limiter_usage(const Charge *charge, Clock clock, LimitUse *uses);

#endif							/* TIERLIMIT_LIMITER_H */
