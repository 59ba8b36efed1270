/*-------------------------------------------------------------------------
 *
 * refund.h
 *		Giving back what was counted.
 *
 * These functions may wait for the log, and raise an ERROR, with nothing given
 * back; no lock may be held.  The row says who asks; the rest of it is filled
 * in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_REFUND_H
#define TIERLIMIT_REFUND_H

#include "limit/charge.h"
#include "log/logrow.h"

extern int64 refund_newest(const Charge *charge, Clock clock, int64 cost,
						   int64 requests, LogRow *row);
extern int64 refund_call(const Charge *charge, Clock clock, LogRow *row);
extern void refund_all(const Charge *charge, Clock clock, LogRow *row);

#endif							/* TIERLIMIT_REFUND_H */
