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

/* The units that limits count. */
typedef enum Unit
{
	UNIT_REQUESTS,				/* a call counts 1 */
	UNIT_CREDITS				/* a call counts its cost */
} Unit;

/* By Unit, and by WindowKind: as the tables have them. */
extern const char *const tiers_unit_names[];
extern const char *const tiers_kind_names[];

/*
 * The limits of addresses are those of the tier with the first name; calls
 * without a key have the tier with the second one.
 */
#define ADDRESS_TIER "ip"
#define ANONYMOUS_TIER "anonymous"

#define MAX_TIER_LENGTH 63		/* bytes of its name */

/*
 * A tier has no more limits than this, so that the work per call is bounded
 * ...
 */
#define MAX_LIMITS 32

/* ... and one window more, which only refunds ask for. */
#define MAX_WINDOWS (MAX_LIMITS + 1)

/* A limit of a tier. */
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

/* A tier. */
typedef struct Tier
{
	Datum		name;			/* text */
	int			nlimits;		/* by period, the shortest first */
	int			nwindows;		/* nlimits, or one more: see tiers.c */
	bool		has_calendar;	/* any of the windows is a calendar one */
	TierLimit  *limits;			/* nwindows of them */
	PatternSet *endpoints;		/* those that it includes; NULL: all */
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

/* A row of the table error_code. */
typedef struct ErrorCode
{
	int32		code;			/* hash key */
	int32		http_status;
	Datum		name;			/* text */
	Datum		message;		/* text */
} ErrorCode;

extern void tiers_refresh(void);
extern uint64 tiers_version(void);
extern void tiers_forget(void);
extern const Tier *tiers_find(const char *name, int length);
extern const Tier *tiers_require(const char *name, int length);
extern const Tier *tiers_for_addresses(void);
extern void tiers_look_for_addresses(void);
extern bool tiers_include(const Tier *tier, const text *endpoint);
extern int64 tiers_price(const text *endpoint);
extern text *tiers_pattern(const text *endpoint);
extern ErrorCode tiers_error_code(int32 code);
extern void tiers_require_few_limits(const text *tier);
extern void tiers_init(void);

#endif							/* TIERLIMIT_TIERS_H */
