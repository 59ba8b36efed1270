/*-------------------------------------------------------------------------
 *
 * block.h
 *		The unit in which shared memory is handed out, and the small list of
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

/* These assertions are on and off with the server's. */
#if !defined(USE_ASSERT_CHECKING) && !defined(NDEBUG)
#define NDEBUG
#endif

#include <assert.h>
#include <stdint.h>

#define BLOCK_SIZE 128

typedef uint32_t BlockNo;

#define NO_BLOCK ((BlockNo) 0)

/* A block. */
typedef union MemoryBlock
{
	BlockNo		next;			/* in a list of free blocks: the next one */
	int64_t		aligned;
	uint8_t		bytes[BLOCK_SIZE];
} MemoryBlock;

/*
 * A list of spare blocks: those that an operation may use, and where it leaves those
 * that it frees.  The caller fills it beforehand, so that an operation that
 * has begun cannot run short in the middle, and takes back what is left.
 */
typedef struct BlockList
{
	MemoryBlock *base;			/* block 0 of the array */
	BlockNo		head;
	uint32_t	count;
} BlockList;

/* Put a block into the spare blocks. */
static inline void
blocklist_put(BlockList *spare, BlockNo block)
{
	spare->base[block].next = spare->head;
	spare->head = block;
	spare->count++;
}

/*
 * Take a block out of the spare blocks.  The caller knows that there
 * is one.
 */
static inline BlockNo
blocklist_take(BlockList *spare)
{
	BlockNo		block = spare->head;

	spare->head = spare->base[block].next;
	spare->count--;
	return block;
}

#endif							/* TIERLIMIT_BLOCK_H */
