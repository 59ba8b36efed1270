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
 * States: FREE -> OPEN, when a database takes it, -> CLOSED, when its writer is
 * about to leave, -> FREE, if all is written, or OPEN again.  An open queue takes
 * rows whether or not a writer is there.  The launcher (launcher.c) starts one
 * for each open queue, as soon as the server has a place for another worker.
 *
 * To close a queue, the writer sets open_for to 0 and then takes and releases
 * each partition's lock: those who saw it open have a place by then, and what
 * is reserved will be there in a moment.
 *
 * A writer that was told to leave may have been told so by a server that stops:
 * it leaves its queue closed, so that no call is admitted whose row is not in the
 * log by then.  Where the server goes on, the launcher sees to the queue after
 * CLOSED_PAUSE.  Rows that are there when the server has stopped, in a queue
 * that had no writer or could not be written, are kept in a file (spill.c).
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

/* See above. */
#define CLOSED_PAUSE (USECS_PER_SEC / 2)

/* A writer is at work for so long before others get its place. */
#define SHORTEST_TURN (USECS_PER_SEC / 10)

/* A database that waits for a queue, and when it last said so. */
typedef struct Turn
{
	Oid			database;
	TimestampTz asked_at;
} Turn;

#define MAX_TURNS 64

/* Who has not asked again for so long waits no more. */
#define TURN_PATIENCE USECS_PER_SEC

/* All queues. */
typedef struct Queues
{
	slock_t		mutex;
	Latch	   *launcher;		/* NULL: it is not there */
	int			nturns;
	Turn		turns[MAX_TURNS];	/* first come, first served */
	pg_atomic_uint64 commit_lsn;	/* see queue_commit_lsn() */
	ConditionVariable freed;	/* a queue has become free, or open again */
	LogQueue	queues[NUM_QUEUES];
} Queues;

static Queues *all = NULL;
static uint64 buffer_size = 0;

Size
queue_shmem_size(uint64 size)
{
	buffer_size = size != 0 ? size : (uint64) tierlimit_log_buffer * 1024;
	return MAXALIGN(sizeof(Queues)) + buffer_size;
}

uint64
queue_buffer_size(void)
{
	return buffer_size;
}

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

LogQueue *
queue_at(int number)
{
	return &all->queues[number];
}

/* The mutex is held. */
static void
set_state(LogQueue *queue, QueueState state, TimestampTz now)
{
	queue->state = state;
	queue->state_since = now;
	pg_atomic_write_u32(&queue->open_for,
						state == QUEUE_OPEN ? queue->database : InvalidOid);
}

static bool
is_empty(LogQueue *queue)
{
	return ring_head(&queue->ring) == ring_tail(&queue->ring);
}

/* The queue of a database; NULL if it has none.  The mutex is held. */
static LogQueue *
find_queue(Oid database)
{
	for (int i = 0; i < NUM_QUEUES; i++)
		if (all->queues[i].state != QUEUE_FREE &&
			all->queues[i].database == database)
			return &all->queues[i];
	return NULL;
}

LogQueue *
queue_of(Oid database)
{
	LogQueue   *queue;

	SpinLockAcquire(&all->mutex);
	queue = find_queue(database);
	SpinLockRelease(&all->mutex);
	return queue;
}

/* Forget who has given up waiting.  The mutex is held. */
static void
drop_stale_turns(TimestampTz now)
{
	int			kept = 0;

	for (int i = 0; i < all->nturns; i++)
		if (!has_passed(all->turns[i].asked_at, now, TURN_PATIENCE))
			all->turns[kept++] = all->turns[i];
	all->nturns = kept;
}

/* Stay in the line of those who wait, or get into it.  The mutex is held. */
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

/* Leave the line, of which one was the first, if anybody waited. */
static void
leave_line(void)
{
	if (all->nturns == 0)
		return;
	all->nturns--;
	memmove(all->turns, all->turns + 1, all->nturns * sizeof(Turn));
}

/*
 * Give the largest free queue to a database whose turn it is; NULL if there is
 * none.  What its subjects remember of positions came from another queue,
 * perhaps: all that was written, so positions go on from the highest of them.
 * The mutex is held.
 */
static LogQueue *
take_queue(Oid database, TimestampTz now)
{
	LogQueue   *queue = NULL;
	uint64		highest = 0;

	for (int i = 0; i < NUM_QUEUES; i++)
	{
		LogQueue   *one = &all->queues[i];

		if (queue == NULL && one->state == QUEUE_FREE)
			queue = one;
		highest = Max(highest, ring_head(&one->ring));
	}
	drop_stale_turns(now);
	if (queue == NULL ||
		(all->nturns > 0 && all->turns[0].database != database))
	{
		wait_in_line(database, now);
		return NULL;
	}
	leave_line();
	queue->database = database;
	queue->failure.since = 0;
	pg_atomic_write_u32(&queue->leave_now, 0);
	pg_atomic_write_u64(&queue->written_until, (uint64) now);
	ring_set_position(&queue->ring, highest);
	set_state(queue, QUEUE_OPEN, now);
	return queue;
}

