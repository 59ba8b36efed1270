/*-------------------------------------------------------------------------
 *
 * limiter.c
 *		Deciding and counting calls.
 *
 * A call goes through four steps under the exclusive lock of its subjects'
 * partitions, of which only the last one counts anything:
 *
 *	1. advance: windows let go of what has left them;
 *	2. evaluate: does the call fit into every limit, and which one governs?
 *	3. gather the blocks that counting it will need.  If there are not enough,
 *	   the locks are released, room is made, and it starts over; an ERROR can
 *	   only happen there, with nothing counted;
 *	4. count it, in all windows of all subjects, which cannot fail.
 *
 * So a call is counted everywhere or nowhere, and nobody who takes the locks
 * sees it half counted.  All of this is outside of transactions: what was
 * counted stays so when the caller's transaction is rolled back.
 *
 * A call is counted in all windows that its subject has, also in those that
 * only another tier has limits for, as long as they hold anything: so a key
 * that changes tiers, to and fro, is counted under each of them.
 *
 * Time never goes backwards for a subject: one that has decided at a later
 * time than our clock says takes us there with it.
 *
 * The work is bounded by the windows of the subjects: at most MAX_WINDOWS of
 * its tier, and those of other tiers that it was lately called under.  See
 * window.c for the work in a window.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "calendar.h"
#include "limiter.h"
#include "settings.h"
#include "sweep.h"
#include "utils/timestamp.h"

/* A charge while it is worked on. */
typedef struct Work
{
	const Charge *charge;
	Subject    *subject;		/* NULL: not in memory */
	uint32		blocks;			/* that counting the call may take */
	WindowId	ids[MAX_WINDOWS];	/* of the tier's windows */
	Span		running[MAX_WINDOWS];	/* of the calendar ones */
	SubjectWindow *windows[MAX_WINDOWS];	/* NULL: not in memory */
} Work;

/* A call while it is worked on. */
typedef struct Call
{
	int			count;
	Work		works[MAX_CHARGES];
	uint64		hashes[MAX_CHARGES];
	Clock		clock;
	int64		cost;
} Call;

static inline int64
amount_of(int unit, int64 cost)
{
	return unit == UNIT_CREDITS ? cost : 1;
}

static inline Moment
moment_of(const Work *work, int i, TimestampTz now)
{
	Moment		moment = {now, work->running[i]};

	return moment;
}

/* Find out which windows the charge is about, at the call's time. */
static void
plan_windows(Work *work, TimestampTz now)
{
	const Charge *charge = work->charge;
	const Tier *tier = charge->tier;
	uint64		phase = 0;

	if (tier->has_calendar)
		phase = calendar_phase(charge->billing_anchor, charge->timezone);
	for (int i = 0; i < tier->nwindows; i++)
	{
		const TierLimit *limit = &tier->limits[i];

		work->ids[i].period = limit->period_us;
		work->ids[i].kind = limit->kind;
		work->ids[i].unit = limit->unit;
		work->ids[i].phase = 0;
		if (limit->kind == WINDOW_CALENDAR)
		{
			work->ids[i].phase = phase;
			work->running[i] = calendar_span(&limit->period,
											 charge->billing_anchor,
											 charge->timezone, now);
		}
	}
}

static void
begin_call(Call *call, const Charge *charges, int count, Clock clock,
		   int64 cost)
{
	Assert(count >= 1 && count <= MAX_CHARGES && cost >= 0);

	call->count = count;
	call->clock = clock;
	call->cost = cost;
	for (int i = 0; i < count; i++)
	{
		call->works[i].charge = &charges[i];
		call->hashes[i] = charges[i].subject.hash;
		plan_windows(&call->works[i], clock.now);
	}
}

static void
find_windows(Work *work)
{
	const Tier *tier = work->charge->tier;

	work->subject = subject_find(&work->charge->subject);
	for (int i = 0; i < tier->nwindows; i++)
	{
		work->windows[i] = work->subject == NULL ? NULL
			: subject_find_window(work->subject, &work->ids[i]);
		if (work->windows[i] != NULL)
			store_prefetch_blocks(window_newest_block(&work->windows[i]->window),
								  1);
	}
}

/* Whether a calendar period that we planned with is over at this time. */
static bool
plan_is_over(const Work *work, TimestampTz now)
{
	const Tier *tier = work->charge->tier;

	for (int i = 0; tier->has_calendar && i < tier->nwindows; i++)
		if (tier->limits[i].kind == WINDOW_CALENDAR &&
			now >= work->running[i].end)
			return true;
	return false;
}

/*
 * Lock the subjects, find them and their windows, and move the call's clock
 * on to theirs.
 */
