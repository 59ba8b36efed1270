/*-------------------------------------------------------------------------
 *
 * queue.c
 *		The queues of decisions that wait to be written, and who serves them.
 *
 * What bounds it: tierlimit.log_buffer is divided, at server start, into
 * NUM_QUEUES queues, each half as large as the one before.  A database takes
 * the largest free one at its first call, and has it until its writer leaves
 * for lack of work, or because other databases wait for their turn.
 *
 * States: FREE -> OPEN, when a database takes it, -> CLOSED, when its writer
 * is about to leave, -> FREE, if all is written, or OPEN again.  An open queue
 * takes rows whether or not a writer is there.  The launcher (launcher.c)
 * starts one for each open queue, as soon as the server has a place for
 * another worker.
 *
 * To close a queue, the writer sets open_for to 0 and then takes and releases
 * each partition's lock: sessions that saw it open have a place by then, and
 * what is reserved will be there in a moment.
 *
 * A writer that was told to leave may have been told so by a server that
 * stops: it leaves its queue closed, so that no call is admitted whose row
 * would not be in the log by then.  Where the server goes on, the launcher
 * takes care of the queue after CLOSED_PAUSE.  Rows that are there when the
 * server has stopped, in a queue that had no writer or could not be written,
 * are kept in a file (spill.c).
 *
 * Locks: the mutex protects the states; no other lock is taken under it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/elapsed.h"
#include "base/lock.h"
#include "base/settings.h"
#include "log/logrow.h"
#include "log/queue.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

/* A closed queue without a writer is left alone for so long; see above. */
#define CLOSED_PAUSE (USECS_PER_SEC / 2)

/*
 * A writer is at work for at least so long before another database gets its
 * place.
 */
#define SHORTEST_TURN (USECS_PER_SEC / 10)

/* A database that waits for a queue, and when it last said so. */
typedef struct Turn
{
	Oid			database;
	TimestampTz asked_at;
} Turn;

#define MAX_TURNS 64

/* A database that has not asked again for so long waits no more. */
#define TURN_PATIENCE USECS_PER_SEC

/*
 * All queues.  The mutex protects what is not atomic, and the states of the
 * queues.
 */
typedef struct Queues
{
	slock_t		mutex;
	Latch	   *launcher;		/* NULL: it is not there */
	int			nturns;
	Turn		turns[MAX_TURNS];	/* those that wait, first come, first
									 * served */
	pg_atomic_uint64 commit_lsn;	/* see queue_commit_lsn() */
	ConditionVariable freed;	/* a queue has become free, or open again */
	LogQueue	queues[NUM_QUEUES];
} Queues;

static Queues *all = NULL;
static uint64 buffer_size = 0;

/*
 * Decide how large the buffer of all queues is, and return how much shared
 * memory is needed for them.  The size is in bytes; 0 stands for what
 * tierlimit.log_buffer says.  Called when shared memory is asked for, before
 * queue_shmem_init().
 */
Size
queue_shmem_size(uint64 size)
{
	buffer_size = size != 0 ? size : (uint64) tierlimit_log_buffer * 1024;
	return MAXALIGN(sizeof(Queues)) + buffer_size;
}

/* Return how large the buffer of all queues is, in bytes. */
uint64
queue_buffer_size(void)
{
	return buffer_size;
}

/* Lay out a queue in fresh memory, with so many bytes for its rows. */
static void
init_queue(LogQueue *queue, char *bytes, Size size)
{
	memset(bytes, 0, size);
	ring_init(&queue->ring, bytes, size);
	pg_atomic_init_u32(&queue->open_for, InvalidOid);
	pg_atomic_init_u32(&queue->flush_now, 0);
	pg_atomic_init_u32(&queue->leave_now, 0);
	pg_atomic_init_u32(&queue->waiting, 0);
	pg_atomic_init_u64(&queue->flushes_wanted, 0);
	pg_atomic_init_u64(&queue->flushes_done, 0);
	pg_atomic_init_u64(&queue->decisions_written, 0);
	pg_atomic_init_u64(&queue->rows_written, 0);
	pg_atomic_init_u64(&queue->written_until, 0);
	ConditionVariableInit(&queue->progress);
}

