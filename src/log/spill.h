/*-------------------------------------------------------------------------
 *
 * spill.h
 *		What is still queued when the server stops is kept in a file.
 *
 * All but the last one are for the postmaster, while there are no other processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SPILL_H
#define TIERLIMIT_SPILL_H

#include "datatype/timestamp.h"

/*
 * How large the queues' buffer has to be, in bytes, to take what is in the file,
 * neither smaller nor larger; 0 if there is none.
 */
extern uint64 spill_buffer_size(void);

/* What was taken from the file. */
typedef struct SpillTotals
{
	int64		decisions;
	uint64		position;		/* behind all of them, in whichever queue */
} SpillTotals;

/* Fill the queues, which are empty, from the file, which stays. */
extern SpillTotals spill_load(void);

/* Have the file written when the server stops, if there is anything to keep. */
extern void spill_at_exit(void);

/* The server is open: what it stopped with is not to be read again. */
extern void spill_forget(void);

#endif							/* TIERLIMIT_SPILL_H */
