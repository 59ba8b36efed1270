/*-------------------------------------------------------------------------
 *
 * tiers.h
 *		The tiers with their limits and endpoints, and the error codes, as
 *		this session remembers them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_TIERS_H
#define TIERLIMIT_TIERS_H

#include "config/pattern.h"
#include "datatype/timestamp.h"
#include "window/window.h"

typedef enum Unit
{
	UNIT_REQUESTS,				/* a call counts 1 */
	UNIT_CREDITS				/* a call counts its cost */
} Unit;

/* By Unit, and by WindowKind: as the tables have them. */
extern const char *const tiers_unit_names[];
extern const char *const tiers_kind_names[];

/* The tier whose limits are those of addresses; and of calls without a key. */
#define ADDRESS_TIER "ip"
#define ANONYMOUS_TIER "anonymous"

#define MAX_TIER_LENGTH 63		/* bytes of its name */

/* The limits of a tier are not more than this: work per call is bounded. */
#define MAX_LIMITS 32

/* ... and one window that only those who give back ask for. */
#define MAX_WINDOWS (MAX_LIMITS + 1)

typedef struct TierLimit
{
	Datum		name;			/* text */
	WindowKind	kind;
	Unit		unit;
	Interval	period;
	int64		period_us;		/* months taken as 30 days */
	int64		max;
	uint32		exact_slots;	/* of a sliding window; see window.h */
	bool		enforce;
	int32		error_code;		/* of a denial */
} TierLimit;

typedef struct Tier
{
	Datum		name;			/* text */
	int			nlimits;		/* by period, the shortest first */
	int			nwindows;		/* nlimits, or one more: see tiers.c */
	bool		has_calendar;	/* any of the windows */
	TierLimit  *limits;			/* nwindows of them */
	PatternSet *endpoints;		/* that it includes; NULL: all */
} Tier;

/* The codes of refusals that are not about a limit. */
#define ERROR_KEY_INVALID 1001
#define ERROR_KEY_MISSING 1002
#define ERROR_PAYMENT_REQUIRED 1003
#define ERROR_PAYMENT_EXPIRED 1004
#define ERROR_KEY_REQUIRED 1005
#define ERROR_NOT_AUTHORIZED 1006
#define ERROR_KEY_DISABLED 1007

/* ... and of those that are: the first of all that are answered with 429. */
#define ERROR_MINUTE_LIMIT 1008
#define ERROR_DAILY_LIMIT 1009
#define ERROR_MONTHLY_LIMIT 1010
#define ERROR_ADDRESS_LIMIT 1011

typedef struct ErrorCode
{
	int32		code;			/* hash key */
	int32		http_status;
	Datum		name;			/* text */
	Datum		message;		/* text */
} ErrorCode;

/*
 * Take notice of all changes that were committed until now, and of this
 * transaction's own.  What the functions below return is valid until the next
 * call of this one.  Like those that find a tier, it may read tables, so no
 * lock may be held.
 */
extern void tiers_refresh(void);

/* Which state of the tiers is remembered: another number for each. */
extern uint64 tiers_version(void);

/* Have the next tiers_refresh() forget the tiers in any case. */
extern void tiers_forget(void);

/* Find a tier by name; if there is none: NULL, or an ERROR. */
extern const Tier *tiers_find(const char *name, int length);
extern const Tier *tiers_require(const char *name, int length);

/* The one named ADDRESS_TIER, which each call with an address asks for. */
extern const Tier *tiers_for_addresses(void);

/* Have it read now, so that it is of the same state as what was found before. */
extern void tiers_look_for_addresses(void);

/*
 * Whether a tier includes an endpoint, and what a call of it costs if nobody
 * says so.  No endpoint (NULL) is only included where every one is.
 */
extern bool tiers_include(const Tier *tier, const text *endpoint);
extern int64 tiers_price(const text *endpoint);

/*
 * The longest pattern of any table that matches an endpoint, as it was written;
 * NULL if none does.
 */
extern text *tiers_pattern(const text *endpoint);

/* An error code; one that the table lacks gets all of these as well. */
extern ErrorCode tiers_error_code(int32 code);

/*
 * Raise an ERROR if this transaction has given the tier more limits than
 * MAX_LIMITS.  (Two transactions at once could; then tiers_find() does.)
 */
extern void tiers_require_few_limits(const text *tier);

/* Watch for changes; from _PG_init. */
extern void tiers_init(void);

#endif							/* TIERLIMIT_TIERS_H */
