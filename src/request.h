/*-------------------------------------------------------------------------
 *
 * request.h
 *		Requests that may be repeated: which were admitted lately?
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_REQUEST_H
#define TIERLIMIT_REQUEST_H

#include "limiter.h"
#include "registry.h"

/* How long a request_id makes a retry safe. */
#define REQUEST_MEMORY (10 * USECS_PER_MINUTE)

#define REQUEST_DIGEST_LENGTH 32

/* What is answered again to who repeats a request that was admitted. */
typedef struct Admission
{
	TimestampTz decided_at;
	TimestampTz resets_at;
	int64		cost;
	int64		max;			/* these two of the governing limit */
	int64		remaining;
	bool		has_limit;		/* there is one */
	uint8		tier_length;
	uint8		limit_length;
	char		names[2 * MAX_TIER_LENGTH]; /* of tier and limit */
} Admission;

/* A request with an id, of a key. */
struct Request
{
	SubjectName subject;		/* its name is the digest */
	uint8		digest[REQUEST_DIGEST_LENGTH];
	LogText		key;
	LogText		id;
	bool		uncertain;		/* nothing was done: look it up in the log */
	bool		repeated;		/* admitted before; then this was answered: */
	Admission	admission;
	uint64		forgotten;		/* store's requests_forgotten, when it was
								 * looked up in the log */
};

/* Points to itself, so it must not be copied. */
extern void request_init(Request *request, Scope scope, LogText key,
						 LogText id);

/*
 * Under the lock of its partition: whether it was admitted within
 * REQUEST_MEMORY before now, as far as memory knows; then request->admission is
 * set.  The lock is needed SHARED.
 */
extern bool request_recall(Request *request, TimestampTz now);

/*
 * Whether memory has forgotten a request since request_read(), so that this one
 * has to be read again; under the lock.
 */
extern bool request_is_uncertain(const Request *request);

/*
 * Remember that it was admitted; takes up to request_blocks() blocks.  The
 * lock is needed EXCLUSIVE.
 */
extern uint32 request_blocks(const Request *request);
extern void request_remember(Request *request, const Verdict *verdict,
							 int64 cost, LogText tier, uint64 log_position,
							 Purse *purse);

/* What the log says of an admitted request. */
typedef struct LoggedRequest
{
	TimestampTz at;
	int64		cost;
	text	   *tier;			/* NULL: not known */
} LoggedRequest;

/*
 * Look a request up in the log, if it may be there though memory does not know
 * it: after a start of the server, or when memory was full.  No lock.
 */
extern bool request_read(Request *request, TimestampTz now,
						 LoggedRequest *logged);

#endif							/* TIERLIMIT_REQUEST_H */