/*
 * Lay the queues out in shared memory, or attach to them; AddinShmemInitLock
 * has to be held.  queue_shmem_size() was called before.
 */
void
queue_shmem_init(void)
{
	bool		found;
	char	   *at;
	Size		size = MAXALIGN(sizeof(Queues)) + buffer_size;
	Size		left = buffer_size;

	all = ShmemInitStruct("tierlimit log", size, &found);
	if (found)
		return;

	memset(all, 0, sizeof(Queues));
	SpinLockInit(&all->mutex);
	pg_atomic_init_u64(&all->commit_lsn, InvalidXLogRecPtr);
	ConditionVariableInit(&all->freed);
	at = (char *) all + MAXALIGN(sizeof(Queues));
	for (int i = 0; i < NUM_QUEUES; i++)
	{
		Size		own = i + 1 < NUM_QUEUES ? MAXALIGN_DOWN(left / 2) : left;

		init_queue(&all->queues[i], at, own);
		at += own;
		left -= own;
	}
}

/* Return queue number 0 <= i < NUM_QUEUES. */
LogQueue *
queue_at(int number)
{
	return &all->queues[number];
}

/*
 * Set the state of a queue, and whether sessions may append to it.  The mutex
 * is held.
 */
static void
set_state(LogQueue *queue, QueueState state, TimestampTz now)
{
	queue->state = state;
	queue->state_since = now;
	pg_atomic_write_u32(&queue->open_for,
						state == QUEUE_OPEN ? queue->database : InvalidOid);
}

/* Return whether no row waits in a queue. */
static bool
is_empty(LogQueue *queue)
{
	return ring_head(&queue->ring) == ring_tail(&queue->ring);
}

/* Return the queue of a database; NULL if it has none.  The mutex is held. */
static LogQueue *
find_queue(Oid database)
{
	for (int i = 0; i < NUM_QUEUES; i++)
		if (all->queues[i].state != QUEUE_FREE &&
			all->queues[i].database == database)
			return &all->queues[i];
	return NULL;
}

/*
 * Return the queue of a database; NULL if it has none.  Takes the mutex; no
 * other spinlock may be held.
 */
LogQueue *
queue_of(Oid database)
{
	LogQueue   *queue;

	SpinLockAcquire(&all->mutex);
	queue = find_queue(database);
	SpinLockRelease(&all->mutex);
	return queue;
}

/*
 * Make a queue a database's.  The mutex is held.
 *
 * What the database's subjects remember of positions may come from another
 * queue.  All of that was written, so positions go on from the highest one of
 * all queues.
 */
static void
assign_queue(LogQueue *queue, Oid database, TimestampTz now)
{
	uint64		highest = 0;

	for (int i = 0; i < NUM_QUEUES; i++)
		highest = Max(highest, ring_head(&all->queues[i].ring));
	queue->database = database;
	queue->failure.since = 0;
	pg_atomic_write_u32(&queue->leave_now, 0);
	pg_atomic_write_u64(&queue->written_until, (uint64) now);
	ring_set_position(&queue->ring, highest);
	set_state(queue, QUEUE_OPEN, now);
}

/* Forget the databases that have given up waiting.  The mutex is held. */
static void
drop_stale_turns(TimestampTz now)
{
	int			kept = 0;

	for (int i = 0; i < all->nturns; i++)
		if (!has_passed(all->turns[i].asked_at, now, TURN_PATIENCE))
			all->turns[kept++] = all->turns[i];
	all->nturns = kept;
}

/*
 * Put a database into the line of those that wait, or have it stay there.  The
 * mutex is held.
 */
static void
wait_in_line(Oid database, TimestampTz now)
{
	int			i = 0;

	while (i < all->nturns && all->turns[i].database != database)
		i++;
	if (i == MAX_TURNS)
		return;
	all->turns[i].database = database;
	all->turns[i].asked_at = now;
	all->nturns = Max(all->nturns, i + 1);
}

/*
 * Remove the first database of the line, if there is any.  The mutex is held.
 */
