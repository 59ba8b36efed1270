/*-------------------------------------------------------------------------
 *
 * lock.h
 *		The locks of the partitions that shared memory is divided into.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LOCK_H
#define TIERLIMIT_LOCK_H

#include "storage/lwlock.h"

#define NUM_PARTITIONS 128

extern void partition_locks_attach(void);

/* Return the number of the partition that a hash belongs to. */
static inline uint32
partition_of(uint64 hash)
{
	return (uint32) (hash % NUM_PARTITIONS);
}

/* So many partitions may be locked at a time. */
#define MAX_LOCKS 3

extern void partition_lock(const uint64 *hashes, int count, LWLockMode mode);
extern void partition_unlock(const uint64 *hashes, int count);
extern void partition_pass_all(void);
extern bool partition_locked(uint64 hash, LWLockMode mode);

#endif							/* TIERLIMIT_LOCK_H */
