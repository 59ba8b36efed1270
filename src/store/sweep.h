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

extern bool sweep_for_room(Clock clock);
extern void sweep_make_room(Clock clock);
extern void sweep_encourage(void);

#endif							/* TIERLIMIT_SWEEP_H */
