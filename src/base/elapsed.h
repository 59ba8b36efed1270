/*-------------------------------------------------------------------------
 *
 * elapsed.h
 *		Whether an interval of the server's clock is over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_ELAPSED_H
#define TIERLIMIT_ELAPSED_H

#include "datatype/timestamp.h"

/* Whether so much time has passed; also where the clock was set back. */
static inline bool
has_passed(TimestampTz since, TimestampTz now, int64 interval)
{
	return now < since || now - since > interval;
}

#endif							/* TIERLIMIT_ELAPSED_H */
