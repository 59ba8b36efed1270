/*-------------------------------------------------------------------------
 *
 * store.c
 *		The shared memory of tierlimit: its layout, locks and counters.
 *
 * One segment of tierlimit.memory, fixed at server start:
 *
 *		Store | buckets | marks | lines | blocks
 *
 * The blocks hold everything that grows: subjects, their windows, the
 * histories of those (subject.h, window.h, history.h); and which requests were
 * seen (seen.h).  Nothing is kept per
 * backend.  Blocks that were never used cost no physical memory.
 *
 * Locks, in the order in which they are taken:
 *	1. the claim of a subject (claim.c), which is no lock: its holder may wait,
 *	   read tables and raise an ERROR, which gives it back.
 *	2. the LWLock of a partition: protects its buckets, counters, and all that
 *	   its subjects consist of.  SHARED to look, EXCLUSIVE to change.  Whoever
 *	   needs several takes the lower-numbered first.
 *	3. one spinlock, and no other lock below it: of a list of free blocks (pool.c),
 *	   of the installations whose retries are known, or the queues' mutex
 *	   (queue.c).
 * No ERROR is raised, nothing allocated and nothing waited for while a lock is
 * held: what a charge needs is gathered before the first change, and then the
 * charge cannot fail.  So a lock is only ever seen released with a whole
 * number of calls charged.
 *
 * What a crash does: the postmaster starts all shared memory anew, and with it
 * the counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "base/compat.h"
#include "base/settings.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "store/store.h"
#include "utils/timestamp.h"

/*
 * So many blocks there are for each bucket: about as many as a key that was
 * called once has.
 */
#define BLOCKS_PER_BUCKET 4

/*
 * There are so many marks that the change of one key makes few others be
 * looked up again, yet few enough for the processor's caches.
 */
#define BUCKETS_PER_MARK 16
#define MAX_MARKS 16384

/* Request ids take up to a quarter of the blocks for their lines. */
#define BLOCKS_PER_LINE 4

Store	   *store = NULL;

/* Return how many bytes the shared memory needs, as tierlimit.memory says. */
Size
store_size(void)
{
	return (Size) tierlimit_memory * 1024;
}

/* Return the next piece of fresh memory, zeroed, and move on past it. */
static void *
carve(char **at, Size size)
{
	char	   *piece = *at;

	memset(piece, 0, size);
	*at = (char *) CACHELINEALIGN(piece + size);
	return piece;
}