static void
leave_line(void)
{
	if (all->nturns == 0)
		return;
	all->nturns--;
	memmove(all->turns, all->turns + 1, all->nturns * sizeof(Turn));
}

/*
 * Give the largest free queue to a database whose turn it is.  Returns NULL if
 * there is no such queue, or if it is another database's turn: then this one
 * waits in the line.  The mutex is held.
 */
static LogQueue *
take_queue(Oid database, TimestampTz now)
{
	LogQueue   *queue = NULL;

	/* Find the largest free queue, which is the first one. */
	for (int i = NUM_QUEUES - 1; i >= 0; i--)
		if (all->queues[i].state == QUEUE_FREE)
			queue = &all->queues[i];

	/* See whether it is this database's turn. */
	drop_stale_turns(now);
	if (queue == NULL ||
		(all->nturns > 0 && all->turns[0].database != database))
	{
		wait_in_line(database, now);
		return NULL;
	}

	/* Make the queue this database's. */
	leave_line();
	assign_queue(queue, database, now);
	return queue;
}

/* Wake the launcher, if it is there. */
static void
wake_launcher(void)
{
	Latch	   *launcher;

	SpinLockAcquire(&all->mutex);
	launcher = all->launcher;
	SpinLockRelease(&all->mutex);

	/*
	 * If the launcher has just ended, its latch is another process's: that
	 * does no harm.
	 */
	if (launcher != NULL)
		SetLatch(launcher);
}

/*
 * Return the queue of this database, which has one from now on.  Returns NULL
 * if other databases have them all: then it will be this database's turn some
 * time later, as long as it goes on asking.  No lock may be held.
 */
LogQueue *
queue_take(void)
{
	LogQueue   *queue;
	bool		had;
	TimestampTz now = GetCurrentTimestamp();

	/* Under the mutex, find the database's queue or give it one. */
	SpinLockAcquire(&all->mutex);
	queue = find_queue(MyDatabaseId);
	had = queue != NULL;
	if (!had)
		queue = take_queue(MyDatabaseId, now);
	SpinLockRelease(&all->mutex);
	if (!had)
		wake_launcher();
	return queue;
}

/*
 * Sleep until a queue has become free, or open again, or for so many
 * milliseconds.  No lock may be held.
 */
void
queue_wait_until_free(long ms)
{
	static uint32 wait_event = 0;

	ConditionVariableTimedSleep(&all->freed, ms,
								extension_wait_event(&wait_event, "TierlimitLogQueue"));
	ConditionVariableCancelSleep();
}

/*
 * Return whether this database may append to a queue.  Needs no lock; but only
 * what is seen under the lock of a partition stays true while that is held.
 */
bool
queue_is_open(LogQueue *queue)
{
	return pg_atomic_read_u32(&queue->open_for) == MyDatabaseId;
}

/* Return whether a queue has a writer. */
bool
queue_has_writer(LogQueue *queue)
{
	bool		has;

	SpinLockAcquire(&all->mutex);
	has = queue->writer != NULL;
	SpinLockRelease(&all->mutex);
	return has;
}

/* Return why a queue can't be written; since is 0 if it can. */
LogFailure
queue_failure(LogQueue *queue)
{
	LogFailure	failure;

	SpinLockAcquire(&all->mutex);
	failure = queue->failure;
	SpinLockRelease(&all->mutex);
	return failure;
}

/* Have a queue's writer write now, if there is one.  No lock may be held. */
void
queue_wake_writer(LogQueue *queue)
{
	Latch	   *writer;

	pg_atomic_write_u32(&queue->flush_now, 1);
	SpinLockAcquire(&all->mutex);
	writer = queue->writer;
	SpinLockRelease(&all->mutex);

	/*
	 * If the writer has just left, its latch is another process's: that does
	 * no harm.
	 */
	if (writer != NULL)
		SetLatch(writer);
}

/*
 * Return how many bytes of a queue sessions may still append.  Needs no lock:
 * the number may be a little old.
 */
uint64
queue_free_bytes(LogQueue *queue)
{
	uint64		tail = ring_tail(&queue->ring);
	uint64		taken = ring_head(&queue->ring) - tail +
	pg_atomic_read_u64(&queue->ring.kept);

	return taken < queue->ring.size ? queue->ring.size - taken : 0;
}

