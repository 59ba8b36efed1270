/*-------------------------------------------------------------------------
 *
 * retry.h
 *		Requests that may be repeated: which were admitted lately?
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_RETRY_H
#define TIERLIMIT_RETRY_H

#include "limit/charge.h"
#include "log/logrow.h"

/* What is answered again to who repeats a request that was admitted. */
typedef struct Admission
{
	TimestampTz decided_at;
	int64		remembered_at;	/* by a clock that nobody sets */
	TimestampTz resets_at;
	int64		cost;
	int64		max;			/* these two of the governing limit */
	int64		remaining;
	uint32		endpoint;		/* a hash */
	bool		has_limit;		/* there is one */
	uint8		tier_length;
	uint8		limit_length;
	char		names[2 * MAX_TIER_LENGTH]; /* of tier and limit */
} Admission;

/* What memory says of a request. */
typedef enum RetryState
{
	RETRY_NEW,
	RETRY_REPEATED,				/* admitted lately: retry->admission is set */
	RETRY_UNCERTAIN				/* the log has to be asked */
} RetryState;

/* A request with an id, of a key. */
typedef struct Retry
{
	SubjectName subject;		/* its name is the digest */
	uint64		digest[2];
	int64		epoch;			/* in which it is asked; see seen.h */
	KnownInstallation known;
	const SubjectName *caller;	/* whose it is where there is no key */
	const LogRow *row;			/* what is asked: key, id, tier, endpoint,
								 * cost */
	bool		names_cost;		/* or leaves it to the endpoint's price */
	RetryState	state;
	bool		not_logged;		/* the log was asked when its line had this */
	uint16		version;		/* version, and did not have it */
	uint64		log_position;	/* to ask the log, it has to be written so far */
	Admission	admission;		/* what was answered, if it is repeated */
} Retry;

/* Points to itself and to the row, so it must not be copied. */
extern void retry_init(Retry *retry, const SubjectName *caller,
					   const LogRow *row, bool names_cost);

/*
 * Look it up in memory; doubtful: its key has given back calls that were not
 * named.  The lock of its partition is needed SHARED.
 */
extern RetryState retry_look_up(Retry *retry, Clock clock,
								bool doubtful);

/*
 * Remember that it was admitted; takes up to retry_blocks() blocks.  The
 * lock is needed EXCLUSIVE.
 */
extern uint32 retry_blocks(const Retry *retry);
extern void retry_remember(Retry *retry, const Verdict *verdict,
						   uint64 log_position, BlockList *spare);

/* Forget what was answered: the call was given back.  The lock EXCLUSIVE. */
extern void retry_forget(const Retry *retry, BlockList *spare);

/* What the log says of an admitted request. */
typedef struct LoggedRetry
{
	TimestampTz at;
	int64		cost;
	text	   *tier;			/* NULL: not known */
	text	   *account;		/* NULL: the key's own */
} LoggedRetry;

/*
 * Look a request up in the log that is uncertain; false if it is not there, or
 * was given back.  Waits for the log.  No lock.
 */
extern bool retry_read(Retry *retry, TimestampTz now,
					   LoggedRetry *logged);

/* Raise an ERROR unless what was admitted is what is asked for again. */
extern void retry_require_same(const Retry *retry);

#endif							/* TIERLIMIT_RETRY_H */
