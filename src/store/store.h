/*-------------------------------------------------------------------------
 *
 * store.h
 *		The shared memory of tierlimit: its layout, locks and counters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_STORE_H
#define TIERLIMIT_STORE_H

#include "base/compat.h"
#include "base/installation.h"
#include "base/lock.h"
#include "storage/condition_variable.h"
#include "store/clock.h"
#include "store/pool.h"

/*
 * What changes of api_key leave for the keys that hash here; see apikey.c.
 * All zero: no key has been changed.
 */
typedef struct ChangeMark
{
	uint32		generation;		/* grows with every change */
	TransactionId changed_by;	/* the newest transaction that made one */
	bool		several;		/* older ones may still be running, too */

	/* The same of those changes that delete a key. */
	uint32		deleted_in;		/* generation of the last one; 0: there is
								 * none */
	TransactionId deleted_by;
	bool		several_deleted;
	uint32		decided_in;		/* the last generation up to which all that
								 * delete had ended when another one came */
} ChangeMark;

/* Since when all request_ids of an installation are known; see retry.c. */
typedef struct KnownInstallation
{
	InstallationId installation;
	int64		since;			/* by the steady clock (retry.c); 0: the slot
								 * is free */
	uint64		log_position;	/* what was admitted before that ends there at
								 * most */
} KnownInstallation;

#define MAX_KNOWN_INSTALLATIONS 64

/* So many counters tell of refunds; subjects whose hashes agree share one. */
#define REFUND_COUNTERS 4096

/* The counters of a partition, protected by its lock. */
typedef struct PartitionStats
{
	int64		admitted;
	int64		denied;
	int64		refunds;
	int64		keys;			/* subjects in memory */
	int64		evictions;
	int64		rebuilds;
	int64		logged;			/* decisions, since server start */
	uint64		absent_log_position;	/* end position of the newest row in
										 * the log's queue of a subject that
										 * was not in memory */
} PartitionStats;

typedef union PaddedPartitionStats
{
	PartitionStats stats;
	char		pad[PG_CACHE_LINE_SIZE];
} PaddedPartitionStats;

/*
 * Hash h belongs to bucket h % nbuckets, to mark h % nmarks, to line h %
 * nlines and to partition h % NUM_PARTITIONS.  All are powers of two, and
 * there are at least as many of each as partitions, so that each of them
 * belongs to one.
 */
typedef struct Store
{
	uint64		seed;			/* seed of the hash: so nobody can choose
								 * collisions */
	uint32		nbuckets;
	uint32		nmarks;
	uint32		nlines;
	BlockNo    *buckets;		/* each a chain of subjects; see subject.h */
	BlockNo    *lines;			/* each a SeenLine, or NO_BLOCK; see retry.c */
	ChangeMark *marks;
	MemoryBlock *blocks;
	int64		size;			/* size of all this, in bytes */
	TimestampTz stats_since;	/* protected by all partitions' locks */
	pg_atomic_uint64 address_position;	/* end position of the newest row that
										 * has an address but was not charged
										 * to it */
	pg_atomic_uint64 epoch_length;	/* these, up to the mutex, are for retry.c */
	pg_atomic_uint32 known_generation;	/* all installations were forgotten so
										 * often */
	pg_atomic_uint32 answers;	/* subjects that remember an answer */
	KnownInstallation known_installations[MAX_KNOWN_INSTALLATIONS];
	slock_t		known_installations_mutex;
	pg_atomic_uint32 refund_counters[REFUND_COUNTERS];	/* see store_refunds() */
	pg_atomic_uint64 no_room_since; /* when a sweep was in vain; see sweep.c */
	pg_atomic_uint64 no_room_until; /* until then no other one is tried */
	pg_atomic_uint32 swept;		/* blocks freed by all sweeps so far */
	pg_atomic_uint32 sweep_hand;	/* slice that the next sweep begins at */
	pg_atomic_uint32 running_at_start;	/* see apikey.c */
	ConditionVariable claims_changed;	/* a claim has been released */
	PaddedPartitionStats partitions[NUM_PARTITIONS];
	Pool		pool;
} Store;

/* The shared memory; NULL unless the library was preloaded. */
extern Store *store;

extern Size store_size(void);
extern bool store_attach(void);
extern void store_note_spilled(uint64 position, int64 decisions);
extern void store_require(void);
extern BlockNo *store_bucket(uint64 hash);
extern ChangeMark *store_mark(uint64 hash);
extern BlockNo *store_line(uint64 hash);
extern PartitionStats *store_stats(uint64 hash);

/*
 * Where there are millions of keys, none is in the processor's caches.  These
 * hints have it fetched while there is other work to do: first what leads to a
 * subject (subject_name() does that), then the subject itself.  The latter was
 * mostly made together with its windows, from neighbouring blocks, so it is
 * all these that are fetched.  No lock is needed: it does not matter if a hint
 * is wrong.
 */
static inline void
store_prefetch_bucket(uint64 hash)
{
	prefetch(&store->buckets[hash & (store->nbuckets - 1)]);
	prefetch(&store->marks[hash & (store->nmarks - 1)]);
}

static inline void
store_prefetch_blocks(BlockNo first, int count)
{
	for (int line = 0; line < count * BLOCK_SIZE; line += 64)
		prefetch(store->blocks[first].bytes + line);
}

static inline void
store_prefetch_subject(uint64 hash)
{
	store_prefetch_blocks(store->buckets[hash & (store->nbuckets - 1)], 4);
}

extern void store_note_address(uint64 position);
extern void store_note_refund(uint64 hash);
extern uint32 store_refunds(uint64 hash);

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
