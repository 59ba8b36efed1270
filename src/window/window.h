/*-------------------------------------------------------------------------
 *
 * window.h
 *		What one limit counts: a sliding window or a calendar period.
 *
 * Times are in microseconds and an argument of every call; from one call to
 * the next on the same window they never decrease.  Amounts are calls or
 * credits, as the owner of the window likes.  See window.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_WINDOW_H
#define TIERLIMIT_WINDOW_H

#include "window/history.h"

typedef enum WindowKind
{
	WINDOW_SLIDING,				/* the last period, rolling */
	WINDOW_CALENDAR				/* the current period */
} WindowKind;

/* A half-open interval [start, end). */
typedef struct Span
{
	int64_t		start;
	int64_t		end;
} Span;

/*
 * A moment as a window sees it: the time, and, for a calendar window, the
 * current period, which contains it.
 */
typedef struct Moment
{
	int64_t		now;
	Span		current;
} Moment;

typedef struct SlidingWindow
{
	int64_t		period;
	int64_t		slot_width;		/* what a slot may span at most */
	History		history;
} SlidingWindow;

typedef struct CalendarWindow
{
	Span		span;			/* the period that used belongs to */
	int64_t		used;
	int64_t		period;			/* what its owner tells it from others by; */
	uint64_t	phase;			/* nothing here looks at these */
} CalendarWindow;

typedef struct Window
{
	uint32_t	kind:8;			/* WindowKind */
	uint32_t	apart:24;		/* sliding: so many of the newest units, at
								 * least, are in slots of one time each */
	uint32_t	exact_slots;	/* sliding: with fewer, each call has its own */
	union
	{
		SlidingWindow sliding;
		CalendarWindow calendar;
	};
} Window;

/* "It will never be so." */
#define WINDOW_NEVER INT64_MAX

/*
 * Start an empty sliding window over the last period (>= 1) microseconds.
 * With fewer than exact_slots slots it tells calls apart to the microsecond;
 * from there on it keeps calls together that are less than a slot width, a
 * slots'th of the period, apart.
 */
extern void window_init_sliding(Window *window, int64_t period,
								uint32_t exact_slots, uint32_t slots);

/* Start an empty calendar window, with what its owner tells it by. */
extern void window_init_calendar(Window *window, int64_t period,
								 uint64_t phase);

/* What is counted at this moment; changes nothing. */
extern int64_t window_used(const Window *window, const MemoryBlock *base,
						   Moment moment);

/*
 * Sliding: when the oldest counted call will leave, if there is one.
 * Calendar: when the period ends.  Changes nothing.
 */
extern int64_t window_resets_at(const Window *window, const MemoryBlock *base,
								Moment moment);

/*
 * When, from this moment on and with no further calls, used will have come
 * down to room; WINDOW_NEVER for room < 0.  Changes nothing.
 */
extern int64_t window_free_at(const Window *window, const MemoryBlock *base,
							  Moment moment, int64_t room);

/*
 * From when on nothing is counted any more, if nothing is added; INT64_MIN if
 * nothing is.
 */
extern int64_t window_empty_at(const Window *window);

/* Give the blocks back that hold only what has left the window by now. */
extern void window_advance(Window *window, BlockList *spare, int64_t now);

/*
 * The block that window_advance() and window_add() will look at next, at this
 * time; NO_BLOCK: probably none.
 */
extern BlockNo window_next_block(const Window *window, int64_t now);

/* Whether window_add() may need a block from the spare blocks: at most one. */
extern bool window_add_needs_block(const Window *window);

/*
 * Have a sliding window tell calls apart up to so many slots from now on, if
 * it did so for fewer; or up to just so many.
 */
extern void window_require_exact(Window *window, uint32_t exact_slots);
extern void window_set_exact(Window *window, uint32_t exact_slots);

/*
 * Whether a call that finds max units counted may find too many, since calls
 * are kept together that have not all left.  It can't, if the newest max units
 * are apart: as long as an older slot is there, all of these are.
 */
extern bool window_is_blurred(const Window *window, int64_t max);

/* Count amount >= 0 at this moment, to which the window was advanced. */
extern void window_add(Window *window, BlockList *spare, Moment moment,
					   int64_t amount);

/*
 * Give back up to amount >= 0 of what is counted now, newest first; returns
 * how much there was.
 */
extern int64_t window_take_back(Window *window, BlockList *spare, int64_t now,
								int64_t amount);

/* Forget what is counted, and give all blocks back. */
extern void window_clear(Window *window, BlockList *spare);

/* Copy a window, as history_copy() does. */
extern uint32_t window_blocks(const Window *window, const MemoryBlock *base);
extern void window_copy(Window *to, BlockList *spare, const Window *from,
						const MemoryBlock *from_base);

#endif							/* TIERLIMIT_WINDOW_H */
