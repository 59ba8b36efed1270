/*-------------------------------------------------------------------------
 *
 * call.c
 *		A call while it is worked on: its subjects, windows and time.
 *
 * Time never goes backwards for a subject: one that has decided at a later
 * time than our clock says takes us there with it, unless it is so much later
 * that a clock must have been wrong (clock.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "config/calendar.h"
#include "limit/call.h"

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

/* A call that deals with nobody yet. */
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

/* Have the call deal with a subject, in so many windows of its tier. */
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

void
call_begin(Call *call, const Charge *charges, int count, Clock clock,
		   int64 cost)
{
	Assert(count >= 1 && count <= MAX_CHARGES && cost >= 0);

	begin(call, clock, cost);
	for (int i = 0; i < count; i++)
		add_work(call, &charges[i], charges[i].tier->nlimits);
}

void
call_begin_refund(Call *call, const Charge *charge, Clock clock)
{
	begin(call, clock, 0);
	add_work(call, charge, charge->tier->nwindows);
}

void
call_add_retry(Call *call, Retry *retry)
{
	call->retry = retry;
	call->hashes[call->nlocks++] = retry->subject.hash;
}

/* Whether what a subject has counted is not to be believed. */
static bool
is_distrusted(const Subject *subject, Clock clock)
{
	if (subject == NULL || subject->clock == PG_INT64_MIN)
		return false;
	return subject->clock_source != clock.source ||
		subject_is_ahead(subject, clock);
}

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

/* Whether this time is not in the calendar periods that we planned with. */
static bool
is_out_of_plan(const CallSubject *part, TimestampTz now)
{
	const Tier *tier = part->charge->tier;

	for (int i = 0; tier->has_calendar && i < part->nwindows; i++)
		if (tier->limits[i].kind == WINDOW_CALENDAR &&
			(now >= part->current[i].end || now < part->current[i].start))
			return true;
	return false;
}

/*
 * Go on from the time of the subject's newest decision.  On the server's clock
 * the next one is a microsecond later at least: so the log tells the order of
 * any two.
 */
static void
follow_clock(Clock *clock, const Subject *subject)
{
	TimestampTz earliest = subject->clock;

	if (clock->source == CLOCK_SERVER && earliest != PG_INT64_MIN)
		earliest++;
	clock->now = Max(clock->now, earliest);
}

void
call_read_clock(Call *call)
{
	call->clock.now = call->asked_at;	/* not where others took it */
	call->clock = clock_read_again(call->clock);
	call->asked_at = call->clock.now;
}

void
call_lock(Call *call, LWLockMode mode)
{
	for (;;)
	{
		bool		out_of_plan = false;

		partition_lock(call->hashes, call->nlocks, mode);
		for (int i = 0; i < call->count; i++)
		{
			CallSubject *part = &call->parts[i];

			call_find_windows(part, call->clock);
			if (part->subject != NULL && !part->distrusted)
				follow_clock(&call->clock, part->subject);
		}
		for (int i = 0; i < call->count; i++)
			out_of_plan |= is_out_of_plan(&call->parts[i], call->clock.now);
		if (!out_of_plan)
			return;

		/* Calendars may load a time zone: not under a lock. */
		partition_unlock(call->hashes, call->nlocks);
		for (int i = 0; i < call->count; i++)
			call_plan(&call->parts[i], call->clock.now);
	}
}

void
call_unlock(Call *call)
{
	partition_unlock(call->hashes, call->nlocks);
}
