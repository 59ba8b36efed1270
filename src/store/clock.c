/*-------------------------------------------------------------------------
 *
 * clock.c
 *		What time it is for a call.
 *
 * The clock is the server's.  It never goes backwards for a key: a key in
 * memory remembers the time of its last decision, and its next decision is
 * later.
 *
 * A clock can be wrong.  So where a key has decided more than CLOCK_TOLERANCE
 * later than the clock says now, or rows of the log say so, that time is not
 * believed: what was counted then counts as of now, in memory (rebuild.c) as
 * in the log (_redate_rows() in the install script).  No key moves another's
 * clock by more than the tolerance.
 *
 * In a session with a tierlimit.now of its own, that is the clock.  Neither
 * clock believes what the other has counted in memory: the log is asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "fmgr.h"
#include "store/clock.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Return the time that tierlimit.now says. */
static TimestampTz
session_time(void)
{
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
												   CStringGetDatum(tierlimit_now),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
}

/*
 * Read the clock that is in force in this session.  Raises an ERROR if
 * tierlimit.now does not fit the session's DateStyle; no lock may be held.
 */
Clock
clock_read(void)
{
	Clock		clock;

	if (tierlimit_now[0] == '\0')
	{
		clock.now = GetCurrentTimestamp();
		clock.source = CLOCK_SERVER;
	}
	else
	{
		clock.now = session_time();
		clock.source = CLOCK_SESSION;
	}
	return clock;
}

/*
 * Read a clock again, after a wait, and return it with the new time.  A
 * session's own clock stays as it is.  Raises no ERROR; any lock may be held.
 */
Clock
clock_read_again(Clock clock)
{
	if (clock.source == CLOCK_SERVER)
		clock.now = GetCurrentTimestamp();
	return clock;
}
