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

#include "logrow.h"
#include "subject.h"
#include "tiers.h"

/* A call is charged to one subject, or to two at once. */
#define MAX_CHARGES 2

/* Whom a call is charged to, and under which limits. */
typedef struct Charge
{
	SubjectName subject;
	const Tier *tier;
	TimestampTz billing_anchor; /* of calendar limits; see calendar.h */
	const char *timezone;
} Charge;

/* See request.h. */
typedef struct Request Request;

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

/*
 * Decide a call of cost >= 0 credits, count it in all windows of all its
 * subjects if it is allowed, and append the decision to the request log: row
 * says who calls, the rest of it is filled in.  A request (NULL: it has no id)
 * that was admitted before is not charged again, nor is one of which that is
 * uncertain: request->state says so, and there is no verdict.  Raises an ERROR, with nothing counted, if there is no memory for it or if it can't
 * be logged.
 */
extern Verdict limiter_charge(const Charge *charges, int count, Clock clock,
							  int64 cost, LogRow *row, Request *request);

/* The verdict on an admitted call of the past, by the log before it. */
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

/* What a limit holds now. */
typedef struct LimitUse
{
	int64		used;
	TimestampTz resets_at;		/* DT_NOEND: nothing is counted */
} LimitUse;

/* What each of the tier's limits holds now, in their order. */
extern void limiter_usage(const Charge *charge, Clock clock, LimitUse *uses);

#endif							/* TIERLIMIT_LIMITER_H */
