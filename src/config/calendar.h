/*-------------------------------------------------------------------------
 *
 * calendar.h
 *		Calendar periods: the current hour, day, month, ... since an anchor.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_CALENDAR_H
#define TIERLIMIT_CALENDAR_H

#include "datatype/timestamp.h"
#include "window/window.h"

extern Span calendar_span(const Interval *length, TimestampTz anchor,
						  const char *timezone, TimestampTz now);
extern TimestampTz calendar_bucket(const Interval *step, const char *timezone,
								   TimestampTz at);
extern bool calendar_has_timezone(const char *timezone);
extern bool calendar_knows_timezone(const char *timezone);
extern uint64 calendar_phase(TimestampTz anchor, const char *timezone);

#endif							/* TIERLIMIT_CALENDAR_H */
