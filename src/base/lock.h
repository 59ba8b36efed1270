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

/* Find the locks, which have been asked for as the tranche "tierlimit". */
extern void partition_locks_attach(void);

static inline uint32
partition_of(uint64 hash)
{
	return (uint32) (hash % NUM_PARTITIONS);
}

/* So many partitions may be locked at a time. */
#define MAX_LOCKS 3

/*
 * Lock the partitions of up to MAX_LOCKS hashes.  Until partition_unlock() nothing
 * may be done that can raise an ERROR, allocate or wait.
 */
extern void partition_lock(const uint64 *hashes, int count, LWLockMode mode);
extern void partition_unlock(const uint64 *hashes, int count);

/* Wait until all who hold the lock of a partition now have released it. */
extern void partition_pass_all(void);

/* For assertions: this process holds the lock of the hash's partition. */
extern bool partition_locked(uint64 hash, LWLockMode mode);

#endif							/* TIERLIMIT_LOCK_H */
