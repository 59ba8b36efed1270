/*-------------------------------------------------------------------------
 *
 * claim.h
 *		Claims, by which one session at a time has a subject to itself.
 *
 * No lock may be held on entry to any of these functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_CLAIM_H
#define TIERLIMIT_CLAIM_H

#include "store/subject.h"

extern void claim_take(const SubjectName *name, Clock clock);
extern void claim_release(const SubjectName *name);
extern void claim_clean_up(int code, Datum arg);
extern void claim_wait(const SubjectName *name);
extern uint64 claim_log_position(const SubjectName *name);

#endif							/* TIERLIMIT_CLAIM_H */
