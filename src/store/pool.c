/*-------------------------------------------------------------------------
 *
 * pool.c
 *		The free blocks of shared memory.
 *
 * Locking: each list has a spinlock, held for a few instructions, and no two
 * at a time.  A block is in exactly one place: in a list, in the purse of one
 * backend, or in use by the subject that its partition's lock protects.  A
 * backend holds blocks in its purse only within one operation that can't
 * raise an ERROR, so none get lost; a crash starts all shared memory anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/pool.h"

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

/* Move up to count blocks from a list into the purse. */
static void
take_from_list(PoolList *list, Purse *purse, uint32 count)
{
	if (list->count == 0)		/* unlocked: at worst we look elsewhere */
		return;

	SpinLockAcquire(&list->mutex);
	while (count-- > 0 && list->head != NO_BLOCK)
	{
		BlockNo		block = list->head;

		list->head = purse->base[block].next;
		list->count--;
		purse_put(purse, block);
	}
	SpinLockRelease(&list->mutex);
}

/* Take up to count blocks that were never used before. */
static void
take_untouched(Pool *pool, Purse *purse, uint32 count)
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
		purse_put(purse, first++);
}

bool
pool_fill(Pool *pool, Purse *purse, uint32 count, uint32 list)
{
	uint32		had = purse->count;

	for (uint32 i = 0; i < POOL_LISTS && purse->count < count; i++)
	{
		take_from_list(&pool->lists[(list + i) % POOL_LISTS].list, purse,
					   count - purse->count);
		if (i == 0 && purse->count < count)
			take_untouched(pool, purse, count - purse->count);
	}
	if (purse->count >= count)
		return true;

	/* Not enough: give back what we took, and nothing else. */
	{
		Purse		taken = {.base = purse->base};

		while (purse->count > had)
			purse_put(&taken, purse_take(purse));
		pool_return(pool, &taken, list);
	}
	return false;
}

void
pool_return(Pool *pool, Purse *purse, uint32 list)
{
	PoolList   *to = &pool->lists[list % POOL_LISTS].list;
	BlockNo		last = purse->head;

	if (purse->count == 0)
		return;

	/* However many there are, the lock is held for a moment only. */
	while (purse->base[last].next != NO_BLOCK)
		last = purse->base[last].next;

	SpinLockAcquire(&to->mutex);
	purse->base[last].next = to->head;
	to->head = purse->head;
	to->count += purse->count;
	SpinLockRelease(&to->mutex);

	purse->head = NO_BLOCK;
	purse->count = 0;
}

uint32
pool_used(Pool *pool)
{
	int64		used = pg_atomic_read_u32(&pool->untouched) - (NO_BLOCK + 1);

	for (int i = 0; i < POOL_LISTS; i++)
		used -= pool->lists[i].list.count;
	return (uint32) Max(used, 0);
}
