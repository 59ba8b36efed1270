/*-------------------------------------------------------------------------
 *
 * clock.c
 *		What time it is for a call.
 *
 * The clock is the server's.  It never goes backwards for a key: a key in
 * memory remembers the time of its last decision (see limiter.c), and for
 * those that are not in memory any more the store remembers the latest of
 * theirs (see store_clock_floor()).  Where the clock is set back, two things go
 * back with it, neither of which counts anything: whether a key has expired,
 * and denials of an account that nothing was ever counted for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "fmgr.h"
#include "settings.h"
#include "store.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

static TimestampTz
session_time(void)
{
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
												   CStringGetDatum(tierlimit_now),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
}

Clock
clock_read(void)
{
	Clock		clock;

	if (tierlimit_now[0] == '\0')
	{
		clock.now = Max(GetCurrentTimestamp(), store_clock_floor());
		clock.source = CLOCK_SERVER;
	}
	else
	{
		clock.now = session_time();
		clock.source = CLOCK_SESSION;
	}
	return clock;
}
