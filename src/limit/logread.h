/*-------------------------------------------------------------------------
 *
 * logread.h
 *		What the request log knows of a subject.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LOGREAD_H
#define TIERLIMIT_LOGREAD_H

#include "config/tiers.h"
#include "log/logrow.h"
#include "store/clock.h"
#include "store/subject.h"

/* What was counted at a time, less what was given back of it later. */
typedef struct LogSum
{
	TimestampTz at;
	int64		requests;
	int64		credits;
	bool		gave_back;		/* it is a row that gave something back:
								 * nothing */
	TimestampTz call_at;		/* ... of the call at this time; see logread.c */
	uint64		key;			/* hash of the key; 0: a sum of several rows */
	uint64		request_id;		/* likewise; 0: it has none */
	text	  **names;			/* both, while the call is looked for; or NULL */
} LogSum;

/* Sums in the order of their times; allocated in the caller's context. */
typedef struct LogSums
{
	int			count;
	LogSum	   *sums;
} LogSums;

/* How much of it is asked for, and how precisely. */
typedef struct LogSpan
{
	TimestampTz since;			/* all that was decided later */
	TimestampTz single_since;	/* from then on, a sum for each row */
	int			single;			/* and for the newest so many in any case */
	int			nborders;		/* times that no sum may cross */
	Datum		borders[2 * MAX_WINDOWS];
	TimestampTz no_deletion_after;	/* see below; 0: all count */
} LogSpan;

/*
 * That a key was deleted happens by the server's clock: a session that has one of its
 * own knows of none that is later than its time.
 */
static inline TimestampTz
log_deletions_until(Clock clock)
{
	return clock.source == CLOCK_SESSION ? clock.now + CLOCK_TOLERANCE : 0;
}

/*
 * Read what is written of a subject.  Raises an ERROR if that can't be done;
 * no lock may be held.
 */
extern LogSums logread_sums(const SubjectName *subject, const LogSpan *span);

/*
 * What is counted yet of a subject's call at a time, with that request_id; and
 * when its newest row is.
 */
extern LogSum logread_call(const SubjectName *subject, TimestampTz at,
						   LogText request_id, TimestampTz *newest);

/* What a key or request_id is in LogSum. */
extern uint64 logread_hash(const char *bytes, int length);

/* The tier of a subject's newest row, as text; NULL if there is none. */
extern text *logread_tier(const SubjectName *subject);

#endif							/* TIERLIMIT_LOGREAD_H */
