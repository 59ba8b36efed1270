/*-------------------------------------------------------------------------
 *
 * queue.c
 *		The queues of decisions that wait to be written, and who serves them.
 *
 * What bounds it: tierlimit.log_buffer is divided, at server start, into
 * NUM_QUEUES queues, each half as large as the one before.  A database takes
 * the largest free one at its first call, and gives it back when its worker
 * leaves for lack of work.
 *
 * States: FREE -> STARTING -> SERVED -> FREE, if the worker leaves by itself;
 * SERVED -> CLOSED -> FREE, if it was told to leave; and where it could not
 * write all, or died, CLOSED -> STARTING at the next call or -> SERVED, when
 * the postmaster starts it anew.  A queue is open, that is takes rows, while
 * STARTING or SERVED.  To close it, the worker sets open_for to 0 and then
 * takes and releases each partition's lock: those who saw it open have a
 * place by then, and what is reserved will be there in a moment.  A worker
 * that was told to leave may have been told so by a server that stops.  So no
 * worker is started for a moment: no call is admitted whose row would not be
 * written any more.
 *
 * Locks: the mutex protects the states; no other lock is taken under it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "queue.h"
#include "settings.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "store.h"
#include "utils/timestamp.h"

#define NUM_QUEUES 8

/* A worker that was asked for and hasn't come since then never will. */
#define START_PATIENCE (10 * USECS_PER_SEC)

/* No worker is started so soon after one was told to leave: see above. */
#define CLOSED_PAUSE USECS_PER_SEC

/* A worker that ended without having written all is started anew. */
#define RESTART_SECONDS 5

/* All queues. */
typedef struct Queues
{
	slock_t		mutex;
	TimestampTz closed_at;		/* when a worker was last told to leave */
	LogQueue	queues[NUM_QUEUES];
} Queues;

static Queues *all = NULL;

Size
queue_shmem_size(void)
{
	return MAXALIGN(sizeof(Queues)) + (Size) tierlimit_log_buffer * 1024;
}

static void
init_queue(LogQueue *queue, char *bytes, Size size)
{
	memset(bytes, 0, size);
	ring_init(&queue->ring, bytes, size);
	pg_atomic_init_u32(&queue->open_for, InvalidOid);
	pg_atomic_init_u32(&queue->flush_now, 0);
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
	Size		left = (Size) tierlimit_log_buffer * 1024;

	all = ShmemInitStruct("tierlimit log", queue_shmem_size(), &found);
	if (found)
		return;

	memset(all, 0, sizeof(Queues));
	SpinLockInit(&all->mutex);
	at = (char *) all + MAXALIGN(sizeof(Queues));
	for (int i = 0; i < NUM_QUEUES; i++)
	{
		Size		size = i + 1 < NUM_QUEUES ? MAXALIGN_DOWN(left / 2) : left;

		init_queue(&all->queues[i], at, size);
		at += size;
		left -= size;
	}
}

/* The mutex is held. */
static void
set_state(LogQueue *queue, QueueState state, TimestampTz now)
{
	queue->state = state;
	queue->state_since = now;
	pg_atomic_write_u32(&queue->open_for,
						state == QUEUE_STARTING || state == QUEUE_SERVED
						? queue->database : InvalidOid);
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

/*
 * Give the largest free queue to a database; NULL if there is none.  What its
 * subjects remember of positions came from another queue, perhaps: all that
 * was written, so positions go on from the highest of them.  The mutex is
 * held.
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
	if (queue == NULL)
		return NULL;
	queue->database = database;
	queue->worker = NULL;
	queue->failure.since = 0;
	pg_atomic_write_u64(&queue->written_until, (uint64) now);
	ring_set_position(&queue->ring, highest);
	set_state(queue, QUEUE_CLOSED, now);
	return queue;
}

/* Whether a worker has to be started for it.  The mutex is held. */
static bool
needs_worker(const LogQueue *queue, TimestampTz now)
{
	return (queue->state == QUEUE_CLOSED && queue->worker == NULL &&
			has_passed(all->closed_at, now, CLOSED_PAUSE)) ||
		(queue->state == QUEUE_STARTING &&
		 has_passed(queue->state_since, now, START_PATIENCE));
}

/* Close a queue, and return when nobody takes a place any more. */
static void
stop_appends(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	set_state(queue, QUEUE_CLOSED, now);
	SpinLockRelease(&all->mutex);
	store_pass_locks();
}

/* Leave a closed queue without a worker: free, if there is nothing in it. */
static void
give_up(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	queue->worker = NULL;
	set_state(queue, ring_head(&queue->ring) == ring_tail(&queue->ring)
			  ? QUEUE_FREE : QUEUE_CLOSED, now);
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
}

static void
start_worker(LogQueue *queue)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	worker.bgw_main_arg = Int32GetDatum(queue - all->queues);
	memcpy(worker.bgw_extra, &MyDatabaseId, sizeof(Oid));
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tierlimit");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "tierlimit_worker_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tierlimit log writer");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tierlimit log writer");
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		return;

	stop_appends(queue);
	give_up(queue);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not start the worker that writes the request log"),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}

