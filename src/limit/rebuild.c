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
 * (those of less than window_slots minutes), and those that have to be exact, as
 * their max is within window_slots, have all of their rows read; others the
 * newest ones and sums of minutes.
 *
 * Rows later than the clock says are of a clock that was wrong, or of an import.
 * They count as of now; and so that they do so for good, a row that is queued with
 * the result has the log writer change their times.
 *
 * Whoever only looks (peek, usage) does the same without a claim, and keeps
 * the result to itself: that works on a standby, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/settings.h"
#include "common/int.h"
#include "limit/evaluate.h"
#include "limit/rebuild.h"
#include "log/log.h"
#include "storage/ipc.h"
#include "store/claim.h"
#include "store/sweep.h"
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

/* Play one sum into a window. */
static void
play(Window *window, Workshop *shop, Moment moment, int64 amount)
{
	if (shop->purse.count == 0)
		workshop_grow(shop);
	window_advance(window, &shop->purse, moment.now);
	window_add(window, &shop->purse, moment, amount);
}

static int64
amount_in(const PastSum *sum, Unit unit)
{
	return unit == UNIT_CREDITS ? sum->credits : sum->requests;
}

/* The sum from which on the newest window_slots units are found. */
static int
first_of_newest(const Past *past, Unit unit)
{
	int64		left = tierlimit_window_slots;
	int			i = past->count;

	/* Numbers from the log can be of any size: they must not wrap around. */
	while (i > 0 && left > 0)
		if (pg_sub_s64_overflow(left, amount_in(&past->sums[--i], unit), &left))
			break;
	return i;
}

int64
rebuild_sum(const Past *past, Unit unit, TimestampTz since, TimestampTz until)
{
	int64		sum = 0;

	for (int i = 0; i < past->count; i++)
	{
		int64		amount = amount_in(&past->sums[i], unit);

		if (past->sums[i].at > since && past->sums[i].at <= until &&
			pg_add_s64_overflow(sum, amount, &sum))
			sum = PG_INT64_MAX;
	}
	return sum;
}

/*
 * Whether sums of minutes will do for a window.  A slot that is made of them
 * spans up to a minute more than the times of its sums do.
 */
static bool
minutes_will_do(const TierLimit *limit)
{
	return limit->period_us / tierlimit_window_slots >= 2 * COARSEST_SUM &&
		!evaluate_is_exact(limit);
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
		else if (!minutes_will_do(&work->charge->tier->limits[i]))
			span.single_since = Min(span.single_since, since);
	}
	return span;
}

static void
init_window(Window *window, const TierLimit *limit, const WindowId *id)
{
	if (limit->kind == WINDOW_SLIDING)
		window_init_sliding(window, limit->period_us, limit->exact_slots,
							tierlimit_window_slots);
	else
		window_init_calendar(window, id->period, id->phase);
}

/*
 * The newest units, of which a limit within window_slots can deny, are told
 * apart, however many older ones there are: those are kept together.
 */
static void
build_window(Building *building, const Work *work, int i, const Past *past,
			 TimestampTz now)
{
	const TierLimit *limit = &work->charge->tier->limits[i];
	Window	   *window = &building->windows[i].window;
	TimestampTz since = window_since(work, i, now);
	int			newest = first_of_newest(past, limit->unit);

	init_window(window, limit, &work->ids[i]);
	window_set_exact(window, 0);
	if (limit->kind == WINDOW_SLIDING && minutes_will_do(limit))
		window->sliding.slot_width -= COARSEST_SUM;
	for (int j = 0; j < past->count; j++)
	{
		const PastSum *sum = &past->sums[j];

		if (j == newest)
		{
			window_set_exact(window, PG_UINT32_MAX);
			window->apart = 0;	/* sums of minutes look like single calls */
		}
		if (sum->at > since && amount_in(sum, limit->unit) > 0 &&
			(limit->kind != WINDOW_CALENDAR || sum->at < work->running[i].end))
			play(window, &building->workshop,
				 moment_of(work, i, sum->at), amount_in(sum, limit->unit));
	}
	window_set_exact(window, limit->exact_slots);
	if (limit->kind == WINDOW_SLIDING && minutes_will_do(limit))
		window->sliding.slot_width += COARSEST_SUM;
}

/* They keep their order, and each has a time of its own. */
TimestampTz
rebuild_bring_home(Past *past, TimestampTz now, TimestampTz *first_later)
{
	TimestampTz clock = DT_NOBEGIN;

	*first_later = DT_NOEND;
	for (int i = 0; i < past->count; i++)
	{
		PastSum    *sum = &past->sums[i];

		if (sum->at - CLOCK_TOLERANCE > now)
		{
			sum->at = Max(clock + 1, now);
			*first_later = Min(*first_later, sum->at);
			clock = sum->at;
		}
		else
			/* what comes after something was given back comes later */
			clock = sum->at + sum->gave_back;
	}
	if (past->count > 0)
		clock = past->sums[past->count - 1].at + past->sums[past->count - 1].gave_back;
	return clock;
}

