/*-------------------------------------------------------------------------
 *
 * elapsed.h
 *		Intervals of the server's clock, and whether they are over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_ELAPSED_H
#define TIERLIMIT_ELAPSED_H

#include "datatype/timestamp.h"

/*
 * Return whether so much time, in microseconds, has passed between two times
 * of the server's clock; true also if the clock was set back.
 */
static inline bool
has_passed(TimestampTz since, TimestampTz now, int64 interval)
{
	return now < since || now - since > interval;
}

/* Whole seconds of an interval in microseconds. */
static inline int64
seconds_rounded_up(int64 us)
{
	return (us + USECS_PER_SEC - 1) / USECS_PER_SEC;
}

#endif							/* TIERLIMIT_ELAPSED_H */
