/*-------------------------------------------------------------------------
 *
 * log.c
 *		Decisions on their way from the sessions to the table request_log.
 *
 * Sessions append rows to the queue of their database, a ring in shared
 * memory (ring.c).  They take a place in it while they hold the lock of the
 * partition that the row's subject belongs to: so the rows of a subject are in
 * the order in which they were decided, and a subject knows up to which
 * position of the queue it has any.  The database's worker (worker.c) writes
 * them, and releases them when its transaction has committed.
 *
 * What bounds it: tierlimit.log_buffer is divided, at server start, into
 * NUM_QUEUES queues, each half as large as the one before.  A database takes
 * the largest free one at its first call, and gives it back when its worker
 * leaves for lack of work.  A full queue makes callers wait, before anything
 * of their call is counted.
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
 * Taking a place and filling it needs no lock besides the partition's.
 *
 * A crash forgets what is queued: at most what was decided since the worker
 * began its last round, flush_interval before, and the round's duration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "log.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "settings.h"
#include "storage/ipc.h"
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

/* How long writing may fail, or get stuck, before callers are told. */
#define FAILURE_PATIENCE (5 * USECS_PER_SEC)
#define STUCK_PATIENCE (60 * USECS_PER_SEC)

typedef struct Log
{
	slock_t		mutex;
	TimestampTz closed_at;		/* when a worker was last told to leave */
	LogQueue	queues[NUM_QUEUES];
} Log;

static Log *request_log = NULL;
static LogQueue *my_queue = NULL;	/* the one of the last call; see log_open */

Size
log_shmem_size(void)
{
	return MAXALIGN(sizeof(Log)) + (Size) tierlimit_log_buffer * 1024;
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
log_shmem_init(void)
{
	bool		found;
	char	   *at;
	Size		left = (Size) tierlimit_log_buffer * 1024;

	request_log = ShmemInitStruct("tierlimit log", log_shmem_size(), &found);
	if (found)
		return;

	memset(request_log, 0, sizeof(Log));
	SpinLockInit(&request_log->mutex);
	at = (char *) request_log + MAXALIGN(sizeof(Log));
	for (int i = 0; i < NUM_QUEUES; i++)
	{
		Size		size = i + 1 < NUM_QUEUES ? MAXALIGN_DOWN(left / 2) : left;

		init_queue(&request_log->queues[i], at, size);
		at += size;
		left -= size;
	}
}

/* Whether so much time has passed; also where the clock was set back. */
static bool
has_passed(TimestampTz since, TimestampTz now, int64 interval)
{
	return now < since || now - since > interval;
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
		if (request_log->queues[i].state != QUEUE_FREE &&
			request_log->queues[i].database == database)
			return &request_log->queues[i];
	return NULL;
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
		LogQueue   *one = &request_log->queues[i];

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
			has_passed(request_log->closed_at, now, CLOSED_PAUSE)) ||
		(queue->state == QUEUE_STARTING &&
		 has_passed(queue->state_since, now, START_PATIENCE));
}

/* Close a queue, and return when nobody takes a place any more. */
static void
close_queue(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&request_log->mutex);
	set_state(queue, QUEUE_CLOSED, now);
	SpinLockRelease(&request_log->mutex);
	store_pass_locks();
}

/* Leave a closed queue without a worker: free, if there is nothing in it. */
static void
leave_queue(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&request_log->mutex);
	queue->worker = NULL;
	set_state(queue, ring_head(&queue->ring) == ring_tail(&queue->ring)
			  ? QUEUE_FREE : QUEUE_CLOSED, now);
	SpinLockRelease(&request_log->mutex);
	ConditionVariableBroadcast(&queue->progress);
}

static void
start_worker(LogQueue *queue)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	worker.bgw_main_arg = Int32GetDatum(queue - request_log->queues);
	memcpy(worker.bgw_extra, &MyDatabaseId, sizeof(Oid));
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tierlimit");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "tierlimit_worker_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tierlimit log writer");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tierlimit log writer");
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		return;

	close_queue(queue);
	leave_queue(queue);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not start the worker that writes the request log"),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}

/*
 * See to it that this database has a queue and that a worker serves it, or
 * was asked to.  Returns the queue, which may be CLOSED yet.
 */
static LogQueue *
serve_queue(void)
{
	LogQueue   *queue;
	bool		start = false;
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&request_log->mutex);
	queue = find_queue(MyDatabaseId);
	if (queue == NULL)
		queue = take_queue(MyDatabaseId, now);
	if (queue != NULL && needs_worker(queue, now))
	{
		start = true;
		set_state(queue, QUEUE_STARTING, now);
	}
	SpinLockRelease(&request_log->mutex);

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

static bool
is_open(LogQueue *queue)
{
	return pg_atomic_read_u32(&queue->open_for) == MyDatabaseId;
}

