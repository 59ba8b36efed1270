/*-------------------------------------------------------------------------
 *
 * call.c
 *		A call while it is worked on: its subjects, windows and time.
 *
 * Time never goes backwards for a subject: where a subject has decided at a
 * later time than our clock says, the call is decided at that time as well,
 * unless it is so much later that a clock must have been wrong (clock.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "config/calendar.h"
#include "limit/call.h"

/*
 * Set the ids of the windows that the charge needs, and the current periods of
 * the calendar windows at this time.  May load a time zone and raise an ERROR;
 * no lock may be held.
 */
void
call_plan(CallSubject *part, TimestampTz now)
{
	const Charge *charge = part->charge;
	const Tier *tier = charge->tier;
	uint64		phase = 0;

	if (tier->has_calendar)
		phase = calendar_phase(charge->billing_anchor, charge->timezone);
	for (int i = 0; i < part->nwindows; i++)
	{
		const TierLimit *limit = &tier->limits[i];

		part->ids[i].period = limit->period_us;
		part->ids[i].kind = limit->kind;
		part->ids[i].unit = limit->unit;
		part->ids[i].phase = 0;
		if (limit->kind == WINDOW_CALENDAR)
		{
			part->ids[i].phase = phase;
			part->current[i] = calendar_span(&limit->period,
											 charge->billing_anchor,
											 charge->timezone, now);
		}
	}
}

/* Begin a call that has no subject yet. */
static void
begin(Call *call, Clock clock, int64 cost)
{
	call->count = call->nlocks = 0;
	call->retry = NULL;
	call->clock = clock;
	call->asked_at = clock.now;
	call->cost = cost;
	call->sharpened = false;
}

/* Add a subject to the call, with so many windows of its tier. */
static void
add_work(Call *call, const Charge *charge, int nwindows)
{
	CallSubject *part = &call->parts[call->count];

	store_prefetch_subject(charge->subject.hash);
	part->charge = charge;
	part->nwindows = nwindows;
	call_plan(part, call->clock.now);
	call->hashes[call->count++] = charge->subject.hash;
	call->nlocks = call->count;
}

/*
 * Prepare a call of this cost >= 0, in credits, that is charged to count
 * subjects (1 to MAX_CHARGES).  The charges stay the caller's.  No lock may be
 * held.
 */
void
call_begin(Call *call, const Charge *charges, int count, Clock clock,
		   int64 cost)
{
	Assert(count >= 1 && count <= MAX_CHARGES && cost >= 0);

	begin(call, clock, cost);
	for (int i = 0; i < count; i++)
		add_work(call, &charges[i], charges[i].tier->nlimits);
}

/*
 * Prepare a call that gives back what was charged to a subject.  It plans for
 * all windows of the tier, those that only refunds need included.  No lock may
 * be held.
 */
void
call_begin_refund(Call *call, const Charge *charge, Clock clock)
{
	begin(call, clock, 0);
	add_work(call, charge, charge->tier->nwindows);
}

/*
 * Have the call lock its retry together with its subjects.  Call this after
 * call_begin(), at most once; no lock may be held.
 */
void
call_add_retry(Call *call, Retry *retry)
{
	call->retry = retry;
	call->hashes[call->nlocks++] = retry->subject.hash;
}

/*
 * Return whether what the subject has counted is not to be believed: it was
 * counted by another kind of clock, or by a clock that was wrong.
 */
static bool
is_distrusted(const Subject *subject, Clock clock)
{
	if (subject == NULL || subject->clock == PG_INT64_MIN)
		return false;
	return subject->clock_source != clock.source ||
		subject_is_ahead(subject, clock);
}

/*
 * Find the subject of a part and its windows, and whether it is distrusted by
 * this clock.  What is not in memory is NULL.  The lock of the subject's
 * partition is needed at least SHARED.
 */
void
call_find_windows(CallSubject *part, Clock clock)
{
	part->subject = subject_find(&part->charge->subject);
	part->base = store->blocks;
	part->distrusted = is_distrusted(part->subject, clock);
	for (int i = 0; i < part->nwindows; i++)
	{
		part->windows[i] = part->subject == NULL ? NULL
			: subject_find_window(part->subject, &part->ids[i]);
		if (part->windows[i] != NULL)
			store_prefetch_blocks(window_next_block(&part->windows[i]->window,
													clock.now), 1);
	}
}

