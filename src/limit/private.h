/*-------------------------------------------------------------------------
 *
 * private.h
 *		Windows in the private memory of this backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_PRIVATE_H
#define TIERLIMIT_PRIVATE_H

#include "config/tiers.h"
#include "store/subject.h"

/*
 * Blocks in the private memory of this backend, which grows as needed.  All
 * zero: there are none yet.
 */
typedef struct PrivateBlocks
{
	BlockList	spare;
	uint32		size;			/* blocks in it */
} PrivateBlocks;

extern void private_grow(PrivateBlocks *private);
extern void private_free(PrivateBlocks *private);
extern void private_init_window(Window *window, const TierLimit *limit,
								const WindowId *id);

#endif							/* TIERLIMIT_PRIVATE_H */
