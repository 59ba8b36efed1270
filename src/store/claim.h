/*-------------------------------------------------------------------------
 *
 * claim.h
 *		One session at a time compares a subject with the request log.
 *
 * No lock may be held on entry to any of these.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_CLAIM_H
#define TIERLIMIT_CLAIM_H

#include "store/subject.h"

/*
 * Claim a subject, which is created if it is not in memory; waits for others.
 * Raises an ERROR if that takes long, or if there is no room.
 */
extern void claim_take(const SubjectName *name, Clock clock);

/* Give the claim to a subject back; also as a callback for an ERROR. */
extern void claim_release(const SubjectName *name);
extern void claim_clean_up(int code, Datum arg);

/*
 * Wait until nobody claims the subject.  Raises an ERROR if that takes long.
 */
extern void claim_wait(const SubjectName *name);

/*
 * Behind the newest row of the subject that may not be written yet.  Where the
 * subject was not in memory it may be another's row, even another database's.
 */
extern uint64 claim_log_position(const SubjectName *name);

#endif							/* TIERLIMIT_CLAIM_H */
