/*-------------------------------------------------------------------------
 *
 * pool.h
 *		The free blocks of shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_POOL_H
#define TIERLIMIT_POOL_H

#include "port/atomics.h"
#include "storage/s_lock.h"
#include "storage/spin.h"
#include "window/block.h"

/*
 * Free blocks are kept in several lists so that backends rarely meet: each
 * works on the list of the partition that it has business with, and takes
 * blocks from the others when that one is empty.
 */
#define POOL_LISTS 32

/* One list of free blocks.  The mutex protects the rest of it. */
typedef struct PoolList
{
	slock_t		mutex;
	BlockNo		head;
	uint32		count;
} PoolList;

typedef union PaddedPoolList
{
	PoolList	list;
	char		pad[PG_CACHE_LINE_SIZE];
} PaddedPoolList;

/* The free blocks; this lives in shared memory. */
typedef struct Pool
{
	uint32		size;			/* blocks in all, with block 0 */
	pg_atomic_uint32 untouched; /* blocks from here on were never used */
	PaddedPoolList lists[POOL_LISTS];
} Pool;

extern void pool_init(Pool *pool, uint32 size);
extern bool pool_fill(Pool *pool, BlockList *spare, uint32 count, uint32 list);
extern void pool_return(Pool *pool, BlockList *spare, uint32 list);
extern uint32 pool_used(Pool *pool);

#endif							/* TIERLIMIT_POOL_H */