static LogFailure
failure_of(LogQueue *queue)
{
	LogFailure	failure;

	SpinLockAcquire(&request_log->mutex);
	failure = queue->failure;
	SpinLockRelease(&request_log->mutex);
	return failure;
}

/* Raise an ERROR if the worker has been failing for long. */
static void
report_failure(LogQueue *queue)
{
	LogFailure	failure = failure_of(queue);

	if (failure.since != 0 &&
		has_passed(failure.since, GetCurrentTimestamp(), FAILURE_PATIENCE))
		ereport(ERROR,
				(errcode(failure.sqlerrcode),
				 errmsg("could not write to the request log"),
				 errdetail("The log writer of this database reports: %s",
						   failure.message),
				 errhint("Calls are counted again when the cause is removed.")));
}

/*
 * Sleep until the worker makes progress, or for a while.  Sees to it that
 * there is a worker.
 */
static void
wait_for_progress(LogQueue *queue)
{
	static uint32 wait_event = 0;

	ConditionVariableTimedSleep(&queue->progress, 100,
								extension_wait_event(&wait_event, "TierlimitLogWrite"));
	CHECK_FOR_INTERRUPTS();
	report_failure(queue);
	serve_queue();
}

static void
wake_worker(LogQueue *queue)
{
	Latch	   *worker;

	pg_atomic_write_u32(&queue->flush_now, 1);
	SpinLockAcquire(&request_log->mutex);
	worker = queue->worker;
	SpinLockRelease(&request_log->mutex);

	/* If it has just left, its latch is somebody else's: that does no harm. */
	if (worker != NULL)
		SetLatch(worker);
}

LogQueue *
log_open(void)
{
	if (unlikely(my_queue == NULL || !is_open(my_queue)))
	{
		my_queue = serve_queue();
		while (!is_open(my_queue))
		{
			wait_for_progress(my_queue);
			my_queue = serve_queue();
		}
		ConditionVariableCancelSleep();
	}
	if (tierlimit_durability == DURABILITY_SYNC)
		report_failure(my_queue);
	return my_queue;
}

bool
log_reserve(LogQueue *queue, const LogRow *row, RingPlace *place)
{
	return is_open(queue) &&
		ring_reserve(&queue->ring, logrow_size(row), place);
}

void
log_append(const RingPlace *place, const LogRow *row)
{
	if (place->entry == NULL)
		return;
	logrow_pack(row, ring_payload(place));
	ring_publish(place);
}

static uint64
free_bytes(LogQueue *queue)
{
	uint64		tail = ring_tail(&queue->ring);

	return queue->ring.size - (ring_head(&queue->ring) - tail);
}

void
log_wait_for_room(LogQueue *queue, const LogRow *row)
{
	TimestampTz since = GetCurrentTimestamp();
	uint64		tail = ring_tail(&queue->ring);

	/* Not each released row is worth a fight. */
	uint64		enough = Max(queue->ring.size / 8, 3 * logrow_size(row));

	while (is_open(queue) && free_bytes(queue) < enough)
	{
		wake_worker(queue);
		wait_for_progress(queue);
		if (ring_tail(&queue->ring) != tail)
		{
			tail = ring_tail(&queue->ring);
			since = GetCurrentTimestamp();
		}
		if (has_passed(since, GetCurrentTimestamp(), STUCK_PATIENCE))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("could not write to the request log"),
					 errdetail("The log writer of this database has not written anything for a minute, and \"tierlimit.log_buffer\" is full."),
					 errhint("See what it waits for in pg_stat_activity.")));
	}
	ConditionVariableCancelSleep();
}

void
log_nudge(LogQueue *queue)
{
	if (free_bytes(queue) < queue->ring.size / 2 &&
		pg_atomic_read_u32(&queue->flush_now) == 0)
		wake_worker(queue);
}

static LogQueue *
queue_of(Oid database)
{
	LogQueue   *queue;

	SpinLockAcquire(&request_log->mutex);
	queue = find_queue(database);
	SpinLockRelease(&request_log->mutex);
	return queue;
}

bool
log_is_written(Oid database, uint64 position)
{
	LogQueue   *queue = queue_of(database);

	return queue == NULL || ring_tail(&queue->ring) >= position;
}

/* What makes the wait below end has to be undone in any case. */
static void
stop_waiting(int code, Datum arg)
{
	LogQueue   *queue = (LogQueue *) DatumGetPointer(arg);

	(void) code;
	pg_atomic_fetch_sub_u32(&queue->waiting, 1);
}

static void
wait_for_position(LogQueue *queue, const uint64 position)
{
	pg_atomic_fetch_add_u32(&queue->waiting, 1);
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(queue));
	{
		while (!log_is_written(MyDatabaseId, position))
		{
			serve_queue();
			wake_worker(queue);
			wait_for_progress(queue);
		}
		ConditionVariableCancelSleep();
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(queue));
	stop_waiting(0, PointerGetDatum(queue));
}

