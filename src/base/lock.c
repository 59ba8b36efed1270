/*-------------------------------------------------------------------------
 *
 * lock.c
 *		The locks of the partitions that shared memory is divided into.
 *
 * Each of them is an LWLock of the tranche "tierlimit".  See store.c for what
 * they protect and in which order all locks are taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/lock.h"

static LWLockPadded *partition_locks;

/* Find the locks, which have been asked for as the tranche "tierlimit". */
void
partition_locks_attach(void)
{
	partition_locks = GetNamedLWLockTranche("tierlimit");
}

/*
 * Put down the partitions of 1 to MAX_LOCKS hashes, each once, the lowest
 * first.  Returns their number.
 */
static int
partitions_of(const uint64 *hashes, int count, uint32 *partitions)
{
	int			found = 1;

	Assert(count >= 1 && count <= MAX_LOCKS);
	partitions[0] = partition_of(hashes[0]);
	for (int i = 1; i < count; i++)
	{
		uint32		partition = partition_of(hashes[i]);
		int			at = found;

		while (at > 0 && partitions[at - 1] > partition)
			at--;
		if (at > 0 && partitions[at - 1] == partition)
			continue;
		for (int j = found++; j > at; j--)
			partitions[j] = partitions[j - 1];
		partitions[at] = partition;
	}
	return found;
}

/*
 * Lock the partitions of 1 to MAX_LOCKS hashes, the lowest first.  No other
 * partition may be locked by this process.  Until partition_unlock() nothing
 * may be done that can raise an ERROR, allocate or wait.
 */
void
partition_lock(const uint64 *hashes, int count, LWLockMode mode)
{
	uint32		partitions[MAX_LOCKS];
	int			found = partitions_of(hashes, count, partitions);

	for (int i = 0; i < found; i++)
		LWLockAcquire(&partition_locks[partitions[i]].lock, mode);
}

/* Release what partition_lock() has locked for the same hashes. */
void
partition_unlock(const uint64 *hashes, int count)
{
	uint32		partitions[MAX_LOCKS];
	int			found = partitions_of(hashes, count, partitions);

	for (int i = found - 1; i >= 0; i--)
		LWLockRelease(&partition_locks[partitions[i]].lock);
}

/*
 * Wait until all processes that hold the lock of a partition now have released
 * it.  No lock may be held.
 */
void
partition_pass_all(void)
{
	for (uint64 i = 0; i < NUM_PARTITIONS; i++)
	{
		partition_lock(&i, 1, LW_SHARED);
		partition_unlock(&i, 1);
	}
}

/*
 * Return whether this process holds the lock of the hash's partition, at least
 * in this mode: for assertions.
 */
bool
partition_locked(uint64 hash, LWLockMode mode)
{
	LWLock	   *lock = &partition_locks[partition_of(hash)].lock;

	return mode == LW_EXCLUSIVE ? LWLockHeldByMeInMode(lock, LW_EXCLUSIVE)
		: LWLockHeldByMe(lock);
}
