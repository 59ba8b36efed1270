/*-------------------------------------------------------------------------
 *
 * window.c
 *		What one limit counts: a sliding window or a calendar period.
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
 * smaller one would tell apart.  It knows how many of its newest units are not
 * among those; where these don't do, its owner has to fill another one.
 *
 * A calendar window is one number that belongs to one period.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include <string.h>

#define MAX_APART ((1 << 24) - 1)

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

void
window_init_calendar(Window *window, int64_t period, uint64_t phase)
{
	memset(window, 0, sizeof(Window));
	window->kind = WINDOW_CALENDAR;
	window->calendar.period = period;
	window->calendar.phase = phase;
}

/* Amount that a calendar window holds for the period that is running. */
static inline int64_t
calendar_used(const CalendarWindow *calendar, Span current)
{
	return calendar->span.start == current.start ? calendar->used : 0;
}

int64_t
window_used(const Window *window, const MemoryBlock *base, Moment moment)
{
	if (window->kind == WINDOW_SLIDING)
		return history_sum_after(&window->sliding.history, base,
								 moment.now - window->sliding.period);

	return calendar_used(&window->calendar, moment.current);
}

int64_t
window_resets_at(const Window *window, const MemoryBlock *base, Moment moment)
{
	if (window->kind == WINDOW_SLIDING)
		return window->sliding.period +
			history_oldest_after(&window->sliding.history, base,
								 moment.now - window->sliding.period);

	return moment.current.end;
}

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

	/* Whichever slot leaves first makes room for one. */
	if (need == 1)
		return window_resets_at(window, base, moment);
	view = history_view(&sliding->history, base, moment.now - sliding->period);
	return sliding->period +
		history_time_of(&sliding->history, base, &view, need);
}

int64_t
window_empty_at(const Window *window)
{
	if (window->kind == WINDOW_SLIDING)
		return window->sliding.history.open_amount == 0 ? INT64_MIN
			: window->sliding.history.open_last + window->sliding.period;

	return window->calendar.used == 0 ? INT64_MIN : window->calendar.span.end;
}

void
window_advance(Window *window, BlockList *spare, int64_t now)
{
	if (window->kind == WINDOW_SLIDING)
		history_expire(&window->sliding.history, spare,
					   now - window->sliding.period);
}

BlockNo
window_next_block(const Window *window, int64_t now)
{
	return window->kind == WINDOW_SLIDING
		? history_next_block(&window->sliding.history,
							 now - window->sliding.period)
		: NO_BLOCK;
}

bool
window_add_needs_block(const Window *window)
{
	return window->kind == WINDOW_SLIDING &&
		history_add_needs_block(&window->sliding.history);
}

void
window_set_exact(Window *window, uint32_t exact_slots)
{
	window->exact_slots = exact_slots;
}

bool
window_is_blurred(const Window *window, int64_t max)
{
	return window->kind == WINDOW_SLIDING &&
		window->apart < window->sliding.history.sum && window->apart < max;
}

void
window_require_exact(Window *window, uint32_t exact_slots)
{
	if (window->kind == WINDOW_SLIDING &&
		window->exact_slots < exact_slots)
		window->exact_slots = exact_slots;
}

/* Add to a sliding window; puts down whether calls of two times meet in a slot. */
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

void
window_add(Window *window, BlockList *spare, Moment moment, int64_t amount)
{
	int64_t		room;

	assert(amount >= 0);

	/* A limit that never denies may be asked for more than a number holds. */
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

static int64_t
take_sliding(Window *window, BlockList *spare, int64_t amount)
{
	int64_t		taken = history_take_newest(&window->sliding.history, spare,
											amount);

	window->apart = taken < window->apart
		? window->apart - (uint32_t) taken : 0;
	return taken;
}

int64_t
window_take_back(Window *window, BlockList *spare, int64_t now, int64_t amount)
{
	assert(amount >= 0);

	if (amount == 0 || window_empty_at(window) <= now)
		return 0;

	if (window->kind == WINDOW_SLIDING)
	{
		window_advance(window, spare, now);
		return take_sliding(window, spare, amount);
	}

	if (amount > window->calendar.used)
		amount = window->calendar.used;
	window->calendar.used -= amount;
	return amount;
}

void
window_clear(Window *window, BlockList *spare)
{
	if (window->kind == WINDOW_SLIDING)
		history_clear(&window->sliding.history, spare);
	else
		window_init_calendar(window, window->calendar.period,
							 window->calendar.phase);
}

uint32_t
window_blocks(const Window *window, const MemoryBlock *base)
{
	return window->kind == WINDOW_SLIDING
		? history_blocks(&window->sliding.history, base) : 0;
}

void
window_copy(Window *to, BlockList *spare, const Window *from,
			const MemoryBlock *from_base)
{
	*to = *from;
	if (from->kind == WINDOW_SLIDING)
		history_copy(&to->sliding.history, spare, &from->sliding.history,
					 from_base);
}
