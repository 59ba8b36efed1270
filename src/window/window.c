/*-------------------------------------------------------------------------
 *
 * window.c
 *		Windows, which hold what one limit counts: sliding ones and calendar
 *		periods.
 *
 * A sliding window at time t counts what happened in (t - period, t].  It
 * keeps a history of its calls and forgets them as they leave.  Up to
 * exact_slots, each microsecond with a call in it has a slot of its own, so
 * that the window is exact however many calls its limit admits.  A fuller one
 * puts calls into the newest slot while that slot spans less than slot_width;
 * a slot leaves as a whole, with its youngest call: an older call in it is
 * counted for less than slot_width too long, and none too short.
 *
 * That bounds a window: slots that were opened while fewer than exact_slots
 * were there number at most exact_slots; the others were each opened at least
 * slot_width after the slot before, which makes at most period / slot_width +
 * 2 of them.  Each call adds at most one slot and each slot is dropped once,
 * whole blocks at a time: the work per call is constant whatever the limit.
 *
 * A window that was kept under a large limit may have calls together that a
 * smaller limit would tell apart.  It knows how many of its newest units are
 * apart; where these are too few, its owner has to fill another window.
 *
 * A calendar window is one number that belongs to one period.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include <string.h>

#define MAX_APART ((1 << 24) - 1)

/*
 * Start an empty sliding window over the last period (>= 1) microseconds.
 * With fewer than exact_slots slots it tells calls apart to the microsecond;
 * from there on it keeps calls together that are less than a slot width, a
 * slots'th of the period, apart.
 */
void
window_init_sliding(Window *window, int64_t period, uint32_t exact_slots,
					uint32_t slots)
{
	assert(period > 0 && slots > 0);

	memset(window, 0, sizeof(Window));
	window->kind = WINDOW_SLIDING;
	window->sliding.period = period;
	window->sliding.slot_width = period / slots > 0 ? period / slots : 1;
	window->exact_slots = exact_slots;
}

/*
 * Start an empty calendar window.  Its owner tells it from others by the
 * period and the phase, which are not looked at here.
 */
void
window_init_calendar(Window *window, int64_t period, uint64_t phase)
{
	memset(window, 0, sizeof(Window));
	window->kind = WINDOW_CALENDAR;
	window->calendar.period = period;
	window->calendar.phase = phase;
}

/* Return the amount that a calendar window holds for the current period. */
static inline int64_t
calendar_used(const CalendarWindow *calendar, Span current)
{
	return calendar->span.start == current.start ? calendar->used : 0;
}

/* Return the amount that is counted at this moment. */
int64_t
window_used(const Window *window, const MemoryBlock *base, Moment moment)
{
	if (window->kind == WINDOW_SLIDING)
		return history_sum_after(&window->sliding.history, base,
								 moment.now - window->sliding.period);

	return calendar_used(&window->calendar, moment.current);
}

/*
 * Return when the oldest call that a sliding window counts at this moment will
 * leave, if there is one; or when the period of a calendar window ends.
 */
int64_t
window_resets_at(const Window *window, const MemoryBlock *base, Moment moment)
{
	if (window->kind == WINDOW_SLIDING)
		return window->sliding.period +
			history_oldest_after(&window->sliding.history, base,
								 moment.now - window->sliding.period);

	return moment.current.end;
}

/*
 * Return when the amount that is used will have come down to room, from this
 * moment on and with no further calls; WINDOW_NEVER for room < 0.
 */
int64_t
window_free_at(const Window *window, const MemoryBlock *base, Moment moment,
			   int64_t room)
{
	const SlidingWindow *sliding = &window->sliding;
	HistoryView view;
	int64_t		need;

	if (room < 0)
		return WINDOW_NEVER;

	need = window_used(window, base, moment) - room;
	if (need <= 0)
		return moment.now;
	if (window->kind == WINDOW_CALENDAR)
		return moment.current.end;

	/* The slot that leaves first makes room for one, whatever its amount. */
	if (need == 1)
		return window_resets_at(window, base, moment);
	view = history_view(&sliding->history, base, moment.now - sliding->period);
	return sliding->period +
		history_time_of(&sliding->history, base, &view, need);
}

/*
 * Return from when on nothing is counted any more, if nothing is added;
 * INT64_MIN if nothing is counted.
 */
int64_t
window_empty_at(const Window *window)
{
	if (window->kind == WINDOW_SLIDING)
		return window->sliding.history.open_amount == 0 ? INT64_MIN
			: window->sliding.history.open_last + window->sliding.period;

	return window->calendar.used == 0 ? INT64_MIN : window->calendar.span.end;
}

/*
 * Look at the newest slot of a sliding window: the time of its youngest call,
 * and its amount.  Returns false if there is none.
 */
bool
window_newest(const Window *window, int64_t *time, int64_t *amount)
{
	const History *history = &window->sliding.history;

	assert(window->kind == WINDOW_SLIDING);

	*time = history->open_last;
	*amount = history->open_amount;
	return history->open_amount > 0;
}

/*
 * Forget the slots that have left the window by now.  Blocks that hold nothing
 * else go to the spare blocks.
 */
void
window_advance(Window *window, BlockList *spare, int64_t now)
{
	if (window->kind == WINDOW_SLIDING)
		history_expire(&window->sliding.history, spare,
					   now - window->sliding.period);
}

