/*-------------------------------------------------------------------------
 *
 * refund.h
 *		Giving back what was counted.
 *
 * These may wait for the log, and raise an ERROR, with nothing given back; no
 * lock may be held.  row says who asks; the rest of it is filled in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_REFUND_H
#define TIERLIMIT_REFUND_H

#include "limit/charge.h"
#include "log/logrow.h"

/*
 * Give back the newest counted calls and credits of the row's key, as many as
 * there are; returns the credits.  Where the charge is an address's, it gives back
 * of whoever called from there, and so does the caller from there without a key.
 */
extern int64 refund_newest(const Charge *charge, Clock clock, int64 cost,
						   int64 requests, LogRow *row);

/*
 * Give back the call of the row's key and request_id, wherever it was charged;
 * returns its credits, 0 if it is not known or was given back before.
 */
extern int64 refund_call(const Charge *charge, Clock clock, LogRow *row);

/* Forget all that is counted for the subject. */
extern void refund_all(const Charge *charge, Clock clock, LogRow *row);

#endif							/* TIERLIMIT_REFUND_H */