void
rebuild_windows(Building *building, Work *work, TimestampTz now,
				TimestampTz until)
{
	PastSpan	span = span_of(work, now);
	Past		past = past_read(&work->charge->subject, &span);

	while (until != DT_NOEND && past.count > 0 &&
		   past.sums[past.count - 1].at >= until)
		past.count--;
	memset(&building->workshop, 0, sizeof(Workshop));
	building->clock = rebuild_bring_home(&past, now, &building->first_later);
	if (building->clock > now)
	{
		now = building->clock;
		if (work->charge->tier->has_calendar)
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

/* Forget what a subject has counted, and when. */
static void
forget_windows(Subject *subject, Purse *purse)
{
	subject_drop_windows(subject, purse);
	subject->clock = PG_INT64_MIN;
}

/* Claim the subject, which is created if need be. */
static ClaimResult
try_claim(Work *work, Clock clock)
{
	const SubjectName *name = &work->charge->subject;
	Purse		purse = {.base = store->blocks};
	ClaimResult result = CLAIMED;

	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	call_find_windows(work, clock);
	if (work->distrusted && !work->subject->filling)
	{
		forget_windows(work->subject, &purse);
		call_find_windows(work, clock);
	}
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
	pool_return(&store->pool, &purse, partition_of(name->hash));
	partition_unlock(&name->hash, 1);
	return result;
}

/* Put the windows that are missing in place; the purse has what that takes. */
static void
install(Work *work, const Building *building, Purse *purse)
{
	for (int i = 0; i < work->nwindows; i++)
		if (work->windows[i] == NULL)
			window_copy(&subject_add_window(work->subject, &work->ids[i],
											purse)->window, purse,
						&building->windows[i].window,
						building->workshop.purse.base);
}

static uint32
blocks_to_install(const Work *work, const Building *building)
{
	uint32		needed = 0;

	for (int i = 0; i < work->nwindows; i++)
		if (work->windows[i] == NULL)
			needed += 1 + window_blocks(&building->windows[i].window,
										building->workshop.purse.base);
	return needed;
}

typedef enum InstallResult
{
	INSTALLED,
	LACKS_BLOCKS,
	LACKS_LOG
} InstallResult;

/*
 * Put the windows that are missing in place, all or none, and with them, if
 * there is a queue, the row that changes the times of others.
 */
static InstallResult
try_install(Work *work, const Building *building, Clock clock, LogQueue *queue,
			const LogRow *row)
{
	const SubjectName *name = &work->charge->subject;
	Purse		purse = {.base = store->blocks};
	RingPlace	place = NO_PLACE;
	InstallResult result = INSTALLED;

	partition_lock(&name->hash, 1, LW_EXCLUSIVE);
	call_find_windows(work, clock);
	Assert(work->subject != NULL && work->subject->filling);
	if (!pool_fill(&store->pool, &purse, blocks_to_install(work, building),
				   partition_of(name->hash)))
		result = LACKS_BLOCKS;
	else if (queue != NULL && !log_reserve(queue, row, &place))
		result = LACKS_LOG;
	else
	{
		install(work, building, &purse);
		if (clock.now > work->subject->clock)
		{
			work->subject->clock = clock.now;
			work->subject->clock_source = clock.source;
		}
		if (building->clock != DT_NOBEGIN)
			store_stats(name->hash)->rebuilds++;
		if (queue != NULL)
			work->subject->log_position = place.end;
	}
	pool_return(&store->pool, &purse, partition_of(name->hash));
	partition_unlock(&name->hash, 1);
	log_append(&place, row);
	return result;
}

/* The row that brings all later ones of a subject to its time. */
static LogRow
redating_row(const SubjectName *name, const Building *building)
{
	LogRow		row = {
		.at = building->first_later,
		.catalog = name->scope.catalog,
		.error_code = LOG_REDATES,
		.shadow_code = (int32) name->kind
	};

	row.texts[LOG_KEY].bytes = name->name;
	row.texts[LOG_KEY].length = name->length;
	return row;
}

static void
fill_claimed(Work *work, Clock clock)
{
	const SubjectName *name = &work->charge->subject;
	Building	building;
	LogQueue   *queue = NULL;
	LogRow		row;
	InstallResult result;

	log_wait_written(claim_log_position(name));
	clock = clock_read_again(clock);
	call_plan(work, clock.now);
	rebuild_windows(&building, work, clock.now, DT_NOEND);
	row = redating_row(name, &building);
	clock.now = Max(clock.now, building.clock);
	do
	{
		/* A clock of tests changes nothing in the log. */
		if (building.first_later != DT_NOEND && clock.source == CLOCK_SERVER)
			queue = log_open();
		result = try_install(work, &building, clock, queue, &row);
		if (result == LACKS_BLOCKS)
			sweep_make_room(clock);
		else if (result == LACKS_LOG)
			log_wait_for_room(queue, &row);
	} while (result != INSTALLED);
	rebuild_done(&building);
}

void
rebuild_subject(Work *work, Clock clock)
{
	const SubjectName *name = &work->charge->subject;

	switch (try_claim(work, clock))
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
