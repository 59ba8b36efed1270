/*-------------------------------------------------------------------------
 *
 * log.c
 *		Decisions on their way from the sessions to the table request_log.
 *
 * Sessions append rows to the queue of their database (queue.c), a ring in
 * shared memory (ring.c).  They take a place in it while they hold the lock of
 * the partition that the row's subject belongs to: so the rows of a subject
 * are in the order in which they were decided, and a subject knows the end
 * position of its newest one.  The database's writer (worker.c) writes them,
 * and releases them when its transaction has committed.
 *
 * A full queue makes callers wait, before anything of their call is counted.
 * Taking a place and filling it needs no lock besides the partition's.
 *
 * A crash forgets what is queued: at most what was decided since the writer
 * began its last round, that is for flush_interval and the duration of that
 * round.  While the log can't be written, that grows; tierlimit.on_log_failure
 * says whether calls wait then, or go on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/elapsed.h"
#include "base/settings.h"
#include "log/log.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

/* A wait for the log writer. */
typedef struct LogWait
{
	LogQueue   *queue;
	TimestampTz begun;
	TimestampTz since;			/* when it began, or there was progress last */
	uint64		tail;			/* the queue's tail at that time */
} LogWait;

static LogQueue *my_queue = NULL;	/* the queue of the last call; see
									 * log_open() */

/* Raise an ERROR for what the writer reports. */
static void
raise_failure(const LogFailure *failure)
{
	ereport(ERROR,
			(errcode(failure->sqlerrcode),
			 errmsg("could not write to the request log"),
			 errdetail("The log writer of this database reports: %s",
					   failure->message),
			 errhint("Calls are counted again when the cause is removed.")));
}

/*
 * Raise an ERROR if the writer has been failing for longer than CALL_PATIENCE,
 * and has failed since a time.
 */
static void
report_failure(LogQueue *queue, TimestampTz tried_since)
{
	LogFailure	failure = queue_failure(queue);

	if (failure.since != 0 && failure.last_at >= tried_since &&
		has_passed(failure.since, GetCurrentTimestamp(), CALL_PATIENCE))
		raise_failure(&failure);
}

/* Raise the ERROR that says why there was no progress. */
static void
report_stuck(LogQueue *queue)
{
	LogFailure	failure = queue_failure(queue);

	if (failure.since != 0)
		raise_failure(&failure);
	if (!queue_has_writer(queue))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not write to the request log"),
				 errdetail("No log writer has been started for this database."),
				 errhint("Increase \"max_worker_processes\" and restart the server.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not write to the request log"),
			 errdetail("The log writer of this database has not written anything for %d seconds.",
					   (int) (CALL_PATIENCE / USECS_PER_SEC)),
			 errhint("See what it waits for in pg_stat_activity.")));
}

/* Return a wait that begins now. */
static LogWait
begin_wait(LogQueue *queue)
{
	LogWait		wait = {.queue = queue, .tail = ring_tail(&queue->ring)};

	wait.begun = wait.since = GetCurrentTimestamp();
	return wait;
}

/*
 * Sleep until the writer makes progress, or for a while.  Raises an ERROR if
 * there has been no progress for CALL_PATIENCE.
 */
static void
wait_for_progress(LogWait *wait)
{
	static uint32 wait_event = 0;
	uint64		tail;

	ConditionVariableTimedSleep(&wait->queue->progress, 100,
								extension_wait_event(&wait_event, "TierlimitLogWrite"));
	CHECK_FOR_INTERRUPTS();
	report_failure(wait->queue, wait->begun);
	tail = ring_tail(&wait->queue->ring);
	if (tail != wait->tail)
	{
		wait->tail = tail;
		wait->since = GetCurrentTimestamp();
	}
	else if (has_passed(wait->since, GetCurrentTimestamp(), CALL_PATIENCE))
		report_stuck(wait->queue);
}

/*
 * Wait until this database has an open queue, and return it: other databases
 * may have them all, or its writer may be about to leave.  Raises an ERROR if
 * that takes longer than CALL_PATIENCE.
 */
static LogQueue *
wait_for_queue(void)
{
	TimestampTz since = GetCurrentTimestamp();
	LogQueue   *queue;

	while ((queue = queue_take()) == NULL || !queue_is_open(queue))
	{
		queue_wait_until_free(100);
		CHECK_FOR_INTERRUPTS();
		if (queue != NULL)
			report_failure(queue, since);
		if (has_passed(since, GetCurrentTimestamp(), CALL_PATIENCE))
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not write to the request log"),
					 errdetail("This database waits for one of the %d queues of \"tierlimit.log_buffer\".",
							   NUM_QUEUES),
					 errhint("Fewer databases can log calls at a time.")));
	}
	return queue;
}

/*
 * Wait until the log is written again, where no more is to be lost in a crash.
 */
static void
wait_while_overdue(LogQueue *queue)
{
	LogWait		wait;

	if (!queue_is_overdue(queue))
		return;
	wait = begin_wait(queue);
	while (queue_is_open(queue) && queue_is_overdue(queue))
	{
		queue_wake_writer(queue);
		wait_for_progress(&wait);
	}
	ConditionVariableCancelSleep();
}

/*
 * Return the queue of this database, which is open; the launcher starts a
 * writer for it if it has none.  Raises an ERROR if the database gets no queue
 * for CALL_PATIENCE; if tierlimit.on_log_failure has calls wait for a log that
 * is not written, and that takes so long; or if the log could not be written
 * for so long and the session waits for the disk.  No lock may be held.
 */
