/*-------------------------------------------------------------------------
 *
 * spill.h
 *		The file that keeps what is still queued when the server stops.
 *
 * All functions but spill_forget() are for the postmaster, while there are no
 * other processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SPILL_H
#define TIERLIMIT_SPILL_H

#include "datatype/timestamp.h"

extern uint64 spill_buffer_size(void);

/* What was taken from the file. */
typedef struct SpillTotals
{
	int64		decisions;
	uint64		position;		/* the highest end position of any queue */
} SpillTotals;

extern SpillTotals spill_load(void);
extern void spill_at_exit(void);
extern void spill_forget(void);

#endif							/* TIERLIMIT_SPILL_H */