/*
 * Return whether all windows of the part's subject are there and can be
 * believed, and no session claims the subject.  If not, they have to be filled
 * from the log; see rebuild.h.  A tier without windows needs no subject.  The
 * lock of the subject's partition is needed at least SHARED.
 */
bool
call_is_complete(const CallSubject *part)
{
	if (part->subject == NULL)
		return part->nwindows == 0;
	if (part->subject->claimed || part->distrusted)
		return false;
	for (int i = 0; i < part->nwindows; i++)
		if (part->windows[i] == NULL)
			return false;
	return true;
}

/*
 * Return whether this time is outside of a calendar period that was planned
 * with.
 */
bool
call_is_out_of_plan(const CallSubject *part, TimestampTz now)
{
	const Tier *tier = part->charge->tier;

	for (int i = 0; tier->has_calendar && i < part->nwindows; i++)
		if (tier->limits[i].kind == WINDOW_CALENDAR &&
			(now >= part->current[i].end || now < part->current[i].start))
			return true;
	return false;
}

/*
 * Move the clock on to the time of the subject's newest decision.  By the
 * server's clock the next decision is at least a microsecond later: so the log
 * tells the order of any two.
 */
static void
follow_clock(Clock *clock, const Subject *subject)
{
	TimestampTz earliest = subject->clock;

	if (clock->source == CLOCK_SERVER && earliest != PG_INT64_MIN)
		earliest++;
	clock->now = Max(clock->now, earliest);
}

/* Read the call's clock again, after a wait.  No lock may be held. */
void
call_read_clock(Call *call)
{
	call->clock.now = call->asked_at;	/* forget where subjects have moved it
										 * to */
	call->clock = clock_read_again(call->clock);
	call->asked_at = call->clock.now;
}

/*
 * Lock the subjects and the retry of a call, find the subjects and their
 * windows, and move the call's clock on to theirs.  No lock may be held on
 * entry; no ERROR can be raised while the locks are held, and call_unlock()
 * releases them.  May raise an ERROR between two attempts, with no lock held.
 */
void
call_lock(Call *call, LWLockMode mode)
{
	for (;;)
	{
		bool		out_of_plan = false;

		/*
		 * Lock, find the subjects, and go on from the newest of their times.
		 */
		partition_lock(call->hashes, call->nlocks, mode);
		for (int i = 0; i < call->count; i++)
		{
			CallSubject *part = &call->parts[i];

			call_find_windows(part, call->clock);
			if (part->subject != NULL && !part->distrusted)
				follow_clock(&call->clock, part->subject);
		}

		/*
		 * See whether that time is still within the periods that were planned
		 * with.
		 */
		for (int i = 0; i < call->count; i++)
			out_of_plan |= call_is_out_of_plan(&call->parts[i], call->clock.now);
		if (!out_of_plan)
			return;

		/*
		 * It is not: plan again, without a lock, since calendars may load a
		 * time zone.
		 */
		partition_unlock(call->hashes, call->nlocks);
		for (int i = 0; i < call->count; i++)
			call_plan(&call->parts[i], call->clock.now);
	}
}

/* Release what call_lock() has locked. */
void
call_unlock(Call *call)
{
	partition_unlock(call->hashes, call->nlocks);
}

/*
 * Count a call of this cost in the windows that the part was planned with,
 * which were advanced to this time.  Each may take one of the spare blocks.
 * Windows in shared memory have to be locked EXCLUSIVE.
 */
void
call_count(CallSubject *part, TimestampTz now, int64 cost, BlockList *spare)
{
	const Tier *tier = part->charge->tier;

	for (int i = 0; i < part->nwindows; i++)
	{
		window_require_exact(&part->windows[i]->window,
							 tier->limits[i].exact_slots);
		window_add(&part->windows[i]->window, spare, moment_of(part, i, now),
				   amount_of(tier->limits[i].unit, cost));
	}
}
