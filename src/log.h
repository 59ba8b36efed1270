/*-------------------------------------------------------------------------
 *
 * log.h
 *		Decisions on their way from the sessions to the table request_log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LOG_H
#define TIERLIMIT_LOG_H

#include "datatype/timestamp.h"
#include "logrow.h"
#include "port/atomics.h"
#include "ring.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

typedef enum QueueState
{
	QUEUE_FREE,					/* nobody's */
	QUEUE_STARTING,				/* its worker was asked for */
	QUEUE_SERVED,				/* its worker is there */
	QUEUE_CLOSED				/* its worker is leaving or has left */
} QueueState;

#define MAX_FAILURE_MESSAGE 256

/* Why the worker could not write, the last time that it tried. */
typedef struct LogFailure
{
	TimestampTz since;			/* 0: it could */
	int			sqlerrcode;
	char		message[MAX_FAILURE_MESSAGE];
} LogFailure;

/* The decisions of one database that wait to be written. */
typedef struct LogQueue
{
	/* These are protected by the mutex of all queues. */
	QueueState	state;
	TimestampTz state_since;
	Oid			database;		/* valid unless FREE */
	Latch	   *worker;			/* NULL: there is none */
	LogFailure	failure;

	pg_atomic_uint32 open_for;	/* the database that may append, or 0 */
	pg_atomic_uint32 flush_now; /* somebody waits */
	pg_atomic_uint32 waiting;	/* sessions that wait for the disk */
	pg_atomic_uint64 flushes_wanted;	/* by log_flush(), so far */
	pg_atomic_uint64 flushes_done;
	pg_atomic_uint64 decisions_written;
	pg_atomic_uint64 rows_written;
	pg_atomic_uint64 written_until; /* all that was decided before is written */
	Ring		ring;
	ConditionVariable progress; /* tail or state have changed */
} LogQueue;

extern Size log_shmem_size(void);

/* Lay out or attach to shared memory, of that size. */
extern void log_shmem_init(void);

/*
 * For sessions.
 *
 * The queue of this database, which a worker serves; starts one if need be,
 * or raises an ERROR if that can't be done, or if nothing could be written for
 * a while and the queue is full, or the session wants to wait for the disk.
 * No lock may be held.
 */
extern LogQueue *log_open(void);

/*
 * Reserve room for a row, under the lock of a partition; false: release it,
 * log_wait_for_room(), and start over.  As soon as the lock is released, and
 * with nothing in between that could fail, the row is to be appended.
 */
extern bool log_reserve(LogQueue *queue, const LogRow *row, RingPlace *place);

/* Append a row at its place; none if there is no place. */
extern void log_append(const RingPlace *place, const LogRow *row);

/* Wait until there may be room.  May raise an ERROR; no lock may be held. */
extern void log_wait_for_room(LogQueue *queue, const LogRow *row);

/* Have the worker write soon if the queue fills up.  No lock may be held. */
extern void log_nudge(LogQueue *queue);

/*
 * Wait until all of this database up to a position is on disk.  May raise an
 * ERROR, which undoes nothing; no lock may be held.
 */
extern void log_wait_written(uint64 position);

/* Whether that is so already; in a database without a queue, everything is. */
extern bool log_is_written(Oid database, uint64 position);

/* Wait until all that was decided in this database before is written. */
extern void log_flush(void);


/* Forget what waits to be written to a database that was dropped. */
extern void log_forget(Oid database);

/* Figures of all queues. */
typedef struct LogTotals
{
	int64		decisions_written;
	int64		rows_written;
	TimestampTz written_until;	/* the least of the queues that aren't empty;
								 * DT_NOEND: all are */
} LogTotals;

extern LogTotals log_totals(void);
extern void log_reset_stats(void);

/*
 * For the worker of a queue, identified by its number.
 *
 * log_attach() returns NULL if the queue does not wait for this worker.
 * log_detach() is for a worker that ends; false if it leaves anything.
 */
extern LogQueue *log_attach(int number, Oid database);
extern bool log_detach(LogQueue *queue);

/*
 * Told to leave: let nobody append any more; what they have appended is there
 * on return.
 */
extern void log_close(LogQueue *queue);

/* Give an empty queue up; false if it is not empty, then it goes on. */
extern bool log_leave(LogQueue *queue);

/* Everything up to a position is written, decided before a time. */
extern void log_advance(LogQueue *queue, uint64 position, int64 decisions,
						int64 rows, TimestampTz until);
extern void log_failed(LogQueue *queue, const ErrorData *error);

#endif							/* TIERLIMIT_LOG_H */