static void
lock_call(Call *call, LWLockMode mode)
{
	for (;;)
	{
		bool		over = false;

		store_lock(call->hashes, call->count, mode);
		for (int i = 0; i < call->count; i++)
		{
			find_windows(&call->works[i]);
			if (call->works[i].subject != NULL)
				call->clock.now = Max(call->clock.now,
									  call->works[i].subject->clock);
		}
		for (int i = 0; i < call->count; i++)
			over |= plan_is_over(&call->works[i], call->clock.now);
		if (!over)
			return;

		/* Calendars may load a time zone: not under a lock. */
		store_unlock(call->hashes, call->count);
		for (int i = 0; i < call->count; i++)
			plan_windows(&call->works[i], call->clock.now);
	}
}

static void
unlock_call(Call *call)
{
	store_unlock(call->hashes, call->count);
}

/* Step 1: let windows and clocks catch up with the call's time. */
static void
advance_subject(Subject *subject, Clock clock, Purse *purse)
{
	SubjectWindow *window;

	for (window = subject_window_at(subject->windows); window != NULL;
		 window = subject_window_at(window->next))
		window_advance(&window->window, purse, clock.now);
	if (clock.now > subject->clock)
	{
		subject->clock = clock.now;
		subject->clock_source = clock.source;
	}
}

/*
 * A calendar window that begins in the middle of a period, since the key's
 * anchor or zone was changed, takes over what was counted by the calendar
 * before.  That is an estimate: what it counted before the new period began
 * is too much, and what it has forgotten of its own period before is missing.
 */
static int64
counted_by_other_calendars(const Work *work, int i)
{
	const WindowId *id = &work->ids[i];
	const SubjectWindow *window = NULL;
	int64		used = 0;

	if (work->subject != NULL && id->kind == WINDOW_CALENDAR)
		window = subject_window_at(work->subject->windows);
	for (; window != NULL; window = subject_window_at(window->next))
		if (window->id.kind == WINDOW_CALENDAR &&
			window->id.period == id->period && window->id.unit == id->unit &&
			window->window.calendar.last >= work->running[i].start)
			used = Max(used, window->window.calendar.used);
	return used;
}

/* What is counted in one of the tier's windows, in memory or not. */
static int64
used_in(const Work *work, int i, TimestampTz now)
{
	if (work->windows[i] == NULL)
		return counted_by_other_calendars(work, i);
	return window_used(&work->windows[i]->window, store->blocks,
					   moment_of(work, i, now));
}

/*
 * When a window that counts this much resets: sliding, when the oldest call
 * leaves; calendar, when the period ends.
 */
static TimestampTz
resets_at(const Work *work, int i, TimestampTz now, int64 used)
{
	if (work->ids[i].kind == WINDOW_CALENDAR)
		return work->running[i].end;
	if (used == 0)
		return DT_NOEND;
	return window_resets_at(&work->windows[i]->window, store->blocks,
							moment_of(work, i, now));
}

/* When one of the windows will have room for amount, if that fits its max. */
static TimestampTz
free_at(const Work *work, int i, TimestampTz now, int64 amount)
{
	int64		room = work->charge->tier->limits[i].max - amount;

	if (work->windows[i] == NULL)
		return work->running[i].end;
	return window_free_at(&work->windows[i]->window, store->blocks,
						  moment_of(work, i, now), room);
}

/* What a limit says of a call: a verdict on its own. */
static Verdict
evaluate_limit(const Work *work, int i, TimestampTz now, int64 cost)
{
	const TierLimit *limit = &work->charge->tier->limits[i];
	int64		amount = amount_of(limit->unit, cost);
	int64		left = limit->max - used_in(work, i, now);
	Verdict		verdict = {.decided_at = now, .limit = limit};

	verdict.allowed = limit->max > 0 && (amount == 0 || amount <= left);
	verdict.remaining = Max(left, 0);
	verdict.free_at = now;
	if (verdict.allowed || !limit->enforce)
	{
		verdict.allowed = true;
		verdict.remaining = amount <= left ? left - amount : 0;
	}
	else if (limit->max == 0 || amount > limit->max)
		verdict.free_at = WINDOW_NEVER;
	else
		verdict.free_at = free_at(work, i, now, amount);
	return verdict;
}

/* How many more calls like this one the limit would admit. */
static int64
further_calls(const Verdict *verdict, int64 cost)
{
	int64		amount = amount_of(verdict->limit->unit, cost);

	return amount == 0 ? PG_INT64_MAX : verdict->remaining / amount;
}

/*
 * Whether a verdict governs rather than another: a denial rather than an
 * admission; of denials the one that frees last, or is longest; of admissions
 * the one with fewest further calls, or the shortest.  A limit that is not
 * enforced leaves room for any number of calls, so it governs only where
 * there is no other.
 */
