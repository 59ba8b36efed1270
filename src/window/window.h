/*-------------------------------------------------------------------------
 *
 * window.h
 *		Windows, which hold what one limit counts: sliding ones and calendar
 *		periods.
 *
 * Times are in microseconds and are an argument of every call; from one call
 * to the next on the same window they never decrease.  Amounts are calls or
 * credits, as the owner of the window likes.  See window.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_WINDOW_H
#define TIERLIMIT_WINDOW_H

#include "window/history.h"

/* The kinds of windows. */
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

/* A window over the last period. */
typedef struct SlidingWindow
{
	int64_t		period;
	int64_t		slot_width;		/* what a slot may span at most */
	History		history;
} SlidingWindow;

/* A window over a calendar period. */
typedef struct CalendarWindow
{
	Span		span;			/* the period that used belongs to */
	int64_t		used;
	int64_t		period;			/* its owner tells it from others by these
								 * two; */
	uint64_t	phase;			/* nothing here looks at them */
} CalendarWindow;

/* A window of either kind. */
typedef struct Window
{
	uint32_t	kind:8;			/* WindowKind */
	uint32_t	apart:24;		/* sliding: so many of the newest units, at
								 * least, are in slots of one time each */
	uint32_t	exact_slots;	/* sliding: with fewer slots, each call has
								 * its own */
	union
	{
		SlidingWindow sliding;
		CalendarWindow calendar;
	};
} Window;

/* The time of what will never be so. */
#define WINDOW_NEVER INT64_MAX

extern void window_init_sliding(Window *window, int64_t period,
								uint32_t exact_slots, uint32_t slots);
extern void window_init_calendar(Window *window, int64_t period,
								 uint64_t phase);
extern int64_t window_used(const Window *window, const MemoryBlock *base,
						   Moment moment);
extern int64_t window_resets_at(const Window *window, const MemoryBlock *base,
								Moment moment);
extern int64_t window_free_at(const Window *window, const MemoryBlock *base,
							  Moment moment, int64_t room);
extern int64_t window_empty_at(const Window *window);
extern bool window_newest(const Window *window, int64_t *time,
						  int64_t *amount);
extern void window_advance(Window *window, BlockList *spare, int64_t now);
extern BlockNo window_next_block(const Window *window, int64_t now);
extern bool window_add_needs_block(const Window *window);
extern void window_require_exact(Window *window, uint32_t exact_slots);
extern void window_set_exact(Window *window, uint32_t exact_slots);
extern bool window_is_blurred(const Window *window, int64_t max);
extern void window_add(Window *window, BlockList *spare, Moment moment,
					   int64_t amount);
extern int64_t window_take_back(Window *window, BlockList *spare, int64_t now,
								int64_t amount);
extern void window_clear(Window *window, BlockList *spare);
extern uint32_t window_blocks(const Window *window, const MemoryBlock *base);
extern void window_copy(Window *to, BlockList *spare, const Window *from,
						const MemoryBlock *from_base);

#endif							/* TIERLIMIT_WINDOW_H */
