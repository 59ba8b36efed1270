/*-------------------------------------------------------------------------
 *
 * retry.h
 *		Calls with a request_id, which may be retried.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_RETRY_H
#define TIERLIMIT_RETRY_H

#include "limit/charge.h"
#include "log/logrow.h"

/* What is answered again when a call that was admitted is retried. */
typedef struct Admission
{
	TimestampTz decided_at;
	int64		remembered_at;	/* by the steady clock; see retry.c */
	uint64		counted_by;		/* the hash of the caller's subject, and its */
	uint32		refunds;		/* store_refunds() then */
	TimestampTz resets_at;
	int64		cost;
	int64		max;			/* these two are the governing limit's */
	int64		remaining;
	uint32		endpoint;		/* a hash */
	bool		has_limit;		/* there is a governing limit */
	uint8		tier_length;
	uint8		limit_length;
	char		names[2 * MAX_TIER_LENGTH]; /* those of tier and limit */
} Admission;

/* What memory says of a call with a request_id. */
typedef enum RetryState
{
	RETRY_NEW,
	RETRY_REPEATED,				/* it was admitted lately: retry->admission is
								 * set */
	RETRY_UNCERTAIN				/* the log has to be asked */
} RetryState;

/* A call with a request_id, of a key or of a caller without one. */
typedef struct Retry
{
	SubjectName subject;		/* the name is the digest */
	uint64		digest[2];
	int64		epoch;			/* the current one; see seen.h */
	KnownInstallation known;
	const SubjectName *caller;	/* whose call it is where there is no key */
	const LogRow *row;			/* what is asked for: key, request_id, tier,
								 * endpoint, cost */
	bool		names_cost;		/* the caller does, or leaves it to the
								 * endpoint */
	RetryState	state;
	bool		not_logged;		/* the log did not have it when its line */
	uint16		version;		/* had this version */
	uint64		log_position;	/* the log has to be written so far to be
								 * asked */
	Admission	admission;		/* what was answered, if this is a retry */
} Retry;

extern void retry_init(Retry *retry, const SubjectName *caller,
					   const LogRow *row, bool names_cost);
extern RetryState retry_look_up(Retry *retry, Clock clock);
extern uint32 retry_blocks(const Retry *retry);
extern void retry_remember(Retry *retry, const Verdict *verdict,
						   uint64 log_position, BlockList *spare);
extern void retry_forget(const Retry *retry, BlockList *spare);

/* What the log says of an admitted call. */
typedef struct LoggedRetry
{
	TimestampTz at;
	int64		cost;
	text	   *tier;			/* NULL: not known */
	text	   *account;		/* NULL: the key's own */
} LoggedRetry;

extern bool retry_read(Retry *retry, TimestampTz now,
					   LoggedRetry *logged);
extern void retry_require_same(const Retry *retry);

#endif							/* TIERLIMIT_RETRY_H */
