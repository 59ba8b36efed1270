/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *		Windows that are not in memory are filled from the request log.
 *
 * The log is the truth, and shared memory its cache: a subject that is not in
 * memory, since the server was started or it had to make room, gets the
 * windows of its tier back from the log; so does a subject that gets a new
 * window, with a new tier or limit.
 *
 * Whoever needs the windows claims the subject (subject->filling), which stops
 * all others who want to count it; waits until its newest rows are written;
 * reads them; plays them into windows in memory of its own; and puts these,
 * complete, into shared memory.  The others wait meanwhile: so it is done
 * once.
 *
 * Locks: the partition's is held to claim and to put the result in place, not
 * in between.
 *
 * The cost is that of reading: windows whose slots are shorter than a minute
 * (those of less than window_slots minutes) have all of their rows read, others
 * the newest ones and sums of minutes.
 *
 * Whoever only looks (peek, usage) does the same without a claim, and keeps
 * the result to itself: that works on a standby, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "claim.h"
#include "log.h"
#include "past.h"
#include "rebuild.h"
#include "settings.h"
#include "storage/ipc.h"
#include "sweep.h"
#include "utils/timestamp.h"

/* Sums of minutes will do for windows that keep calls together for longer. */
#define COARSEST_SUM USECS_PER_MINUTE

static void
workshop_grow(Workshop *shop)
{
	uint32		size = Max(shop->size * 2, 64);
	Size		bytes = (Size) size * sizeof(MemoryBlock);

	shop->purse.base = shop->size == 0
		? MemoryContextAllocHuge(CurrentMemoryContext, bytes)
		: repalloc_huge(shop->purse.base, bytes);
	for (uint32 block = Max(shop->size, NO_BLOCK + 1); block < size; block++)
		purse_put(&shop->purse, block);
	shop->size = size;
}

void
rebuild_done(Building *building)
{
	pfree(building->workshop.purse.base);
}

/* From when on a window counts; what was decided then is not counted yet. */
static TimestampTz
window_since(const Work *work, int i, TimestampTz now)
{
	return work->ids[i].kind == WINDOW_CALENDAR
		? work->running[i].start - 1 : now - work->ids[i].period;
}

/* What of the log the windows of a work need. */
static PastSpan
span_of(const Work *work, TimestampTz now)
{
	PastSpan	span = {
		.since = now,
		.single_since = DT_NOEND,
		.single = tierlimit_window_slots
	};

	for (int i = 0; i < work->nwindows; i++)
	{
		TimestampTz since = window_since(work, i, now);

		span.since = Min(span.since, since);
		if (work->ids[i].kind == WINDOW_CALENDAR)
			span.borders[span.nborders++] =
				TimestampTzGetDatum(since + 1 - (since + 1) % USECS_PER_MINUTE);
		else if (work->ids[i].period / tierlimit_window_slots < COARSEST_SUM)
			span.single_since = Min(span.single_since, since);
	}
	return span;
}

/* Play one sum into a window. */
static void
play(Window *window, Workshop *shop, Moment moment, int64 amount)
{
	if (shop->purse.count == 0)
		workshop_grow(shop);
	if (amount > 0)
	{
		window_advance(window, &shop->purse, moment.now);
		window_add(window, &shop->purse, moment, amount);
	}
	else
		(void) window_take_back(window, &shop->purse, moment.now, -amount);
}

static void
build_window(Building *building, const Work *work, int i, const Past *past,
			 TimestampTz now)
{
	const TierLimit *limit = &work->charge->tier->limits[i];
	Window	   *window = &building->windows[i].window;
	TimestampTz since = window_since(work, i, now);

	if (limit->kind == WINDOW_SLIDING)
		window_init_sliding(window, limit->period_us, limit->exact_slots,
							tierlimit_window_slots);
	else
		window_init_calendar(window, work->ids[i].period, work->ids[i].phase);
	for (int j = 0; j < past->count; j++)
	{
		const PastSum *sum = &past->sums[j];

		if (sum->at > since)
			play(window, &building->workshop,
				 moment_of(work, i, sum->at),
				 limit->unit == UNIT_CREDITS ? sum->credits : sum->requests);
	}
}

/* Where its rows take a subject's clock; DT_NOBEGIN: there are none. */
static TimestampTz
clock_after(const Past *past)
{
	const PastSum *newest;

	if (past->count == 0)
		return DT_NOBEGIN;
	newest = &past->sums[past->count - 1];
	/* what comes after something was given back comes later */
	return newest->at + (newest->requests < 0 || newest->credits < 0);
}

void
rebuild_windows(Building *building, Work *work, TimestampTz now,
				TimestampTz until)
{
	PastSpan	span = span_of(work, now);
	Past		past = past_read(&work->charge->subject, &span);

	while (past.count > 0 && past.sums[past.count - 1].at >= until)
		past.count--;
	memset(&building->workshop, 0, sizeof(Workshop));
	building->clock = clock_after(&past);
	if (building->clock > now)
	{
		now = building->clock;
		call_plan(work, now);
	}
	workshop_grow(&building->workshop);
	for (int i = 0; i < work->nwindows; i++)
		build_window(building, work, i, &past, now);
	if (past.sums != NULL)
		pfree(past.sums);
}