/* Lay out fresh memory.  AddinShmemInitLock is held. */
static void
store_create(void)
{
	Size		size = store_size();
	Size		room = size - MAXALIGN(sizeof(Store));
	char	   *at = (char *) CACHELINEALIGN((char *) store + sizeof(Store));
	Size		nblocks;

	MemSet(store, 0, sizeof(Store));
	store->size = (int64) size;
	store->nbuckets = pg_nextpower2_32(Max(room / BLOCK_SIZE / BLOCKS_PER_BUCKET,
										   NUM_PARTITIONS));
	store->nmarks = Min(Max(store->nbuckets / BUCKETS_PER_MARK, NUM_PARTITIONS),
						MAX_MARKS);
	store->nlines = Max(pg_prevpower2_32(room / BLOCK_SIZE / BLOCKS_PER_LINE),
						NUM_PARTITIONS);
	store->buckets = carve(&at, store->nbuckets * sizeof(BlockNo));
	store->marks = carve(&at, store->nmarks * sizeof(ChangeMark));
	store->lines = carve(&at, store->nlines * sizeof(BlockNo));
	store->blocks = (MemoryBlock *) at;
	nblocks = ((char *) store + size - at) / sizeof(MemoryBlock);
	store->stats_since = GetCurrentTimestamp();
	pg_atomic_init_u64(&store->address_position, 0);
	pg_atomic_init_u64(&store->epoch_length, 0);
	pg_atomic_init_u32(&store->known_generation, 0);
	pg_atomic_init_u32(&store->answers, 0);
	SpinLockInit(&store->known_installations_mutex);
	for (int i = 0; i < REFUND_COUNTERS; i++)
		pg_atomic_init_u32(&store->refund_counters[i], 0);
	pg_atomic_init_u64(&store->no_room_since, 0);
	pg_atomic_init_u64(&store->no_room_until, 0);
	pg_atomic_init_u32(&store->swept, 0);
	pg_atomic_init_u32(&store->sweep_hand, 0);
	pg_atomic_init_u32(&store->running_at_start, InvalidTransactionId);
	ConditionVariableInit(&store->claims_changed);
	pool_init(&store->pool, (uint32) Min(nblocks, PG_UINT32_MAX));
	if (!pg_strong_random(&store->seed, sizeof(store->seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not obtain random data")));
}

/*
 * Note that decisions of a time before this server's start wait to be written,
 * up to this end position: any subject that is not in memory may have some of
 * them.  Called by the postmaster, before there are other processes.
 */
void
store_note_spilled(uint64 position, int64 decisions)
{
	store->partitions[0].stats.logged += decisions;
	for (int i = 0; i < NUM_PARTITIONS; i++)
		store->partitions[i].stats.absent_log_position = position;
	pg_atomic_write_u64(&store->address_position, position);
}

/*
 * Find the shared memory; AddinShmemInitLock has to be held.  Returns true if
 * the memory is fresh, as it is in the postmaster at the start and after a
 * crash.  Raises an ERROR if there is not enough of it, or no random data.
 */
bool
store_attach(void)
{
	bool		found;

	store = ShmemInitStruct("tierlimit", store_size(), &found);
	if (!found)
		store_create();
	return !found;
}

/* Raise an ERROR unless the library was preloaded. */
void
store_require(void)
{
	if (likely(store != NULL))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("tierlimit must be loaded via shared_preload_libraries"),
			 errhint("Add the line \"shared_preload_libraries = 'tierlimit'\" to postgresql.conf and restart the server.")));
}

/*
 * Return the bucket of a hash: the number of the first subject's block.  The
 * partition's lock is needed: SHARED to look, EXCLUSIVE to change.
 */
BlockNo *
store_bucket(uint64 hash)
{
	Assert(partition_locked(hash, LW_SHARED));
	return &store->buckets[hash & (store->nbuckets - 1)];
}

/*
 * Return the mark of a hash.  The partition's lock is needed: SHARED to look,
 * EXCLUSIVE to change.
 */
ChangeMark *
store_mark(uint64 hash)
{
	Assert(partition_locked(hash, LW_SHARED));
	return &store->marks[hash & (store->nmarks - 1)];
}

/*
 * Return the link to the line of fingerprints of a hash, NO_BLOCK if there is
 * none yet.  The partition's lock is needed: SHARED to look, EXCLUSIVE to
 * change.
 */
BlockNo *
store_line(uint64 hash)
{
	Assert(partition_locked(hash, LW_SHARED));
	return &store->lines[hash & (store->nlines - 1)];
}

/*
 * Return the counters of a hash's partition, to be changed.  The partition's
 * lock is needed EXCLUSIVE.
 */
PartitionStats *
store_stats(uint64 hash)
{
	Assert(partition_locked(hash, LW_EXCLUSIVE));
	return &store->partitions[partition_of(hash)].stats;
}

/*
 * Note that a row up to this end position of its queue has an address that it
 * was not charged to.  Any lock may be held.
 */
void
store_note_address(uint64 position)
{
	atomic_raise_u64(&store->address_position, position);
}

/*
 * Note that a subject, in memory or not, was given something back, and that no
 * call was named.  Any lock may be held.
 */
void
store_note_refund(uint64 hash)
{
	pg_atomic_fetch_add_u32(&store->refund_counters[hash % REFUND_COUNTERS], 1);
}

/*
 * Return how often that was noted of the subjects that share a counter: while
 * the number stays the same, a call that a subject has counted is counted
 * still, unless it was named.  This is not kept with the subject, since that
 * may go while what is known of its calls stays (retry.c).  The number may wrap
 * around.  Any lock may be held; with that of the subject's partition, the
 * number is of that moment.
 */
uint32
store_refunds(uint64 hash)
{
	return pg_atomic_read_u32(&store->refund_counters[hash % REFUND_COUNTERS]);
}

/*
 * Return the figures of the whole store.  Each partition is locked SHARED in
 * turn, so the sums are not of one moment; no lock may be held.
 */
StoreTotals
store_totals(void)
{
	StoreTotals totals = {0};

	for (uint64 i = 0; i < NUM_PARTITIONS; i++)
	{
		PartitionStats *stats = &store->partitions[i].stats;

		partition_lock(&i, 1, LW_SHARED);
		totals.stats.admitted += stats->admitted;
		totals.stats.denied += stats->denied;
		totals.stats.refunds += stats->refunds;
		totals.stats.keys += stats->keys;
		totals.stats.evictions += stats->evictions;
		totals.stats.rebuilds += stats->rebuilds;
		totals.stats.logged += stats->logged;
		totals.since = store->stats_since;
		partition_unlock(&i, 1);
	}
	totals.memory_total = store->size;
	totals.memory_used = ((char *) store->blocks - (char *) store) +
		(int64) pool_used(&store->pool) * BLOCK_SIZE;
	return totals;
}

/*
 * Set the counters of the statistics to zero, but for those that other code
 * relies on.  Each partition is locked in turn; no lock may be held.
 */
void
store_reset_stats(void)
{
	TimestampTz now = GetCurrentTimestamp();

	for (uint64 i = 0; i < NUM_PARTITIONS; i++)
	{
		PartitionStats *stats = &store->partitions[i].stats;
		PartitionStats lasting = {0};

		/* Keep what is not only a statistic. */
		partition_lock(&i, 1, LW_EXCLUSIVE);
		lasting.keys = stats->keys;
		lasting.logged = stats->logged;
		lasting.absent_log_position = stats->absent_log_position;
		*stats = lasting;
		store->stats_since = now;
		partition_unlock(&i, 1);
	}
}
