/*-------------------------------------------------------------------------
 *
 * sweep.c
 *		Removing subjects to make room.
 *
 * Nothing happens when a window runs empty: its key stays in memory until a
 * backend needs a block and there is none left.  Then that backend sweeps on
 * from where the last sweep stopped, a slice of a partition at a time under
 * that partition's lock.  It removes every subject whose windows have all run
 * empty, until it has freed SWEEP_GOAL blocks or been around once.
 *
 * What is written of a subject can be rebuilt from the log.  So in each slice
 * those subjects make room, too, whose last call is longer ago than that of
 * half of the others; over many slices, that comes close to the ones that were
 * not called for the longest time.  Where rows of a subject are still waiting
 * to be written, the sweep has the log written first.
 *
 * A sweep that found nothing would be repeated in vain by each further call of
 * an unknown key, at the cost of a look at every subject: so for a while after
 * it calls that find no block fail at once.
 *
 * The server's clock tells whether a window is empty.  A session with a
 * tierlimit.now of its own goes by that, but only for keys that were charged
 * in such sessions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/settings.h"
#include "log/log.h"
#include "miscadmin.h"
#include "store/subject.h"
#include "store/sweep.h"
#include "utils/timestamp.h"

#define SWEEP_GOAL 1024			/* so many blocks are freed at a time */
#define SLICE_BUCKETS 64		/* so many are looked at under one lock */
#define MAX_CANDIDATES 256		/* so many are compared by their last call */

/* What a sweep goes by, and what it found. */
typedef struct Sweep
{
	Clock		clock;			/* of the session that sweeps */
	TimestampTz server_now;
	TimestampTz next_empty;		/* when the first subject that had to stay
								 * runs empty */
	uint32		freed;			/* blocks */
	uint64		pending;		/* the end position up to which the log has to
								 * be written for other subjects to go */
	TimestampTz evict_until;	/* subjects go whose last call is no later, in
								 * a slice */
	int			evict_count;	/* so many of these at most */
} Sweep;

/* Return from when on nothing is lost if the subject goes. */
static TimestampTz
empty_at(const Subject *subject)
{
	return subject->kind == SUBJECT_RETRY ? subject->clock + request_memory()
		: subject_empty_at(subject);
}

/*
 * Return whether nothing is lost any more if the subject goes; if it is, note
 * when it will not be.
 */
static bool
has_run_empty(const Subject *subject, Sweep *sweep)
{
	TimestampTz at = empty_at(subject);
	TimestampTz now = sweep->server_now;

	if (subject->clock_source == CLOCK_SESSION &&
		sweep->clock.source == CLOCK_SESSION)
		now = sweep->clock.now;

	if (at > now)
	{
		sweep->next_empty = Min(sweep->next_empty, at);
		return false;
	}
	return true;
}

/*
 * Return whether all that is counted for a subject could be rebuilt; if not,
 * note up to where the log has to be written first.
 */
static bool
is_written(const Subject *subject, Sweep *sweep)
{
	if (log_is_written(subject->installation.database, subject->log_position))
		return true;
	if (subject->installation.database == MyDatabaseId)
		sweep->pending = Max(sweep->pending, subject->log_position);
	return false;
}

/* Return whether a subject may be removed. */
static bool
can_make_room(const Subject *subject, Sweep *sweep)
{
	if (subject->claimed || !is_written(subject, sweep))
		return false;
	if (subject->clock <= sweep->evict_until && sweep->evict_count > 0)
	{
		sweep->evict_count--;
		return true;
	}
	return has_run_empty(subject, sweep);
}

/* Compare two times, for qsort(). */
static int
compare_times(const void *a, const void *b)
{
	TimestampTz x = *(const TimestampTz *) a;
	TimestampTz y = *(const TimestampTz *) b;

	return x < y ? -1 : x > y;
}

/* A slice of a partition: some of its buckets. */
typedef struct Slice
{
	uint64		first;			/* hashes: the partition's number and on in */
	uint64		end;			/* steps of NUM_PARTITIONS */
} Slice;

/*
 * Find out which half of a slice's subjects was not called for longer.  The
 * partition's lock is held.
 */
static void
choose_candidates(Sweep *sweep, Slice slice)
{
	TimestampTz clocks[MAX_CANDIDATES];
	int			count = 0;

	for (uint64 i = slice.first; i < slice.end; i += NUM_PARTITIONS)
		for (BlockNo at = *store_bucket(i); at != NO_BLOCK && count < MAX_CANDIDATES;
			 at = subject_at(at)->next)
			clocks[count++] = subject_at(at)->clock;
	qsort(clocks, count, sizeof(TimestampTz), compare_times);
	sweep->evict_until = count == 0 ? PG_INT64_MIN : clocks[(count - 1) / 2];
	sweep->evict_count = (count + 1) / 2;
}

/*
 * Remove the subjects of a bucket that can make room, and return how many they
 * were.  The partition's lock is held EXCLUSIVE.
 */