/*
 * Note that a row is about to be appended: if it is the first one, the rows of
 * the queue have waited since now.  Needs no lock.
 */
void
queue_begin_waiting(LogQueue *queue)
{
	if (is_empty(queue))
		pg_atomic_write_u64(&queue->written_until,
							(uint64) GetCurrentTimestamp());
}

/*
 * Return for how long the oldest row of a queue may have waited, in
 * microseconds; 0 if there is no row.  A clock that was set back makes that
 * too long rather than too short, until the next round of the writer.
 */
int64
queue_age(LogQueue *queue)
{
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&queue->written_until);
	TimestampTz now;

	if (is_empty(queue))
		return 0;
	now = GetCurrentTimestamp();
	return now < since ? PG_INT64_MAX : now - since;
}

/*
 * Return whether the oldest row has waited for too long: for more than a
 * second, and than three rounds of the writer.
 */
bool
queue_is_overdue(LogQueue *queue)
{
	int64		patience = Max(USECS_PER_SEC,
							   3 * tierlimit_flush_interval * INT64CONST(1000));

	return queue_age(queue) > patience;
}

/*
 * Make this process the writer of a queue, which is open from now on.  Returns
 * NULL if the queue does not wait for a writer of this database.  No lock may
 * be held.
 */
LogQueue *
queue_attach(int number, Oid database)
{
	LogQueue   *queue = &all->queues[number];
	TimestampTz now = GetCurrentTimestamp();
	bool		ours;

	/* Under the mutex, see whether the queue waits for us, and take it. */
	SpinLockAcquire(&all->mutex);
	ours = queue->state != QUEUE_FREE && queue->database == database &&
		queue->writer == NULL;
	if (ours)
	{
		queue->writer = MyLatch;
		queue->served_since = now;
		queue->failure.since = 0;
		pg_atomic_write_u32(&queue->leave_now, 0);
		pg_atomic_write_u64(&queue->ring.kept, 0);
		set_state(queue, QUEUE_OPEN, now);
	}
	SpinLockRelease(&all->mutex);
	if (!ours)
		return NULL;

	/* Sessions may be waiting for it to open. */
	ConditionVariableBroadcast(&all->freed);
	return queue;
}

/*
 * Note that a queue's writer ends, having written all or not, and have the
 * launcher take care of the queue.  No lock may be held.
 */
void
queue_detach(LogQueue *queue)
{
	SpinLockAcquire(&all->mutex);
	queue->writer = NULL;
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
	wake_launcher();
}

/*
 * Let no session append to a queue any more; all that was appended is there,
 * or will be in a moment, on return.  For the queue's writer; no lock may be
 * held.
 */
void
queue_close(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	set_state(queue, QUEUE_CLOSED, now);
	SpinLockRelease(&all->mutex);
	partition_pass_all();
}

/* Let sessions append to a closed queue again.  No lock may be held. */
void
queue_reopen(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	set_state(queue, QUEUE_OPEN, now);
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&all->freed);
}

/* Free a queue, which has to be closed and empty.  No lock may be held. */
void
queue_give_up(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	Assert(is_empty(queue));

	/* Under the mutex, take the queue from its writer and its database. */
	SpinLockAcquire(&all->mutex);
	queue->writer = NULL;
	set_state(queue, QUEUE_FREE, now);
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
	ConditionVariableBroadcast(&all->freed);
}

/*
 * Note that everything up to a position is written, which was decided before a
 * time: so many decisions, in so many rows.  For the queue's writer, after its
 * commit; no lock may be held.
 */
void
queue_advance(LogQueue *queue, uint64 position, int64 decisions, int64 rows,
			  TimestampTz until)
{
	pg_atomic_fetch_add_u64(&queue->decisions_written, decisions);
	pg_atomic_fetch_add_u64(&queue->rows_written, rows);
	pg_atomic_write_u64(&queue->written_until, (uint64) until);
	ring_release(&queue->ring, position);
	SpinLockAcquire(&all->mutex);
	queue->failure.since = 0;
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
}

