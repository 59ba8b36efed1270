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
 * What a call has to do with one subject.  Its windows are found in shared
 * memory, or were built from the log by this backend for itself.
 */
typedef struct CallSubject
{
	const Charge *charge;
	Subject    *subject;		/* NULL: not in shared memory */
	bool		distrusted;		/* it has decided by a clock that was wrong,
								 * or by another one than the call's */
	MemoryBlock *base;			/* that block numbers of the windows refer to */
	int			nwindows;		/* of the tier's, the first ones */
	WindowId	ids[MAX_WINDOWS];	/* of these windows */
	Span		current[MAX_WINDOWS];	/* of the calendar ones */
	SubjectWindow *windows[MAX_WINDOWS];	/* NULL: not there */
} CallSubject;

typedef struct Call
{
	int			count;
	CallSubject parts[MAX_CHARGES];
	Retry	   *retry;			/* NULL: it has no id */
	int			nlocks;			/* what is locked: the subjects, the request */
	uint64		hashes[MAX_LOCKS];
	Clock		clock;			/* when the call is decided */
	TimestampTz asked_at;		/* what the clock said */
	int64		cost;
	bool		sharpened;		/* windows were filled again, to be exact */
} Call;

/* Prepare a call of this cost >= 0; no lock may be held. */
extern void call_begin(Call *call, const Charge *charges, int count,
					   Clock clock, int64 cost);

/* The same for giving back what was charged, in whatever unit. */
extern void call_begin_refund(Call *call, const Charge *charge, Clock clock);

/* Have the call lock its retry, too. */
extern void call_add_retry(Call *call, Retry *retry);

/* Find out which windows the charge is about at this time; no lock. */
extern void call_plan(CallSubject *part, TimestampTz now);

/* Read the clock again, after a wait; no lock. */
extern void call_read_clock(Call *call);

/*
 * Lock the subjects, find them and their windows, and move the call's clock
 * on to theirs.
 */
extern void call_lock(Call *call, LWLockMode mode);
extern void call_unlock(Call *call);

/*
 * Find one subject and its windows, to be looked at by this clock; the lock is
 * held.
 */
extern void call_find_windows(CallSubject *part, Clock clock);

/*
 * Whether all windows of the subject are there, can be believed, and nobody has
 * claimed it.  If not, they have to be filled from the log; see rebuild.h.
 */
extern bool call_is_complete(const CallSubject *part);

/* What a limit counts of a call. */
static inline int64
amount_of(int unit, int64 cost)
{
	return unit == UNIT_CREDITS ? cost : 1;
}

static inline Moment
moment_of(const CallSubject *part, int i, TimestampTz now)
{
	Moment		moment = {now, part->current[i]};

	return moment;
}

#endif							/* TIERLIMIT_CALL_H */