typedef enum ClaimResult
{
	CLAIMED,
	CLAIMED_BY_ANOTHER,
	NOTHING_TO_CLAIM,			/* the windows are there */
	NO_ROOM
} ClaimResult;

/* Claim the subject, which is created if need be. */
static ClaimResult
try_claim(Work *work, TimestampTz now)
{
	const SubjectName *name = &work->charge->subject;
	Purse		purse = {.base = store->blocks};
	ClaimResult result = CLAIMED;

	store_lock(&name->hash, 1, LW_EXCLUSIVE);
	call_find_windows(work, now);
	if (work->subject != NULL && work->subject->filling)
		result = CLAIMED_BY_ANOTHER;
	else if (call_is_complete(work))
		result = NOTHING_TO_CLAIM;
	else if (work->subject == NULL)
	{
		if (pool_fill(&store->pool, &purse, subject_blocks(name),
					  partition_of(name->hash)))
			work->subject = subject_create(name, &purse);
		else
			result = NO_ROOM;
	}
	if (result == CLAIMED)
		work->subject->filling = true;
	store_unlock(&name->hash, 1);
	return result;
}

/*
 * Put the windows that are missing in place, all or none; false if there are
 * not enough blocks.
 */
static bool
try_install(Work *work, const Building *building, Clock clock)
{
	const SubjectName *name = &work->charge->subject;
	Purse		purse = {.base = store->blocks};
	uint32		needed = 0;
	bool		fits;

	store_lock(&name->hash, 1, LW_EXCLUSIVE);
	call_find_windows(work, clock.now);
	Assert(work->subject != NULL && work->subject->filling);
	for (int i = 0; i < work->nwindows; i++)
		if (work->windows[i] == NULL)
			needed += 1 + window_blocks(&building->windows[i].window,
										building->workshop.purse.base);
	fits = pool_fill(&store->pool, &purse, needed, partition_of(name->hash));
	for (int i = 0; fits && i < work->nwindows; i++)
		if (work->windows[i] == NULL)
			window_copy(&subject_add_window(work->subject, &work->ids[i],
											&purse)->window, &purse,
						&building->windows[i].window,
						building->workshop.purse.base);
	if (fits && clock.now > work->subject->clock)
	{
		work->subject->clock = clock.now;
		work->subject->clock_source = clock.source;
	}
	if (fits && building->clock != DT_NOBEGIN)
		store_stats(name->hash)->rebuilds++;
	store_unlock(&name->hash, 1);
	return fits;
}

/*
 * The clock that the subject goes by: ours, or where its rows take it.
 * A time that the server's clock has not come to is not the server's.
 */
static Clock
clock_of(const Building *building, Clock clock)
{
	if (building->clock > clock.now)
	{
		clock.now = building->clock;
		if (clock.now > GetCurrentTimestamp())
			clock.source = CLOCK_SESSION;
	}
	return clock;
}

static void
fill_claimed(Work *work, Clock clock)
{
	Building	building;

	log_wait_written(claim_log_position(&work->charge->subject));
	rebuild_windows(&building, work, clock.now, DT_NOEND);
	while (!try_install(work, &building, clock_of(&building, clock)))
		sweep_make_room(clock);
	rebuild_done(&building);
}

void
rebuild_subject(Work *work, Clock clock)
{
	const SubjectName *name = &work->charge->subject;

	switch (try_claim(work, clock.now))
	{
		case NOTHING_TO_CLAIM:
			break;
		case CLAIMED_BY_ANOTHER:
			claim_wait(name);
			break;
		case NO_ROOM:
			sweep_make_room(clock);
			break;
		case CLAIMED:
			PG_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
			{
				fill_claimed(work, clock);
			}
			PG_END_ENSURE_ERROR_CLEANUP(claim_clean_up, PointerGetDatum(name));
			claim_release(name);
			break;
	}
}

text *
rebuild_tier(const SubjectName *name)
{
	log_wait_written(claim_log_position(name));
	return past_tier(name);
}

void
rebuild_for_backend(Call *call, TimestampTz until)
{
	for (int i = 0; i < call->count; i++)
	{
		Work	   *work = &call->works[i];
		Building   *building = palloc(sizeof(Building));

		if (!RecoveryInProgress())
			log_wait_written(claim_log_position(&work->charge->subject));
		rebuild_windows(building, work, call->clock.now, until);
		call->clock.now = Max(call->clock.now, building->clock);
		work->subject = NULL;
		work->base = building->workshop.purse.base;
		for (int j = 0; j < work->nwindows; j++)
			work->windows[j] = &building->windows[j];
	}
	for (int i = 0; i < call->count; i++)
		call_plan(&call->works[i], call->clock.now);
}
