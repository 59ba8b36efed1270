/*-------------------------------------------------------------------------
 *
 * call.h
 *		A call while it is worked on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_CALL_H
#define TIERLIMIT_CALL_H

#include "limit/charge.h"
#include "limit/retry.h"

/*
 * A call's part for one subject.  Its windows are found in shared memory, or
 * were built from the log by this backend for itself.
 */
typedef struct CallSubject
{
	const Charge *charge;
	Subject    *subject;		/* NULL: not in shared memory */
	bool		distrusted;		/* it has decided by a clock that was wrong,
								 * or by another one than the call's */
	MemoryBlock *base;			/* the block numbers of the windows refer to
								 * this */
	int			nwindows;		/* so many of the tier's windows, the first
								 * ones */
	WindowId	ids[MAX_WINDOWS];	/* of these windows */
	Span		current[MAX_WINDOWS];	/* the current periods of the calendar
										 * windows */
	SubjectWindow *windows[MAX_WINDOWS];	/* NULL: not there */
} CallSubject;

/* A call of one subject, or of two that are charged together. */
typedef struct Call
{
	int			count;
	CallSubject parts[MAX_CHARGES];
	Retry	   *retry;			/* NULL: it has no id */
	int			nlocks;			/* how many hashes are locked: those of the
								 * subjects and of the retry */
	uint64		hashes[MAX_LOCKS];
	Clock		clock;			/* when the call is decided */
	TimestampTz asked_at;		/* what the clock said */
	int64		cost;
	bool		sharpened;		/* whether blurred windows were looked for
								 * already */
} Call;

extern void call_begin(Call *call, const Charge *charges, int count,
					   Clock clock, int64 cost);
extern void call_begin_refund(Call *call, const Charge *charge, Clock clock);
extern void call_add_retry(Call *call, Retry *retry);
extern void call_plan(CallSubject *part, TimestampTz now);
extern void call_read_clock(Call *call);
extern void call_lock(Call *call, LWLockMode mode);
extern void call_unlock(Call *call);
extern void call_find_windows(CallSubject *part, Clock clock);
extern bool call_is_complete(const CallSubject *part);
extern bool call_is_out_of_plan(const CallSubject *part, TimestampTz now);
extern void call_count(CallSubject *part, TimestampTz now, int64 cost,
					   BlockList *spare);

/* Return what a limit with this unit counts of a call. */
static inline int64
amount_of(int unit, int64 cost)
{
	return unit == UNIT_CREDITS ? cost : 1;
}

/* Return the moment at which the part's window i is looked at. */
static inline Moment
moment_of(const CallSubject *part, int i, TimestampTz now)
{
	Moment		moment = {now, part->current[i]};

	return moment;
}

#endif							/* TIERLIMIT_CALL_H */
