/*-------------------------------------------------------------------------
 *
 * pool.c
 *		The free blocks of shared memory.
 *
 * Locking: each list has a spinlock, which is held for a few instructions, and
 * no two of them at a time.  A block is in exactly one place: in a list, in
 * the spare blocks of one backend, or in use by the subject that its partition's lock
 * protects.  A backend holds blocks in its spare blocks only within one operation
 * that can't raise an ERROR, so none get lost; a crash starts all shared
 * memory anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/pool.h"

/*
 * Make a pool of size blocks, block 0 included, none of which is in use.
 * Called when shared memory is laid out, before other processes see it.
 */
void
pool_init(Pool *pool, uint32 size)
{
	pool->size = size;
	pg_atomic_init_u32(&pool->untouched, NO_BLOCK + 1);
	for (int i = 0; i < POOL_LISTS; i++)
	{
		SpinLockInit(&pool->lists[i].list.mutex);
		pool->lists[i].list.head = NO_BLOCK;
		pool->lists[i].list.count = 0;
	}
}

/* Move up to count blocks from a list into the spare blocks. */
static void
take_from_list(PoolList *list, BlockList *spare, uint32 count)
{
	if (list->count == 0)		/* read without the lock: at worst we look
								 * elsewhere */
		return;

	/* Under the spinlock, move block by block: there are only a few. */
	SpinLockAcquire(&list->mutex);
	while (count-- > 0 && list->head != NO_BLOCK)
	{
		BlockNo		block = list->head;

		list->head = spare->base[block].next;
		list->count--;
		blocklist_put(spare, block);
	}
	SpinLockRelease(&list->mutex);
}

/* Put up to count blocks that were never used before into the spare blocks. */
static void
take_untouched(Pool *pool, BlockList *spare, uint32 count)
{
	uint32		first = pg_atomic_read_u32(&pool->untouched);

	do
	{
		if (first >= pool->size)
			return;
		count = Min(count, pool->size - first);
	} while (!pg_atomic_compare_exchange_u32(&pool->untouched, &first,
											 first + count));
	while (count-- > 0)
		blocklist_put(spare, first++);
}

/*
 * Put blocks into the spare blocks until it has count of them: blocks of this list
 * first (its number is taken modulo POOL_LISTS), then some that were never
 * used, then those of other lists.  Returns false, with as many blocks in the
 * spare as before, if there are not that many.  Takes spinlocks; any LWLock
 * may be held.
 */
bool
pool_fill(Pool *pool, BlockList *spare, uint32 count, uint32 list)
{
	uint32		had = spare->count;

	for (uint32 i = 0; i < POOL_LISTS && spare->count < count; i++)
	{
		take_from_list(&pool->lists[(list + i) % POOL_LISTS].list, spare,
					   count - spare->count);
		if (i == 0 && spare->count < count)
			take_untouched(pool, spare, count - spare->count);
	}
	if (spare->count >= count)
		return true;

	/* There are not enough: return what was taken, and nothing else. */
	{
		BlockList	taken = {.base = spare->base};

		while (spare->count > had)
			blocklist_put(&taken, blocklist_take(spare));
		pool_return(pool, &taken, list);
	}
	return false;
}

/*
 * Return all blocks of the spare blocks to this list (its number is taken modulo
 * POOL_LISTS), which leaves the spare blocks empty.  Takes a spinlock; any LWLock may
 * be held.
 */
void
pool_return(Pool *pool, BlockList *spare, uint32 list)
{
	PoolList   *to = &pool->lists[list % POOL_LISTS].list;
	BlockNo		last = spare->head;

	if (spare->count == 0)
		return;

	/*
	 * Find the last block first, so that the spinlock is held for a moment
	 * only, however many blocks there are.
	 */
	while (spare->base[last].next != NO_BLOCK)
		last = spare->base[last].next;

	/* Under the spinlock, put the whole chain in front of the list. */
	SpinLockAcquire(&to->mutex);
	spare->base[last].next = to->head;
	to->head = spare->head;
	to->count += spare->count;
	SpinLockRelease(&to->mutex);

	spare->head = NO_BLOCK;
	spare->count = 0;
}

/*
 * Return how many blocks are in use, block 0 not counted.  Counts are read
 * without the spinlocks, so the number is exact only while no backend takes or
 * returns any.
 */
uint32
pool_used(Pool *pool)
{
	int64		used = pg_atomic_read_u32(&pool->untouched) - (NO_BLOCK + 1);

	for (int i = 0; i < POOL_LISTS; i++)
		used -= pool->lists[i].list.count;
	return (uint32) Max(used, 0);
}
