/*-------------------------------------------------------------------------
 *
 * private.c
 *		Windows in the private memory of this backend.
 *
 * The code of windows takes its blocks from a list that somebody has filled
 * before.  In shared memory that is a part of what there is for all; here it
 * is an array that doubles whenever it has run out.  Blocks have numbers, so
 * it may move meanwhile; who holds the array's address has to read it again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "limit/private.h"

/*
 * Double the private blocks, or allocate the first ones, in the current memory
 * context.
 */
void
private_grow(PrivateBlocks *private)
{
	uint32		size = Max(private->size * 2, 64);
	Size		bytes = (Size) size * sizeof(MemoryBlock);

	private->spare.base = private->size == 0
		? MemoryContextAllocHuge(CurrentMemoryContext, bytes)
		: repalloc_huge(private->spare.base, bytes);
	for (uint32 block = Max(private->size, NO_BLOCK + 1); block < size; block++)
		blocklist_put(&private->spare, block);
	private->size = size;
}

/* Free all blocks, and with them what windows have in these. */
void
private_free(PrivateBlocks *private)
{
	pfree(private->spare.base);
	memset(private, 0, sizeof(PrivateBlocks));
}

/* Make a window of the limit's kind, which counts nothing yet. */
void
private_init_window(Window *window, const TierLimit *limit, const WindowId *id)
{
	if (limit->kind == WINDOW_SLIDING)
		window_init_sliding(window, limit->period_us, limit->exact_slots,
							tierlimit_window_slots);
	else
		window_init_calendar(window, id->period, id->phase);
}
