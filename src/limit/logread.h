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
	bool		gave_back;		/* this row gave something back: it counts
								 * nothing itself */
	TimestampTz call_at;		/* the time of the call that was given back;
								 * see logread.c */
	uint64		key;			/* hash of the key; 0: a sum of several rows */
	uint64		request_id;		/* hash of the request_id; 0: there is none */
	text	  **names;			/* key and request_id, while the call is
								 * looked for; or NULL */
} LogSum;

/* Sums in the order of their times; allocated in the caller's context. */
typedef struct LogSums
{
	int			count;
	LogSum	   *sums;
} LogSums;

/* How much of the log is asked for, and how precisely. */
typedef struct LogSpan
{
	TimestampTz since;			/* all is read that was decided later */
	TimestampTz single_since;	/* from then on each row has its own sum */
	int			single;			/* the newest so many rows have one in any
								 * case */
	int			nborders;		/* times that no sum may cross */
	Datum		borders[2 * MAX_WINDOWS];
	TimestampTz no_deletion_after;	/* log_deletions_until(); 0: all count */
} LogSpan;

/*
 * A call is looked for so often, if it is brought to another time after it was
 * found; it is not often that a clock is found to have been wrong.
 */
#define LOGREAD_ATTEMPTS 10

/*
 * Return until when deletions of a key count for a session with this clock; 0:
 * all do.  A key is deleted by the server's clock: a session that has a clock
 * of its own knows of no deletion that is later than its time.
 */
static inline TimestampTz
log_deletions_until(Clock clock)
{
	return clock.source == CLOCK_SESSION ? clock.now + CLOCK_TOLERANCE : 0;
}

extern LogSums logread_sums(const SubjectName *subject, const LogSpan *span);
extern bool logread_find_subject(SubjectName *caller, LogText account);
extern bool logread_call(const SubjectName *subject, TimestampTz at,
						 LogText request_id, LogSum *sum, TimestampTz *newest);
extern uint64 logread_hash(const char *bytes, int length);
extern text *logread_tier(const SubjectName *subject);

#endif							/* TIERLIMIT_LOGREAD_H */
