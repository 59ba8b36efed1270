/*-------------------------------------------------------------------------
 *
 * evaluate.h
 *		What limits say of a call.
 *
 * All windows of the call are there, and locked at least SHARED if they are in
 * shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_EVALUATE_H
#define TIERLIMIT_EVALUATE_H

#include "limit/call.h"

/* What is counted in one of the tier's windows at this time. */
extern int64 evaluate_used(const CallSubject *part, int i, TimestampTz now);

/*
 * When a window that counts this much resets: sliding, when the oldest call
 * leaves, DT_NOEND if there is none; calendar, when the period ends.
 */
extern TimestampTz evaluate_resets_at(const CallSubject *part, int i,
									  TimestampTz now, int64 used);

/*
 * Whether a limit promises to deny only if its span is full: up to
 * tierlimit.window_slots.
 */
extern bool evaluate_is_exact(const TierLimit *limit);

/*
 * Whether one of the tier's windows has too rough an idea for its limit, and is
 * to be filled from the log.
 */
extern bool evaluate_is_blurred(const CallSubject *part, int i);

/* The verdict of all limits together, at the call's time. */
extern Verdict evaluate(const Call *call);

#endif							/* TIERLIMIT_EVALUATE_H */
