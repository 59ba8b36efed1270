/*-------------------------------------------------------------------------
 *
 * calendar.c
 *		Calendar periods: the current hour, day, month, ... since an anchor.
 *
 * Period number k begins k lengths after the anchor, and is always computed
 * from the anchor itself: a period that began on the 31st comes back to the
 * 31st after a shorter month.  Days and longer periods are counted on the wall
 * clock of the zone, so that they keep their time of day over a change to or
 * from summer time; hours and minutes are intervals of real time.  A
 * wall-clock time that a change skips or repeats is understood as PostgreSQL
 * understands it on input.
 *
 * Reports are cut into buckets, which go by the wall clock also where they are
 * shorter than a day.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "config/calendar.h"
#include "pgtime.h"
#include "utils/datetime.h"
#include "utils/formatting.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* An anchor on a zone's wall clock. */
typedef struct WallClock
{
	pg_tz	   *zone;
	struct pg_tm tm;
	fsec_t		fsec;
} WallClock;

/* Return a time zone; NULL if the server does not know it. */
static pg_tz *
find_timezone(const char *timezone)
{
	pg_tz	   *zone = pg_tzset(timezone);

	return zone != NULL && pg_tz_acceptable(zone) ? zone : NULL;
}

/*
 * Return whether the server has this time zone now.  One that it had when its
 * name was checked may be gone, with an update or on another server.
 */
bool
calendar_has_timezone(const char *timezone)
{
	return find_timezone(timezone) != NULL;
}

/* Return a time zone; raises an ERROR if the server does not know it. */
static pg_tz *
require_timezone(const char *timezone)
{
	pg_tz	   *zone = find_timezone(timezone);

	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", timezone)));
	return zone;
}

/* The names of all time zones, in lower case. */
static HTAB *timezone_names = NULL;

