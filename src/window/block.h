/*-------------------------------------------------------------------------
 *
 * block.h
 *		The unit in which shared memory is handed out, and the small purse of
 *		such blocks that a caller lends to an operation.
 *
 * All that tierlimit remembers about keys lives in one array of equal blocks,
 * named by their index.  Block 0 is never handed out, so that 0 can say
 * "none".  Equal blocks never fragment, can be counted, and need no allocator
 * beyond a list of the free ones.
 *
 * This header and the two modules that build on it (history, window) are
 * plain C: they know no server, no lock and no clock, so that they can be
 * compiled alone, compared with a model and fuzzed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_BLOCK_H
#define TIERLIMIT_BLOCK_H

/* Our assertions are on and off with the server's. */
#if !defined(USE_ASSERT_CHECKING) && !defined(NDEBUG)
#define NDEBUG
#endif

#include <assert.h>
#include <stdint.h>

#define BLOCK_SIZE 128

typedef uint32_t BlockNo;

#define NO_BLOCK ((BlockNo) 0)

typedef union MemoryBlock
{
	BlockNo		next;			/* of a block that is in a list of free ones */
	int64_t		aligned;
	uint8_t		bytes[BLOCK_SIZE];
} MemoryBlock;

/*
 * A purse: the blocks that an operation may use, and where it leaves those
 * that it frees.  The caller fills it beforehand, so that an operation that
 * has begun cannot run short in the middle, and takes back what is left.
 */
typedef struct Purse
{
	MemoryBlock *base;			/* block 0 of the array */
	BlockNo		head;
	uint32_t	count;
} Purse;

static inline void
purse_put(Purse *purse, BlockNo block)
{
	purse->base[block].next = purse->head;
	purse->head = block;
	purse->count++;
}

/* The caller knows that the purse is not empty. */
static inline BlockNo
purse_take(Purse *purse)
{
	BlockNo		block = purse->head;

	purse->head = purse->base[block].next;
	purse->count--;
	return block;
}

#endif							/* TIERLIMIT_BLOCK_H */