LogQueue *
queue_serve(void)
{
	LogQueue   *queue;
	bool		start = false;
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&all->mutex);
	queue = find_queue(MyDatabaseId);
	if (queue == NULL)
		queue = take_queue(MyDatabaseId, now);
	if (queue != NULL && needs_worker(queue, now))
	{
		start = true;
		set_state(queue, QUEUE_STARTING, now);
	}
	SpinLockRelease(&all->mutex);

	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases log calls at a time"),
				 errdetail("At most %d can.", NUM_QUEUES),
				 errhint("Try again when one of them has been idle for some seconds.")));
	if (start)
		start_worker(queue);
	return queue;
}

bool
queue_is_open(LogQueue *queue)
{
	return pg_atomic_read_u32(&queue->open_for) == MyDatabaseId;
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
queue_wake_worker(LogQueue *queue)
{
	Latch	   *worker;

	pg_atomic_write_u32(&queue->flush_now, 1);
	SpinLockAcquire(&all->mutex);
	worker = queue->worker;
	SpinLockRelease(&all->mutex);

	/* If it has just left, its latch is somebody else's: that does no harm. */
	if (worker != NULL)
		SetLatch(worker);
}

uint64
queue_free_bytes(LogQueue *queue)
{
	uint64		tail = ring_tail(&queue->ring);

	return queue->ring.size - (ring_head(&queue->ring) - tail);
}

LogQueue *
queue_attach(int number, Oid database)
{
	LogQueue   *queue = &all->queues[number];
	TimestampTz now = GetCurrentTimestamp();
	bool		ours;

	SpinLockAcquire(&all->mutex);
	ours = queue->database == database && queue->worker == NULL &&
		(queue->state == QUEUE_STARTING || queue->state == QUEUE_CLOSED);
	if (ours)
	{
		queue->worker = MyLatch;
		queue->failure.since = 0;
		set_state(queue, QUEUE_SERVED, now);
	}
	SpinLockRelease(&all->mutex);
	return ours ? queue : NULL;
}

void
queue_close(LogQueue *queue)
{
	SpinLockAcquire(&all->mutex);
	all->closed_at = GetCurrentTimestamp();
	SpinLockRelease(&all->mutex);
	stop_appends(queue);
}

bool
queue_detach(LogQueue *queue)
{
	stop_appends(queue);
	give_up(queue);
	return queue->state == QUEUE_FREE;
}

bool
queue_leave(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		empty;

	stop_appends(queue);
	empty = ring_head(&queue->ring) == ring_tail(&queue->ring);
	if (empty)
		give_up(queue);
	else
	{
		SpinLockAcquire(&all->mutex);
		set_state(queue, QUEUE_SERVED, now);
		SpinLockRelease(&all->mutex);
		ConditionVariableBroadcast(&queue->progress);
	}
	return empty;
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
queue_failed(LogQueue *queue, const ErrorData *error)
{
	LogFailure	failure;

	failure.since = GetCurrentTimestamp();
	failure.sqlerrcode = error->sqlerrcode;
	strlcpy(failure.message, error->message ? error->message : "",
			sizeof(failure.message));
	SpinLockAcquire(&all->mutex);
	if (queue->failure.since != 0)
		failure.since = queue->failure.since;
	queue->failure = failure;
	SpinLockRelease(&all->mutex);
	ConditionVariableBroadcast(&queue->progress);
}

/* Nobody is connected to the database, hence nobody appends. */
void
queue_forget(Oid database)
{
	LogQueue   *queue = queue_of(database);
	uint64		position;
	int64		decisions = 0;

	if (queue == NULL)
		return;

	position = ring_tail(&queue->ring);
	while (ring_read(&queue->ring, &position) != NULL)
		decisions++;
	queue_advance(queue, position, decisions, 0, GetCurrentTimestamp());
	give_up(queue);
}

QueueTotals
queue_totals(void)
{
	QueueTotals	totals = {.written_until = DT_NOEND};

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
