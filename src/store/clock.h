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

typedef enum ClockSource
{
	CLOCK_SERVER,
	CLOCK_SESSION				/* tierlimit.now */
} ClockSource;

typedef struct Clock
{
	TimestampTz now;
	ClockSource source;
} Clock;

/*
 * A time that is so much later than the clock says is one of a clock that was
 * wrong.  Below that, who has decided at a later time takes others there with it.
 */
#define CLOCK_TOLERANCE USECS_PER_SEC

/*
 * Read the clock that is in force in this session.  May raise an ERROR if
 * tierlimit.now does not fit the session's DateStyle; call it with no lock.
 */
extern Clock clock_read(void);

/* Read it again, after a wait; one that was handed to us stays as it is. */
extern Clock clock_read_again(Clock clock);

#endif							/* TIERLIMIT_CLOCK_H */