/* Read the names of all time zones, which opens hundreds of files. */
static void
read_timezone_names(void)
{
	HASHCTL		control = {
		.keysize = TZ_STRLEN_MAX + 1,
		.entrysize = TZ_STRLEN_MAX + 1,
		.hcxt = CacheMemoryContext
	};
	HTAB	   *names = hash_create("tierlimit time zones", 1024, &control,
									HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	pg_tzenum  *zones = pg_tzenumerate_start();
	pg_tz	   *zone;

	while ((zone = pg_tzenumerate_next(zones)) != NULL)
	{
		const char *name = pg_get_timezone_name(zone);
		char	   *key = asc_tolower(name, strlen(name));

		(void) hash_search(names, key, HASH_ENTER, NULL);
		pfree(key);
	}
	pg_tzenumerate_end(zones);
	if (timezone_names != NULL)
		hash_destroy(timezone_names);
	timezone_names = names;
}

/*
 * Return whether the server knows a time zone by this name.  The default costs
 * nothing; for another one the names are read, again where it is not among
 * them, since it may have come meanwhile.
 */
bool
calendar_knows_timezone(const char *timezone)
{
	char	   *key = asc_tolower(timezone, strlen(timezone));

	if (strcmp(key, "utc") == 0)
		return true;
	if (strlen(key) > TZ_STRLEN_MAX)
		return false;
	if (timezone_names == NULL ||
		hash_search(timezone_names, key, HASH_FIND, NULL) == NULL)
		read_timezone_names();
	return hash_search(timezone_names, key, HASH_FIND, NULL) != NULL;
}

/*
 * Return a number that tells calendars apart: those with equal anchor and zone
 * have the same.
 */
uint64
calendar_phase(TimestampTz anchor, const char *timezone)
{
	return hash_bytes_extended((const unsigned char *) timezone,
							   strlen(timezone), (uint64) anchor);
}

/*
 * Return the first microsecond of a wall-clock time; the end of time for one
 * beyond that.
 */
static TimestampTz
to_timestamp(const WallClock *wall, struct pg_tm *tm)
{
	int			offset = DetermineTimeZoneOffset(tm, wall->zone);
	TimestampTz result;

	if (tm2timestamp(tm, wall->fsec, &offset, &result) != 0)
		return tm->tm_year > 0 ? DT_NOEND : DT_NOBEGIN;
	return result;
}

/*
 * Return what a zone's wall clock shows at a time.  Raises an ERROR if that is
 * out of range.
 */
static WallClock
wall_clock(TimestampTz at, pg_tz *zone)
{
	WallClock	wall = {.zone = zone};
	int			offset;

	if (timestamp2tm(at, &offset, &wall.tm, &wall.fsec, NULL, zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return wall;
}

/* Return what a zone's wall clock shows at the anchor. */
static WallClock
anchor_clock(TimestampTz anchor, pg_tz *zone)
{
	WallClock	wall = {.zone = zone};

	if (anchor != DT_NOBEGIN)
		return wall_clock(anchor, zone);

	wall.tm.tm_year = 2001;
	wall.tm.tm_mon = 1;
	wall.tm.tm_mday = 1;
	return wall;
}

/* Return a / b, rounded down. */
static int64
floor_divide(int64 a, int64 b)
{
	return a / b - (a % b < 0 ? 1 : 0);
}

/* Return when period number k begins. */
static TimestampTz
period_start(const Interval *length, const WallClock *anchor, int64 k)
{
	struct pg_tm tm = anchor->tm;

	if (length->month != 0)
	{
		int64		months = tm.tm_mon - 1 + k * length->month;

		tm.tm_year += (int) floor_divide(months, MONTHS_PER_YEAR);
		tm.tm_mon = (int) (months -
						   floor_divide(months, MONTHS_PER_YEAR) * MONTHS_PER_YEAR) + 1;
		tm.tm_mday = Min(tm.tm_mday,
						 day_tab[isleap(tm.tm_year)][tm.tm_mon - 1]);
	}
	else
		j2date(date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) +
			   (int) (k * length->day),
			   &tm.tm_year, &tm.tm_mon, &tm.tm_mday);

	return to_timestamp(anchor, &tm);
}

/* Return the number of the period that now is in, give or take one. */
static int64
estimate_number(const Interval *length, const WallClock *anchor,
				const WallClock *now)
{
	const struct pg_tm *a = &anchor->tm;
	const struct pg_tm *n = &now->tm;

	if (length->month != 0)
		return floor_divide((int64) (n->tm_year - a->tm_year) * MONTHS_PER_YEAR +
							n->tm_mon - a->tm_mon, length->month);

	return floor_divide(date2j(n->tm_year, n->tm_mon, n->tm_mday) -
						date2j(a->tm_year, a->tm_mon, a->tm_mday),
						length->day);
}

/*
 * Return the period that contains now, of those that follow each other from
 * the anchor (DT_NOBEGIN: 2001-01-01 00:00, a Monday) in both directions.  The
 * length has one of the fields month, day and time, the others are 0.  Loads
 * the time zone if it is not loaded, so no lock may be held.  Raises an ERROR
 * if there is no such time zone.
 */
Span
calendar_span(const Interval *length, TimestampTz anchor,
			  const char *timezone, TimestampTz now)
{
	pg_tz	   *zone = require_timezone(timezone);
	WallClock	wall;
	WallClock	now_wall;
	int64		k;
	Span		span;

	wall = anchor_clock(anchor, zone);
	if (length->month == 0 && length->day == 0)
	{
		if (anchor == DT_NOBEGIN)
			anchor = to_timestamp(&wall, &wall.tm);
		span.start = anchor +
			floor_divide(now - anchor, length->time) * length->time;
		span.end = span.start + length->time;
		return span;
	}

	now_wall = wall_clock(now, zone);
	k = estimate_number(length, &wall, &now_wall);
	while ((span.start = period_start(length, &wall, k)) > now)
		k--;
	while ((span.end = period_start(length, &wall, k + 1)) <= now)
	{
		span.start = span.end;
		k++;
	}
	return span;
}

/*
 * Return how far a zone's wall clock is ahead of UTC at a time, in
 * microseconds.
 */
static int64
offset_at(TimestampTz at, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			offset;

	if (timestamp2tm(at, &offset, &tm, &fsec, NULL, zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return -(int64) offset * USECS_PER_SEC;
}

/* Return the first change of a zone's clock after a time; DT_NOEND: none. */
static TimestampTz
next_change(TimestampTz after, const pg_tz *zone)
{
	pg_time_t	seconds = timestamptz_to_time_t(after);
	pg_time_t	boundary;
	long int	offset_before;
	long int	offset_after;
	int			is_summer_before;
	int			is_summer_after;

	if (pg_next_dst_boundary(&seconds, &offset_before, &is_summer_before,
							 &boundary, &offset_after, &is_summer_after,
							 zone) <= 0)
		return DT_NOEND;
	return time_t_to_timestamptz(boundary);
}

/*
 * Return the start of the bucket of a time, where buckets are this many
 * microseconds by the wall clock.  The clock may have changed since the
 * bucket's start.  Where it went forward over that, the bucket starts with the
 * change.  Where it went back, a bucket of an hour or less starts again with
 * the change, so that an hour that comes twice is two; a longer one goes on.
 */
static TimestampTz
wall_bucket(int64 step, TimestampTz at, pg_tz *zone)
{
	const WallClock origin = anchor_clock(DT_NOBEGIN, zone);
	const int64 epoch = (int64) (date2j(origin.tm.tm_year, origin.tm.tm_mon,
										origin.tm.tm_mday) -
								 POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
	int64		offset = offset_at(at, zone);
	int64		local = epoch + floor_divide(at + offset - epoch, step) * step;
	TimestampTz start = local - offset;
	TimestampTz change = next_change(start - USECS_PER_DAY, zone);
	int64		before;

	/* Find the last change before the time that may matter. */
	for (;;)
	{
		TimestampTz next = change > at ? DT_NOEND : next_change(change, zone);

		if (next > at)
			break;
		change = next;
	}
	if (change > at)
		return start;
	before = local - offset_at(change - 1, zone);
	if (step > USECS_PER_HOUR && before < change)
		return before;
	return Max(start, change);
}

/*
 * Return the start of the bucket that a time is in, where buckets follow each
 * other by the zone's wall clock from 2001-01-01 00:00 there.  The step is as
 * the length of calendar_span().  Loads the time zone if it is not loaded, so
 * no lock may be held.  Raises an ERROR if there is no such time zone.
 */
TimestampTz
calendar_bucket(const Interval *step, const char *timezone, TimestampTz at)
{
	if (step->month != 0 || step->day != 0)
		return calendar_span(step, DT_NOBEGIN, timezone, at).start;
	return wall_bucket(step->time, at, require_timezone(timezone));
}
