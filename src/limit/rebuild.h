/*-------------------------------------------------------------------------
 *
 * rebuild.h
 *		Windows that are not in memory are filled from the request log.
 *
 * These may wait for the log to be written, and raise an ERROR, which leaves
 * everything as it was; no lock may be held.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_REBUILD_H
#define TIERLIMIT_REBUILD_H

#include "limit/call.h"
#include "limit/logread.h"

/*
 * Fill the windows of a call's subject that are missing in shared memory, or wait until
 * somebody else has done so.
 */
extern void rebuild_subject(CallSubject *part, Clock clock);

/*
 * Build the windows of all parts of a call for this backend alone, in the
 * current memory context, of what was decided before a time (DT_NOEND: all);
 * moves the call's clock on to theirs.
 */
extern void rebuild_for_backend(Call *call, TimestampTz until);

/* Blocks in memory of this backend, which grows as needed. */
typedef struct PrivateBlocks
{
	BlockList	spare;
	uint32		size;			/* blocks in it */
} PrivateBlocks;

/* The windows of a part, built here. */
typedef struct RebuiltWindows
{
	PrivateBlocks blocks;
	SubjectWindow windows[MAX_WINDOWS];
	TimestampTz clock;			/* after what was read; DT_NOBEGIN: nothing */
	int			rows;			/* that were read, or sums of some */
	bool		any_later;		/* rows were later than it could be then */
} RebuiltWindows;

/*
 * Build all windows of a call's subject as they are at this time, or where the subject's
 * newest row takes its clock, if that is a little later; in the current memory
 * context.  What was decided at the time until or later is left out (DT_NOEND: nothing).
 */
extern void rebuild_windows(RebuiltWindows *rebuilt, CallSubject *part, Clock clock,
							TimestampTz until);
extern void rebuild_done(RebuiltWindows *rebuilt);

/*
 * Bring the rows home that are later than it can be at this time, if there are any,
 * and return where its rows take a subject's clock: DT_NOBEGIN if it has none.
 */
extern TimestampTz rebuild_bring_home(LogSums *log, TimestampTz now,
									  bool *any_later);

/*
 * What of a unit was counted in the half-open span (since, until], and not given
 * back.
 */
extern int64 rebuild_sum(const LogSums *log, Unit unit, TimestampTz since,
						 TimestampTz until);

/* The tier that a subject was last called under; NULL if it never was. */
extern text *rebuild_tier(const SubjectName *name);

#endif							/* TIERLIMIT_REBUILD_H */
