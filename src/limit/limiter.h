/*-------------------------------------------------------------------------
 *
 * limiter.h
 *		Deciding and counting calls.
 *
 * Nothing here looks configuration up: who is counted under which tier is in
 * the arguments.  No lock may be held on entry.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LIMITER_H
#define TIERLIMIT_LIMITER_H

#include "limit/charge.h"
#include "limit/retry.h"
#include "log/logrow.h"

/*
 * Decide a call of cost >= 0 credits, count it in all windows of all its
 * subjects if it is allowed, and append the decision to the request log: row
 * says who calls, the rest of it is filled in.  A request (NULL: it has no id)
 * that was admitted before is not charged again, nor is one of which that is
 * uncertain: retry->state says so, and there is no verdict.  Raises an ERROR, with nothing counted, if there is no memory for it or if it can't
 * be logged.
 */
extern Verdict limiter_charge(const Charge *charges, int count, Clock clock,
							  int64 cost, LogRow *row, Retry *retry);

/* The verdict on an admitted call of the log, by the log before it. */
extern Verdict limiter_recall(const Charge *charges, int count,
							  TimestampTz at, int64 cost);

/* The verdict on such a call now; nothing is counted, nor changed at all. */
extern Verdict limiter_peek(const Charge *charges, int count, Clock clock,
							int64 cost);

/*
 * Log, and count in the statistics, a call that was refused with the row's
 * error code before its limits were looked at.
 */
extern void limiter_refuse(uint64 hash, LogRow *row);

/* This session has a row up to there that limiter_wait_durable() waits for. */
extern void limiter_note_durable(uint64 position);

/*
 * Wait until what this session admitted, gave back or reset since the last
 * call of this is on disk, if tierlimit.durability says so.
 */
extern void limiter_wait_durable(void);

/* What each of the tier's limits holds now, in their order. */
extern void limiter_usage(const Charge *charge, Clock clock, LimitUse *uses);

#endif							/* TIERLIMIT_LIMITER_H */
