/*-------------------------------------------------------------------------
 *
 * store.h
 *		The shared memory of tierlimit: its layout, locks and counters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_STORE_H
#define TIERLIMIT_STORE_H

#include "clock.h"
#include "pool.h"
#include "storage/lwlock.h"

#define NUM_PARTITIONS 128

/*
 * A chain of subjects (subject.h), and the mark that changes of api_key leave
 * for the keys that hash here (registry.c).
 */
typedef struct Bucket
{
	BlockNo		head;
	uint32		generation;		/* grows with every change */
	TransactionId changed_by;	/* the newest transaction that made one */
	bool		several;		/* and older ones may still be running */
} Bucket;

typedef struct PartitionStats
{
	int64		admitted;
	int64		denied;
	int64		refunds;
	int64		keys;			/* subjects in memory */
	int64		evictions;
} PartitionStats;

typedef union PaddedPartitionStats
{
	PartitionStats stats;
	char		pad[PG_CACHE_LINE_SIZE];
} PaddedPartitionStats;

/*
 * Hash h belongs to bucket h % nbuckets and to partition h % NUM_PARTITIONS;
 * both are powers of two and there are at least as many buckets as partitions,
 * so that a bucket belongs to one partition.
 */
typedef struct Store
{
	uint64		seed;			/* of the hash: nobody can choose collisions */
	uint32		nbuckets;
	LWLockPadded *locks;		/* one a partition */
	Bucket	   *buckets;
	Block	   *blocks;
	int64		size;			/* of all this, in bytes */
	TimestampTz stats_since;	/* protected by all partitions' locks */
	pg_atomic_uint64 clock_floor;	/* see store_clock_floor() */
	pg_atomic_uint64 no_room_until; /* see sweep.c */
	pg_atomic_uint32 sweep_hand;	/* likewise */
	pg_atomic_uint32 running_at_start;	/* see registry.c */
	PaddedPartitionStats partitions[NUM_PARTITIONS];
	Pool		pool;
} Store;

/* NULL unless the library was preloaded. */
extern Store *store;

/* Install the hooks that set up shared memory; from _PG_init. */
extern void store_init(void);

/* Raise an ERROR unless the library was preloaded. */
extern void store_require(void);

static inline uint32
partition_of(uint64 hash)
{
	return (uint32) (hash % NUM_PARTITIONS);
}

/*
 * Lock the partitions of up to two hashes.  Until store_unlock() nothing may
 * be done that can raise an ERROR, allocate or wait.
 */
extern void store_lock(const uint64 *hashes, int count, LWLockMode mode);
extern void store_unlock(const uint64 *hashes, int count);

/* For assertions: this process holds the lock of the hash's partition. */
extern bool store_locked(uint64 hash, LWLockMode mode);

/* Needs the lock of the hash's partition, as do the two structs returned. */
extern Bucket *store_bucket(uint64 hash);
extern PartitionStats *store_stats(uint64 hash);

/*
 * The latest time on the server's clock at which a key that was since evicted
 * had a decision: no later call may be decided before it, in case that the
 * system's clock is set back.
 */
extern TimestampTz store_clock_floor(void);
extern void store_raise_clock_floor(TimestampTz to);

/* Figures of the whole store; no lock may be held. */
typedef struct StoreTotals
{
	PartitionStats stats;
	int64		memory_used;	/* bytes */
	int64		memory_total;
	TimestampTz since;
} StoreTotals;

extern StoreTotals store_totals(void);
extern void store_reset_stats(void);

#endif							/* TIERLIMIT_STORE_H */
