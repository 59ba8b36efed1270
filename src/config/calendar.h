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

/*
 * The period that contains now, of those that follow each other from the
 * anchor (DT_NOBEGIN: 2001-01-01 00:00, a Monday) in both directions.  The
 * length has one of the fields month, day and time, the others are 0.  Loads
 * the zone if it is not loaded, so call it with no lock.  Raises an ERROR if
 * there is no such time zone.
 */
extern Span calendar_span(const Interval *length, TimestampTz anchor,
						  const char *timezone, TimestampTz now);

/* Whether the server knows a time zone by this name. */
extern bool calendar_knows_timezone(const char *timezone);

/* What tells calendars apart: those with equal anchor and zone are equal. */
extern uint64 calendar_phase(TimestampTz anchor, const char *timezone);

#endif							/* TIERLIMIT_CALENDAR_H */