/*
 * Note that a transaction of a writer is on this server's disk, up to here in
 * the WAL.  Has to come before queue_advance().
 */
void
queue_note_commit(XLogRecPtr lsn)
{
	uint64		known = pg_atomic_read_u64(&all->commit_lsn);

	while (known < lsn &&
		   !pg_atomic_compare_exchange_u64(&all->commit_lsn, &known, lsn))
		;
}

/*
 * Return the position in the WAL up to which writers have committed: no commit
 * of what queue_advance() was called for is after it.
 */
XLogRecPtr
queue_commit_lsn(void)
{
	return pg_atomic_read_u64(&all->commit_lsn);
}

/*
 * Note that the writer of a queue could not write, at failure->since, and wake
 * the sessions that wait for it.  No lock may be held.
 */
void
queue_failed(LogQueue *queue, const LogFailure *failure)
{
	SpinLockAcquire(&all->mutex);
	if (queue->failure.since == 0)
		queue->failure.since = failure->since;
	queue->failure.last_at = failure->since;
	queue->failure.sqlerrcode = failure->sqlerrcode;
	memcpy(queue->failure.message, failure->message, MAX_FAILURE_MESSAGE);
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
}

/*
 * Return how many decisions a queue has from *position on, and move *position
 * to their end.  Only for a process that is alone with the queue.
 */
int64
queue_count(LogQueue *queue, uint64 *position)
{
	const char *packed;
	int64		decisions = 0;

	while ((packed = ring_read(&queue->ring, position)) != NULL)
	{
		LogRow		row;

		logrow_unpack(packed, &row);
		decisions += logrow_decisions(&row);
	}
	return decisions;
}

/*
 * Forget what waits to be written to a database that was dropped: no session
 * is connected to it, hence none appends.  No lock may be held.
 */
void
queue_forget(Oid database)
{
	LogQueue   *queue = queue_of(database);
	uint64		position;
	int64		decisions;

	if (queue == NULL)
		return;

	position = ring_tail(&queue->ring);
	decisions = queue_count(queue, &position);
	queue_advance(queue, position, decisions, 0, GetCurrentTimestamp());
	queue_give_up(queue);
}

/* Say which process is the launcher, by its latch; NULL: there is none. */
void
queue_set_launcher(Latch *launcher)
{
	SpinLockAcquire(&all->mutex);
	all->launcher = launcher;
	SpinLockRelease(&all->mutex);
}

/*
 * Return whether no writer serves a queue, and not just because its writer has
 * left a moment ago.  The mutex is held.
 */
static bool
is_deserted(const LogQueue *queue, TimestampTz now)
{
	return queue->writer == NULL &&
		(queue->state == QUEUE_OPEN ||
		 (queue->state == QUEUE_CLOSED &&
		  has_passed(queue->state_since, now, CLOSED_PAUSE)));
}

/* Compare two queues by since when they wait, for qsort(). */
static int
compare_waiting(const void *a, const void *b)
{
	TimestampTz x = ((const WaitingQueue *) a)->since;
	TimestampTz y = ((const WaitingQueue *) b)->since;

	return x < y ? -1 : x > y;
}

/*
 * List the queues that have no writer and should have one, those first that
 * wait for longest, and return how many there are.  Queues that were left
 * closed and have nothing in them are given up.  For the launcher; no lock may
 * be held.
 */
int
queue_list_waiting(WaitingQueue waiting[NUM_QUEUES])
{
	TimestampTz now = GetCurrentTimestamp();
	int			count = 0;

	for (int i = 0; i < NUM_QUEUES; i++)
	{
		LogQueue   *queue = &all->queues[i];
		bool		deserted;
		bool		needed;

		/* Under the mutex, see whether the queue needs a writer. */
		SpinLockAcquire(&all->mutex);
		deserted = is_deserted(queue, now);
		needed = deserted && (queue->state == QUEUE_OPEN || !is_empty(queue));
		waiting[count].number = i;
		waiting[count].database = queue->database;
		waiting[count].since = queue->state_since;
		SpinLockRelease(&all->mutex);
		if (needed)
			count++;
		else if (deserted)
			queue_give_up(queue);
	}
	qsort(waiting, count, sizeof(WaitingQueue), compare_waiting);
	return count;
}