static void
wake_launcher(void)
{
	Latch	   *launcher;

	SpinLockAcquire(&all->mutex);
	launcher = all->launcher;
	SpinLockRelease(&all->mutex);

	/* If it has just ended, its latch is somebody else's: that does no harm. */
	if (launcher != NULL)
		SetLatch(launcher);
}

LogQueue *
queue_take(void)
{
	LogQueue   *queue;
	bool		had;
	TimestampTz now = GetCurrentTimestamp();

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

void
queue_wait_until_free(long ms)
{
	static uint32 wait_event = 0;

	ConditionVariableTimedSleep(&all->freed, ms,
								extension_wait_event(&wait_event, "TierlimitLogQueue"));
	ConditionVariableCancelSleep();
}

bool
queue_is_open(LogQueue *queue)
{
	return pg_atomic_read_u32(&queue->open_for) == MyDatabaseId;
}

bool
queue_has_writer(LogQueue *queue)
{
	bool		has;

	SpinLockAcquire(&all->mutex);
	has = queue->writer != NULL;
	SpinLockRelease(&all->mutex);
	return has;
}

LogFailure
queue_failure(LogQueue *queue)
{
	LogFailure	failure;

	SpinLockAcquire(&all->mutex);
	failure = queue->failure;
	SpinLockRelease(&all->mutex);
	return failure;
}

void
queue_wake_writer(LogQueue *queue)
{
	Latch	   *writer;

	pg_atomic_write_u32(&queue->flush_now, 1);
	SpinLockAcquire(&all->mutex);
	writer = queue->writer;
	SpinLockRelease(&all->mutex);

	/* If it has just left, its latch is somebody else's: that does no harm. */
	if (writer != NULL)
		SetLatch(writer);
}

uint64
queue_free_bytes(LogQueue *queue)
{
	uint64		tail = ring_tail(&queue->ring);
	uint64		taken = ring_head(&queue->ring) - tail +
	pg_atomic_read_u64(&queue->ring.kept);

	return taken < queue->ring.size ? queue->ring.size - taken : 0;
}

void
queue_begin_waiting(LogQueue *queue)
{
	if (is_empty(queue))
		pg_atomic_write_u64(&queue->written_until,
							(uint64) GetCurrentTimestamp());
}

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

bool
queue_is_overdue(LogQueue *queue)
{
	int64		patience = Max(USECS_PER_SEC,
							   3 * tierlimit_flush_interval * INT64CONST(1000));

	return queue_age(queue) > patience;
}

LogQueue *
queue_attach(int number, Oid database)
{
	LogQueue   *queue = &all->queues[number];
	TimestampTz now = GetCurrentTimestamp();
	bool		ours;

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
	ConditionVariableBroadcast(&all->freed);
	return queue;
}

void
queue_detach(LogQueue *queue)
{
	SpinLockAcquire(&all->mutex);
	queue->writer = NULL;
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
	wake_launcher();
}

void
queue_close(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	set_state(queue, QUEUE_CLOSED, now);
	SpinLockRelease(&all->mutex);
	partition_pass_all();
}

void
queue_reopen(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	set_state(queue, QUEUE_OPEN, now);
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&all->freed);
}

void
queue_give_up(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	Assert(is_empty(queue));
	SpinLockAcquire(&all->mutex);
	queue->writer = NULL;
	set_state(queue, QUEUE_FREE, now);
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
	ConditionVariableBroadcast(&all->freed);
}

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

void
queue_note_commit(XLogRecPtr lsn)
{
	uint64		known = pg_atomic_read_u64(&all->commit_lsn);

	while (known < lsn &&
		   !pg_atomic_compare_exchange_u64(&all->commit_lsn, &known, lsn))
		;
}

XLogRecPtr
queue_commit_lsn(void)
{
	return pg_atomic_read_u64(&all->commit_lsn);
}

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

/* Nobody is connected to the database, hence nobody appends. */
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

void
queue_set_launcher(Latch *launcher)
{
	SpinLockAcquire(&all->mutex);
	all->launcher = launcher;
	SpinLockRelease(&all->mutex);
}

/*
 * Whether nobody serves a queue, and not just because its writer has left a
 * moment ago.  The mutex is held.
 */
static bool
is_deserted(const LogQueue *queue, TimestampTz now)
{
	return queue->writer == NULL &&
		(queue->state == QUEUE_OPEN ||
		 (queue->state == QUEUE_CLOSED &&
		  has_passed(queue->state_since, now, CLOSED_PAUSE)));
}

static int
compare_waiting(const void *a, const void *b)
{
	TimestampTz x = ((const WaitingQueue *) a)->since;
	TimestampTz y = ((const WaitingQueue *) b)->since;

	return x < y ? -1 : x > y;
}

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

bool
queue_ask_to_leave(void)
{
	LogQueue   *oldest = NULL;
	bool		any = false;
	TimestampTz now = GetCurrentTimestamp();

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

void
queue_reset_stats(void)
{
	for (int i = 0; i < NUM_QUEUES; i++)
		pg_atomic_write_u64(&all->queues[i].rows_written, 0);
}
