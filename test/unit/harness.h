/*-------------------------------------------------------------------------
 *
 * harness.h
 *		A window and its model, driven and compared together.
 *
 * Whatever is done to a window in these tests is done through a Harness, by
 * the directed tests, by the random ones and by the fuzzer alike: it lends
 * blocks as the real caller does, does the same to the model, and checks that
 * no block is lost.  See harness.c for what may differ from the model.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_TEST_HARNESS_H
#define TIERLIMIT_TEST_HARNESS_H

#include "model.h"
#include "window/window.h"

typedef struct Harness
{
	Window		window;
	Model		model;
	int64_t		now;			/* a test may move it forwards as it likes */
	int64_t		period;			/* of a calendar window too */
	int64_t		slot_width;
	uint32_t	exact_slots;
	uint32_t	blocks;			/* how many blocks the window has */
	int64_t		forgotten;		/* calls up to this time have been dropped */
	int64_t		merged;			/* newest call that may have joined a slot of
								 * another time, or may be joined by one */
	int64_t		advanced;		/* when the window was last advanced */
} Harness;

/* Slots is 0 for a calendar window. */
extern void harness_start(Harness *harness, int64_t now, int64_t period,
						  uint32_t exact_slots, uint32_t slots);
extern void harness_stop(Harness *harness);

/* As the real caller does it: first advance, then lend what is needed, add. */
extern void harness_add(Harness *harness, int64_t amount);
/* The same without advancing. */
extern void harness_add_late(Harness *harness, int64_t amount);
extern int64_t harness_take_back(Harness *harness, int64_t amount);
extern void harness_advance(Harness *harness);
extern void harness_clear(Harness *harness);
/* Go on with a copy. */
extern void harness_copy(Harness *harness);

extern Moment harness_moment(const Harness *harness, int64_t time);
extern int64_t harness_used(const Harness *harness);
extern int64_t harness_resets_at(const Harness *harness);
extern int64_t harness_free_at(const Harness *harness, int64_t room);

/* Compare everything, at every room. */
extern void harness_compare(const Harness *harness);

/*
 * Where the decisions of a random case come from: a generator, or, if there
 * is data, the bytes of that, until they are used up.
 */
typedef struct Source
{
	uint64_t	state;
	const uint8_t *data;
	const uint8_t *end;
} Source;

/* The life of one random window, compared after each operation. */
extern void harness_case(Source *source);

/* Operations since the random case began; 0 in directed tests. */
extern unsigned harness_operation;

extern void harness_fail(const char *file, int line, const char *format,...)
			__attribute__((noreturn, format(printf, 3, 4)));

#define require(condition, ...) \
	((condition) ? (void) 0 : harness_fail(__FILE__, __LINE__, __VA_ARGS__))

#define expect(what, value) \
	do { \
		int64_t		what_ = (what); \
		int64_t		value_ = (value); \
		require(what_ == value_, "%s is %lld instead of %lld", \
				#what, (long long) what_, (long long) value_); \
	} while (0)

/* In history_check.c: */

/* Fails unless all that the head of history.c promises holds. */
extern void history_check(const History *history, const MemoryBlock *base);

/*
 * Write down the blocks of the chain, oldest first; returns how many there
 * are, or limit + 1 if there are more than limit.
 */
extern uint32_t history_chain(const History *history, const MemoryBlock *base,
							  BlockNo *blocks, uint32_t limit);

#endif							/* TIERLIMIT_TEST_HARNESS_H */
