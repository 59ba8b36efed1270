/*-------------------------------------------------------------------------
 *
 * rebuild.h
 *		Windows that are not in memory are filled from the request log.
 *
 * These functions may wait for the log to be written, and raise an ERROR,
 * which leaves everything as it was; no lock may be held.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_REBUILD_H
#define TIERLIMIT_REBUILD_H

#include "limit/call.h"
#include "limit/logread.h"
#include "limit/private.h"

extern void rebuild_subject(CallSubject *part, Clock clock);
extern void rebuild_for_backend(Call *call, TimestampTz until);

/* The windows of a call's part, built in private memory. */
typedef struct RebuiltWindows
{
	PrivateBlocks blocks;
	SubjectWindow windows[MAX_WINDOWS];
	TimestampTz clock;			/* after what was read; DT_NOBEGIN: nothing */
	int			rows;			/* that were read, or sums of some */
	bool		any_later;		/* rows were later than it could be then */
} RebuiltWindows;

extern void rebuild_windows(RebuiltWindows *rebuilt, CallSubject *part, Clock clock,
							TimestampTz until);
extern void rebuild_done(RebuiltWindows *rebuilt);
extern TimestampTz rebuild_bring_home(LogSums *log, TimestampTz now,
									  bool *any_later);
extern int64 rebuild_sum(const LogSums *log, Unit unit, TimestampTz since,
						 TimestampTz until);
extern text *rebuild_tier(const SubjectName *name);

#endif							/* TIERLIMIT_REBUILD_H */