static int
sweep_bucket(Sweep *sweep, uint64 hash, BlockList *spare)
{
	BlockNo    *link = store_bucket(hash);
	int			removed = 0;

	while (*link != NO_BLOCK)
	{
		if (can_make_room(subject_at(*link), sweep))
		{
			subject_remove_at(hash, link, spare);
			removed++;
		}
		else
			link = &subject_at(*link)->next;
	}
	return removed;
}

/*
 * Sweep a slice, by its number: slices of one partition are NUM_PARTITIONS
 * apart.  No lock is held on entry.
 */
static void
sweep_slice(Sweep *sweep, uint32 number)
{
	uint64		partition = number % NUM_PARTITIONS;
	Slice		slice;
	BlockList	spare = {.base = store->blocks};

	/* Find the buckets of the partition that belong to the slice. */
	slice.first = partition +
		(uint64) (number / NUM_PARTITIONS) * SLICE_BUCKETS * NUM_PARTITIONS;
	slice.end = Min(slice.first + SLICE_BUCKETS * NUM_PARTITIONS,
					store->nbuckets);

	/*
	 * Remove those of its subjects that can make room, under the partition's
	 * lock.
	 */
	partition_lock(&partition, 1, LW_EXCLUSIVE);
	choose_candidates(sweep, slice);
	for (uint64 i = slice.first; i < slice.end; i += NUM_PARTITIONS)
		store_stats(partition)->evictions += sweep_bucket(sweep, i, &spare);

	/* Others that wait for room see by the count that there is some. */
	sweep->freed += spare.count;
	pg_atomic_fetch_add_u32(&store->swept, spare.count);
	pool_return(&store->pool, &spare, (uint32) partition);
	partition_unlock(&partition, 1);
}

/*
 * Return whether a sweep was in vain so lately that another one would be in
 * vain, too.
 */
static bool
is_hopeless(TimestampTz now)
{
	TimestampTz until = (TimestampTz) pg_atomic_read_u64(&store->no_room_until);
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&store->no_room_since);

	return since <= now && now < until;
}

/*
 * Let other calls fail at once for a while: until the first subject that was
 * seen runs empty, but no longer than ten times what the sweep took, or a
 * second, since subjects that come and go meanwhile are not known.
 */
static void
give_up(const Sweep *sweep)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		pause = Max(USECS_PER_SEC, 10 * (now - sweep->server_now));

	pg_atomic_write_u64(&store->no_room_since, (uint64) sweep->server_now);
	pg_atomic_write_u64(&store->no_room_until,
						(uint64) Min(sweep->next_empty, now + pause));
}

/* Go around once, from where the last sweep stopped, until enough is freed. */
static void
sweep_around(Sweep *sweep)
{
	uint32		per_partition = store->nbuckets / NUM_PARTITIONS;
	uint32		slices = NUM_PARTITIONS *
	((per_partition + SLICE_BUCKETS - 1) / SLICE_BUCKETS);
	uint32		first = pg_atomic_read_u32(&store->sweep_hand);
	uint32		i;

	/*
	 * Other sessions may sweep as well: each looks at every subject if need
	 * be.
	 */
	for (i = 0; i < slices && sweep->freed < SWEEP_GOAL; i++)
	{
		sweep_slice(sweep, (first + i) % slices);
		CHECK_FOR_INTERRUPTS();
	}
	pg_atomic_write_u32(&store->sweep_hand, (first + i) % slices);
	elog(DEBUG1, "tierlimit: a sweep has freed %u blocks", sweep->freed);
}

/*
 * Make room by removing subjects whose windows have run empty, or that were
 * not called for long and can be rebuilt from the log.  Returns false if there
 * are none.  May wait for the log and raise an ERROR; no lock may be held.
 */
bool
sweep_for_room(Clock clock)
{
	uint32		swept = pg_atomic_read_u32(&store->swept);
	Sweep		sweep = {
		.clock = clock,
		.server_now = GetCurrentTimestamp(),
		.next_empty = PG_INT64_MAX
	};

	if (clock.source == CLOCK_SERVER && is_hopeless(sweep.server_now))
		return false;

	sweep_around(&sweep);
	if (sweep.freed == 0 && sweep.pending != 0)
	{
		log_wait_written(sweep.pending);
		sweep_around(&sweep);
	}

	/* Room that another session has made meanwhile will do. */
	if (swept != pg_atomic_read_u32(&store->swept))
		return true;
	if (clock.source == CLOCK_SERVER)
		give_up(&sweep);
	return false;
}

/*
 * Make room as sweep_for_room() does, and raise an ERROR if there is none.  No
 * lock may be held.
 */
void
sweep_make_room(Clock clock)
{
	if (!sweep_for_room(clock))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("tierlimit is out of shared memory"),
				 errdetail("No other key could make room."),
				 errhint("Increase \"tierlimit.memory\" and restart the server.")));
}

/*
 * Have the next sweep look again, though one was in vain: units were given
 * back, so a subject may have run empty.  Any lock may be held.
 */
void
sweep_encourage(void)
{
	pg_atomic_write_u64(&store->no_room_until, 0);
}
