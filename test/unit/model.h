/*-------------------------------------------------------------------------
 *
 * model.h
 *		What a window should answer, in the slow and obvious way.
 *
 * A model remembers every call by itself, for ever, in the order of time, and
 * adds up what it is asked for.  It packs, joins and forgets nothing, so that
 * it shares no idea (and, one hopes, no mistake) with the real window.
 *
 * Sums that no longer fit stay at INT64_MAX.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_TEST_MODEL_H
#define TIERLIMIT_TEST_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ModelCall
{
	int64_t		time;
	int64_t		amount;			/* > 0 */
} ModelCall;

/* An all-zero Model is an empty one. */
typedef struct Model
{
	ModelCall  *calls;			/* oldest first */
	size_t		count;
	size_t		allocated;
} Model;

extern void model_clear(Model *model);
extern void model_add(Model *model, int64_t time, int64_t amount);

/* Take back up to amount, newest first; returns how much there was. */
extern int64_t model_take_back(Model *model, int64_t amount);

/* Calls in (now - period, now]: amount; time of the oldest, if any. */
extern int64_t model_used(const Model *model, int64_t now, int64_t period);
extern bool model_oldest(const Model *model, int64_t now, int64_t period,
						 int64_t *time);

/* From now on, when (now - period, now] will have come down to room >= 0. */
extern int64_t model_free_at(const Model *model, int64_t now, int64_t period,
							 int64_t room);

/* The same for calls in [start, end), which now is in. */
extern int64_t model_used_between(const Model *model, int64_t start,
								  int64_t end);
extern int64_t model_free_between(const Model *model, int64_t now,
								  int64_t start, int64_t end, int64_t room);

/* How many different times there are among the calls after a time. */
extern size_t model_times_after(const Model *model, int64_t after);

#endif							/* TIERLIMIT_TEST_MODEL_H */