static bool
governs(const Verdict *a, const Verdict *b, int64 cost)
{
	int64		more_a;
	int64		more_b;

	if (a->allowed != b->allowed)
		return !a->allowed;
	if (!a->allowed)
		return a->free_at != b->free_at ? a->free_at > b->free_at
			: a->limit->period_us > b->limit->period_us;

	if (a->limit->enforce != b->limit->enforce)
		return a->limit->enforce;
	more_a = further_calls(a, cost);
	more_b = further_calls(b, cost);
	return more_a != more_b ? more_a < more_b
		: a->limit->period_us < b->limit->period_us;
}

/* When the governing limit resets, with the call counted if it is allowed. */
static TimestampTz
governing_resets_at(const Work *work, int i, const Verdict *verdict,
					int64 cost)
{
	TimestampTz now = verdict->decided_at;
	TimestampTz at = resets_at(work, i, now, used_in(work, i, now));

	if (at == DT_NOEND && verdict->allowed &&
		amount_of(verdict->limit->unit, cost) > 0)
		at = now + verdict->limit->period_us;
	return at;
}

/* Step 2. */
static Verdict
evaluate(const Call *call)
{
	Verdict		verdict = {
		.allowed = true,
		.decided_at = call->clock.now,
		.resets_at = DT_NOEND
	};
	const Work *governing = NULL;
	int			which = 0;

	for (int i = 0; i < call->count; i++)
	{
		const Work *work = &call->works[i];

		for (int j = 0; j < work->charge->tier->nlimits; j++)
		{
			Verdict		one = evaluate_limit(work, j, call->clock.now,
											 call->cost);

			if (governing == NULL || governs(&one, &verdict, call->cost))
			{
				verdict = one;
				governing = work;
				which = j;
			}
		}
	}
	if (governing != NULL)
		verdict.resets_at = governing_resets_at(governing, which, &verdict,
												call->cost);
	return verdict;
}

/* Whether the call adds anything to a window; if not, none is made for it. */
static inline bool
counts_in(const Work *work, int i, int64 cost)
{
	return amount_of(work->charge->tier->limits[i].unit, cost) > 0;
}

/* Step 3: how many blocks counting the call may take. */
static uint32
blocks_for(const Work *work, int64 cost)
{
	const Tier *tier = work->charge->tier;
	const SubjectWindow *window;
	uint32		blocks = 0;

	for (int i = 0; i < tier->nwindows; i++)
		if (work->windows[i] == NULL && counts_in(work, i, cost))
			blocks++;
	if (work->subject == NULL)
		return blocks == 0 ? 0
			: blocks + subject_blocks(&work->charge->subject);

	for (window = subject_window_at(work->subject->windows); window != NULL;
		 window = subject_window_at(window->next))
		blocks += window_add_needs_block(&window->window);
	return blocks;
}

static SubjectWindow *
make_window(Work *work, int i, TimestampTz now, Purse *purse)
{
	const TierLimit *limit = &work->charge->tier->limits[i];
	int64		used = counted_by_other_calendars(work, i);
	SubjectWindow *window;

	window = subject_add_window(work->subject, &work->ids[i], purse);
	if (limit->kind == WINDOW_SLIDING)
		window_init_sliding(&window->window, limit->period_us,
							limit->exact_slots, tierlimit_window_slots);
	else
		window_init_calendar(&window->window);
	window_add(&window->window, purse, moment_of(work, i, now), used);
	return window;
}

static bool
is_planned(const Work *work, const SubjectWindow *window)
{
	for (int i = 0; i < work->charge->tier->nwindows; i++)
		if (work->windows[i] == window)
			return true;
	return false;
}

/* Count the call in windows that are not the tier's, or drop them if empty. */
static void
count_elsewhere(Work *work, TimestampTz now, int64 cost, Purse *purse)
{
	SubjectWindow *window = subject_window_at(work->subject->windows);

	while (window != NULL)
	{
		SubjectWindow *next = subject_window_at(window->next);

		if (is_planned(work, window))
			 /* counted already */ ;
		else if (window_empty_at(&window->window) <= now)
			subject_drop_window(work->subject, window, purse);
		else
		{
			Moment		moment = {.now = now};

			if (window->window.kind == WINDOW_CALENDAR)
				moment.running = window->window.calendar.span;
			window_add(&window->window, purse, moment,
					   amount_of(window->id.unit, cost));
		}
		window = next;
	}
}

/* Step 4. */
static void
count_call(Work *work, Clock clock, int64 cost, Purse *purse)
{
	const Tier *tier = work->charge->tier;

	if (work->subject == NULL)
	{
		work->subject = subject_create(&work->charge->subject, purse);
		work->subject->clock = clock.now;
		work->subject->clock_source = clock.source;
	}
	for (int i = 0; i < tier->nwindows; i++)
	{
		if (!counts_in(work, i, cost))
			continue;
		if (work->windows[i] == NULL)
			work->windows[i] = make_window(work, i, clock.now, purse);
		window_require_exact(&work->windows[i]->window,
							 tier->limits[i].exact_slots);
		window_add(&work->windows[i]->window, purse,
				   moment_of(work, i, clock.now),
				   amount_of(tier->limits[i].unit, cost));
	}
	count_elsewhere(work, clock.now, cost, purse);
}

