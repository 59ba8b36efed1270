/*-------------------------------------------------------------------------
 *
 * clock.h
 *		What time it is for a call.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_CLOCK_H
#define TIERLIMIT_CLOCK_H

#include "datatype/timestamp.h"

/* The kinds of clock that a session can go by. */
typedef enum ClockSource
{
	CLOCK_SERVER,
	CLOCK_SESSION				/* tierlimit.now */
} ClockSource;

/* A time, and the kind of clock that it was read from. */
typedef struct Clock
{
	TimestampTz now;
	ClockSource source;
} Clock;

/*
 * A time that is by more than this later than the clock says is of a clock
 * that was wrong.  Below that, a subject that has decided at a later time
 * takes the next call there with it.
 */
#define CLOCK_TOLERANCE USECS_PER_SEC

extern Clock clock_read(void);
extern Clock clock_read_again(Clock clock);

#endif							/* TIERLIMIT_CLOCK_H */
