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
 * Read the clock that is in force in this session.  May raise an ERROR if
 * tierlimit.now does not fit the session's DateStyle; call it with no lock.
 */
extern Clock clock_read(void);

/* Whether so much time has passed; also where the clock was set back. */
static inline bool
has_passed(TimestampTz since, TimestampTz now, int64 interval)
{
	return now < since || now - since > interval;
}

#endif							/* TIERLIMIT_CLOCK_H */
