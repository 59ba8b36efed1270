/*-------------------------------------------------------------------------
 *
 * maintenance.h
 *		Keeping the request log: its partitions and its sums.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_MAINTENANCE_H
#define TIERLIMIT_MAINTENANCE_H

#include "datatype/timestamp.h"

/*
 * All of these run in a transaction of the log's worker, and may raise an
 * ERROR.
 *
 * The time up to which decisions are summed up by hours.  Once this transaction
 * has written to the log, nobody else can move it on until its end.
 */
extern TimestampTz maintenance_summed_until(void);

/* Have the partitions made, if none were made yet. */
extern void maintenance_prepare(void);

/* Whether there is anything to do; and do some of it. */
extern bool maintenance_is_due(void);
extern void maintenance_run(void);

#endif							/* TIERLIMIT_MAINTENANCE_H */