/*
 * Steps 1 to 4 under the lock; false if there are not enough blocks.
 */
static bool
try_charge(Call *call, Verdict *verdict)
{
	Purse		purse = {.base = store->blocks};
	PartitionStats *stats = store_stats(call->hashes[0]);
	uint32		needed = 0;
	bool		enough = true;

	for (int i = 0; i < call->count; i++)
		if (call->works[i].subject != NULL)
			advance_subject(call->works[i].subject, call->clock, &purse);

	*verdict = evaluate(call);
	if (verdict->allowed)
	{
		for (int i = 0; i < call->count; i++)
		{
			call->works[i].blocks = blocks_for(&call->works[i], call->cost);
			needed += call->works[i].blocks;
		}
		enough = purse.count >= needed ||
			pool_fill(&store->pool, &purse, needed,
					  partition_of(call->hashes[0]));
		for (int i = 0; enough && i < call->count; i++)
			if (call->works[i].subject != NULL || call->works[i].blocks > 0)
				count_call(&call->works[i], call->clock, call->cost, &purse);
		if (enough)
			stats->admitted++;
	}
	else
		stats->denied++;
	pool_return(&store->pool, &purse, partition_of(call->hashes[0]));
	return enough;
}

static void
report_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("tierlimit is out of shared memory"),
			 errdetail("No key's windows have run empty, so none can make room for another."),
			 errhint("Increase \"tierlimit.memory\" and restart the server.")));
}

Verdict
limiter_charge(const Charge *charges, int count, Clock clock, int64 cost)
{
	Call		call;
	Verdict		verdict;

	begin_call(&call, charges, count, clock, cost);
	for (;;)
	{
		bool		done;

		lock_call(&call, LW_EXCLUSIVE);
		done = try_charge(&call, &verdict);
		unlock_call(&call);
		if (done)
			return verdict;
		if (!sweep_for_room(clock))
			report_full();
	}
}

Verdict
limiter_peek(const Charge *charges, int count, Clock clock, int64 cost)
{
	Call		call;
	Verdict		verdict;

	begin_call(&call, charges, count, clock, cost);
	lock_call(&call, LW_SHARED);
	verdict = evaluate(&call);
	unlock_call(&call);
	return verdict;
}

void
limiter_refused(uint64 hash)
{
	store_lock(&hash, 1, LW_EXCLUSIVE);
	store_stats(hash)->denied++;
	store_unlock(&hash, 1);
}

int64
limiter_refund(const SubjectName *name, Clock clock, int64 cost,
			   int64 requests)
{
	Purse		purse = {.base = store->blocks};
	int64		credits = 0;
	Subject    *subject;
	SubjectWindow *window;

	store_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	if (subject != NULL)
	{
		clock.now = Max(clock.now, subject->clock);
		advance_subject(subject, clock, &purse);
		for (window = subject_window_at(subject->windows); window != NULL;
			 window = subject_window_at(window->next))
		{
			bool		in_credits = window->id.unit == UNIT_CREDITS;
			int64		given = window_take_back(&window->window, &purse,
												 clock.now,
												 in_credits ? cost : requests);

			/* The longest window remembers most. */
			if (in_credits)
				credits = Max(credits, given);
		}
		store_stats(name->hash)->refunds++;
	}
	pool_return(&store->pool, &purse, partition_of(name->hash));
	store_unlock(&name->hash, 1);
	sweep_encourage();
	return credits;
}

void
limiter_reset(const SubjectName *name)
{
	Purse		purse = {.base = store->blocks};
	Subject    *subject;

	store_lock(&name->hash, 1, LW_EXCLUSIVE);
	subject = subject_find(name);
	if (subject != NULL && subject->clock_source == CLOCK_SERVER)
		store_raise_clock_floor(subject->clock);
	subject_remove(name, &purse);
	pool_return(&store->pool, &purse, partition_of(name->hash));
	store_unlock(&name->hash, 1);
}

void
limiter_usage(const Charge *charge, Clock clock, LimitUse *uses)
{
	Call		call;
	Work	   *work = &call.works[0];

	begin_call(&call, charge, 1, clock, 0);
	lock_call(&call, LW_SHARED);
	for (int i = 0; i < charge->tier->nlimits; i++)
	{
		uses[i].used = used_in(work, i, call.clock.now);
		uses[i].resets_at = resets_at(work, i, call.clock.now, uses[i].used);
	}
	unlock_call(&call);
}
