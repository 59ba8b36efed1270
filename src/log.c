/*-------------------------------------------------------------------------
 *
 * log.c
 *		Decisions on their way from the sessions to the table request_log.
 *
 * Sessions append rows to the queue of their database (queue.c), a ring in
 * shared memory (ring.c).  They take a place in it while they hold the lock of
 * the partition that the row's subject belongs to: so the rows of a subject
 * are in the order in which they were decided, and a subject knows up to which
 * position of the queue it has any.  The database's worker (worker.c) writes
 * them, and releases them when its transaction has committed.
 *
 * A full queue makes callers wait, before anything of their call is counted.
 * Taking a place and filling it needs no lock besides the partition's.
 *
 * A crash forgets what is queued: at most what was decided since the worker
 * began its last round, flush_interval before, and the round's duration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "compat.h"
#include "log.h"
#include "miscadmin.h"
#include "settings.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

/* How long writing may fail, or get stuck, before callers are told. */
#define FAILURE_PATIENCE (5 * USECS_PER_SEC)
#define STUCK_PATIENCE (60 * USECS_PER_SEC)

static LogQueue *my_queue = NULL;	/* the one of the last call; see log_open */

/* Raise an ERROR if the worker has been failing for long. */
static void
report_failure(LogQueue *queue)
{
	LogFailure	failure = queue_failure(queue);

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
	queue_serve();
}

LogQueue *
log_open(void)
{
	if (unlikely(my_queue == NULL || !queue_is_open(my_queue)))
	{
		my_queue = queue_serve();
		while (!queue_is_open(my_queue))
		{
			wait_for_progress(my_queue);
			my_queue = queue_serve();
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
	return queue_is_open(queue) &&
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

void
log_wait_for_room(LogQueue *queue, const LogRow *row)
{
	TimestampTz since = GetCurrentTimestamp();
	uint64		tail = ring_tail(&queue->ring);

	/* Not each released row is worth a fight. */
	uint64		enough = Max(queue->ring.size / 8, 3 * logrow_size(row));

	while (queue_is_open(queue) && queue_free_bytes(queue) < enough)
	{
		queue_wake_worker(queue);
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
	if (queue_free_bytes(queue) < queue->ring.size / 2 &&
		pg_atomic_read_u32(&queue->flush_now) == 0)
		queue_wake_worker(queue);
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
			queue_serve();
			queue_wake_worker(queue);
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
		queue_serve();
		queue_wake_worker(queue);
		wait_for_progress(queue);
	}
	ConditionVariableCancelSleep();
}