/*
 * Return the block that window_advance() and window_add() will look at next,
 * at this time; NO_BLOCK if there is probably none.
 */
BlockNo
window_next_block(const Window *window, int64_t now)
{
	return window->kind == WINDOW_SLIDING
		? history_next_block(&window->sliding.history,
							 now - window->sliding.period)
		: NO_BLOCK;
}

/* Return whether window_add() may need a block from the spare blocks: at most one. */
bool
window_add_needs_block(const Window *window)
{
	return window->kind == WINDOW_SLIDING &&
		history_add_needs_block(&window->sliding.history);
}

/*
 * Have a sliding window tell calls apart up to just so many slots from now on.
 */
void
window_set_exact(Window *window, uint32_t exact_slots)
{
	window->exact_slots = exact_slots;
}

/*
 * Return whether a call that finds max units counted may find too many, since
 * calls are kept together that have not all left.  That can't be if the newest
 * max units are apart: as long as an older slot is there, all of these are.
 */
bool
window_is_blurred(const Window *window, int64_t max)
{
	return window->kind == WINDOW_SLIDING &&
		window->apart < window->sliding.history.sum && window->apart < max;
}

/*
 * Have a sliding window tell calls apart up to so many slots from now on, if
 * it did so for fewer.
 */
void
window_require_exact(Window *window, uint32_t exact_slots)
{
	if (window->kind == WINDOW_SLIDING &&
		window->exact_slots < exact_slots)
		window->exact_slots = exact_slots;
}

/*
 * Add to a sliding window, and note whether calls of two times share a slot.
 */
static void
add_sliding(Window *window, BlockList *spare, int64_t now, int64_t amount)
{
	History    *history = &window->sliding.history;
	uint32_t	count = history->count;
	int64_t		last = history->open_last;

	history_add(history, spare, now, amount,
				count < window->exact_slots ? 0 : window->sliding.slot_width);
	if (history->count == count && now != last)
		window->apart = 0;
	else
		window->apart = amount < MAX_APART - window->apart
			? window->apart + (uint32_t) amount : MAX_APART;
}

/*
 * Count an amount >= 0 at this moment, to which the window was advanced.  It
 * may take one block of the spare blocks; see window_add_needs_block().  What is
 * counted never exceeds INT64_MAX.
 */
void
window_add(Window *window, BlockList *spare, Moment moment, int64_t amount)
{
	int64_t		room;

	assert(amount >= 0);

	/*
	 * A limit that never denies may be asked to count more than a number
	 * holds.
	 */
	room = INT64_MAX - (window->kind == WINDOW_SLIDING
						? window->sliding.history.sum
						: calendar_used(&window->calendar, moment.current));
	if (amount > room)
		amount = room;
	if (amount == 0)
		return;

	if (window->kind == WINDOW_SLIDING)
		add_sliding(window, spare, moment.now, amount);
	else
	{
		CalendarWindow *calendar = &window->calendar;

		assert(moment.current.start <= moment.now);
		assert(moment.current.end > moment.now);
		calendar->used = calendar_used(calendar, moment.current) + amount;
		calendar->span = moment.current;
	}
}

/*
 * Take back up to amount from a sliding window, newest first, and return how
 * much there was.
 */
static int64_t
take_sliding(Window *window, BlockList *spare, int64_t amount)
{
	int64_t		taken = history_take_newest(&window->sliding.history, spare,
											amount);

	window->apart = taken < window->apart
		? window->apart - (uint32_t) taken : 0;
	return taken;
}

/*
 * Take back up to amount >= 0 of what is counted now, newest first, and return
 * how much there was.  Blocks that hold nothing any more go to the spare blocks.
 */
int64_t
window_take_back(Window *window, BlockList *spare, int64_t now, int64_t amount)
{
	assert(amount >= 0);

	/* A window that has run empty has nothing to give. */
	if (amount == 0 || window_empty_at(window) <= now)
		return 0;

	/* A sliding window first forgets what has left it. */
	if (window->kind == WINDOW_SLIDING)
	{
		window_advance(window, spare, now);
		return take_sliding(window, spare, amount);
	}

	/* A calendar window gives what its period has. */
	if (amount > window->calendar.used)
		amount = window->calendar.used;
	window->calendar.used -= amount;
	return amount;
}

/* Forget what is counted; all blocks go to the spare blocks. */
void
window_clear(Window *window, BlockList *spare)
{
	if (window->kind == WINDOW_SLIDING)
		history_clear(&window->sliding.history, spare);
	else
		window_init_calendar(window, window->calendar.period,
							 window->calendar.phase);
}

/* Return how many blocks window_copy() takes for this window. */
uint32_t
window_blocks(const Window *window, const MemoryBlock *base)
{
	return window->kind == WINDOW_SLIDING
		? history_blocks(&window->sliding.history, base) : 0;
}

/*
 * Copy a window to blocks of the spare blocks, of which it takes as many as
 * window_blocks() says.  The array of the blocks may be another one.
 */
void
window_copy(Window *to, BlockList *spare, const Window *from,
			const MemoryBlock *from_base)
{
	*to = *from;
	if (from->kind == WINDOW_SLIDING)
		history_copy(&to->sliding.history, spare, &from->sliding.history,
					 from_base);
}
