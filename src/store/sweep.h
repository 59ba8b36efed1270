/*-------------------------------------------------------------------------
 *
 * sweep.h
 *		Removing subjects to make room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SWEEP_H
#define TIERLIMIT_SWEEP_H

#include "store/store.h"

/*
 * Make room by removing subjects whose windows have run empty, or that were
 * not called for long and can be rebuilt from the log; false if there are
 * none.  No lock may be held.
 */
extern bool sweep_for_room(Clock clock);

/* The same; raises an ERROR if there are none. */
extern void sweep_make_room(Clock clock);

/* Sweeps may find something again: somebody gave counted units back. */
extern void sweep_encourage(void);

#endif							/* TIERLIMIT_SWEEP_H */