/*
 * Give a database that has no queue the smallest free one, for a writer that
 * visits it, unless others wait for a queue.  Returns its number, or -1 if
 * there is none to be had.  For the launcher; no lock may be held.
 */
int
queue_take_for_visit(Oid database)
{
	TimestampTz now = GetCurrentTimestamp();
	int			number = -1;

	SpinLockAcquire(&all->mutex);
	drop_stale_turns(now);
	for (int i = 0; i < NUM_QUEUES; i++)
		if (all->queues[i].state == QUEUE_FREE)
			number = i;
	if (all->nturns > 0 || find_queue(database) != NULL)
		number = -1;
	if (number >= 0)
		assign_queue(&all->queues[number], database, now);
	SpinLockRelease(&all->mutex);
	return number;
}

/* Return whether any queue is closed, which doesn't last. */
bool
queue_any_closed(void)
{
	bool		any = false;

	SpinLockAcquire(&all->mutex);
	for (int i = 0; i < NUM_QUEUES; i++)
		any |= all->queues[i].state == QUEUE_CLOSED;
	SpinLockRelease(&all->mutex);
	return any;
}

/* Return whether a database waits for a queue. */
bool
queue_anybody_waits(void)
{
	bool		waits;
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	drop_stale_turns(now);
	waits = all->nturns > 0;
	SpinLockRelease(&all->mutex);
	return waits;
}

/*
 * Ask the writer that has been at work for longest to leave, if its turn was
 * long enough.  Returns false if no queue has a writer.  For the launcher; no
 * lock may be held.
 */
bool
queue_ask_to_leave(void)
{
	LogQueue   *oldest = NULL;
	bool		any = false;
	TimestampTz now = GetCurrentTimestamp();

	/* Under the mutex, find the writer whose turn was longest. */
	SpinLockAcquire(&all->mutex);
	for (int i = 0; i < NUM_QUEUES; i++)
	{
		LogQueue   *queue = &all->queues[i];

		any |= queue->writer != NULL;
		if (queue->writer != NULL &&
			has_passed(queue->served_since, now, SHORTEST_TURN) &&
			(oldest == NULL || queue->served_since < oldest->served_since))
			oldest = queue;
	}
	SpinLockRelease(&all->mutex);
	if (oldest != NULL)
	{
		pg_atomic_write_u32(&oldest->leave_now, 1);
		queue_wake_writer(oldest);
	}
	return any;
}

/*
 * Put back into a queue what a server that stopped had left in it; see
 * spill.c.  For the postmaster, before there are other processes: so it takes
 * no lock.
 */
void
queue_restore(int number, Oid database, uint64 tail, uint64 head,
			  const char *bytes)
{
	LogQueue   *queue = &all->queues[number];
	TimestampTz now = GetCurrentTimestamp();

	queue->database = database;
	pg_atomic_write_u64(&queue->written_until, (uint64) now);
	ring_restore(&queue->ring, tail, head, bytes);
	set_state(queue, QUEUE_OPEN, now);
}

/*
 * Return the figures of all queues.  They are read without a lock, so they are
 * not of one moment.
 */
QueueTotals
queue_totals(void)
{
	QueueTotals totals = {.written_until = DT_NOEND};

	for (int i = 0; i < NUM_QUEUES; i++)
	{
		LogQueue   *queue = &all->queues[i];

		totals.decisions_written += pg_atomic_read_u64(&queue->decisions_written);
		totals.rows_written += pg_atomic_read_u64(&queue->rows_written);
		if (queue_free_bytes(queue) < queue->ring.size)
			totals.written_until =
				Min(totals.written_until,
					(TimestampTz) pg_atomic_read_u64(&queue->written_until));
	}
	return totals;
}

/* Set the number of rows written to zero. */
void
queue_reset_stats(void)
{
	for (int i = 0; i < NUM_QUEUES; i++)
		pg_atomic_write_u64(&all->queues[i].rows_written, 0);
}