void
log_wait_written(uint64 position)
{
	LogQueue   *queue = queue_of(MyDatabaseId);

	if (queue == NULL)
		return;
	position = Min(position, ring_head(&queue->ring));
	if (ring_tail(&queue->ring) < position)
		wait_for_position(queue, position);
}

/*
 * Unlike the wait for a position, this one is also for denials that are held
 * back.  A queue that was given up had nothing left to write.
 */
void
log_flush(void)
{
	LogQueue   *queue = queue_of(MyDatabaseId);
	uint64		wanted;

	if (queue == NULL)
		return;
	wanted = pg_atomic_add_fetch_u64(&queue->flushes_wanted, 1);
	while (pg_atomic_read_u64(&queue->flushes_done) < wanted &&
		   queue_of(MyDatabaseId) == queue)
	{
		serve_queue();
		wake_worker(queue);
		wait_for_progress(queue);
	}
	ConditionVariableCancelSleep();
}

/* Nobody is connected to the database, hence nobody appends. */
void
log_forget(Oid database)
{
	LogQueue   *queue = queue_of(database);
	uint64		position;
	int64		decisions = 0;

	if (queue == NULL)
		return;

	position = ring_tail(&queue->ring);
	while (ring_read(&queue->ring, &position) != NULL)
		decisions++;
	log_advance(queue, position, decisions, 0, GetCurrentTimestamp());
	leave_queue(queue);
}

LogTotals
log_totals(void)
{
	LogTotals	totals = {.written_until = DT_NOEND};

	for (int i = 0; i < NUM_QUEUES; i++)
	{
		LogQueue   *queue = &request_log->queues[i];

		totals.decisions_written += pg_atomic_read_u64(&queue->decisions_written);
		totals.rows_written += pg_atomic_read_u64(&queue->rows_written);
		if (free_bytes(queue) < queue->ring.size)
			totals.written_until =
				Min(totals.written_until,
					(TimestampTz) pg_atomic_read_u64(&queue->written_until));
	}
	return totals;
}

void
log_reset_stats(void)
{
	for (int i = 0; i < NUM_QUEUES; i++)
		pg_atomic_write_u64(&request_log->queues[i].rows_written, 0);
}

LogQueue *
log_attach(int number, Oid database)
{
	LogQueue   *queue = &request_log->queues[number];
	TimestampTz now = GetCurrentTimestamp();
	bool		ours;

	SpinLockAcquire(&request_log->mutex);
	ours = queue->database == database && queue->worker == NULL &&
		(queue->state == QUEUE_STARTING || queue->state == QUEUE_CLOSED);
	if (ours)
	{
		queue->worker = MyLatch;
		queue->failure.since = 0;
		set_state(queue, QUEUE_SERVED, now);
	}
	SpinLockRelease(&request_log->mutex);
	return ours ? queue : NULL;
}

void
log_close(LogQueue *queue)
{
	SpinLockAcquire(&request_log->mutex);
	request_log->closed_at = GetCurrentTimestamp();
	SpinLockRelease(&request_log->mutex);
	close_queue(queue);
}

bool
log_detach(LogQueue *queue)
{
	close_queue(queue);
	leave_queue(queue);
	return queue->state == QUEUE_FREE;
}

bool
log_leave(LogQueue *queue)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		empty;

	close_queue(queue);
	empty = ring_head(&queue->ring) == ring_tail(&queue->ring);
	if (empty)
		leave_queue(queue);
	else
	{
		SpinLockAcquire(&request_log->mutex);
		set_state(queue, QUEUE_SERVED, now);
		SpinLockRelease(&request_log->mutex);
		ConditionVariableBroadcast(&queue->progress);
	}
	return empty;
}

void
log_advance(LogQueue *queue, uint64 position, int64 decisions, int64 rows,
			TimestampTz until)
{
	pg_atomic_fetch_add_u64(&queue->decisions_written, decisions);
	pg_atomic_fetch_add_u64(&queue->rows_written, rows);
	pg_atomic_write_u64(&queue->written_until, (uint64) until);
	ring_release(&queue->ring, position);
	SpinLockAcquire(&request_log->mutex);
	queue->failure.since = 0;
	SpinLockRelease(&request_log->mutex);
	ConditionVariableBroadcast(&queue->progress);
}

void
log_failed(LogQueue *queue, const ErrorData *error)
{
	LogFailure	failure;

	failure.since = GetCurrentTimestamp();
	failure.sqlerrcode = error->sqlerrcode;
	strlcpy(failure.message, error->message ? error->message : "",
			sizeof(failure.message));
	SpinLockAcquire(&request_log->mutex);
	if (queue->failure.since != 0)
		failure.since = queue->failure.since;
	queue->failure = failure;
	SpinLockRelease(&request_log->mutex);
	ConditionVariableBroadcast(&queue->progress);
}