LogQueue *
log_open(void)
{
	do
	{
		if (unlikely(my_queue == NULL || !queue_is_open(my_queue)))
			my_queue = wait_for_queue();
		if (tierlimit_on_log_failure == LOG_FAILURE_WAIT)
			wait_while_overdue(my_queue);
	} while (unlikely(!queue_is_open(my_queue)));
	queue_begin_waiting(my_queue);
	if (tierlimit_durability == DURABILITY_SYNC)
		report_failure(my_queue, 0);
	return my_queue;
}

/*
 * Reserve room for a row in a queue, under the lock of a partition.  Returns
 * false if there is no room: then the caller has to release the lock, call
 * log_wait_for_room() and start over.  As soon as the lock is released, and
 * with nothing in between that could fail, the row has to be appended by
 * log_append().
 */
bool
log_reserve(LogQueue *queue, const LogRow *row, RingPlace *place)
{
	return queue_is_open(queue) &&
		ring_reserve(&queue->ring, logrow_size(row), place);
}

/*
 * Append a row at its place, if it has one.  Raises no ERROR; no lock need be
 * held.
 */
void
log_append(const RingPlace *place, const LogRow *row)
{
	if (place->entry == NULL)
		return;
	logrow_pack(row, ring_payload(place));
	ring_publish(place);
}

/*
 * Wait until there may be room for a row in a queue, or the queue is closed.
 * Raises an ERROR if the writer makes no progress; no lock may be held.
 */
void
log_wait_for_room(LogQueue *queue, const LogRow *row)
{
	LogWait		wait = begin_wait(queue);

	/* Wait for more than this row: not each released row is worth a fight. */
	uint64		enough = Max(queue->ring.size / 8, 3 * logrow_size(row));

	while (queue_is_open(queue) && queue_free_bytes(queue) < enough)
	{
		queue_wake_writer(queue);
		wait_for_progress(&wait);
	}
	ConditionVariableCancelSleep();
}

/* Have the writer write soon if the queue fills up.  No lock may be held. */
void
log_nudge(LogQueue *queue)
{
	if (queue_free_bytes(queue) < queue->ring.size / 2 &&
		pg_atomic_read_u32(&queue->flush_now) == 0)
		queue_wake_writer(queue);
}

/*
 * Return whether all of a database up to a position is on disk; in a database
 * without a queue, everything is.  Takes the mutex of the queues; the lock of
 * a partition may be held.
 */
bool
log_is_written(Oid database, uint64 position)
{
	LogQueue   *queue = queue_of(database);

	return queue == NULL || ring_tail(&queue->ring) >= position;
}

/*
 * Return the end position of the newest row of this database that is on its
 * way to the log; 0 if the database has no queue.  Takes the mutex of the
 * queues.
 */
uint64
log_newest_position(void)
{
	LogQueue   *queue = queue_of(MyDatabaseId);

	return queue == NULL ? 0 : ring_head(&queue->ring);
}

/* Undo, in any case, what makes the writer count a session as waiting. */
static void
stop_waiting(int code, Datum arg)
{
	LogQueue   *queue = (LogQueue *) DatumGetPointer(arg);

	(void) code;
	pg_atomic_fetch_sub_u32(&queue->waiting, 1);
}

/*
 * Wait until the log is written up to a position, which lies within the queue.
 */
static void
wait_for_position(LogQueue *queue, const uint64 position)
{
	LogWait		wait = begin_wait(queue);

	pg_atomic_fetch_add_u32(&queue->waiting, 1);
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(queue));
	{
		while (!log_is_written(MyDatabaseId, position))
		{
			queue_wake_writer(queue);
			wait_for_progress(&wait);
		}
		ConditionVariableCancelSleep();
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(queue));
	stop_waiting(0, PointerGetDatum(queue));
}

/*
 * Wait until all of this database up to a position is on disk; the position
 * may be later than the newest row.  Raises an ERROR, which undoes nothing, if
 * the writer makes no progress; no lock may be held.
 */
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
 * Raise the current ERROR again, with a detail that says that it undoes
 * nothing.
 */
static void
raise_with_charge(MemoryContext context)
{
	static const char counted[] = "What was to be made durable is counted, and stays so.";
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	error->detail = error->detail == NULL ? pstrdup(counted)
		: psprintf("%s %s", error->detail, counted);
	ReThrowError(error);
}

/*
 * Wait until the standbys have the writer's commit, which is on the disk of
 * this server.  Whether a standby has to have it too is a matter of each
 * session that waits: so no session waits for a standby that did not ask for
 * it.  A cancel ends that wait with a WARNING, as it does that of a commit.
 */
static void
wait_for_standbys(void)
{
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(queue_commit_lsn(), true);
	RESUME_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
}

/*
 * Wait until all that this session has counted, up to a position, is where
 * synchronous_commit wants the session's commits to be.  An ERROR says that it
 * stays counted; no lock may be held.
 */
void
log_wait_durable(uint64 position)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		log_wait_written(position);
	}
	PG_CATCH();
	{
		raise_with_charge(context);
	}
	PG_END_TRY();
	wait_for_standbys();
}

/*
 * Wait until all that was decided in this database before is written.  Unlike
 * the wait for a position, this one is also for denials that are delayed.  A
 * queue that was given up had nothing left to write.  Raises an ERROR if the
 * writer makes no progress; no lock may be held.
 */
void
log_flush(void)
{
	LogQueue   *queue = queue_of(MyDatabaseId);
	LogWait		wait;
	uint64		wanted;

	if (queue == NULL)
		return;
	wait = begin_wait(queue);
	wanted = pg_atomic_add_fetch_u64(&queue->flushes_wanted, 1);
	while (pg_atomic_read_u64(&queue->flushes_done) < wanted &&
		   queue_of(MyDatabaseId) == queue)
	{
		queue_wake_writer(queue);
		wait_for_progress(&wait);
	}
	ConditionVariableCancelSleep();
}
